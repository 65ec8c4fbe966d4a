//! The intake log on disk: what is durable is read again, whatever happened to its end or its middle.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use portolan_connect::intake::{Block, Intake, Kind, Layout, Log, Place, Progress};
use portolan_model::clock::SystemClock;

const ROOM: u64 = 1 << 30;

fn open(folder: &Path, bytes_max: u64) -> std::io::Result<Intake> {
    Intake::open(folder, bytes_max, Arc::new(SystemClock::new()))
}

fn block(sender: &'static str, sequence: u64, payload: impl Into<Bytes>) -> Block {
    Block {
        kind: Kind::Data,
        layout: Layout::Unsaid,
        sender: Bytes::from_static(sender.as_bytes()),
        peer: Bytes::from_static(b"127.0.0.1:1"),
        received_us: 1_700_000_000_000_000,
        sequence,
        payload: payload.into(),
    }
}

/// Appends blocks `numbers` of one sender and waits until they are durable.
async fn append(intake: &Intake, numbers: std::ops::RangeInclusive<u64>, size: usize) {
    let (appender, progress) = (intake.appender(), Arc::new(Progress::default()));
    let last = *numbers.end();
    for number in numbers {
        let payload = format!("{number} {}\n", "x".repeat(size));
        appender.append(block("pump", number, payload), Some(progress.clone())).await.unwrap();
    }
    while progress.durable() < last {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Every block from a place on: the numbers in front of their payloads, and the damage met.
fn read_all(log: &Log, from: Place) -> (Vec<u64>, Vec<String>) {
    let (mut numbers, mut damage, mut place) = (Vec::new(), Vec::new(), from);
    loop {
        let chunk = log.read(place, 1 << 20).unwrap();
        numbers.extend(chunk.blocks.iter().map(|block| {
            let text = std::str::from_utf8(&block.payload).unwrap();
            text.split(' ').next().unwrap().parse::<u64>().unwrap()
        }));
        damage.extend(chunk.damage.into_iter().map(|damage| damage.detail));
        if chunk.next == place {
            return (numbers, damage);
        }
        place = chunk.next;
    }
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    found.sort();
    found
}

#[tokio::test]
async fn what_is_durable_is_read_again_by_the_next_process_in_order_and_from_any_place() {
    let folder = tempfile::tempdir().unwrap();
    let intake = open(folder.path(), ROOM).unwrap();
    append(&intake, 1..=10, 10).await;
    let middle = intake.log().synced();
    append(&intake, 11..=20, 10).await;
    let id = intake.log().id();
    intake.close().await;
    for _ in 0..2 {
        let intake = open(folder.path(), ROOM).unwrap();
        assert_eq!(intake.log().id(), id);
        assert_eq!(intake.marks().get(b"pump".as_slice()), Some(&20));
        assert_eq!(read_all(intake.log(), intake.log().start()), ((1..=20).collect(), vec![]));
        assert_eq!(read_all(intake.log(), middle), ((11..=20).collect(), vec![]));
        intake.close().await;
    }
}

#[tokio::test]
async fn a_torn_end_is_cut_off_wherever_it_is_torn_and_the_log_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let intake = open(folder.path(), ROOM).unwrap();
    append(&intake, 1..=5, 50).await;
    intake.close().await;
    let whole = std::fs::read(&segments(folder.path())[0]).unwrap();
    for length in (0..=whole.len()).step_by(7) {
        for garbage in [&b""[..], &[0; 40], &[0xff; 40]] {
            if length < 32 && !garbage.is_empty() {
                // Blocks are written once the head is durable.
                continue;
            }
            let torn = tempfile::tempdir().unwrap();
            let mut bytes = whole[..length].to_vec();
            bytes.extend_from_slice(garbage);
            let name = segments(folder.path())[0].file_name().unwrap().to_owned();
            std::fs::write(torn.path().join(name), &bytes).unwrap();
            let intake = open(torn.path(), ROOM).unwrap();
            let (before, damage) = read_all(intake.log(), intake.log().start());
            assert_eq!(before, (1..=before.len() as u64).collect::<Vec<_>>(), "cut at {length}");
            assert_eq!(damage, Vec::<String>::new(), "cut at {length}");
            append(&intake, 100..=101, 3).await;
            let (after, damage) = read_all(intake.log(), intake.log().start());
            assert_eq!(after[before.len()..], [100, 101]);
            assert_eq!(damage, Vec::<String>::new());
            intake.close().await;
        }
    }
}

/// A process that was killed while it began a segment leaves one that counts for nothing: the one before knows the senders.
#[tokio::test]
async fn a_segment_that_was_only_begun_forgets_no_sender() {
    let folder = tempfile::tempdir().unwrap();
    let intake = open(folder.path(), ROOM).unwrap();
    append(&intake, 1..=41, 10).await;
    intake.close().await;
    let whole = segments(folder.path())[0].clone();
    let intake = open(folder.path(), ROOM).unwrap();
    append(&intake, 42..=42, 10).await;
    intake.close().await;
    let second = std::fs::read(&segments(folder.path())[1]).unwrap();
    for length in [0, 10, 32, 40, 60] {
        let torn = tempfile::tempdir().unwrap();
        std::fs::copy(&whole, torn.path().join(whole.file_name().unwrap())).unwrap();
        let name = segments(folder.path())[1].file_name().unwrap().to_owned();
        std::fs::write(torn.path().join(name), &second[..length]).unwrap();
        for _ in 0..2 {
            let intake = open(torn.path(), ROOM).unwrap();
            assert_eq!(intake.marks().get(b"pump".as_slice()), Some(&41), "cut at {length}");
            assert_eq!(read_all(intake.log(), intake.log().start()), ((1..=41).collect(), vec![]), "cut at {length}");
            intake.close().await;
        }
        let intake = open(torn.path(), ROOM).unwrap();
        append(&intake, 42..=43, 10).await;
        intake.close().await;
        let intake = open(torn.path(), ROOM).unwrap();
        assert_eq!(read_all(intake.log(), intake.log().start()), ((1..=43).collect(), vec![]), "cut at {length}");
        intake.close().await;
    }
}

#[tokio::test]
async fn a_damaged_middle_is_told_and_what_comes_in_later_segments_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let intake = open(folder.path(), ROOM).unwrap();
    append(&intake, 1..=5, 50).await;
    intake.close().await;
    let intake = open(folder.path(), ROOM).unwrap();
    append(&intake, 6..=8, 50).await;
    let paths = segments(folder.path());
    assert_eq!(paths.len(), 2, "each process writes segments of its own");
    let file = File::options().write(true).open(&paths[0]).unwrap();
    // In the third of five blocks, which begin behind a head of 32 bytes.
    file.write_all_at(b"#", 32 + 2 * 98 + 60).unwrap();
    let (numbers, damage) = read_all(intake.log(), intake.log().start());
    assert_eq!(numbers, [1, 2, 6, 7, 8]);
    assert_eq!(damage.len(), 1, "{damage:?}");
    // A segment that has gone is told, too.
    std::fs::remove_file(&paths[0]).unwrap();
    intake.close().await;
    let intake = open(folder.path(), ROOM).unwrap();
    let (numbers, damage) = read_all(intake.log(), Place { segment: 1, offset: 32 });
    assert_eq!((numbers, damage.len()), (vec![6, 7, 8], 1));
    intake.close().await;
}

