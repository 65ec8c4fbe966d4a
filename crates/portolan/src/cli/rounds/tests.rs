//! The drawings of rounds: what is shown, escaped and fits.

use portolan_lake::{StoredCheck, StoredReceipt, StoredRound};

use super::{svg, text};

/// Microsecond releases beside a body of ten seconds, a failed port, one that was not asked, a name that is markup.
fn round() -> StoredRound {
    let receipt = |source: &str, times: [i64; 4]| StoredReceipt {
        source: source.into(),
        verdict: "ok".into(),
        prepared_us: Some(times[0]),
        released_us: Some(times[1]),
        first_byte_us: Some(times[2]),
        acted_us: Some(times[2]),
        last_byte_us: Some(times[3]),
        rows: 10,
        bytes: 1_000,
        ..StoredReceipt::default()
    };
    let lost = |source: &str, verdict: &str, error: Option<&str>| StoredReceipt {
        source: source.into(),
        verdict: verdict.into(),
        error: error.map(str::to_owned),
        ..StoredReceipt::default()
    };
    StoredRound {
        round: 120,
        name: "trading".into(),
        verdict: "partial".into(),
        started_at: "2026-11-22T10:00:00Z".parse().ok(),
        duration_us: 10_000_400,
        release_spread_us: Some(40),
        skew_bound_us: Some(890),
        consistency: Some("released".into()),
        reached: Some("released".into()),
        attempts: Some(2),
        reason: None,
        checks: vec![
            StoredCheck {
                name: "every order has <a> customer".into(),
                kind: "foreign_key".into(),
                outcome: "failed".into(),
                on_failure: "quarantine".into(),
                failing_rows: Some(2),
                detail: Some("2 of 9 fail\u{1b}[31m…".into()),
                ..StoredCheck::default()
            },
            StoredCheck { name: "ids".into(), outcome: "passed".into(), ..StoredCheck::default() },
        ],
        receipts: vec![
            receipt("<orders>", [1_200, 5_010, 5_400, 10_000_000]),
            receipt("metrics", [5_000, 5_050, 5_900, 7_000]),
            lost("journal", "failed", Some("connect: refused\u{1b}[31m <b>")),
            lost("old", "skipped", None),
        ],
    }
}

#[test]
fn a_timeline_as_text() {
    insta::assert_snapshot!(text::draw(&round(), 90, false));
}

#[test]
fn a_timeline_in_ascii_is_ascii() {
    let drawn = text::draw(&round(), 90, true);
    assert!(drawn.is_ascii(), "{drawn}");
    assert!(drawn.lines().all(|line| line.len() <= 90), "{drawn}");
}

#[test]
fn a_timeline_as_svg() {
    let drawn = svg::draw(&round());
    assert!(!drawn.contains("<orders>") && !drawn.contains('\u{1b}') && !drawn.contains("<script"), "{drawn}");
    insta::assert_snapshot!(drawn);
}

#[test]
fn a_round_without_receipts_or_times_is_drawn() {
    let bare = StoredRound { receipts: Vec::new(), checks: Vec::new(), duration_us: 0, ..round() };
    assert!(text::draw(&bare, 60, false).contains("round 120") && svg::draw(&bare).ends_with("</svg>\n"));
}

#[test]
fn forty_ports_are_forty_bars() {
    let receipts = (0..40_i64).map(|port| StoredReceipt {
        source: format!("port{port:02}"),
        prepared_us: Some(100 + port * 7),
        released_us: Some(400 + port),
        first_byte_us: Some(500 + port * 11),
        acted_us: Some(500 + port * 11),
        last_byte_us: Some(1_000 + port * 13),
        ..round().receipts[1].clone()
    });
    let wide = StoredRound { receipts: receipts.collect(), duration_us: 1_600, ..round() };
    let drawn = svg::draw(&wide);
    assert_eq!(
        drawn.matches("class=\"body\"").count(),
        80,
        "legend, two a port, no body in the window of the last:\n{drawn}"
    );
}
