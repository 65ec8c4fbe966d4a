//! What can be said of checks before any row has come: whether their text is a query, and names what there is.

use std::path::Path;
use std::sync::Arc;

use portolan_lake::{At, LakeReader, TableView};
use portolan_model::config::{CheckKind, CheckSpec, Configuration, Diagnostic, OnCheckFailure};
use portolan_model::{Error, ErrorKind, Result};

use super::answer::fits;
use super::question::{AFTER, BEFORE, KEPT, Mention, Part, Question};
use crate::engine::{Engine, EngineOptions};
use crate::lake::{LakeTable, ROW_NUMBER, Stored};
use crate::names::MAIN;

/// What is wrong with the queries of the checks of a configuration. Touches nothing.
pub fn problems(configuration: &Configuration) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for round in &configuration.rounds {
        for check in round.checks.iter().filter(|check| check.kind.sql().is_some()) {
            let problem = match Question::of(&check.kind) {
                Ok(question) => names_problem(configuration, round, check, &question),
                Err(error) => Some(error),
            };
            found.extend(problem.map(|error| diagnostic(check, &error)));
        }
    }
    found
}

fn names_problem(
    configuration: &Configuration,
    round: &portolan_model::config::RoundSpec,
    check: &CheckSpec,
    question: &Question,
) -> Option<Error> {
    let of_round: Vec<&str> = round.sources.iter().map(|source| source.as_str()).collect();
    let all: Vec<&str> = configuration.sources.iter().map(|source| source.name.as_str()).collect();
    for mention in &question.mentions {
        let source = mention.source.as_str();
        let (known, whose) = match mention.part {
            Part::Round => (&of_round, format!("round `{}` does not read a source `{source}`", round.name)),
            Part::Before | Part::After | Part::Kept => (&all, format!("there is no source `{source}`")),
        };
        if known.contains(&source) {
            continue;
        }
        let hint = match all.contains(&source) {
            true => format!("write {BEFORE}.{source} for what the lake holds of it, or name both in one [[round]]"),
            false => format!("sources of the round: {}; of the configuration: {}", of_round.join(", "), all.join(", ")),
        };
        return Some(Error::new(ErrorKind::NotFound, "plan check", whose).with_hint(hint));
    }
    let is_named =
        |source: &str| question.mentions.iter().any(|mention| mention.part == Part::Round && mention.source == source);
    let withholds = check.on_failure == OnCheckFailure::Quarantine;
    let is_here = |mention: &Mention| mention.part != Part::Before && of_round.contains(&mention.source.as_str());
    if withholds && !question.mentions.iter().any(is_here) {
        let message = "the query names no rows of this round, so there is nothing that it could withhold";
        let hint = "name a source of the round, or use on_failure = \"warn\" or \"reject\"";
        return Some(Error::new(ErrorKind::Configuration, "plan check", message).with_hint(hint));
    }
    match &check.kind {
        CheckKind::Rows { source, .. } if !is_named(source.as_str()) => {
            let message = format!("the query gives rows of `{source}` and does not read it");
            let hint = format!("such as rows = \"select {ROW_NUMBER} from {source} where …\"");
            Some(Error::new(ErrorKind::Configuration, "plan check", message).with_hint(hint))
        }
        _ => None,
    }
}

fn diagnostic(check: &CheckSpec, error: &Error) -> Diagnostic {
    let diagnostic = Diagnostic::new(format!("check `{}`: {}", check.name, error.message()), check.place.0.clone());
    match error.hint() {
        Some(hint) => diagnostic.with_help(hint),
        None => diagnostic,
    }
}

/// What a question that can be planned would still not do: compare a column with bounds of another type.
fn types(check: &CheckSpec, question: &Question, views: &[Arc<TableView>]) -> Option<Error> {
    let named = |mention: &Mention| views.iter().find(|view| view.name == mention.source);
    let found =
        question.columns.iter().find_map(|(mention, _)| Question::type_problem(&check.kind, &named(mention)?.arrow));
    found.map(|problem| Error::new(ErrorKind::Data, "plan check", problem))
}

/// Only what is stored is known.
fn as_of_now(error: Error) -> Error {
    let now = "columns are as the lake has them now: what the next round brings is known once it is stored";
    let hint = error.hint().map_or_else(|| now.to_owned(), |hint| format!("{hint}; {now}"));
    error.with_hint(hint)
}

impl super::LakeChecker {
    /// What is wrong with checks as the columns of the lake in `folder` are now; a query that names a table that the lake does
    /// not have yet is left out.
    ///
    /// # Errors
    /// What the lake says where it cannot be read.
    pub async fn plan(folder: &Path, configuration: &Configuration) -> Result<Vec<Diagnostic>> {
        let snapshot = Arc::new(LakeReader::open(folder)?.snapshot(At::Head)?);
        let views: Vec<_> = snapshot.tables()?.into_iter().filter(|table| table.schema == MAIN).map(Arc::new).collect();
        let engine = Engine::new(EngineOptions { partitions: 1, ..EngineOptions::default() })?;
        for view in &views {
            for schema in [MAIN, BEFORE, AFTER, KEPT] {
                let stored = Stored { snapshot: Arc::clone(&snapshot), view: Arc::clone(view) };
                let table = LakeTable::of(view.arrow.clone(), Some(stored), None);
                engine.attach_table(schema, &view.name, if schema == MAIN { table.numbered() } else { table });
            }
        }
        let mut found = Vec::new();
        for check in configuration.rounds.iter().flat_map(|round| &round.checks) {
            let Ok(question) = Question::of(&check.kind) else { continue };
            let is_known = question.mentions.iter().all(|mention| views.iter().any(|view| view.name == mention.source));
            if !is_known {
                continue;
            }
            // Planned, and dropped before a row is read.
            let planned = engine.sql(&question.sql).await.and_then(|stream| fits(&stream.schema, &question.answer));
            let problem = planned.err().or_else(|| types(check, &question, &views));
            found.extend(problem.map(|error| diagnostic(check, &as_of_now(error))));
        }
        Ok(found)
    }
}