#[tokio::test]
async fn segments_behind_a_committed_place_go_and_the_senders_are_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let intake = open(folder.path(), ROOM).unwrap();
    // Three segments of 64 MiB.
    append(&intake, 1..=160, 1 << 20).await;
    assert_eq!(segments(folder.path()).len(), 3);
    let end = intake.log().synced();
    intake.remove_before(end).unwrap();
    assert_eq!(segments(folder.path()).len(), 1);
    assert_eq!(read_all(intake.log(), end), (vec![], vec![]));
    append(&intake, 161..=162, 10).await;
    assert_eq!(read_all(intake.log(), end).0, [161, 162]);
    intake.close().await;
    let intake = open(folder.path(), ROOM).unwrap();
    assert_eq!(intake.marks().get(b"pump".as_slice()), Some(&162));
    // The segment that the committed place is in stays, though everything in it is committed.
    intake.remove_before(intake.log().synced()).unwrap();
    intake.close().await;
    assert_eq!(open(folder.path(), ROOM).unwrap().marks().get(b"pump".as_slice()), Some(&162));
}

#[tokio::test]
async fn a_full_log_makes_appending_wait_until_something_is_committed() {
    let folder = tempfile::tempdir().unwrap();
    let intake = Arc::new(open(folder.path(), 70 << 20).unwrap());
    let progress = Arc::new(Progress::default());
    let (appender, shared) = (intake.appender(), progress.clone());
    let writing = tokio::spawn(async move {
        for number in 1..=200 {
            let payload = format!("{number} {}\n", "x".repeat(1 << 20));
            appender.append(block("pump", number, payload), Some(shared.clone())).await.unwrap();
        }
    });
    while !intake.is_full() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(intake.failure(), None, "that senders have to wait is no failure of the log");
    assert!(intake.log().bytes() < 80 << 20, "{}", intake.log().bytes());
    assert!(!writing.is_finished(), "200 MiB fit into 70 and what waits in memory");
    // A reader that commits lets the writer go on, again and again.
    let (mut place, mut read) = (intake.log().start(), Vec::new());
    while read.len() < 200 {
        let chunk = intake.log().read(place, 8 << 20).unwrap();
        read.extend(chunk.blocks.iter().map(|block| block.sequence));
        place = chunk.next;
        intake.remove_before(place).unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    writing.await.unwrap();
    assert_eq!(read, (1..=200).collect::<Vec<_>>());
    while progress.durable() < 200 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!intake.is_full());
    assert_eq!(intake.failure(), None);
}

