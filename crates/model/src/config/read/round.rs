//! The `[[round]]` tables, and a round for each source that none of them names.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml_edit::{Item, Table, Value};

use super::{DEADLINE_DEFAULT, EVERY_DEFAULT, Reader, Rhythm, RoundTable, SHORTEST, name_of, unknown_value};
use crate::config::{Consistency, ConsistencySpec, Diagnostic, RoundSpec};
use crate::name::{RoundName, SourceName, name_problem};

/// The most times that the sources of a round are read for it.
const ATTEMPTS_MAX: u32 = 100;

impl Reader<'_> {
    pub(super) fn rounds(
        &mut self,
        root: &Table,
        source_names: &BTreeMap<String, Option<Range<usize>>>,
        sources: &BTreeMap<SourceName, Rhythm>,
        with_snapshot: &BTreeSet<String>,
    ) -> Vec<RoundSpec> {
        let mut rounds: Vec<RoundSpec> = Vec::new();
        let mut names = BTreeMap::new();
        let mut taken: BTreeMap<String, String> = BTreeMap::new();
        for table in self.tables(root, "round") {
            let span = table.span();
            self.rounds_written.extend(name_of(&table).map(|(name, _)| name));
            self.unknown_keys::<RoundTable>(&table, "round");
            let Some(round) = self.values::<RoundTable>(table.clone(), span.clone(), "a [[round]]") else { continue };
            let place = |key: &str| table.get(key).and_then(Item::span).or_else(|| span.clone());
            if self.is_new("round", &round.name, place("name"), &names) {
                names.insert(round.name.clone(), place("name"));
            }
            if let Some(problem) = name_problem(&round.name) {
                let message = format!("{:?} is not a round name: {problem}", round.name);
                self.report(Diagnostic::new(message, place("name")));
            }
            if round.sources.is_empty() {
                self.report(Diagnostic::new(format!("round `{}` has no sources", round.name), place("sources")));
            }
            let entries = table.get("sources").and_then(Item::as_array);
            for (index, source) in round.sources.iter().enumerate() {
                let entry = entries.and_then(|entries| entries.get(index)).and_then(Value::span);
                if !source_names.contains_key(source) {
                    let known: Vec<&str> = source_names.keys().map(String::as_str).collect();
                    self.report(unknown_value("source", source, &known, entry));
                } else if let Some(other) = taken.insert(source.clone(), round.name.clone()) {
                    let message = format!("source `{source}` is already in round `{other}`");
                    let help = "a source is read by one round; describe the port twice to read it at two rhythms";
                    self.report(Diagnostic::new(message, entry).with_help(help));
                }
            }
            for (key, value) in [("every", round.every), ("deadline", round.deadline)] {
                if value.is_some_and(|value| value.0 < SHORTEST) {
                    self.report(Diagnostic::new(format!("{key} must be at least 1ms"), place(key)));
                }
            }
            // Of sources that are wrong themselves nobody knows what they can.
            let is_known = |source: &String| sources.keys().any(|name| name.as_str() == source);
            if round.consistency == Consistency::Snapshot
                && round.sources.iter().all(is_known)
                && !round.sources.iter().any(|source| with_snapshot.contains(source))
            {
                let message = format!("round `{}` has no source with snapshots", round.name);
                let help = "snapshots are read from databases; for other ports: consistency = \"released\" or \"double_collect\"";
                self.report(Diagnostic::new(message, place("consistency")).with_help(help));
            }
            let Ok(name) = RoundName::new(&round.name) else { continue };
            rounds.push(RoundSpec {
                name,
                sources: round.sources.iter().filter_map(|source| SourceName::new(source).ok()).collect(),
                every: round.every.map_or(EVERY_DEFAULT, |value| value.0),
                deadline: round.deadline.map_or(DEADLINE_DEFAULT, |value| value.0),
                consistency: self.consistency(&round, &table),
                checks: Vec::new(),
            });
        }
        for (name, rhythm) in sources {
            if let Some(round) = taken.get(name.as_str()) {
                for (key, span) in [("every", &rhythm.every_span), ("deadline", &rhythm.deadline_span)] {
                    if let Some(span) = span {
                        let message = format!("source `{name}` is in round `{round}`, whose `{key}` counts");
                        let help = format!("write `{key}` in the [[round]]");
                        self.report(Diagnostic::new(message, Some(span.clone())).with_help(help));
                    }
                }
                continue;
            }
            if let Some(span) = names.get(name.as_str()) {
                let message = format!("round `{name}` has the name of a source that it does not hold");
                let help = "a source outside every [[round]] is a round of its own, under its own name";
                self.report(Diagnostic::new(message, span.clone()).with_help(help));
            }
            let Ok(round_name) = RoundName::new(name.as_str()) else { continue };
            rounds.push(RoundSpec {
                name: round_name,
                sources: vec![name.clone()],
                every: rhythm.every.unwrap_or(EVERY_DEFAULT),
                deadline: rhythm.deadline.unwrap_or(DEADLINE_DEFAULT),
                consistency: ConsistencySpec::default(),
                checks: Vec::new(),
            });
        }
        rounds
    }

    /// What a round promises, with what it says of the promise checked.
    fn consistency(&mut self, round: &RoundTable, table: &Table) -> ConsistencySpec {
        let place = |key: &str| table.get(key).and_then(Item::span);
        let mode = round.consistency;
        let default = ConsistencySpec::default();
        let given = [
            ("max_skew", round.max_skew.is_some()),
            ("skew_measure", round.skew_measure.is_some()),
            ("attempts", round.attempts.is_some()),
            ("on_failure", round.on_failure.is_some()),
            ("ready_within", round.ready_within.is_some()),
        ];
        for (key, _) in given.iter().filter(|(_, is_given)| *is_given && mode == Consistency::None) {
            let message = format!("round `{}` promises nothing that `{key}` could be about", round.name);
            self.report(
                Diagnostic::new(message, place(key))
                    .with_help("add consistency = \"released\", \"snapshot\" or \"double_collect\""),
            );
        }
        if round.skew_measure.is_some() && round.max_skew.is_none() && mode != Consistency::None {
            let help = "it says what `max_skew` bounds: write that, too";
            let message = format!("round `{}` has `skew_measure` without `max_skew`", round.name);
            self.report(Diagnostic::new(message, place("skew_measure")).with_help(help));
        }
        let attempts_min = if mode == Consistency::DoubleCollect { 2 } else { 1 };
        if round.attempts.is_some_and(|attempts| !(attempts_min..=ATTEMPTS_MAX).contains(&attempts)) {
            let message = format!("attempts must be {attempts_min} to {ATTEMPTS_MAX}");
            self.report(Diagnostic::new(message, place("attempts")));
        }
        for (key, value) in [("max_skew", round.max_skew), ("ready_within", round.ready_within)] {
            if value.is_some_and(|value| value.0.is_zero()) {
                self.report(Diagnostic::new(format!("{key} must be more than 0"), place(key)));
            }
        }
        ConsistencySpec {
            mode,
            skew_max: round.max_skew.map(|value| value.0),
            skew_measure: round.skew_measure.unwrap_or_default(),
            attempts_max: round.attempts.unwrap_or(default.attempts_max),
            on_failure: round.on_failure.unwrap_or_default(),
            ready_within: round.ready_within.map_or(default.ready_within, |value| value.0),
        }
    }
}
