//! The timeline of a round as SVG: self-contained, light and dark, no script.

use std::fmt::Write;

use portolan_lake::{StoredReceipt, StoredRound};

use super::scale::{Phase, duration, end, last_release, named, phases, ticks, window};
use crate::output::visible;

const WIDTH: f64 = 1_000.0;
/// Where bars begin and end.
const LEFT: f64 = 190.0;
const RIGHT: f64 = 890.0;
const ROW: f64 = 24.0;
const BAR: f64 = 12.0;
/// Characters of a name and of a cause.
const NAME_MAX: usize = 22;
const CAUSE_MAX: usize = 100;
/// Checks that have a line of their own.
const CHECKS_MAX: usize = 20;
const STYLE: &str = "\
svg{background:#fff;font:12px ui-sans-serif,system-ui,'DejaVu Sans',sans-serif;font-variant-numeric:tabular-nums}
text{fill:#1f2933}.title{font-size:18px;font-weight:600}.dim{fill:#616e7c}.bad{fill:#b42318}.right{text-anchor:end}.mid{text-anchor:middle}
.grid{stroke:#e4e7eb}.prepare{fill:#cbd2d9}.hold{fill:#e9d8a6}.server{fill:#f08c00}.body{fill:#2b7bbb}
.release{stroke:#c2255c;stroke-width:2}.acted{fill:#fff;stroke:#c2255c;stroke-width:1.5}.span{fill:#c2255c;fill-opacity:.1}.measure{stroke:#c2255c;stroke-width:1.5}.pink{fill:#c2255c}
@media (prefers-color-scheme:dark){svg{background:#15191e}text{fill:#e4e7eb}.dim{fill:#9aa5b1}.bad{fill:#ff8a80}.grid{stroke:#2b333b}
.prepare{fill:#52606d}.hold{fill:#7a6a35}.server{fill:#ffa94d}.body{fill:#4dabf7}.release,.measure,.acted{stroke:#f783ac}.acted{fill:#15191e}.span,.pink{fill:#f783ac}}";

/// Draws `round`.
pub(super) fn draw(round: &StoredRound) -> String {
    let mut body = String::new();
    // Writing to a text never fails.
    let title = format!("Round {} · {}", round.round, visible(&round.name));
    text(&mut body, 24.0, 36.0, "title", &title);
    text(&mut body, RIGHT + 86.0, 36.0, "dim right", &super::started(round));
    let facts = format!("{} · consistency: {}", super::facts(round), super::consistency_drawn(round));
    text(&mut body, 24.0, 58.0, "dim", &facts);
    let mut y = 58.0;
    if let Some(reason) = &round.reason {
        y += 20.0;
        text(&mut body, 24.0, y, "bad", &short(reason, CAUSE_MAX + 40));
    }
    for check in round.checks.iter().take(CHECKS_MAX) {
        y += 20.0;
        let class = if matches!(check.outcome.as_str(), "failed" | "error") { "bad" } else { "dim" };
        text(&mut body, 24.0, y, class, &short(&format!("check {}", super::check_line(check)), CAUSE_MAX + 40));
    }
    if round.checks.len() > CHECKS_MAX {
        y += 20.0;
        text(&mut body, 24.0, y, "dim", &format!("checks: {}", super::checks(round)));
    }
    y += 28.0;
    let mut x = LEFT;
    for phase in Phase::ALL {
        rectangle(&mut body, class(phase), (x, y - 9.0), (12.0, 10.0));
        text(&mut body, x + 18.0, y, "dim", phase.label());
        x += 40.0 + phase.label().len() as f64 * 6.4;
    }
    upright(&mut body, "release", x + 4.0, y - 10.0, y + 2.0);
    text(&mut body, x + 14.0, y, "dim", "release");
    dot(&mut body, x + 80.0, y - 4.0);
    text(&mut body, x + 90.0, y, "dim", "the server has acted");
    y += 34.0;
    let all: Vec<&StoredReceipt> = round.receipts.iter().collect();
    y = panel(&mut body, y, (0, end(round)), &all, window(round), |one| one.last_byte_us.map(duration));
    if let (Some(span), Some(last)) = (window(round), last_release(round)) {
        y += 34.0;
        text(&mut body, 24.0, y, "title", "When the servers acted");
        let from =
            format!("from the first release, {} after the start, until the last server had acted", duration(span.0));
        text(&mut body, RIGHT + 86.0, y, "dim right", &from);
        y += 34.0;
        let spread = round.release_spread_us.unwrap_or(last - span.0);
        let bound = round.skew_bound_us.unwrap_or(span.1 - span.0);
        for (label, length) in [("release spread", spread), ("skew bound", bound)] {
            let right = place(span.0.saturating_add(length), span);
            upright(&mut body, "measure", LEFT, y - 9.0, y + 1.0);
            upright(&mut body, "measure", right, y - 9.0, y + 1.0);
            let _ = writeln!(
                body,
                "<line class=\"measure\" x1=\"{LEFT:.1}\" x2=\"{right:.1}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/>",
                y - 4.0
            );
            text(&mut body, LEFT - 12.0, y, "pink right", label);
            text(&mut body, right + 8.0, y, "pink", &duration(length));
            y += 22.0;
        }
        y += 16.0;
        let released: Vec<&StoredReceipt> = round.receipts.iter().filter(|one| one.released_us.is_some()).collect();
        y = panel(&mut body, y, span, &released, None, |one| {
            one.acted_us.or(one.first_byte_us).map(|time| format!("+{}", duration(time - span.0)))
        });
    }
    let height = y + 24.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" \
         role=\"img\" aria-labelledby=\"title description\">\n<title id=\"title\">{}</title>\n<desc id=\"description\">{}</desc>\n\
         <style>{STYLE}</style>\n{body}</svg>\n",
        escaped(&title),
        escaped(&facts)
    )
}

/// Bars over an axis; where the next thing may begin.
fn panel(
    out: &mut String,
    top: f64,
    span: (i64, i64),
    receipts: &[&StoredReceipt],
    highlight: Option<(i64, i64)>,
    right: impl Fn(&StoredReceipt) -> Option<String>,
) -> f64 {
    let bottom = top + 8.0 + receipts.len() as f64 * ROW;
    for tick in ticks(span.1 - span.0, 8) {
        let x = place(span.0 + tick, span);
        upright(out, "grid", x, top, bottom);
        text(out, x, top - 6.0, "dim mid", &duration(tick));
    }
    if let Some((from, to)) = highlight {
        let x = place(from, span);
        rectangle(out, "span", (x, top), ((place(to, span) - x).max(2.0), bottom - top));
    }
    for (index, receipt) in receipts.iter().enumerate() {
        let y = top + 10.0 + index as f64 * ROW;
        let is_lost = matches!(receipt.verdict.as_str(), "failed" | "skipped");
        text(
            out,
            LEFT - 12.0,
            y + 10.0,
            if is_lost { "bad right" } else { "right" },
            &named(&receipt.source, NAME_MAX, '…'),
        );
        let mut end = LEFT;
        for (phase, from, to) in phases(receipt) {
            if to <= span.0 || from >= span.1 {
                continue;
            }
            let x = place(from, span);
            end = place(to, span);
            rectangle(out, class(phase), (x, y), ((end - x).max(1.0), BAR));
        }
        if let Some(released) = receipt.released_us {
            let x = place(released, span);
            upright(out, "release", x, y - 3.0, y + BAR + 3.0);
            end = end.max(x);
        }
        if let Some(acted) = receipt.acted_us.filter(|acted| (span.0..=span.1).contains(acted)) {
            dot(out, place(acted, span), y + BAR / 2.0);
        }
        if is_lost {
            let cause = receipt.error.as_deref().unwrap_or("not asked");
            let room = ((WIDTH - 24.0 - end) / 6.5) as usize;
            text(
                out,
                end + 8.0,
                y + 10.0,
                "bad",
                &short(&format!("{}: {cause}", receipt.verdict), room.min(CAUSE_MAX)),
            );
        } else if let Some(label) = right(receipt) {
            text(out, RIGHT + 86.0, y + 10.0, "dim right", &label);
        }
    }
    bottom
}

/// The place of an instant.
fn place(time: i64, (from, to): (i64, i64)) -> f64 {
    let share = (time.clamp(from, to) - from) as f64 / (to - from).max(1) as f64;
    LEFT + share * (RIGHT - LEFT)
}

fn class(phase: Phase) -> &'static str {
    match phase {
        Phase::Prepare => "prepare",
        Phase::Hold => "hold",
        Phase::Server => "server",
        Phase::Body => "body",
    }
}

fn text(out: &mut String, x: f64, y: f64, class: &str, content: &str) {
    let _ = writeln!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escaped(content));
}

fn rectangle(out: &mut String, class: &str, (x, y): (f64, f64), (width, height): (f64, f64)) {
    let _ = writeln!(
        out,
        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
    );
}

fn dot(out: &mut String, x: f64, y: f64) {
    let _ = writeln!(out, "<circle class=\"acted\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>");
}

fn upright(out: &mut String, class: &str, x: f64, top: f64, bottom: f64) {
    let _ = writeln!(out, "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\"/>");
}

/// One line of at most so many characters.
fn short(content: &str, limit: usize) -> String {
    let content = visible(content).replace('\n', " ");
    if content.chars().count() <= limit {
        return content;
    }
    content.chars().take(limit.saturating_sub(1)).chain(['…']).collect()
}

fn escaped(content: &str) -> String {
    content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
