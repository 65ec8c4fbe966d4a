//! What the tests of every protocol with a server of its own need: the server, a source of it, and an output that
//! records. What tells one protocol from another stands in the module `engine` of its tests.

pub(crate) mod faults;
mod recorder;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use portolan_connect::Registry;
use portolan_connect::transport::SystemSecrets;
use portolan_model::clock::SystemClock;
use portolan_model::config::{self, ConnectorSet, Diagnostic, SourceSpec};
use portolan_model::source::{Connector, Environment, ReadEnd, Source};
use portolan_model::{Error, Position, Result};

pub(crate) use recorder::Recorder;

use crate::engine::{Engine, Server};

/// A protocol, as its tests configure a source of it.
pub(crate) trait Protocol {
    /// The connector under test.
    const CONNECTOR: &'static dyn Connector;

    /// Lines of configuration that a source has unless a test writes its own, each with the key it begins with.
    fn defaults() -> Vec<(&'static str, String)>;
}

/// No TLS.
pub(crate) const PLAIN: &str = "tls = { allow_plaintext = \"loopback\" }";

/// The server that tests share which do it no harm. Each test's thread holds it, and the last one takes it and its
/// folder down: nothing stays behind, whether tests share a process or not.
pub(crate) fn server() -> Arc<Server> {
    static SERVER: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    thread_local! {
        static HELD: RefCell<Option<Arc<Server>>> = const { RefCell::new(None) };
    }
    HELD.with_borrow_mut(|held| {
        let start = || {
            let mut shared = SERVER.lock().unwrap();
            shared.upgrade().unwrap_or_else(|| {
                let server = Arc::new(Server::start().unwrap());
                *shared = Arc::downgrade(&server);
                server
            })
        };
        held.get_or_insert_with(start).clone()
    })
}

/// A name that no other test uses.
pub(crate) fn fresh(prefix: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}_{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// The configuration of one source.
pub(crate) fn text(port: u16, options: &str) -> String {
    let protocol = Engine::CONNECTOR.protocol();
    let mut text =
        format!("[server]\nhost = \"127.0.0.1\"\n[[source]]\nname = \"s\"\nport = {port}\nprotocol = \"{protocol}\"\n");
    for (key, line) in Engine::defaults() {
        if !options.lines().any(|option| option.trim_start().starts_with(key)) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text + options
}

/// What is wrong with the configuration of a source that nobody connects.
pub(crate) fn problems(options: &str) -> Vec<Diagnostic> {
    let port = Engine::CONNECTOR.default_port().unwrap();
    config::read(&text(port, options), &Registry).err().unwrap_or_default()
}

pub(crate) fn spec(port: u16, options: &str) -> SourceSpec {
    config::read(&text(port, options), &Registry).unwrap().sources.remove(0)
}

pub(crate) fn open_at(port: u16, options: &str) -> Box<dyn Source> {
    let environment =
        Environment { clock: Arc::new(SystemClock::new()), secrets: Arc::new(SystemSecrets::new("/")), intake: None };
    let spec = spec(port, options);
    Registry.get(&spec.protocol).unwrap().open(&spec, &environment).unwrap()
}

/// A source of the shared server.
pub(crate) fn open(options: &str) -> Box<dyn Source> {
    open_at(server().port(), options)
}

/// Prepares and reads once.
pub(crate) async fn read(source: &mut Box<dyn Source>, from: Option<&Position>) -> Result<(Recorder, ReadEnd)> {
    source.prepare().await?;
    let mut recorder = Recorder::default();
    let end = source.read(from, &mut recorder).await?;
    Ok((recorder, end))
}

/// The error of a read that must fail.
pub(crate) async fn failure(source: &mut Box<dyn Source>) -> Error {
    match read(source, None).await {
        Ok((recorder, _)) => panic!("{} rows instead of an error", recorder.rows()),
        Err(error) => error,
    }
}
