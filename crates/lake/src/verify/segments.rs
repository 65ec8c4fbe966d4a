//! Where the rows of each round lie: the first pass, over rounds and row ids alone.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use portolan_model::Error;

use super::expected::Receipts;
use super::footer::Group;
use super::{DamagedFile, VerifyScope};
use crate::encode::FILE_PREFIX;
use crate::reader::{DataFile, Snapshot, parse_time};
use crate::scan::{Place, Rows};
use crate::types::Column;

/// Rows of one round that lie together, in the order of their ids.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) round: i64,
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) rows: u64,
    /// Whether each row's `_time` is the same instant and lies within the round.
    pub(super) timely: bool,
    time_us: i64,
}

/// The outcome of the first pass over one place.
#[derive(Debug, Default)]
pub(super) struct Layout {
    pub(super) segments: Vec<Segment>,
    /// Rows that a later snapshot than their round's added, or that name no round: another program's.
    pub(super) foreign: u64,
    /// Rows that say they are older than their round.
    early: u64,
    /// Rows of rounds without a receipt, by round.
    pub(super) unreceipted: BTreeMap<i64, u64>,
    /// What is wrong with the file.
    pub(super) damage: Option<String>,
    /// Why the place cannot be read.
    pub(super) error: Option<Error>,
}

/// Says of each row which round it belongs to.
pub(super) struct Sorter<'a> {
    pub(super) receipts: &'a Receipts,
    pub(super) scope: &'a VerifyScope,
}

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Belongs {
    To(i64),
    NoReceipt(i64),
    Foreign,
    Early,
    OutOfScope,
}

impl Sorter<'_> {
    /// The rows of a batch in runs of one round each.
    pub(super) fn runs(&self, rows: &Rows, round_place: usize) -> Vec<(std::ops::Range<usize>, Belongs)> {
        let rounds = rows.batch.column(round_place).as_primitive::<Int64Type>();
        let begins = rows.begins.values();
        let key = |row: usize| (rounds.is_valid(row).then(|| rounds.value(row)), begins[row]);
        let mut runs = Vec::new();
        let mut start = 0;
        for row in 1..=rounds.len() {
            if row == rounds.len() || key(row) != key(start) {
                let (round, begin) = key(start);
                runs.push((start..row, self.belongs(round, begin)));
                start = row;
            }
        }
        runs
    }

    fn belongs(&self, round: Option<i64>, begin: i64) -> Belongs {
        let Some(round) = round else { return Belongs::Foreign };
        if !self.scope.holds(round) || self.receipts.verified.contains(&round) {
            return Belongs::OutOfScope;
        }
        match self.receipts.of(round) {
            None => Belongs::NoReceipt(round),
            // Whoever changes a row, or copies one, adds it in a snapshot of his own.
            Some(expected) if expected.snapshot < begin => Belongs::Foreign,
            Some(expected) if expected.snapshot > begin => Belongs::Early,
            Some(_) => Belongs::To(round),
        }
    }
}

/// Looks at a file whose bytes are proved by what its footer says, if each of its row groups is of one round.
pub(super) fn layout_of_groups(place: &Place, marks: &[Column; 2], sorter: &Sorter<'_>) -> Option<Layout> {
    let Place::File(file) = place else { return None };
    let mut layout = Layout::default();
    let mut seen = Seen::default();
    for group in super::footer::groups(file, marks)? {
        seen.note_group(&group);
        match sorter.belongs(Some(group.round), group.begin) {
            Belongs::To(round) => {
                let span = sorter.receipts.of(round).and_then(|expected| expected.span_us);
                let within = span.is_some_and(|(start, end)| start <= group.time_us && group.time_us <= end);
                let (first, last, rows) = (group.first_id, group.last_id, group.rows);
                layout.segments.push(Segment { round, first, last, rows, timely: within, time_us: group.time_us });
            }
            Belongs::NoReceipt(round) => *layout.unreceipted.entry(round).or_default() += group.rows,
            Belongs::Foreign => layout.foreign += group.rows,
            Belongs::Early => layout.early += group.rows,
            Belongs::OutOfScope => {}
        }
    }
    layout.damage = seen.difference(file, marks);
    layout.tell_early();
    Some(layout)
}

