//! Random corruptions of a lake: `verify` finds each one and names its place, with the chain's head kept outside, and raises
//! no false alarm whatever maintenance does. `cargo xtask corruption` runs more of them; a seed replays one campaign.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "corruption/kinds.rs"]
mod kinds;
#[path = "corruption/lake.rs"]
mod lake;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kinds::{Expected, KINDS, TAILS, Victim, verify};
use portolan_lake::{ChainHead, HeadFiles, LakeReader, VerifyReport, VerifyScope};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Corruptions that each lake meets.
const EACH: u64 = 125;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// Whether a report has findings that name what is expected.
fn names(report: &VerifyReport, expected: &Expected) -> bool {
    let findings = format!("{:?} {:?}", report.mismatches, report.damaged_files);
    let named = expected.words.iter().all(|word| findings.contains(word.as_str()));
    let round = expected.round.is_none_or(|round| report.mismatches.iter().any(|one| one.round == round));
    !report.is_sound() && named && round
}

/// Puts a lake back as it was.
fn undo(whole: &Path, folder: &Path, touched: &[PathBuf]) {
    std::fs::copy(whole.join("catalog.sqlite"), folder.join("catalog.sqlite")).unwrap();
    for beside in ["catalog.sqlite-wal", "catalog.sqlite-shm", "catalog.sqlite-journal"] {
        let _ = std::fs::remove_file(folder.join(beside));
    }
    for path in touched {
        let original = whole.join(path.strip_prefix(folder).unwrap());
        match original.exists() {
            true => drop(std::fs::copy(original, path).unwrap()),
            false => std::fs::remove_file(path).unwrap(),
        }
    }
}

/// One corruption of the lake in `folder`, found or not; undone then.
fn try_one(whole: &Path, folder: &Path, head: &ChainHead, kind: &str, random: &mut StdRng) -> Result<(), String> {
    let catalog = rusqlite::Connection::open(folder.join("catalog.sqlite")).unwrap();
    let mut victim = Victim { folder, catalog, random, touched: Vec::new() };
    let expected = victim.corrupt(kind);
    let touched = std::mem::take(&mut victim.touched);
    drop(victim);
    if expected.by_head {
        let report = verify(folder, VerifyScope::default());
        assert!(report.is_sound(), "{kind} is found without the head, so it is not what it should be: {report:#?}");
    }
    let report = verify(folder, VerifyScope { heads: vec![head.clone()], ..VerifyScope::default() });
    undo(whole, folder, &touched);
    match names(&report, &expected) {
        true => Ok(()),
        false => Err(format!("{kind} was not found, or not named ({expected:?}): {report:#?}")),
    }
}

#[tokio::test]
async fn every_random_corruption_is_found_and_named() {
    let (seed, count) = (number("PORTOLAN_CORRUPTION_SEED", 4), number("PORTOLAN_CORRUPTION_COUNT", 76));
    let mut tally: BTreeMap<&str, u64> = BTreeMap::new();
    for part in 0..count.div_ceil(EACH) {
        let seed = seed.wrapping_add(part);
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let (whole, victim) = (root.join("whole"), root.join("victim"));
        lake::build(&whole, seed, true).await;
        // Its writer ends by itself a moment after it: with the lock the catalog is closed.
        std::fs::File::open(whole.join("collector.lock")).unwrap().lock().unwrap();
        common::copy(&whole, &victim);
        let head = LakeReader::open(&victim).unwrap().head().unwrap();
        let sound = verify(&victim, VerifyScope { heads: vec![head.clone()], ..VerifyScope::default() });
        assert!(sound.is_sound() && sound.chain.unwrap().files_by_head == HeadFiles::Held);
        let mut random = StdRng::seed_from_u64(seed);
        for place in 0..EACH.min(count - part * EACH) {
            let all = KINDS.len() + TAILS.len();
            // Each kind in turn, so that none is missed in a short run.
            let kind = *KINDS.iter().chain(&TAILS).nth(place as usize % all).unwrap();
            if let Err(problem) = try_one(&whole, &victim, &head, kind, &mut random) {
                panic!(
                    "seed {seed}, corruption {place}: {problem}\nagain: cargo xtask corruption --seed {seed} --count {EACH}"
                );
            }
            *tally.entry(kind).or_default() += 1;
        }
        let report = verify(&victim, VerifyScope { heads: vec![head], full: true, ..VerifyScope::default() });
        assert!(report.is_sound(), "the lake was not put back: {report:#?}");
    }
    for (kind, count) in &tally {
        println!("{count:6} {kind}");
    }
    println!("{count} corruptions, each found and named");
}

/// Maintenance and a collector beside raise no false alarm, over lakes of many seeds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_where_nothing_is_wrong() {
    for seed in 0..number("PORTOLAN_CORRUPTION_LAKES", 4) {
        let folder = tempfile::tempdir().unwrap();
        lake::build(folder.path(), seed, false).await;
        let lake = common::open(folder.path(), lake::eager(Duration::from_millis(200))).await;
        let path = folder.path().to_owned();
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        let verifier = tokio::task::spawn_blocking(move || {
            let mut verified = 0;
            while is_done.try_recv().is_err() {
                lake::is_sound(&path, verified % 3 == 2, &format!("seed {seed}, a collector running"));
                verified += 1;
            }
            verified
        });
        let mut random = StdRng::seed_from_u64(seed);
        for step in 0..30 {
            let step = 1_000 + step * random.random_range(1..3);
            lake::round(&lake, &mut random, step, false).await;
            if step % 3 == 0 {
                lake.maintain().await.unwrap();
            }
        }
        done.send(()).unwrap();
        assert!(verifier.await.unwrap() > 0);
        lake::is_sound(folder.path(), true, "the collector");
    }
}
