//! Snapshots on a standby, whose replay takes rows away that a snapshot taken over too late still shows.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use portolan_model::source::Meeting;
use portolan_model::{ErrorKind, Retry};
use portolan_testkit::servers::{Postgres, PostgresOptions, Session};

use crate::harness::{Recorder, open_at};
use crate::relational::snapshot::{Met, Others, snapshot};

const ROWS: usize = 25;
const PATIENCE: Duration = Duration::from_secs(20);

/// A primary with a table `t`, and its standby.
struct Servers {
    primary: Postgres,
    standby: Postgres,
}

impl Servers {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(settings: &[&str]) -> Self {
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let primary = Postgres::start_with(PostgresOptions { settings, ..PostgresOptions::default() }).unwrap();
        primary
            .sql(&format!(
                "CREATE TABLE t (id BIGINT PRIMARY KEY, version INT) WITH (fillfactor = 50); \
                 INSERT INTO t SELECT id, 0 FROM generate_series(1, {ROWS}) id"
            ))
            .unwrap();
        let standby = primary.standby().unwrap();
        let servers = Self { primary, standby };
        servers.await_standby("SELECT EXISTS (SELECT FROM pg_tables WHERE tablename = 't')");
        servers
    }

    /// Changes rows and clears away what they were.
    fn change(&self) {
        self.primary.sql("UPDATE t SET version = version + 1 WHERE id <= 10").unwrap();
        self.primary.sql("VACUUM t").unwrap();
    }

    /// Replay waits for whoever can see what a change clears away.
    fn change_until_replay_waits(&self) {
        self.change();
        self.await_standby(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'RecoveryConflictSnapshot')",
        );
    }

    /// Runs `unblock`, and waits until replay has gone on. It may wait again: for the next record that clears rows away.
    fn await_replay(&self, unblock: impl FnOnce()) {
        let place = self.standby.sql("SELECT pg_last_wal_replay_lsn()").unwrap();
        unblock();
        self.await_standby(&format!("SELECT pg_last_wal_replay_lsn() > '{}'", place.trim()));
    }

    fn await_standby(&self, asked: &str) {
        let begun = Instant::now();
        while self.standby.sql(asked).unwrap().trim() != "t" {
            assert!(begun.elapsed() < PATIENCE, "never true on the standby: {asked}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// How many transactions of sources keep a snapshot on the standby.
    fn held(&self) -> usize {
        let asked = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'collector' AND backend_xmin IS NOT NULL";
        self.standby.sql(asked).unwrap().trim().parse().unwrap()
    }
}

/// Another source of the round, which a test plays.
struct Leader {
    session: Session,
    /// The name of its snapshot.
    name: String,
    word: String,
}

impl Leader {
    fn begin(standby: &Postgres) -> Self {
        let mut session = standby.session().unwrap();
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ;").unwrap();
        let mut ask = |what: &str| session.execute(&format!("SELECT {what};")).unwrap().remove(0);
        let name = format!("{} {}", ask("pg_export_snapshot()"), ask("txid_current_snapshot()"));
        let server = ask("extract(epoch FROM pg_postmaster_start_time())");
        let own = "virtualxid FROM pg_locks WHERE locktype = 'virtualxid' AND pid = pg_backend_pid()";
        let word = format!("{name}\n{server}\n{}", ask(own));
        Self { session, name, word }
    }
}

/// The read follows `leader`, whose transaction ends once its snapshot has been taken over, if it `leaves`.
struct Following<'s> {
    servers: &'s Servers,
    leader: Leader,
    leaves: bool,
    meetings: usize,
}

#[async_trait]
impl Others for Following<'_> {
    async fn meet(&mut self, word: String) -> Meeting {
        self.meetings += 1;
        if self.meetings == 2 && self.leaves {
            let session = &mut self.leader.session;
            self.servers.await_replay(|| drop(session.execute("COMMIT;").unwrap()));
        }
        Meeting { words: vec![Some(self.leader.word.clone()), Some(word)], own: 1 }
    }

    async fn ended(&mut self) {
        panic!("the one who gave the snapshot waits, not the one who took it");
    }
}

impl<'s> Met<Following<'s>> {
    /// Replay waits already when the read comes to take the snapshot over.
    fn following(servers: &'s Servers, leaves: bool) -> Self {
        let leader = Leader::begin(&servers.standby);
        servers.change_until_replay_waits();
        Self::with(Following { servers, leader, leaves, meetings: 0 })
    }
}