/// Looks at one place.
pub(super) fn layout(
    snapshot: &Snapshot,
    table: i64,
    place: &Place,
    marks: &[Column; 2],
    sorter: &Sorter<'_>,
) -> Layout {
    let mut layout = Layout::default();
    let mut seen = Seen::default();
    let outcome = snapshot.scan_stored(table, place, marks, &mut |rows| {
        seen.note(&rows);
        let times = rows.batch.column(1).as_primitive_opt::<TimestampMicrosecondType>();
        for (range, belongs) in sorter.runs(&rows, 0) {
            let count = range.len() as u64;
            match belongs {
                Belongs::To(round) => {
                    let span = sorter.receipts.of(round).and_then(|expected| expected.span_us);
                    for row in range {
                        let time = times.filter(|times| times.is_valid(row)).map(|times| times.value(row));
                        layout.add(round, rows.row_ids.value(row), time, span);
                    }
                }
                Belongs::NoReceipt(round) => *layout.unreceipted.entry(round).or_default() += count,
                Belongs::Foreign => layout.foreign += count,
                Belongs::Early => layout.early += count,
                Belongs::OutOfScope => {}
            }
        }
        Ok(true)
    });
    match (outcome, place) {
        (Err(error), _) => layout.error = Some(error),
        (Ok(_), Place::File(file)) => layout.damage = seen.difference(file, marks),
        (Ok(_), Place::Inlined(_)) => {}
    }
    layout.tell_early();
    layout
}

impl Layout {
    fn tell_early(&mut self) {
        if self.early > 0 {
            let text = format!("{} rows say that they are older than their round", self.early);
            self.damage = Some(self.damage.take().map_or(text.clone(), |damage| format!("{damage}; {text}")));
        }
    }

    fn add(&mut self, round: i64, id: i64, time_us: Option<i64>, span_us: Option<(i64, i64)>) {
        let within = time_us.zip(span_us).is_some_and(|(time, (start, end))| start <= time && time <= end);
        match self.segments.last_mut() {
            Some(last) if last.round == round && last.last < id => {
                last.last = id;
                last.rows += 1;
                last.timely &= within && time_us == Some(last.time_us);
            }
            _ => {
                let time_us = time_us.unwrap_or_default();
                self.segments.push(Segment { round, first: id, last: id, rows: 1, timely: within, time_us });
            }
        }
    }
}

/// What is seen of a file as a whole.
#[derive(Default)]
struct Seen {
    rows: u64,
    first_id: Option<i64>,
    rounds: Option<(i64, i64)>,
    times: Option<(i64, i64)>,
    begins: Option<(i64, i64)>,
}

/// The bounds of `known` and of `values`.
fn span(known: Option<(i64, i64)>, values: &mut dyn Iterator<Item = i64>) -> Option<(i64, i64)> {
    values.fold(known, |known, value| match known {
        None => Some((value, value)),
        Some((min, max)) => Some((min.min(value), max.max(value))),
    })
}

impl Seen {
    fn note_group(&mut self, group: &Group) {
        self.rows += group.rows;
        self.first_id = self.first_id.into_iter().chain([group.first_id]).min();
        self.rounds = span(self.rounds, &mut std::iter::once(group.round));
        self.times = span(self.times, &mut std::iter::once(group.time_us));
        self.begins = span(self.begins, &mut std::iter::once(group.begin));
    }

    fn note(&mut self, rows: &Rows) {
        self.rows += rows.batch.num_rows() as u64;
        let first = rows.row_ids.values().iter().copied().min();
        self.first_id = self.first_id.into_iter().chain(first).min();
        let rounds = rows.batch.column(0).as_primitive::<Int64Type>();
        self.rounds = span(self.rounds, &mut rounds.iter().flatten());
        if let Some(times) = rows.batch.column(1).as_primitive_opt::<TimestampMicrosecondType>() {
            self.times = span(self.times, &mut times.iter().flatten());
        }
        self.begins = span(self.begins, &mut rows.begins.values().iter().copied());
    }

