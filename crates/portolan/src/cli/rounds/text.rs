//! The timeline of a round as text.

use portolan_lake::{StoredReceipt, StoredRound};

use super::scale::{Phase, duration, end, last_release, named, phases, ticks, window};
use crate::output::visible;

/// Characters of a source's name.
const NAME_MAX: usize = 24;
/// Characters for the durations at the right.
const RIGHT: usize = 10;

/// What a phase is drawn with.
fn mark(phase: Phase, ascii: bool) -> char {
    match (phase, ascii) {
        (Phase::Prepare, false) => '░',
        (Phase::Hold, false) => '·',
        (Phase::Server, false) => '▒',
        (Phase::Body, false) => '█',
        (Phase::Prepare, true) => ':',
        (Phase::Hold, true) => '.',
        (Phase::Server, true) => '=',
        (Phase::Body, true) => '#',
    }
}

/// Draws `round` in lines of at most `width` characters, causes and header apart.
pub(super) fn draw(round: &StoredRound, width: usize, ascii: bool) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(format!("round {} · {} · {}", round.round, visible(&round.name), super::started(round)));
    line(super::facts(round));
    line(format!("consistency: {}", super::consistency_drawn(round)));
    if let Some(reason) = &round.reason {
        line(format!("reason: {}", visible(reason)));
    }
    for check in &round.checks {
        line(format!("check {}", super::check_line(check)));
    }
    let names = round.receipts.iter().map(|one| one.source.chars().count()).max().unwrap_or(0).clamp(6, NAME_MAX);
    let chart = Chart { names, cells: width.saturating_sub(names + RIGHT + 3).max(20), ascii };
    line(String::new());
    let whole = (0, end(round));
    line(chart.axis(whole));
    for receipt in &round.receipts {
        let right = receipt.last_byte_us.map(duration).unwrap_or_default();
        line(chart.row(receipt, whole, &right));
    }
    let legend = Phase::ALL.map(|phase| format!("{} {}", mark(phase, ascii), phase.label()));
    line(format!("{:names$}  {}", "", legend.join("   ")));
    if let (Some(span), Some(last)) = (window(round), last_release(round)) {
        line(String::new());
        let spread = round.release_spread_us.unwrap_or(last - span.0);
        let bound = round.skew_bound_us.unwrap_or(span.1 - span.0);
        line(format!(
            "from the first release ({} after the start) until the last server had acted:\n\
             release spread {}, skew bound {}",
            duration(span.0),
            duration(spread),
            duration(bound)
        ));
        line(chart.axis((span.0, span.1)));
        for receipt in round.receipts.iter().filter(|one| one.released_us.is_some()) {
            let right = receipt.acted_us.or(receipt.first_byte_us).map(|time| format!("+{}", duration(time - span.0)));
            line(chart.row(receipt, span, &right.unwrap_or_default()));
        }
    }
    let mut snapshots: Vec<(&str, Vec<String>)> = Vec::new();
    for receipt in &round.receipts {
        let Some(snapshot) = receipt.snapshot.as_deref() else { continue };
        match snapshots.iter_mut().find(|(known, _)| *known == snapshot) {
            Some((_, sources)) => sources.push(visible(&receipt.source)),
            None => snapshots.push((snapshot, vec![visible(&receipt.source)])),
        }
    }
    for (snapshot, sources) in snapshots {
        line(format!("snapshot of {}: {}", sources.join(", "), visible(snapshot)));
    }
    for receipt in &round.receipts {
        if let Some(error) = &receipt.error {
            let what = visible(&receipt.verdict);
            line(format!("{}: {what}: {}", visible(&receipt.source), visible(error)));
        }
    }
    if ascii {
        out = out.replace('·', "-").replace('µ', "u").replace('→', "->").replace('…', "...");
    }
    out
}

struct Chart {
    names: usize,
    cells: usize,
    ascii: bool,
}

impl Chart {
    /// The cell of an instant.
    fn cell(&self, time: i64, (from, to): (i64, i64)) -> usize {
        let share = (time.clamp(from, to) - from) as f64 / (to - from).max(1) as f64;
        ((share * self.cells as f64) as usize).min(self.cells - 1)
    }

    fn axis(&self, (from, to): (i64, i64)) -> String {
        let mut cells = vec![' '; self.cells + RIGHT + 1];
        let mut free = 0;
        for tick in ticks(to - from, (self.cells / 12) as i64) {
            let place = self.cell(from + tick, (from, to));
            let label: Vec<char> =
                format!("{}{}", if self.ascii { '|' } else { '╷' }, duration(tick)).chars().collect();
            if place >= free && place + label.len() <= cells.len() {
                cells[place..place + label.len()].copy_from_slice(&label);
                free = place + label.len() + 1;
            }
        }
        format!("{:names$}  {}", "", cells.into_iter().collect::<String>(), names = self.names)
    }

    fn row(&self, receipt: &StoredReceipt, span: (i64, i64), right: &str) -> String {
        let mut cells = vec![' '; self.cells];
        for (phase, from, to) in phases(receipt) {
            if to <= span.0 || from >= span.1 {
                continue;
            }
            let (first, last) = (self.cell(from, span), self.cell(to - 1, span));
            cells[first..=last].fill(mark(phase, self.ascii));
        }
        if let Some(released) = receipt.released_us {
            cells[self.cell(released, span)] = if self.ascii { '|' } else { '┃' };
        }
        let mut name = named(&receipt.source, self.names, if self.ascii { '~' } else { '…' });
        name.extend(std::iter::repeat_n(' ', self.names - name.chars().count().min(self.names)));
        let right = match receipt.verdict.as_str() {
            verdict @ ("failed" | "skipped") => verdict,
            _ => right,
        };
        format!("{name}  {} {right}", cells.into_iter().collect::<String>())
    }
}
