//! Each mode of the fault proxy, as a client sees it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use portolan_testkit::api::Api;
use portolan_testkit::proxy::{FaultProxy, Mode};
use serde_json::json;

fn connect(proxy: &FaultProxy) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", proxy.port()))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b"GET /plain/items HTTP/1.1\r\nhost: x\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.ends_with(b"]") {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(std::io::Error::new(ErrorKind::UnexpectedEof, String::from_utf8_lossy(&answer)));
        }
        answer.extend_from_slice(&buffer[..count]);
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn fixture() -> (Api, FaultProxy) {
    let api = Api::start().unwrap();
    api.append("items", (0..100).map(|id| json!({ "id": id })));
    let proxy = FaultProxy::start(api.port()).unwrap();
    (api, proxy)
}

#[test]
fn passes_and_counts() {
    let (_api, proxy) = fixture();
    let mut stream = connect(&proxy).unwrap();
    let answer = ask(&mut stream).unwrap();
    assert_eq!(ask(&mut stream).unwrap(), answer);
    let counts = proxy.counts();
    assert_eq!((counts.connections, counts.bytes_from_server), (1, 2 * answer.len() as u64));
    for mode in [Mode::Slow(20_000), Mode::Latency(Duration::from_millis(20)), Mode::Pass] {
        proxy.set(mode);
        assert_eq!(ask(&mut stream).unwrap(), answer, "{mode:?}");
    }
}

#[test]
fn refuses_resets_open_connections_and_comes_back_on_the_same_port() {
    let (_api, proxy) = fixture();
    let mut stream = connect(&proxy).unwrap();
    ask(&mut stream).unwrap();
    proxy.set(Mode::Refuse);
    assert_eq!(connect(&proxy).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(ask(&mut stream).is_err());
    proxy.set(Mode::Pass);
    let answered = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        connect(&proxy).and_then(|mut stream| ask(&mut stream)).is_ok()
    });
    assert!(answered);
}

#[test]
fn hangs_until_it_heals() {
    let (_api, proxy) = fixture();
    let mut open = connect(&proxy).unwrap();
    ask(&mut open).unwrap();
    proxy.set(Mode::Hang);
    for stream in [&mut open, &mut connect(&proxy).unwrap()] {
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert_eq!(ask(stream).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
    proxy.set(Mode::Pass);
    assert!(ask(&mut connect(&proxy).unwrap()).is_ok());
}

#[test]
fn breaks_answers_in_every_way() {
    let (_api, proxy) = fixture();
    let kind = |mode| {
        proxy.set(mode);
        connect(&proxy).and_then(|mut stream| ask(&mut stream)).unwrap_err().kind()
    };
    assert_eq!(kind(Mode::CloseAfter(40)), ErrorKind::UnexpectedEof);
    assert_eq!(kind(Mode::ResetAfter(40)), ErrorKind::ConnectionReset);
    assert_eq!(kind(Mode::Garbage), ErrorKind::UnexpectedEof);
    proxy.set(Mode::Pass);
    let mut stream = connect(&proxy).unwrap();
    ask(&mut stream).unwrap();
    proxy.cut();
    assert!(ask(&mut stream).is_err());
    assert!(ask(&mut connect(&proxy).unwrap()).is_ok());
}