/// The read leads; how many transactions there were on the standby while it waited for the others.
struct Leading<'s> {
    servers: &'s Servers,
    held: Option<usize>,
    /// Replay goes over its snapshot meanwhile.
    is_changed: bool,
}

#[async_trait]
impl Others for Leading<'_> {
    async fn meet(&mut self, word: String) -> Meeting {
        Meeting { words: vec![Some(word.clone()), Some(word)], own: 0 }
    }

    async fn ended(&mut self) {
        let begun = Instant::now();
        if self.is_changed {
            self.servers.change();
            while self.servers.held() > 0 && begun.elapsed() < PATIENCE {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        } else {
            // Time for a transaction that is given up to be gone.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.held = Some(self.servers.held());
    }
}

const WHOLE: &str = "table = \"t\"";
/// Ends after the first batch where it is asked to.
const CUT: &str = "table = \"t\"\ncursor = \"id\"\nbatch_rows = 3";

/// The defect of the server that all this is about: it gives fewer rows than there are, without an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_outlives_the_transaction_of_its_snapshot_fails() {
    let servers = Servers::start();
    let mut source = open_at(servers.standby.port(), WHOLE);
    let mut output = Met::following(&servers, true);
    let error = snapshot(&mut source, &mut output).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Server, Retry::Transient), "{error:?}");
    assert!(error.message().contains("may be missing"), "{error:?}");
    assert!(error.hint().unwrap().contains("max_standby_streaming_delay"), "{error:?}");
    assert_eq!(output.recorder.rows(), ROWS - 10, "the server has mended this: is the check still needed?");
    // The next one is none the worse.
    let mut output = Met::following(&servers, false);
    snapshot(&mut source, &mut output).await.unwrap();
    assert_eq!(output.recorder.rows(), ROWS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_within_the_transaction_of_its_snapshot_has_all_rows() {
    let servers = Servers::start();
    for options in [WHOLE, CUT] {
        let mut source = open_at(servers.standby.port(), options);
        let mut output = Met::following(&servers, false);
        let end = snapshot(&mut source, &mut output).await.unwrap();
        assert_eq!((output.recorder.rows(), end.more), (ROWS, false));
        assert_eq!(end.snapshot.as_ref(), Some(&output.others.leader.name));
        let session = &mut output.others.leader.session;
        servers.await_replay(|| drop(session.execute("COMMIT;").unwrap()));
        assert_eq!(servers.held(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_ends_early_looks_over_another_connection() {
    let servers = Servers::start();
    for leaves in [true, false] {
        let mut source = open_at(servers.standby.port(), CUT);
        let mut output = Met::following(&servers, leaves);
        output.recorder = Recorder { has_enough: true, ..Recorder::default() };
        let end = snapshot(&mut source, &mut output).await;
        assert!(output.recorder.rows() < ROWS, "the read did not end early");
        match end {
            Ok(end) => assert!(end.more && !leaves),
            Err(error) => assert!(leaves && error.message().contains("may be missing"), "{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_who_gave_the_snapshot_keeps_it_until_the_others_have_ended() {
    let servers = Servers::start();
    for (options, has_enough) in [(WHOLE, false), (CUT, true)] {
        let mut source = open_at(servers.standby.port(), options);
        let mut output = Met::with(Leading { servers: &servers, held: None, is_changed: false });
        output.recorder = Recorder { has_enough, ..Recorder::default() };
        let end = snapshot(&mut source, &mut output).await.unwrap();
        assert_eq!((output.others.held, end.more), (Some(1), has_enough));
        source.close().await;
        let begun = Instant::now();
        while servers.held() > 0 {
            assert!(begun.elapsed() < PATIENCE, "the snapshot is kept after its read");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_the_standby_ends_says_so() {
    let servers = Servers::start_with(&["max_standby_streaming_delay=0"]);
    let mut source = open_at(servers.standby.port(), WHOLE);
    let mut output = Met::with(Leading { servers: &servers, held: None, is_changed: true });
    let error = snapshot(&mut source, &mut output).await.unwrap_err();
    assert_eq!((output.others.held, error.retry()), (Some(0), Retry::Transient), "{error:?}");
    assert!(error.message().contains("conflict with recovery"), "{error:?}");
    assert!(error.hint().unwrap().contains("hot_standby_feedback"), "{error:?}");
}
