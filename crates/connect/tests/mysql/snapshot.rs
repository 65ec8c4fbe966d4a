//! Snapshots: what they stand on, what refuses them, and that no lock stays behind. Rounds with snapshots, under transfers, are
//! tested with the binary.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use portolan_model::source::{Meeting, Phase};
use portolan_model::{ErrorKind, Retry};
use portolan_testkit::servers::{MariaDb, MariaDbOptions};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::engine::with_arguments;
use crate::harness::{fresh, open, open_at, server, text};
use crate::relational::snapshot::{Met, Others, snapshot};

/// What the other says at each meeting, from what the read has said.
type Other = Box<dyn FnMut(usize, &str) -> Option<String> + Send>;

/// Another read of the round, which a test plays.
struct Played {
    other: Other,
    /// At this meeting the read waits for ever, and tells.
    hangs_at: Option<(usize, Arc<Notify>)>,
    meetings: usize,
    /// The read's place beside the other: 0 leads.
    own: usize,
    /// The other has not said yet which server it has reached, and is no read.
    is_played: bool,
}

impl Met<Played> {
    fn new(other: impl FnMut(usize, &str) -> Option<String> + Send + 'static) -> Self {
        Self::with(Played { other: Box::new(other), hangs_at: None, meetings: 0, own: 0, is_played: true })
    }

    /// Two reads that meet each other.
    fn pair() -> [Self; 2] {
        let ((to_second, from_first), (to_first, from_second)) = (mpsc::channel(), mpsc::channel());
        let ends = [(0, to_second, from_second), (1, to_first, from_first)];
        ends.map(|(own, to, from): (usize, mpsc::Sender<String>, mpsc::Receiver<String>)| {
            let other = move |_: usize, word: &str| {
                let _ = to.send(word.to_owned());
                tokio::task::block_in_place(|| from.recv_timeout(Duration::from_secs(20)).ok())
            };
            Self::with(Played { other: Box::new(other), hangs_at: None, meetings: 0, own, is_played: false })
        })
    }

    /// A read that has nobody to meet.
    fn alone() -> Self {
        Self::new(|_, _| None)
    }
}

#[async_trait]
impl Others for Played {
    async fn meet(&mut self, word: String) -> Meeting {
        if let Some((_, told)) = self.hangs_at.take_if(|(at, _)| *at == self.meetings) {
            told.notify_one();
            std::future::pending::<()>().await;
        }
        // At first each says which server it has reached: one that is played is at the same.
        if std::mem::take(&mut self.is_played) {
            return Meeting { words: vec![Some(word)], own: 0 };
        }
        let other = (self.other)(self.meetings, &word);
        self.meetings += 1;
        let words = if self.own == 0 { vec![Some(word), other] } else { vec![other, Some(word)] };
        Meeting { words, own: self.own }
    }
}

fn table(of: &MariaDb, engine: &str) -> String {
    let name = fresh("snapshot");
    of.sql(&format!(
        "CREATE TABLE {name} (id BIGINT PRIMARY KEY) ENGINE = {engine}; INSERT INTO {name} VALUES (1), (2)"
    ))
    .unwrap();
    name
}

/// Whether a commit goes through at once.
fn can_commit(of: &MariaDb, table: &str) -> bool {
    of.sql(&format!("SET lock_wait_timeout = 1; INSERT INTO {table} SELECT MAX(id) + 1 FROM {table}")).is_ok()
}

