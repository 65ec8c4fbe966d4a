//! Rounds over the accounts of a bank, in several tables of one database server, while money moves between them: with
//! `snapshot` the total is always right; with `released` it is not, which shows that this test can fail.
//!
//! A short form runs with the tests; `cargo xtask snapshots --rounds N [--server mariadb|postgres]` runs the campaign.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use portolan_connect::Registry;
use portolan_connect::transport::SystemSecrets;
use portolan_model::clock::SystemClock;
use portolan_model::config::{self, ConnectorSet};
use portolan_model::round::{ConsistencyReached, RoundRecord, RoundVerdict};
use portolan_model::source::Environment;
use portolan_rounds::coordinator::{Event, Observer, RoundRunner, Shared};
use portolan_rounds::slot::Slot;
use portolan_testkit::memory::MemoryCatalog;
use portolan_testkit::servers::{COLLECTOR_PASSWORD, MariaDb, MariaDbOptions, Postgres, Session};

const TABLES: usize = 4;
const ACCOUNTS: usize = 25;
const BALANCE: i64 = 1_000;
const TOTAL: i64 = (TABLES * ACCOUNTS) as i64 * BALANCE;
const WRITERS: u64 = 3;

/// What became of one round: its record, and the sum of all balances that it published.
struct Seen {
    record: Arc<RoundRecord>,
    total: i64,
}

/// The sum of all balances that are published: those of the last round, which replaces what came before.
fn total(catalog: &MemoryCatalog) -> i64 {
    let balances = |batch: &RecordBatch| batch["balance"].as_primitive::<Int64Type>().values().iter().sum::<i64>();
    catalog.tables().values().flatten().map(balances).sum()
}

struct Silent;

impl Observer for Silent {
    fn event(&self, event: Event) {
        if let Event::NotStored { error, .. } = event {
            panic!("{error:?}");
        }
    }
}

/// One of the servers, with its accounts.
enum Bank {
    MariaDb(MariaDb),
    Postgres(Postgres),
    /// Money moves on the first, and the second is read.
    Standby(Box<[Postgres; 2]>),
    /// The same.
    Replica(Box<[MariaDb; 2]>),
}

impl Bank {
    fn mariadb(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self::MariaDb(MariaDb::start_with(MariaDbOptions { arguments }).unwrap()).with_accounts()
    }

