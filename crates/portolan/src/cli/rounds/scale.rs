//! What both drawings of a round share: its phases, the axis, durations as text.

use portolan_lake::{StoredReceipt, StoredRound};

use crate::output::visible;

/// What a port does in a part of its bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Connects, logs in, writes what does not make the server act.
    Prepare,
    /// Is ready, and waits for the others.
    Hold,
    /// Waits for the server's first byte.
    Server,
    /// Receives the answer.
    Body,
}

impl Phase {
    /// All, in their order.
    pub(super) const ALL: [Self; 4] = [Self::Prepare, Self::Hold, Self::Server, Self::Body];

    /// For the legend.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Hold => "wait for the release",
            Self::Server => "wait for the server",
            Self::Body => "body",
        }
    }
}

/// The parts of a port's bar that are known, from start to end in microseconds.
pub(super) fn phases(receipt: &StoredReceipt) -> Vec<(Phase, i64, i64)> {
    let ends = [receipt.prepared_us, receipt.released_us, receipt.first_byte_us, receipt.last_byte_us];
    let mut start = Some(0);
    let mut parts = Vec::new();
    for (phase, end) in Phase::ALL.into_iter().zip(ends) {
        if let (Some(from), Some(to)) = (start, end)
            && to > from
        {
            parts.push((phase, from, to));
        }
        // Of a part whose start is not known nothing is drawn.
        start = end.map(|end| end.max(start.unwrap_or(end)));
    }
    parts
}

/// The end of the axis: nothing in the round is later.
pub(super) fn end(round: &StoredRound) -> i64 {
    let times = round.receipts.iter().flat_map(|one| [one.released_us, one.acted_us, one.last_byte_us]);
    times.flatten().chain([round.duration_us, 1]).max().unwrap_or(1)
}

/// From the first release to the last first byte: the window in which every server acted.
pub(super) fn window(round: &StoredRound) -> Option<(i64, i64)> {
    let first = round.receipts.iter().filter_map(|one| one.released_us).min()?;
    let acted = round.receipts.iter().filter_map(|one| one.acted_us.or(one.first_byte_us)).max()?;
    (acted > first).then_some((first, acted))
}

/// The last release.
pub(super) fn last_release(round: &StoredRound) -> Option<i64> {
    round.receipts.iter().filter_map(|one| one.released_us).max()
}

/// Round distances on an axis of `span_us`, about `count` of them.
pub(super) fn ticks(span_us: i64, count: i64) -> Vec<i64> {
    let steps = (0..=18).flat_map(|power| [1, 2, 5].map(|factor| 10_i64.pow(power).saturating_mul(factor)));
    let step = steps.into_iter().find(|step| span_us / step <= count.max(1)).unwrap_or(i64::MAX);
    (0..=span_us / step).map(|index| index * step).collect()
}

/// A source's name in so many characters: of a longer one the middle is left out, as names of one kind differ at their ends.
pub(super) fn named(source: &str, limit: usize, gap: char) -> String {
    let name: Vec<char> = visible(source).chars().collect();
    if name.len() <= limit {
        return name.into_iter().collect();
    }
    let head = limit / 2;
    let tail = limit.saturating_sub(head + 1);
    name[..head].iter().chain([&gap]).chain(&name[name.len() - tail..]).collect()
}

/// A duration in the unit in which it is read best, to three or four digits.
pub(super) fn duration(us: i64) -> String {
    let (value, unit) = match us.unsigned_abs() {
        0..1_000 => return format!("{us} µs"),
        1_000..1_000_000 => (us as f64 / 1e3, "ms"),
        _ => (us as f64 / 1e6, "s"),
    };
    short(value, unit)
}

/// Bytes in three digits.
pub(super) fn size(bytes: i64) -> String {
    let (value, unit) = match bytes.unsigned_abs() {
        0..1_024 => return format!("{bytes} B"),
        0x400..0x10_0000 => (bytes as f64 / 1_024.0, "KiB"),
        0x10_0000..0x4000_0000 => (bytes as f64 / (1_u32 << 20) as f64, "MiB"),
        _ => (bytes as f64 / (1_u32 << 30) as f64, "GiB"),
    };
    short(value, unit)
}

fn short(value: f64, unit: &str) -> String {
    let digits = match value.abs() {
        size if size < 10.0 => 2,
        size if size < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let text = if digits > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let all = [0, 999, 1_000, 1_234, 45_600, 999_000, 1_500_000].map(duration);
        assert_eq!(all, ["0 µs", "999 µs", "1 ms", "1.23 ms", "45.6 ms", "999 ms", "1.5 s"]);
    }

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(named("orders", 12, '…'), "orders");
        let names = ["production_orders_eu_1", "production_orders_eu_2"].map(|name| named(name, 12, '…'));
        assert_eq!(names, ["produc…_eu_1", "produc…_eu_2"]);
    }

    #[test]
    fn sizes_are_short() {
        let all = [0, 1_023, 1_024, 123_456, 5 << 20, 3 << 30].map(size);
        assert_eq!(all, ["0 B", "1023 B", "1 KiB", "121 KiB", "5 MiB", "3 GiB"]);
    }

    #[test]
    fn an_axis_has_few_round_steps() {
        assert_eq!(ticks(100, 5), [0, 20, 40, 60, 80, 100]);
        assert_eq!(ticks(10_000_000, 5).len(), 6);
        assert_eq!(ticks(3, 5), [0, 1, 2, 3]);
        assert_eq!(ticks(0, 5), [0]);
        assert!(ticks(i64::MAX, 5).len() <= 6);
    }

    #[test]
    fn a_bar_has_the_parts_that_are_known() {
        let receipt = StoredReceipt {
            prepared_us: Some(10),
            released_us: Some(20),
            first_byte_us: Some(20),
            last_byte_us: Some(50),
            ..StoredReceipt::default()
        };
        let parts = [(Phase::Prepare, 0, 10), (Phase::Hold, 10, 20), (Phase::Body, 20, 50)];
        assert_eq!(phases(&receipt), parts);
        assert_eq!(phases(&StoredReceipt { prepared_us: None, ..receipt }), parts[2..]);
    }
}
