//! Servers that die, hang, lie or speak something else.

use portolan_model::ErrorKind;
use portolan_testkit::proxy::Mode;
use portolan_testkit::servers::{Redis, RedisOptions};

use crate::harness::faults::{check_death, check_modes, check_other_protocols};
use crate::harness::{failure, open_at, read};
use crate::support::{HELLO, scripted, send};

#[tokio::test]
async fn claims_and_nesting_are_refused() {
    let page = |key: &str| format!("*2\r\n$1\r\n0\r\n*1\r\n${}\r\n{key}\r\n", key.len()).into_bytes();
    for (answer, kind) in [
        (b"*1000000000\r\n".to_vec(), ErrorKind::Limit),
        (b"$9999999999\r\n".to_vec(), ErrorKind::Limit),
        ("*1\r\n".repeat(100_000).into_bytes(), ErrorKind::Limit),
        (b"$-7\r\n".to_vec(), ErrorKind::Protocol),
        (b":1\r\n".to_vec(), ErrorKind::Protocol),
        (b"*2\r\n:1\r\n:2\r\n".to_vec(), ErrorKind::Protocol),
        (b"-ERR odd\r\n".to_vec(), ErrorKind::Server),
        (b"-MOVED 3999 127.0.0.1:6381\r\n".to_vec(), ErrorKind::Configuration),
        (b"-LOADING Redis is loading the dataset in memory\r\n".to_vec(), ErrorKind::Busy),
        (b"*3000000\r\n".to_vec(), ErrorKind::Timeout),
        ([page("k"), b"-OOM\r\n".to_vec()].concat(), ErrorKind::Busy),
    ] {
        let port = scripted(vec![HELLO.to_vec(), answer.clone()]).await;
        let mut source = open_at(port, "keys = \"*\"\ntype = \"string\"\nidle_timeout = \"300ms\"");
        let error = failure(&mut source).await;
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(40)]).into_owned();
        assert_eq!(error.kind(), kind, "{shown:?}: {error:?}");
        assert!(error.hint().is_some(), "{shown:?}: {error:?}");
        assert!(error.address().is_some_and(|address| address.ends_with(&port.to_string())));
    }
}

#[tokio::test]
async fn another_protocol_a_cluster_and_a_sentinel_are_named() {
    check_other_protocols("keys = \"*\"").await;
    for mode in ["cluster", "sentinel"] {
        let hello = format!("*2\r\n$4\r\nmode\r\n${}\r\n{mode}\r\n", mode.len());
        let error = failure(&mut open_at(scripted(vec![hello.into_bytes()]).await, "keys = \"*\"")).await;
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
        assert!(error.message().contains(mode), "{error:?}");
    }
    let arguments = vec!["--cluster-enabled".into(), "yes".into(), "--aclfile".into(), "".into()];
    let own = Redis::start_with(RedisOptions { arguments }).unwrap();
    let error = failure(&mut open_at(own.port(), "keys = \"*\"")).await;
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
}

#[tokio::test]
async fn a_server_without_hello_is_read_in_resp2() {
    let answers = vec![
        b"-ERR unknown command 'HELLO'\r\n".to_vec(),
        b"+OK\r\n".to_vec(),
        b"*2\r\n$1\r\n0\r\n*1\r\n$1\r\nk\r\n".to_vec(),
        b":-1\r\n$5\r\nvalue\r\n".to_vec(),
    ];
    let port = scripted(answers).await;
    let mut source = open_at(port, "password = { literal = \"old\" }\nkeys = \"*\"\ntype = \"string\"");
    assert_eq!(read(&mut source, None).await.unwrap().0.texts("value"), ["value"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_the_middle_is_disconnected_and_read_again_after_its_restart() {
    const KEYS: usize = 60_000;
    let own = Redis::start().unwrap();
    let words: Vec<String> = (0..KEYS).map(|n| format!("k:{n}")).collect();
    let commands: Vec<Vec<&[u8]>> = words.iter().map(|key| vec![&b"SET"[..], key.as_bytes(), b"v"]).collect();
    own.session().unwrap().run_all(&commands).unwrap();
    check_death(own, "keys = \"k:*\"", KEYS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_misbehaves_is_told_apart() {
    let own = Redis::start().unwrap();
    send(&own, &["SET a 1"]);
    let modes = [
        (Mode::Refuse, ErrorKind::Unreachable),
        (Mode::Hang, ErrorKind::Timeout),
        (Mode::Garbage, ErrorKind::Protocol),
        (Mode::CloseAfter(10), ErrorKind::Disconnected),
        (Mode::ResetAfter(150), ErrorKind::Disconnected),
    ];
    check_modes(own.port(), "keys = \"a\"", 1, &modes).await;
}