    /// A replica, with further arguments.
    fn replica(arguments: &[&str]) -> Self {
        let options = |arguments: &[&str]| MariaDbOptions {
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        };
        let server =
            MariaDb::start_with(options(&["--log-bin=log", "--server-id=1", "--innodb-flush-log-at-trx-commit=0"]))
                .unwrap();
        let own = ["--server-id=2", "--innodb-flush-log-at-trx-commit=0"];
        let replica = server.replica(options(&[&own, arguments].concat())).unwrap();
        let bank = Self::Replica(Box::new([server, replica])).with_accounts();
        let Self::Replica(servers) = &bank else { unreachable!() };
        let begun = Instant::now();
        let last = format!("SELECT COUNT(*) FROM accounts_{}", TABLES - 1);
        while servers[1].sql(&last).map_or(true, |count| count.trim() != ACCOUNTS.to_string()) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", servers[1].sql("SHOW SLAVE STATUS"));
            std::thread::sleep(Duration::from_millis(20));
        }
        bank
    }

    fn with_accounts(self) -> Self {
        let mut session = self.session();
        for table in 0..TABLES {
            session
                .execute(&format!("CREATE TABLE accounts_{table} (id INT PRIMARY KEY, balance BIGINT NOT NULL);"))
                .unwrap();
            let rows: Vec<String> = (0..ACCOUNTS).map(|id| format!("({id}, {BALANCE})")).collect();
            session.execute(&format!("INSERT INTO accounts_{table} VALUES {};", rows.join(", "))).unwrap();
        }
        drop(session);
        self
    }

    fn session(&self) -> Session {
        let session = match self {
            Self::MariaDb(server) => server.session(),
            Self::Postgres(server) => server.session(),
            Self::Standby(servers) => servers[0].session(),
            Self::Replica(servers) => servers[0].session(),
        };
        session.unwrap()
    }

    fn configuration(&self, consistency: &str, options: &str) -> String {
        let (protocol, port) = match self {
            Self::MariaDb(server) => ("mysql", server.port()),
            Self::Postgres(server) => ("postgres", server.port()),
            Self::Standby(servers) => ("postgres", servers[1].port()),
            Self::Replica(servers) => ("mysql", servers[1].port()),
        };
        let sources: Vec<String> = (0..TABLES)
            .map(|table| {
                format!(
                    "[[source]]\nname = \"accounts_{table}\"\nprotocol = \"{protocol}\"\nport = {port}\nuser = \"collector\"\n\
                     password = {{ literal = \"{COLLECTOR_PASSWORD}\" }}\ndatabase = \"shop\"\ntable = \"accounts_{table}\"\nmode = \"replace\"\n\
                     tls = {{ allow_plaintext = \"test on loopback\" }}\n{options}\n"
                )
            })
            .collect();
        let names: Vec<String> = (0..TABLES).map(|table| format!("\"accounts_{table}\"")).collect();
        format!(
            "[server]\nhost = \"127.0.0.1\"\n{}[[round]]\nname = \"bank\"\nsources = [{}]\nconsistency = \"{consistency}\"\n\
             attempts = 5\ndeadline = \"30s\"\n",
            sources.concat(),
            names.join(", ")
        )
    }

    /// Rounds while money moves. Ends early where `until` says so.
    fn rounds(&self, consistency: &str, options: &str, rounds: u64, until: fn(&Seen) -> bool) -> Outcome {
        let stop = AtomicBool::new(false);
        let transfers = AtomicU64::new(0);
        let begun = Instant::now();
        let (catalog, mut seen) = (MemoryCatalog::default(), Vec::new());
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (stop, transfers) = (&stop, &transfers);
                let mut session = self.session();
                scope.spawn(move || {
                    let mut number = writer.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1;
                    let mut below = |end: usize| {
                        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        ((number >> 33) as usize) % end
                    };
                    while !stop.load(Ordering::Relaxed) {
                        let (one, other) = (below(TABLES), below(TABLES));
                        let (from, to) = (one.min(other), one.max(other));
                        if from == to {
                            continue;
                        }
                        let amount = below(200) as i64 - 100;
                        // In one order, so that no two wait for each other.
                        let sql = format!(
                            "BEGIN; UPDATE accounts_{from} SET balance = balance - {amount} WHERE id = {}; \
                             UPDATE accounts_{to} SET balance = balance + {amount} WHERE id = {}; COMMIT;",
                            below(ACCOUNTS),
                            below(ACCOUNTS)
                        );
                        session.execute(&sql).unwrap();
                        transfers.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let text = self.configuration(consistency, options);
            let configuration = config::read(&text, &Registry).unwrap();
            let environment = Environment {
                clock: Arc::new(SystemClock::new()),
                secrets: Arc::new(SystemSecrets::new("/")),
                intake: None,
            };
            let slots = configuration
                .sources
                .iter()
                .map(|spec| Slot::open(spec, Registry.get(&spec.protocol).unwrap(), &environment, None).unwrap())
                .collect();
            let shared = Shared {
                checker: None,
                catalog: Arc::new(catalog.clone()),
                clock: environment.clock.clone(),
                observer: Arc::new(Silent),
                jitter: || 1.0,
            };
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                runtime.block_on(async {
                    let mut runner = RoundRunner::new(configuration.rounds[0].clone(), slots, shared);
                    for _ in 0..rounds {
                        let end = runner.round_with(None).await;
                        assert!(end.failures.is_empty(), "{:?}", end.failures);
                        let record = end.record.unwrap();
                        seen.push(Seen { record, total: total(&catalog) });
                        if seen.last().is_some_and(until) {
                            break;
                        }
                    }
                    runner.close().await;
                });
            }));
            stop.store(true, Ordering::Relaxed);
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
        let seconds = begun.elapsed().as_secs_f64();
        Outcome { seen, transfers: transfers.into_inner(), seconds }
    }
}

struct Outcome {
    seen: Vec<Seen>,
    transfers: u64,
    seconds: f64,
}

impl Outcome {
    fn wrong(&self) -> usize {
        self.seen.iter().filter(|seen| seen.total != TOTAL).count()
    }

    fn snapshots(&self) -> impl Iterator<Item = &Seen> {
        self.seen.iter().filter(|seen| seen.record.consistency.reached == ConsistencyReached::Snapshot)
    }

    /// How long each lock was held, in microseconds, in order.
    fn locks(&self) -> Vec<i64> {
        let held = |seen: &Seen| {
            let name = seen.record.receipts[0].snapshot.as_ref()?;
            name.split_once("lock held ")?.1.strip_suffix(" µs")?.parse().ok()
        };
        let mut locks: Vec<i64> = self.snapshots().filter_map(held).collect();
        locks.sort_unstable();
        locks
    }

    fn show(&self, what: &str) {
        let mut bounds: Vec<i64> = self.seen.iter().filter_map(|seen| seen.record.skew_bound_us).collect();
        bounds.sort_unstable();
        let locks = self.locks();
        println!(
            "{what}: {} rounds in {:.1} s, {:.0} transfers/s; one snapshot {}, wrong total {}, attempts over one {}; \
             skew bound p50/p99 {}/{} us; locked {}, lock p50/p99/max {}/{}/{} us",
            self.seen.len(),
            self.seconds,
            self.transfers as f64 / self.seconds,
            self.snapshots().count(),
            self.wrong(),
            self.seen.iter().filter(|seen| seen.record.consistency.attempts > 1).count(),
            share(&bounds, 0.5),
            share(&bounds, 0.99),
            locks.len(),
            share(&locks, 0.5),
            share(&locks, 0.99),
            locks.last().copied().unwrap_or_default(),
        );
    }

