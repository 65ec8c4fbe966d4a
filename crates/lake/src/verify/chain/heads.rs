//! Holds heads that were kept outside against the chain, and what they know of the files.

use portolan_model::Result;
use rusqlite::OptionalExtension;

use super::{OPERATION, Prover};
use crate::chain::{self, ChainHead};
use crate::error::sqlite;
use crate::scan::INSIDE;
use crate::spec::has_table;
use crate::verify::{HeadFiles, Mismatch, VerifyReport};

impl Prover<'_> {
    /// Holds the heads that were kept outside against the chain.
    pub(super) fn heads_held(&mut self, report: &mut VerifyReport) -> Result<()> {
        let mut files = HeadFiles::NoHead;
        for (index, head) in self.heads().enumerate() {
            let (found_sha256, places) = self.named.get(&head.round).cloned().unzip();
            // What the head speaks of cannot be read.
            if found_sha256.is_none() && self.hidden(head.round).is_some() {
                report.left_out.push(format!(
                    "the head of round {} that was kept outside was not held against the chain: the round's row cannot be \
                     read",
                    head.round
                ));
                continue;
            }
            let ends = self.order.last().map_or(0, |(_, round)| *round);
            let mismatch = |detail: String| Mismatch {
                expected_sha256: Some(head.chain_sha256.clone()),
                found_sha256: found_sha256.clone(),
                places: places.clone().unwrap_or_else(|| vec![INSIDE.to_owned()]),
                ..self.finding(head.round, detail)
            };
            if !self.known.contains(&head.round) {
                report.mismatch(mismatch(format!(
                    "the head that was kept outside names the round, and the lake ends with round {ends}: it was cut off, \
                     or is another one"
                )));
                continue;
            }
            if !self.held.contains(&index) {
                report.mismatch(mismatch(
                    "the chain up to the round is not the one of the head that was kept outside: what came before was \
                     changed and digested anew, or this is another lake"
                        .to_owned(),
                ));
                continue;
            }
            if head.snapshot > self.snapshot.id() {
                let detail = format!(
                    "the head that was kept outside was taken at snapshot {}, and the lake is at {}: it is an older copy",
                    head.snapshot,
                    self.snapshot.id()
                );
                // Its chain is right: what differs is no digest.
                report.mismatch(Mismatch { expected_sha256: None, found_sha256: None, ..mismatch(detail) });
            }
            let (of_head, found) = self.files_of(head)?;
            // One head that knows the files is enough; one that denies them is a finding.
            files = match (files, of_head) {
                (HeadFiles::Mismatch, _) | (_, HeadFiles::Mismatch) => HeadFiles::Mismatch,
                (HeadFiles::Held | HeadFiles::NoFiles, _) => files,
                _ => of_head,
            };
            if of_head == HeadFiles::Mismatch {
                report.mismatch(Mismatch {
                    expected_sha256: Some(head.files_sha256.clone()),
                    found_sha256: Some(found),
                    ..mismatch(
                        "the digests of the files are not those of the head that was kept outside, and none of its files was \
                         merged or has expired since: a file and its digests were changed"
                            .to_owned(),
                    )
                });
            }
        }
        self.verified.files_by_head = files;
        self.verified.heads = self.held.len() as u64;
        self.verified.head = self.snapshot.with(|connection| chain::head(connection, self.snapshot.id()))?;
        Ok(())
    }

    /// What a head says of the digests of the files, and the digest of them that was found.
    fn files_of(&self, head: &ChainHead) -> Result<(HeadFiles, String)> {
        self.snapshot.with(|connection| {
            let error = |error| sqlite(OPERATION, error);
            if !has_table(connection, "portolan_row_group")? {
                return Ok((HeadFiles::Changed, chain::no_files_sha256()));
            }
            let now = chain::files_sha256(connection)?;
            let is_there = |sql: &str, ids: &[i64]| -> Result<bool> {
                let found = connection.query_row(sql, rusqlite::params_from_iter(ids), |_| Ok(())).optional();
                Ok(found.map_err(error)?.is_some())
            };
            let snapshot = "SELECT 1 FROM ducklake_snapshot WHERE snapshot_id = ?1";
            let is_present = head.snapshot == self.snapshot.id();
            if now == head.files_sha256 {
                let as_it_was = format!("{snapshot} AND next_file_id = ?2");
                let of_head = match () {
                    () if is_present && !is_there(&as_it_was, &[head.snapshot, head.next_file])? => HeadFiles::Mismatch,
                    () if now == chain::no_files_sha256() => HeadFiles::NoFiles,
                    () => HeadFiles::Held,
                };
                return Ok((of_head, now));
            }
            if is_present {
                return Ok((HeadFiles::Mismatch, now));
            }
            // What the head's snapshot sees stays in the catalog for as long as that snapshot is there, unless it is merged:
            // then a newer file reaches back to it. So does one of rows that were inside the catalog: that cannot be told.
            let merged = "SELECT 1 FROM ducklake_data_file WHERE begin_snapshot <= ?1 AND data_file_id >= ?2";
            let is_complete =
                is_there(snapshot, &[head.snapshot])? && !is_there(merged, &[head.snapshot, head.next_file])?;
            let then = chain::files_sha256_at(connection, head.snapshot, head.next_file)?;
            let is_denied = is_complete && then != head.files_sha256;
            Ok((if is_denied { HeadFiles::Mismatch } else { HeadFiles::Changed }, then))
        })
    }
}