fn logging() -> MariaDb {
    with_arguments(&["--log-bin=log", "--server-id=1"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_alone_has_a_snapshot_and_lets_it_go_after_the_read() {
    let name = table(&server(), "InnoDB");
    let mut source = open(&format!("table = \"{name}\""));
    for rows in [2, 3] {
        let mut output = Met::alone();
        let end = snapshot(&mut source, &mut output).await.unwrap();
        assert!(end.snapshot.as_ref().unwrap().starts_with("connection "), "{end:?}");
        assert_eq!(output.recorder.rows(), rows);
        // Rows are read from what stood when the snapshot was opened: they are no further answer.
        assert_eq!(output.recorder.phases, [Phase::Released, Phase::FirstByte, Phase::LastByte]);
        assert!(can_commit(&server(), &name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_the_snapshot_and_different_places_are_started_anew() {
    let own = Arc::new(logging());
    let name = table(&own, "InnoDB");
    let mut source = open_at(own.port(), &format!("table = \"{name}\""));
    // The other one is behind twice, then at the same place.
    let mut output = Met::new(|meeting, word| Some(if meeting < 2 { "commits 0".into() } else { word.to_owned() }));
    let end = snapshot(&mut source, &mut output).await.unwrap();
    assert!(end.snapshot.as_ref().unwrap().starts_with("binlog log.0"), "{end:?}");
    assert_eq!((output.others.meetings, output.recorder.rows()), (4, 2));
    assert_eq!(output.recorder.phases.iter().filter(|phase| **phase == Phase::FirstByte).count(), 3);
    // What is committed meanwhile is another place.
    let mut output = Met::alone();
    let before = snapshot(&mut source, &mut output).await.unwrap().snapshot;
    assert!(can_commit(&own, &name));
    assert_ne!(snapshot(&mut source, &mut Met::alone()).await.unwrap().snapshot, before);
    // Where they never meet there is the lock; and the rows are those of the snapshot, whatever is committed afterwards.
    let (writer, late) = (own.clone(), name.clone());
    let mut output = Met::new(move |meeting, _| {
        if meeting == 14 {
            assert!(can_commit(&writer, &late));
        }
        Some(if meeting < 12 { "moved".into() } else { String::new() })
    });
    let end = snapshot(&mut source, &mut output).await.unwrap();
    let snapshot = end.snapshot.unwrap();
    assert!(snapshot.starts_with("binlog log.0") && snapshot.contains(", lock held "), "{snapshot}");
    assert_eq!((output.others.meetings, output.recorder.rows()), (15, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_given_up_leaves_no_lock_behind() {
    let own = MariaDb::start().unwrap();
    let name = table(&own, "InnoDB");
    let mut source = open_at(own.port(), &format!("table = \"{name}\"\nsnapshot_lock_wait = \"50s\""));
    let told = Arc::new(Notify::new());
    let mut output = Met::new(|_, _| Some(String::new()));
    // The third meeting: all have started, and the lock is held.
    output.others.hangs_at = Some((2, told.clone()));
    {
        let mut read = std::pin::pin!(snapshot(&mut source, &mut output));
        tokio::select! {
            end = &mut read => panic!("{end:?}"),
            () = told.notified() => assert!(!can_commit(&own, &name), "nothing is held back"),
        }
    }
    assert!(can_commit(&own, &name), "the lock stays behind");
    source.close().await;
    // And the source is of use again.
    assert!(snapshot(&mut source, &mut Met::new(|_, _| Some(String::new()))).await.unwrap().snapshot.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_held_no_longer_than_allowed() {
    let own = Arc::new(MariaDb::start().unwrap());
    let name = table(&own, "InnoDB");
    let mut source = open_at(own.port(), &format!("table = \"{name}\"\nsnapshot_lock_wait = \"1s\""));
    let told = Arc::new(Notify::new());
    let mut output = Met::new(|_, _| Some(String::new()));
    output.others.hangs_at = Some((2, told.clone()));
    // The others do not come in time: the lock goes, and the snapshot has no name.
    let end = snapshot(&mut source, &mut output).await.unwrap();
    assert_eq!((end.snapshot, output.recorder.rows()), (None, 2));
    assert!(can_commit(&own, &name));
    // The one who holds it is gone, or is killed: what it says counts for nothing.
    let mut output = Met::new(|_, _| Some(String::new()));
    let killer = own.clone();
    output.others.other = Box::new(move |meeting, _| {
        if meeting == 2 {
            let ids = killer
                .sql("SELECT id FROM information_schema.PROCESSLIST WHERE user = 'collector' ORDER BY id DESC LIMIT 1")
                .unwrap();
            killer.sql(&format!("KILL {ids}")).unwrap();
        }
        Some(String::new())
    });
    let end = snapshot(&mut source, &mut output).await.unwrap();
    assert_eq!(end.snapshot, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_another_has_is_waited_for_within_bounds() {
    let own = MariaDb::start().unwrap();
    let name = table(&own, "InnoDB");
    let mut source = open_at(own.port(), &format!("table = \"{name}\"\nsnapshot_lock_wait = \"300ms\""));
    let mut backup = own.session().unwrap();
    backup.execute("BACKUP STAGE START;").unwrap();
    let error = snapshot(&mut source, &mut Met::new(|_, _| Some(String::new()))).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Busy, Retry::Transient), "{error:?}");
    assert!(error.hint().unwrap().contains("snapshot_lock_wait"), "{error:?}");
    backup.execute("BACKUP STAGE END;").unwrap();
    assert!(snapshot(&mut source, &mut Met::new(|_, _| Some(String::new()))).await.unwrap().snapshot.is_some());
    // What the one with the lock is told, all say.
    let mut follower = Met::new(|_, _| Some("refused no right\nGRANT RELOAD".into()));
    follower.others.own = 1;
    let error = snapshot(&mut source, &mut follower).await.unwrap_err();
    assert_eq!((error.kind(), error.hint()), (ErrorKind::Permission, Some("GRANT RELOAD")));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_log_and_right_there_is_a_refusal_that_says_what_is_missing() {
    let own = server();
    let (name, user) = (table(&own, "InnoDB"), fresh("poor"));
    own.sql(&format!("CREATE USER {user}@'%' IDENTIFIED BY 'x'; GRANT SELECT ON shop.* TO {user}@'%'")).unwrap();
    let options = format!("user = \"{user}\"\npassword = {{ literal = \"x\" }}\ntable = \"{name}\"");
    let mut source = open(&options);
    let error = snapshot(&mut source, &mut Met::new(|_, _| Some(String::new()))).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Permission, Retry::Permanent), "{error:?}");
    let hint = error.hint().unwrap();
    assert!(hint.contains(&format!("GRANT RELOAD ON *.* TO '{user}'@'%'")) && hint.contains("log_bin"), "{hint}");
    // Alone it needs neither.
    assert!(snapshot(&mut source, &mut Met::alone()).await.unwrap().snapshot.is_some());
    // With a log that could do, it is no failure: the round says that there was no snapshot in common.
    let own = logging();
    let name = table(&own, "InnoDB");
    own.sql("CREATE USER poor@'%' IDENTIFIED BY 'x'; GRANT SELECT ON shop.* TO poor@'%'").unwrap();
    let options = format!("user = \"poor\"\npassword = {{ literal = \"x\" }}\ntable = \"{name}\"");
    let mut output = Met::new(|_, _| Some("moved".into()));
    let end = snapshot(&mut open_at(own.port(), &options), &mut output).await.unwrap();
    assert_eq!((end.snapshot, output.recorder.rows()), (None, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_without_transactions_are_refused() {
    let own = server();
    for engine in ["MyISAM", "MEMORY", "Aria"] {
        let (name, good) = (table(&own, engine), table(&own, "InnoDB"));
        let view = fresh("view");
        own.sql(&format!("CREATE VIEW {view} AS SELECT g.id FROM {good} g JOIN {name} b ON b.id = g.id")).unwrap();
        for options in [
            format!("table = \"{name}\""),
            format!("table = \"{view}\""),
            format!("query = \"SELECT count(*) AS n FROM {good} WHERE id IN (SELECT id FROM {name})\""),
        ] {
            let error = snapshot(&mut open(&options), &mut Met::alone()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration, "{options}: {error:?}");
            assert!(error.message().contains(&format!("`shop`.`{name}` has the engine {engine}")), "{error:?}");
        }
        let query = format!("query = \"SELECT * FROM {good} WHERE 'a' <> '{name}'\"");
        assert!(snapshot(&mut open(&query), &mut Met::alone()).await.unwrap().snapshot.is_some());
    }
}

/// A port that hands connections out to servers in turns, as a name with several addresses or a balancer does.
async fn alternator(ports: [u16; 2]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for to in ports.iter().cycle() {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(("127.0.0.1", *to)).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    port
}

fn assert_several(error: &portolan_model::Error) {
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    assert!(error.message().contains("several servers"), "{error:?}");
    assert!(error.hint().unwrap().contains("`host`"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_address_of_two_servers_has_no_snapshot() {
    // Both have written as much to their logs: by these alone they could not be told apart.
    let servers = [logging(), logging()];
    for server in &servers {
        server.sql("CREATE TABLE t (id BIGINT PRIMARY KEY); INSERT INTO t VALUES (1)").unwrap();
    }
    let ports = [servers[0].port(), servers[1].port()];
    for lock in [false, true] {
        let options = format!("table = \"t\"\nsnapshot_lock = {lock}");
        let port = alternator(ports).await;
        let reads = Met::pair().map(|mut output| {
            let mut source = open_at(port, &options);
            tokio::spawn(async move { snapshot(&mut source, &mut output).await })
        });
        for read in reads {
            assert_several(&read.await.unwrap().unwrap_err());
        }
        // Two that have reached one server agree.
        let reads = Met::pair().map(|mut output| {
            let mut source = open_at(ports[0], &options);
            tokio::spawn(async move { snapshot(&mut source, &mut output).await })
        });
        let mut names = Vec::new();
        for read in reads {
            names.push(read.await.unwrap().unwrap().snapshot.unwrap());
        }
        assert_eq!(names[0], names[1]);
    }
    // The lock is that of the other server.
    let port = alternator(ports).await;
    let mut source = open_at(port, "table = \"t\"\nsnapshot_lock = true");
    assert_several(&snapshot(&mut source, &mut Met::new(|_, _| Some(String::new()))).await.unwrap_err());
    assert!(can_commit(&servers[1], "t"), "the lock stays behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_given_up_ends_no_connection_of_another_server() {
    let (own, other) = (MariaDb::start().unwrap(), MariaDb::start().unwrap());
    for server in [&own, &other] {
        server.sql("CREATE TABLE t (id BIGINT PRIMARY KEY); INSERT INTO t VALUES (1)").unwrap();
    }
    let mut source = open_at(alternator([own.port(), other.port()]).await, "table = \"t\"");
    let number = |name: String| name.split(' ').nth(1).unwrap().parse::<u64>().unwrap();
    // The numbers of connections count up: those of the other server are brought to the same.
    while other.sql("SELECT CONNECTION_ID()").unwrap().trim().parse::<u64>().unwrap() < 60 {}
    let mut bystander = open_at(other.port(), "table = \"t\"");
    let theirs = number(snapshot(&mut bystander, &mut Met::alone()).await.unwrap().snapshot.unwrap());
    while own.sql("SELECT CONNECTION_ID()").unwrap().trim().parse::<u64>().unwrap() < theirs - 1 {}
    assert_eq!(number(snapshot(&mut source, &mut Met::alone()).await.unwrap().snapshot.unwrap()), theirs);
    let told = Arc::new(Notify::new());
    let mut output = Met::new(|_, _| None);
    output.others.hangs_at = Some((0, told.clone()));
    tokio::select! {
        end = snapshot(&mut source, &mut output) => panic!("{end:?}"),
        () = told.notified() => {}
    }
    source.close().await;
    let alive = other.sql(&format!("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE id = {theirs}")).unwrap();
    assert_eq!(alive.trim(), "1", "another's connection was ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_snapshot_stands_on_is_asked_in_each_round() {
    let own = with_arguments(&["--log-bin=log", "--server-id=1", "--log-slave-updates=OFF"]);
    let (name, good) = (table(&own, "InnoDB"), table(&own, "InnoDB"));
    // Changed while the connections live.
    for options in [format!("table = \"{name}\""), format!("query = \"SELECT {name}.id FROM {name} JOIN {good}\"")] {
        own.sql(&format!("ALTER TABLE {name} ENGINE = InnoDB")).unwrap();
        let mut source = open_at(own.port(), &options);
        assert!(snapshot(&mut source, &mut Met::alone()).await.unwrap().snapshot.is_some());
        own.sql(&format!("ALTER TABLE {name} ENGINE = Aria")).unwrap();
        let error = snapshot(&mut source, &mut Met::alone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{options}: {error:?}");
        assert!(error.message().contains("Aria"), "{error:?}");
    }
    // What a replica is fed does not go to its own log: it stands on the lock.
    let mut source = open_at(own.port(), &format!("table = \"{good}\""));
    let mut by_lock = async || {
        let mut output = Met::new(|_, word| Some(word.to_owned()));
        snapshot(&mut source, &mut output).await.unwrap().snapshot.unwrap().contains("lock held")
    };
    assert!(!by_lock().await);
    own.sql("CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = 1, MASTER_USER = 'x'; START SLAVE SQL_THREAD")
        .unwrap();
    assert!(by_lock().await, "a replica");
    own.sql("STOP SLAVE").unwrap();
    assert!(!by_lock().await);
    own.sql("SET GLOBAL gtid_slave_pos = '1-2-100'").unwrap();
    assert!(by_lock().await, "a server that was a replica");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_changed_between_snapshot_and_read_is_read_in_the_next_round() {
    let own = Arc::new(logging());
    let name = table(&own, "InnoDB");
    let mut source = open_at(own.port(), &format!("table = \"{name}\""));
    source.prepare().await.unwrap();
    let changed = own.clone();
    let mut output = Met::new(move |meeting, word| {
        if meeting == 0 {
            changed.sql(&format!("ALTER TABLE {name} ADD COLUMN n INT, FORCE")).unwrap();
        }
        Some(word.to_owned())
    });
    let error = source.read(None, &mut output).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Transient, "{error:?}");
    assert!(error.message().contains("1412"), "{error:?}");
    let mut again = Met::alone();
    assert!(snapshot(&mut source, &mut again).await.unwrap().snapshot.is_some());
    assert_eq!(again.recorder.rows(), 2);
}

#[test]
fn a_lock_of_no_time_or_of_minutes_is_refused() {
    for wait in ["0s", "61s"] {
        let text = text(3306, &format!("table = \"t\"\nsnapshot_lock_wait = \"{wait}\""));
        let problems = portolan_model::config::read(&text, &portolan_connect::Registry).unwrap_err();
        assert!(problems[0].message.contains("snapshot_lock_wait"), "{problems:?}");
    }
}

#[tokio::test]
async fn nobody_who_is_waited_for_is_waited_for_by_the_lock() {
    // A round of one source needs no lock, and takes none: the account may hold none.
    let end = tokio::time::timeout(Duration::from_secs(20), async {
        let name = table(&server(), "InnoDB");
        snapshot(&mut open(&format!("table = \"{name}\"\nsnapshot_lock = true")), &mut Met::alone()).await.unwrap()
    });
    assert!(!end.await.unwrap().snapshot.unwrap().contains("lock"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_emptied_or_made_anew_since_the_snapshot_fails_the_read() {
    for (of, statements) in [
        ("", "TRUNCATE {}; INSERT INTO {} VALUES (9, 1)"),
        ("", "ALTER TABLE {} TRUNCATE PARTITION p1"),
        ("", "ALTER TABLE {} ADD PRIMARY KEY (id, part), ALGORITHM = COPY"),
        ("", "DROP TABLE {}; CREATE TABLE {} (id BIGINT NOT NULL, part INT NOT NULL)"),
        ("_view", "TRUNCATE TABLE {}"),
    ] {
        let (own, name) = (server(), fresh("layout"));
        own.sql(&format!(
            "CREATE TABLE {name} (id BIGINT NOT NULL, part INT NOT NULL) PARTITION BY LIST (part) \
             (PARTITION p1 VALUES IN (1), PARTITION p2 VALUES IN (2)); \
             INSERT INTO {name} VALUES (1, 1), (2, 1), (3, 2); CREATE VIEW {name}_view AS SELECT * FROM {name}"
        ))
        .unwrap();
        let mut source = open(&format!("table = \"{name}{of}\""));
        let mut between = Some(statements.replace("{}", &name));
        let mut output = Met::new(move |_, _| {
            if let Some(statements) = between.take() {
                own.sql(&statements).unwrap();
            }
            None
        });
        let error = snapshot(&mut source, &mut output).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Server, Retry::Transient), "{statements}: {error:?}");
        assert!(error.message().contains("1412"), "{statements}: {error:?}");
    }
}

/// A lock beside the threads of a replica has ended the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_applies_with_several_threads_is_never_locked() {
    let primary = with_arguments(&["--log-bin=log", "--server-id=1"]);
    let options = |arguments: &[&str]| MariaDbOptions {
        arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
    };
    for (arguments, has_log, is_locked) in [
        (&["--server-id=2", "--slave-parallel-threads=2"][..], false, false),
        (&["--server-id=2", "--slave-parallel-threads=2", "--log-bin=log", "--log-slave-updates"], true, false),
        (&["--server-id=2"], false, true),
    ] {
        let replica = primary.replica(options(arguments)).unwrap();
        let name = table(&replica, "InnoDB");
        let mut source = open_at(replica.port(), &format!("table = \"{name}\""));
        // The other one never has the same.
        let mut output = Met::new(move |_, _| Some(if has_log { "moved".to_owned() } else { String::new() }));
        let end = snapshot(&mut source, &mut output).await;
        match end {
            Ok(end) => assert_eq!(end.snapshot.is_some(), is_locked, "{arguments:?}: {end:?}"),
            Err(error) => {
                assert!(!has_log && !is_locked, "{error:?}");
                assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
                assert!(error.hint().unwrap().contains("log_slave_updates"), "{error:?}");
            }
        }
        let locks = replica.sql("SHOW GLOBAL STATUS LIKE 'Com_backup'").unwrap();
        assert_eq!(locks.trim() != "Com_backup\t0", is_locked, "{locks}");
    }
}