    /// How a file differs from what the catalog says of it: it is another one, or the catalog was changed.
    fn difference(&self, file: &DataFile, marks: &[Column; 2]) -> Option<String> {
        let mut wrong = Vec::new();
        if let Ok(metadata) = std::fs::metadata(&file.path)
            && metadata.len() != file.size_bytes
        {
            wrong.push(format!("it has {} bytes, the catalog says {}", metadata.len(), file.size_bytes));
        }
        if self.rows != file.rows {
            wrong.push(format!("it has {} rows, the catalog says {}", self.rows, file.rows));
        }
        // What follows is exact in our own files.
        let ours = file.path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(FILE_PREFIX));
        if !ours {
            return (!wrong.is_empty()).then(|| wrong.join("; "));
        }
        let [mark, time] = marks;
        let known = file.statistics.get(&time.id);
        let bound = |text: &Option<String>| parse_time(text.as_ref()?).ok().map(|time| time.as_microsecond());
        if let Some(known) = known.and_then(|known| Some((bound(&known.min)?, bound(&known.max)?)))
            && self.times != Some(known)
        {
            wrong.push("its rows are of other times than the catalog says".to_owned());
        }
        let known = file.statistics.get(&mark.id);
        let bound = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<i64>().ok());
        if let Some((min, max)) = known.and_then(|known| Some((bound(&known.min)?, bound(&known.max)?)))
            && self.rounds != Some((min, max))
        {
            let found = self.rounds.map_or_else(|| "none".to_owned(), |(min, max)| format!("{min} to {max}"));
            wrong.push(format!("it holds rounds {found}, the catalog says {min} to {max}"));
        }
        if file.row_id_start > 0 && self.first_id.is_some_and(|first| first != file.row_id_start) {
            let first = self.first_id.unwrap_or_default();
            wrong.push(format!("its first row is {first}, the catalog says {}", file.row_id_start));
        }
        if let (Some((first, last)), Some(max)) = (self.begins, file.partial_max)
            && (first, last) != (file.begin_snapshot, max)
        {
            let begin = file.begin_snapshot;
            wrong.push(format!("its rows come from snapshots {first} to {last}, the catalog says {begin} to {max}"));
        }
        (!wrong.is_empty()).then(|| wrong.join("; "))
    }
}

/// A file that cannot be read or is another one.
pub(super) fn damaged(table: &str, place: &Place, detail: String) -> DamagedFile {
    DamagedFile::new(table, place.name(), None, detail)
}

/// What is known of the rows of one round over all places.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) rows: u64,
    pub(super) first: i64,
    pub(super) last: i64,
    /// Whether each row's `_time` is the same instant and lies within the round.
    pub(super) timely: bool,
    time_us: i64,
    /// Whether its rows come in the order of their ids, place after place.
    pub(super) ordered: bool,
    /// The pass that digests it.
    pub(super) pass: u32,
}

impl Plan {
    /// What is wrong with what the lake itself has put beside the rows.
    pub(super) fn problem(&self, rows: u64) -> Option<&'static str> {
        let consecutive = self.last.checked_sub(self.first).is_some_and(|span| span.unsigned_abs() + 1 == rows);
        if !consecutive {
            return Some("the ids of its rows are not consecutive");
        }
        (!self.timely).then_some("the `_time` of its rows is not that of the round")
    }
}

/// Plans the second pass: `order` is the order in which places are read. At most `open_max` digests are open at once; what
/// is more waits for another pass. Returns the plans and the number of passes.
pub(super) fn plan(layouts: &[Layout], order: &[usize], open_max: usize) -> (HashMap<i64, Plan>, u32) {
    let mut plans: HashMap<i64, Plan> = HashMap::new();
    let segments = || order.iter().flat_map(|place| layouts[*place].segments.iter());
    for segment in segments() {
        let plan = plans.entry(segment.round).or_insert(Plan {
            rows: 0,
            first: i64::MAX,
            last: i64::MIN,
            timely: true,
            time_us: segment.time_us,
            ordered: true,
            pass: 0,
        });
        plan.ordered &= plan.last < segment.first;
        plan.timely &= segment.timely && segment.time_us == plan.time_us;
        plan.first = plan.first.min(segment.first);
        plan.last = plan.last.max(segment.last);
        plan.rows += segment.rows;
    }
    // Rounds open at once in each pass, as the second pass will find them.
    let mut open: Vec<HashMap<i64, u64>> = Vec::new();
    for segment in segments() {
        let Some(plan) = plans.get_mut(&segment.round).filter(|plan| plan.ordered) else { continue };
        let begun = open.get(plan.pass as usize).is_some_and(|open| open.contains_key(&segment.round));
        if !begun {
            let free = open.iter().position(|open| open.len() < open_max);
            let pass = free.unwrap_or(open.len());
            if pass == open.len() {
                open.push(HashMap::new());
            }
            plan.pass = pass as u32;
            open[pass].insert(segment.round, plan.rows);
        }
        let rounds = &mut open[plan.pass as usize];
        if let Some(left) = rounds.get_mut(&segment.round) {
            *left -= segment.rows;
            if *left == 0 {
                rounds.remove(&segment.round);
            }
        }
    }
    (plans, open.len() as u32)
}
