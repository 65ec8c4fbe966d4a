//! Refuses a scope that holds no round: a number that was mistyped is no proof.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use jiff::Timestamp;
use portolan_model::{Error, ErrorKind, Result};

use super::expected::{columns, system_table};
use super::{OPERATION, VerifyReport, VerifyScope};
use crate::reader::{LakeReader, Snapshot};
use crate::system;

/// The rounds that a lake has.
struct Listed {
    first: i64,
    last: i64,
    /// When the last of them began.
    last_began: Option<Timestamp>,
    /// The one that began last, and when: not always the last by number.
    latest: Option<(Timestamp, i64)>,
    /// Whether the one that was asked for is among them.
    holds: bool,
}

impl LakeReader {
    /// Refuses `asked` if nothing was found, because the lake has no such rounds. Asked after the rounds were looked for: one
    /// that is missing from the list and has rows is damage, and no mistake of who asks.
    pub(super) fn refuse_nothing(&self, asked: &VerifyScope, report: &VerifyReport) -> Result<()> {
        let is_empty = report.is_sound()
            && report.unproved.is_empty()
            && report.tables.iter().all(|table| table.rounds == 0 && table.foreign_rows == 0)
            && report.chain.as_ref().is_none_or(|chain| chain.rounds + chain.before == 0);
        if !is_empty || (asked.first_round.is_none() && asked.since.is_none()) {
            return Ok(());
        }
        let one = asked.first_round.filter(|first| asked.last_round == Some(*first));
        let Some(listed) = self.steady(|snapshot| listed(snapshot, one))? else {
            return Err(Error::new(ErrorKind::NotFound, OPERATION, "the lake has no round yet")
                .with_hint("collect with `portolan run` or `portolan fetch --save`"));
        };
        let Listed { first, last, last_began, latest, holds } = listed;
        let wrong = |message: String| Err(Error::new(ErrorKind::NotFound, OPERATION, message));
        let began = last_began.map(|time| format!(", which began at {time}")).unwrap_or_default();
        match (one, asked.first_round, asked.since) {
            (Some(round), ..) if holds => {
                let table = asked.table.as_ref().map(|name| format!(" in `{name}`")).unwrap_or_default();
                wrong(format!("round {round} stored no rows{table}")).map_err(|error| {
                    error.with_hint(format!("portolan rounds show {round} shows what became of each source"))
                })
            }
            (Some(round), ..) => wrong(format!("the lake has no round {round}")).map_err(|error| {
                error.with_hint(format!(
                    "it has rounds {first} to {last}, some numbers may be missing: portolan rounds lists them"
                ))
            }),
            (None, Some(from), _) if from > last => {
                wrong(format!("the lake has no round {from} or later: its last is round {last}{began}"))
                    .map_err(|error| error.with_hint("portolan rounds lists the latest rounds"))
            }
            (None, _, Some(since)) if latest.is_none_or(|(time, _)| time < since) => {
                let latest = latest.map(|(time, round)| format!(": the latest, round {round}, began at {time}"));
                wrong(format!("no round of the lake began at {since} or later{}", latest.unwrap_or_default())).map_err(
                    |error| error.with_hint("portolan rounds lists the latest rounds; times end in Z or an offset"),
                )
            }
            _ => Ok(()),
        }
    }
}

fn listed(snapshot: &Snapshot, asked: Option<i64>) -> Result<Option<Listed>> {
    let table = system_table(snapshot, system::ROUNDS)?;
    let columns = columns(&table, &["round", "started_at"])?;
    let mut listed: Option<Listed> = None;
    snapshot.scan(&table, &columns, &mut |rows| {
        let rounds = rows.batch.column(0).as_primitive::<Int64Type>();
        let starts = rows.batch.column(1).as_primitive::<TimestampMicrosecondType>();
        for row in (0..rows.batch.num_rows()).filter(|row| rounds.is_valid(*row)) {
            let round = rounds.value(row);
            let known = listed.get_or_insert(Listed {
                first: round,
                last: i64::MIN,
                last_began: None,
                latest: None,
                holds: false,
            });
            let began = starts.is_valid(row).then(|| Timestamp::from_microsecond(starts.value(row)).ok()).flatten();
            known.first = known.first.min(round);
            if round >= known.last {
                (known.last, known.last_began) = (round, began);
            }
            known.latest = known.latest.max(began.map(|began| (began, round)));
            known.holds |= asked == Some(round);
        }
        Ok(true)
    })?;
    Ok(listed)
}
