//! Proves the chain over the rounds: that each round's rows in the lake's own tables are those that its manifest names, that
//! its manifest and its predecessor are those of its link, and that the chain goes on to the end.
//!
//! Promise: memory is bounded by a window of rounds, beside sixteen bytes for each round that there is.

mod heads;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use portolan_model::Result;

use super::rows::{OwnTable, Round, stray};
use super::{Mismatch, OPERATION, VerifiedChain, VerifyProgress, VerifyReport, VerifyScope, bytes};
use crate::chain::{self, Link as End, link_sha256};
use crate::reader::Snapshot;
use crate::scan::INSIDE;
use crate::{error::sqlite, system};

/// Rounds whose digests are held at once.
const WINDOW_ROUNDS: usize = 65_536;
/// How the chain is called where its progress is shown.
const NAME: &str = "the chain of rounds";

/// The chain being proved.
struct Prover<'a> {
    snapshot: &'a Snapshot,
    scope: &'a VerifyScope,
    tables: Vec<OwnTable>,
    /// Every round by the snapshot that it made: the order of the chain.
    order: Vec<(i64, i64)>,
    known: HashSet<i64>,
    /// Where the catalog says that the chain ends.
    end: Option<End>,
    /// Rounds whose own row cannot be read, as far as other rows name them, with the snapshots that they made.
    lost: BTreeMap<i64, Option<i64>>,
    /// The first snapshot whose round cannot be read, and where its row may be.
    lost_from: Option<(i64, String)>,
    verified: VerifiedChain,
    /// The digest in the last round's row.
    end_sha256: Option<String>,
    /// Heads that were found in the chain, by their place in the scope.
    held: BTreeSet<usize>,
    /// The digest of the chain up to each round that a head names, and where the round's row is.
    named: HashMap<i64, (String, Vec<String>)>,
}