    /// Every round had one snapshot, named in every receipt, and the right total.
    fn must_hold(&self, rounds: u64) {
        assert_eq!(self.seen.len() as u64, rounds);
        for seen in &self.seen {
            assert_eq!(seen.record.verdict, RoundVerdict::Complete, "{:?}", seen.record);
            let mut names = seen.record.receipts.iter().map(|receipt| receipt.snapshot.as_deref());
            let first = names.next().unwrap();
            if seen.record.consistency.reached == ConsistencyReached::Snapshot {
                assert!(first.is_some() && names.all(|name| name == first), "{:?}", seen.record);
                assert_eq!(seen.total, TOTAL, "{:?}", seen.record);
            }
        }
    }
}

/// The value below which a share of sorted values lies.
fn share(sorted: &[i64], share: f64) -> i64 {
    sorted
        .get(((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

fn rounds(short: u64) -> u64 {
    std::env::var("PORTOLAN_SNAPSHOT_ROUNDS").map_or(short, |text| text.parse().unwrap())
}

/// The campaign may be about one of the servers.
fn is_asked(server: &str) -> bool {
    std::env::var("PORTOLAN_SNAPSHOT_SERVER").map_or(true, |asked| asked == server)
}

/// Reads at one instant are not a snapshot: without one the total is wrong at times.
fn control(bank: &Bank, what: &str) {
    let outcome = bank.rounds("released", "", 20_000, |seen| seen.total != TOTAL);
    outcome.show(&format!("{what}, released (control, until the first wrong total)"));
    assert!(outcome.wrong() > 0, "no wrong total without a snapshot: the test shows nothing");
}

fn proof(bank: &Bank, what: &str, options: &str, short: u64) -> Outcome {
    let rounds = rounds(short);
    let outcome = bank.rounds("snapshot", options, rounds, |_| false);
    outcome.show(&format!("{what}, snapshot"));
    outcome.must_hold(rounds);
    // Who may take the lock always comes to a snapshot.
    assert_eq!(outcome.snapshots().count() as u64, rounds);
    assert!(outcome.transfers > 0);
    outcome
}

#[test]
fn on_mariadb_by_the_log_every_total_is_right() {
    if !is_asked("mariadb") {
        return;
    }
    let bank = Bank::mariadb(&["--log-bin=log", "--server-id=1", "--innodb-flush-log-at-trx-commit=0"]);
    let outcome = proof(&bank, "MariaDB, by the log", "", 150);
    assert!(outcome.locks().len() < outcome.seen.len(), "no round did without the lock");
    control(&bank, "MariaDB");
}

#[test]
fn on_mariadb_by_the_lock_every_total_is_right() {
    if !is_asked("mariadb") {
        return;
    }
    let bank = Bank::mariadb(&["--innodb-flush-log-at-trx-commit=0"]);
    let outcome = proof(&bank, "MariaDB, by the lock", "", 100);
    assert_eq!(outcome.locks().len(), outcome.seen.len());
    assert!(outcome.locks().last().copied().unwrap() < Duration::from_secs(2).as_micros() as i64);
}

#[test]
fn on_postgres_every_total_is_right() {
    if !is_asked("postgres") {
        return;
    }
    let bank = Bank::Postgres(Postgres::start().unwrap()).with_accounts();
    proof(&bank, "PostgreSQL", "", 150);
    control(&bank, "PostgreSQL");
}

/// A standby that does not hold the snapshot has a wrong total about once in a thousand rounds on a busy machine: the short form
/// shows that rounds go well there, the whole one that they are right. What it is about is tested with the connector.
#[test]
fn on_a_standby_of_postgres_every_total_is_right() {
    if !is_asked("postgres") {
        return;
    }
    let Bank::Postgres(server) = Bank::Postgres(Postgres::start().unwrap()).with_accounts() else { unreachable!() };
    // A copy of what is there: the accounts stand when it is ready.
    let standby = server.standby().unwrap();
    proof(&Bank::Standby(Box::new([server, standby])), "PostgreSQL, a standby", "", 100);
}

#[test]
fn on_a_replica_of_mariadb_every_total_is_right() {
    if !is_asked("mariadb") {
        return;
    }
    // What it takes over goes to its own log, and is counted there.
    let outcome =
        proof(&Bank::replica(&["--log-bin=log", "--log-slave-updates"]), "MariaDB, a replica, by the log", "", 100);
    assert!(outcome.locks().len() < outcome.seen.len(), "no round did without the lock");
    // Or does not, and only the lock is left.
    let outcome = proof(&Bank::replica(&["--log-bin=log"]), "MariaDB, a replica, by the lock", "", 50);
    assert_eq!(outcome.locks().len(), outcome.seen.len());
    // There it may not be taken: some rounds have no common snapshot, and say so.
    let parallel = ["--log-bin=log", "--log-slave-updates", "--slave-parallel-threads=4"];
    let rounds = rounds(100);
    let outcome = Bank::replica(&parallel).rounds("snapshot", "", rounds, |_| false);
    outcome.show("MariaDB, a replica with several threads, snapshot");
    outcome.must_hold(rounds);
    assert_eq!(outcome.locks().len(), 0);
    assert!(outcome.snapshots().count() > 0);
}