/// A backlog is read in chunks, each from where the one before ended: what is read ahead of a chunk is read again.
#[tokio::test]
async fn reading_in_chunks_reads_each_byte_about_once() {
    let folder = tempfile::tempdir().unwrap();
    let intake = open(folder.path(), ROOM).unwrap();
    append(&intake, 1..=128, 32 << 10).await;
    let before = bytes_read_by_this_thread();
    let (mut place, mut blocks) = (intake.log().start(), 0);
    while place < intake.log().synced() {
        let chunk = intake.log().read(place, 256 << 10).unwrap();
        blocks += chunk.blocks.len();
        place = chunk.next;
    }
    assert_eq!(blocks, 128);
    let (read, stored) = (bytes_read_by_this_thread() - before, intake.log().bytes());
    assert!(read < stored * 3 / 2, "{read} bytes were read of a log of {stored}");
}

/// Bytes that this thread has asked the system for, as Linux counts them.
fn bytes_read_by_this_thread() -> u64 {
    let counts = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    counts.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[tokio::test]
async fn two_at_once_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path(), ROOM).unwrap();
    assert_eq!(open(folder.path(), ROOM).err().map(|error| error.kind()), Some(std::io::ErrorKind::ResourceBusy));
    first.close().await;
    assert!(open(folder.path(), ROOM).is_ok());
}

#[tokio::test]
async fn a_segment_that_is_not_ours_is_refused_and_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    for number in [1, 2] {
        std::fs::write(folder.path().join(format!("{number:020}.log")), "somebody's own log, kept for years\n")
            .unwrap();
    }
    assert!(open(folder.path(), ROOM).is_err());
    assert_eq!(std::fs::read(folder.path().join(format!("{:020}.log", 1))).unwrap().len(), 35);
}