/// Verifies the chain into `report`. Returns the files that are not there: the caller finds out whether they had to be.
pub(super) fn prove(
    snapshot: &Snapshot,
    scope: &VerifyScope,
    report: &mut VerifyReport,
    progress: &mut dyn FnMut(VerifyProgress<'_>),
) -> Result<Vec<i64>> {
    let mut tables = Vec::new();
    for (name, _) in system::empty()? {
        tables.extend(OwnTable::open(snapshot, name)?);
    }
    for table in &tables {
        let files: Vec<_> = table.stored.iter().filter(|file| table.is_asked_for(file, scope)).collect();
        let digests = snapshot.with(|connection| bytes::Digests::of(connection, table.view.id))?;
        let bytes_total = files.iter().map(|file| file.size_bytes).sum();
        let mut bytes = 0;
        progress(VerifyProgress { table: NAME, bytes, bytes_total });
        bytes::prove(&table.title(), &files, &digests, report, &mut |read| {
            bytes += read;
            progress(VerifyProgress { table: NAME, bytes, bytes_total });
        });
    }
    let mut prover = Prover {
        snapshot,
        scope,
        tables,
        order: Vec::new(),
        known: HashSet::new(),
        end: snapshot.with(chain::last)?,
        lost: BTreeMap::new(),
        lost_from: None,
        verified: VerifiedChain::default(),
        end_sha256: None,
        held: BTreeSet::new(),
        named: HashMap::new(),
    };
    prover.run(report)?;
    for table in &prover.tables {
        let title = table.title();
        let asked = table.stored.iter().filter(|file| table.is_asked_for(file, scope));
        for file in asked.filter(|file| !report.is_damaged(&title, &file.path.display().to_string())) {
            prover.verified.files += 1;
            prover.verified.bytes += file.size_bytes;
        }
    }
    report.chain = Some(prover.verified);
    Ok(prover.tables.iter().flat_map(OwnTable::missing).collect())
}

impl Prover<'_> {
    fn run(&mut self, report: &mut VerifyReport) -> Result<()> {
        let Some(rounds) = self.tables.iter().find(|table| table.is_rounds()) else { return Ok(()) };
        self.order = rounds.rounds(self.snapshot, report);
        self.order.sort_unstable();
        self.known = self.order.iter().map(|(_, round)| *round).collect();
        self.find_lost(report)?;
        let last = self.order.len().checked_sub(1);
        // Rounds asked for, those that a head names, and the last one; and the one before each, for its digest.
        let named: HashSet<i64> = self.heads().map(|head| head.round).collect();
        let wanted: Vec<usize> = (0..self.order.len())
            .filter(|place| {
                let (snapshot, round) = self.order[*place];
                self.asks_for(snapshot, round) || named.contains(&round) || Some(*place) == last
            })
            .collect();
        let mut strays = BTreeSet::new();
        for window in wanted.chunks(WINDOW_ROUNDS) {
            let mut places: Vec<usize> = window.iter().flat_map(|place| [place.saturating_sub(1), *place]).collect();
            places.dedup();
            let mut rounds: HashMap<i64, Round> =
                places.iter().map(|place| (self.order[*place].1, Round::new(self.tables.len()))).collect();
            for (index, table) in self.tables.iter().enumerate() {
                table.digest(self.snapshot, index, &mut rounds, &self.known, &mut strays, report);
            }
            for place in window {
                self.check(*place, &mut rounds, report);
            }
        }
        for (index, round) in strays {
            // The round itself may be where nothing can be read.
            let is_hidden = round.is_some_and(|round| self.hidden(round).is_some());
            if !is_hidden && round.is_none_or(|round| self.scope.holds(round)) {
                report.mismatch(stray(&self.tables[index], round));
            }
        }
        self.note_lost(report);
        self.heads_held(report)?;
        self.catalog(report)
    }

    fn heads(&self) -> impl Iterator<Item = &chain::ChainHead> {
        self.scope.heads.iter().chain(&self.scope.verified)
    }

    fn asks_for(&self, snapshot: i64, round: i64) -> bool {
        self.scope.holds(round) && self.scope.verified.as_ref().is_none_or(|head| head.snapshot < snapshot)
    }

    /// Finds the rounds whose own row cannot be read: rows of other tables name them, the catalog and the heads do.
    fn find_lost(&mut self, report: &mut VerifyReport) -> Result<()> {
        let (rounds, others): (Vec<_>, Vec<_>) = self.tables.iter().partition(|table| table.is_rounds());
        if !rounds.iter().any(|table| table.is_cut()) {
            return Ok(());
        }
        let mut named: BTreeMap<i64, Option<i64>> = self.heads().map(|head| (head.round, None)).collect();
        for table in others {
            let rows = table.rounds(self.snapshot, report);
            named.extend(rows.into_iter().map(|(snapshot, round)| (round, Some(snapshot))));
        }
        named.extend(self.listed()?.into_iter().map(|(round, snapshot)| (round, Some(snapshot))));
        named.extend(self.end.iter().map(|end| (end.round, Some(end.snapshot))));
        named.retain(|round, _| !self.known.contains(round) && self.hidden(*round).is_some());
        let from = named.iter().filter_map(|(round, snapshot)| Some(((*snapshot)?, *round))).min();
        self.lost_from = from.and_then(|(snapshot, round)| Some((snapshot, self.hidden(round)?)));
        self.lost = named;
        Ok(())
    }

    /// Notes the rounds whose own row cannot be read with the file that may hold it.
    fn note_lost(&self, report: &mut VerifyReport) {
        // Where a round was verified before, and at which snapshot it was made is not known, it is not asked for.
        let is_new = |snapshot: Option<i64>| {
            let verified = self.scope.verified.as_ref();
            verified.is_none_or(|head| snapshot.is_some_and(|snapshot| head.snapshot < snapshot))
        };
        for (round, _) in self.lost.iter().filter(|(round, at)| self.scope.holds(**round) && is_new(**at)) {
            if let Some(path) = self.hidden(*round) {
                report.hide(&rounds_title(), &path, *round);
            }
        }
    }

    /// Where a round's own row may be that cannot be read.
    fn hidden(&self, round: i64) -> Option<String> {
        self.tables.iter().find(|table| table.is_rounds())?.hidden(round)
    }

    /// Holds one round against its manifest, its link and its predecessor.
    fn check(&mut self, place: usize, rounds: &mut HashMap<i64, Round>, report: &mut VerifyReport) {
        let (snapshot, round) = self.order[place];
        let before = place.checked_sub(1).map(|place| self.order[place].1).filter(|before| *before != round);
        let previous = before.and_then(|before| Some((before, rounds.get(&before)?.link.clone()?)));
        // Its number may be read where the rest of its row is not.
        let unread_before = before.filter(|before| rounds.get(before).is_none_or(|entry| entry.rows == 0));
        let Some(entry) = rounds.get_mut(&round) else { return };
        let places = entry.places(&self.tables, system::ROUNDS, round);
        let is_asked = self.asks_for(snapshot, round);
        let Some(link) = entry.link.clone() else {
            let is_read = entry.rows > 0;
            self.check_unlinked((snapshot, round), is_read, unread_before, previous.is_some(), places, report);
            return;
        };
        let of_round =
            |detail: String| Mismatch { places: places.clone(), detail, ..Mismatch::of(round, rounds_title()) };
        if place + 1 == self.order.len() {
            self.end_sha256 = Some(link.chain.clone());
        }
        let counted = report.mismatches_total;
        // Damaged files that keep it from being proved, each once.
        let mut hidden: BTreeSet<(String, String)> = BTreeSet::new();
        if entry.rows != 1 {
            report.mismatch(of_round(format!("{} rows say that they are the round", entry.rows)));
        }
        if link.snapshot != Some(snapshot) {
            let said = link.snapshot.unwrap_or_default();
            let detail = format!("its row says that it made snapshot {said}, and was stored at {snapshot}");
            report.mismatch(of_round(detail));
        }
        for (table, stored, found) in entry.differences(&self.tables) {
            let title = format!("{}.{table}", system::SCHEMA);
            if let Some(path) = entry.hidden(&self.tables, &table, round).filter(|path| report.is_damaged(&title, path))
            {
                hidden.insert((title, path));
                continue;
            }
            report.mismatch(Mismatch {
                places: entry.places(&self.tables, &table, round),
                detail: match (&stored, &found) {
                    (Some(_), None) => format!("its rows of {title} are not there"),
                    (None, _) => format!("the manifest knows of no rows of {title}, and there are some"),
                    _ => format!(
                        "a value of its rows of {title}, or the manifest, was changed, or rows were added or lost"
                    ),
                },
                expected_sha256: stored,
                found_sha256: found,
                ..Mismatch::of(round, title.clone())
            });
        }
        // The digest of the one before: as it is stored, or as it should be, where that was changed alone.
        let candidates: Vec<Option<(i64, String)>> = match (link.previous, &previous) {
            (None, None) => vec![None],
            (Some(named), Some((before, link))) if named == *before => {
                let stored = [link.chain.clone()].into_iter().chain(link.computed.clone());
                stored.map(|digest| Some((named, digest))).collect()
            }
            // The one before it cannot be read, and with it the link cannot be computed. What stands before it in the list
            // of those that can be read is an earlier one.
            (Some(named), _)
                if (unread_before == Some(named) || !self.known.contains(&named))
                    && let Some(path) = self.hidden(named) =>
            {
                if !self.known.contains(&named) {
                    self.lost.entry(named).or_default();
                }
                hidden.insert((rounds_title(), path));
                Vec::new()
            }
            (Some(named), _) if !self.known.contains(&named) => {
                let detail = format!("the round is not there, and round {round} names it as the one before it");
                report.mismatch(self.finding(named, detail));
                Vec::new()
            }
            (named, before) => {
                let text = |round: Option<i64>| round.map_or("none".to_owned(), |round| format!("round {round}"));
                let before = text(before.as_ref().map(|(round, _)| *round));
                let detail = format!("it names {} as the one before it, and that is {before}", text(named));
                report.mismatch(of_round(detail));
                Vec::new()
            }
        };
        let computed: Vec<String> = candidates
            .iter()
            .map(|previous| {
                let previous = previous.as_ref().map(|(round, digest)| (*round, digest.as_str()));
                link_sha256(round, snapshot, previous, &link.manifest)
            })
            .collect();
        if !computed.is_empty() && !computed.contains(&link.chain) {
            let mut mismatch = of_round(
                "its link is not the digest of its number, snapshot, manifest and predecessor: one of them was changed"
                    .to_owned(),
            );
            mismatch.expected_sha256 = Some(link.chain.clone());
            mismatch.found_sha256 = computed.first().cloned();
            report.mismatch(mismatch);
        }
        if let Some(link) = &mut entry.link {
            link.computed = computed.first().cloned();
        }
        for (title, path) in hidden.iter().filter(|_| is_asked) {
            report.hide(title, path, round);
        }
        if is_asked && hidden.is_empty() && report.mismatches_total == counted {
            self.verified.rounds += 1;
        }
        let held = self.heads().enumerate().filter(|(_, head)| head.round == round && head.chain_sha256 == link.chain);
        let held: Vec<usize> = held.map(|(index, _)| index).collect();
        self.held.extend(held);
        if self.heads().any(|head| head.round == round) {
            self.named.insert(round, (link.chain, places));
        }
    }

    /// Looks at a round without a link: `before` is the one before it, if that cannot be read.
    fn check_unlinked(
        &mut self,
        (snapshot, round): (i64, i64),
        is_read: bool,
        before: Option<i64>,
        follows_link: bool,
        places: Vec<String>,
        report: &mut VerifyReport,
    ) {
        let is_asked = self.asks_for(snapshot, round);
        if let Some(path) = before.and_then(|before| self.hidden(before))
            && self.lost_from.as_ref().is_none_or(|(from, _)| snapshot < *from)
        {
            self.lost_from = Some((snapshot, path));
        }
        let own = self.hidden(round).filter(|_| !is_read);
        let is_end = self.end.as_ref().is_some_and(|end| end.round == round);
        let behind = self.lost_from.as_ref().filter(|(from, _)| *from <= snapshot).map(|(_, path)| path.clone());
        let finding = |detail: &str| Mismatch {
            places: places.clone(),
            detail: detail.to_owned(),
            ..Mismatch::of(round, rounds_title())
        };
        if let Some(path) = own {
            if is_asked {
                report.hide(&rounds_title(), &path, round);
            }
        } else if follows_link {
            report.mismatch(finding("the round has no link, and the one before it has"));
        } else if is_end {
            report.mismatch(finding("the round has no link, and the catalog says that the chain ends with it"));
        } else if let Some(path) = behind {
            // Whether the chain had begun before it cannot be told.
            if is_asked {
                report.hide(&rounds_title(), &path, round);
            }
        } else if is_asked {
            self.verified.before += 1;
        }
    }

    fn finding(&self, round: i64, detail: String) -> Mismatch {
        Mismatch { places: vec![INSIDE.to_owned()], detail, ..Mismatch::of(round, rounds_title()) }
    }

    /// The rounds that the catalog has snapshots of, with those.
    fn listed(&self) -> Result<Vec<(i64, i64)>> {
        self.snapshot.with(|connection| {
            let error = |error| sqlite(OPERATION, error);
            let mut statement = connection.prepare("SELECT round, snapshot_id FROM portolan_round").map_err(error)?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
            rows.and_then(Iterator::collect).map_err(error)
        })
    }

    /// What the catalog says of rounds beside their rows.
    fn catalog(&mut self, report: &mut VerifyReport) -> Result<()> {
        let last = self.end.clone();
        let end = self.order.last().map(|(snapshot, round)| (*round, *snapshot));
        if let Some(link) = &last
            && end != Some((link.round, link.snapshot))
            && self.hidden(link.round).is_none()
        {
            let ends =
                end.map_or("with no round".to_owned(), |(round, at)| format!("with round {round}, at snapshot {at}"));
            let detail = format!(
                "the catalog says that the chain ends with the round, at snapshot {}; its rows end {ends}",
                link.snapshot
            );
            report.mismatch(Mismatch {
                expected_sha256: Some(link.chain_sha256.clone()),
                found_sha256: self.end_sha256.clone(),
                ..self.finding(link.round, detail)
            });
        }
        if last.is_none() && self.end_sha256.is_some() {
            let round = end.map_or(0, |(round, _)| round);
            report.mismatch(Mismatch {
                found_sha256: self.end_sha256.clone(),
                ..self.finding(round, "the catalog does not know where the chain ends".to_owned())
            });
        }
        if let Some(link) = last.filter(|link| Some((link.round, link.snapshot)) == end)
            && let Some(found) = self.end_sha256.clone().filter(|sha256| *sha256 != link.chain_sha256)
        {
            let detail = "the catalog has another digest for the end of the chain than the round's row".to_owned();
            report.mismatch(Mismatch {
                expected_sha256: Some(link.chain_sha256),
                found_sha256: Some(found),
                ..self.finding(link.round, detail)
            });
        }
        let snapshots: HashMap<i64, i64> = self.order.iter().map(|(snapshot, round)| (*round, *snapshot)).collect();
        for (round, snapshot) in self.listed()?.into_iter().filter(|(round, _)| self.scope.holds(*round)) {
            if snapshots.get(&round).is_some_and(|known| *known != snapshot) {
                let detail = format!("the catalog says that it made snapshot {snapshot}, its row says otherwise");
                report.mismatch(self.finding(round, detail));
            }
        }
        Ok(())
    }
}

fn rounds_title() -> String {
    format!("{}.{}", system::SCHEMA, system::ROUNDS)
}
