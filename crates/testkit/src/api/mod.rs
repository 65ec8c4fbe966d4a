//! An HTTP API whose content grows, in this process: what a test appends through the handle is what a collector must
//! find, page by page, with every habit of caching, refusing and failing that real APIs have.
//!
//! The wire is written by hand on plain threads, because a well-behaved library would not send a wrong length, half a
//! body or garbage.
//!
//! # Paths
//!
//! | path | answer |
//! |---|---|
//! | `/plain/NAME` | every item of a collection as a JSON array; strong `ETag`, 304 |
//! | `/weak/NAME` | the same with a weak `ETag` |
//! | `/ndjson/NAME`, `/csv/NAME` | the same as NDJSON or CSV |
//! | `/enveloped/NAME` | `{"data":{"items":[…]},"total":N}` |
//! | `/link/NAME?limit=N` | pages, `Link: <…>; rel="next"` |
//! | `/cursor/NAME?limit=N&cursor=C` | pages, `{"items":[…],"meta":{"next_cursor":"…"}}`, `null` on the last |
//! | `/page/NAME?page=1&per_page=N` | pages, `{"items":[…],"pages":N,"total":N}`, empty after the last |
//! | `/offset/NAME?offset=0&limit=N` | pages as JSON arrays, empty after the last |
//! | `/gzip/…`, `/zstd/…` | the rest of the path, so encoded if the request accepts it |
//! | `/basic/…`, `/bearer/…`, `/header/…` | the rest, for [`USER`]/[`PASSWORD`], [`TOKEN`], `X-Api-Key:` [`TOKEN`]; else 401 |
//! | `/forbidden/…` | 403 |
//! | `/redirect/…` | 302 to the rest; `/redirect-loop` to itself |
//! | `/big/N` | a JSON array of about N bytes, streamed |
//! | `/oversized/N` | a JSON array of one item with a text of N bytes |
//! | `/echo` | what was asked: `[{"method":…,"target":…,"headers":{…},"body":…}]` |
//! | `POST /append/NAME` | appends the items in the body (one or an array) and answers with their number |
//!
//! Every listing takes `?since=ID`: only items whose `id` is greater.

mod routes;
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

/// The user of `/basic/…`.
pub const USER: &str = "collector";
/// The password of `/basic/…`.
pub const PASSWORD: &str = "p@ss:w'o/rd";
/// The token of `/bearer/…` and `/header/…`.
pub const TOKEN: &str = "token-1b9e2c";

/// A running API. Dropped, it closes its port and every connection.
#[derive(Debug)]
pub struct Api {
    state: Arc<State>,
    listener: Option<wire::Listener>,
    port: u16,
}

/// One way to answer wrongly.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// An error status, with `Retry-After` in seconds where given.
    Status(u16, Option<u64>),
    /// The right answer, later.
    Delay(Duration),
    /// The head of the answer and then nothing, until the client gives up.
    Hang,
    /// The right answer at this many bytes a second.
    Slow(u32),
    /// The connection ends after this many bytes of the body.
    Truncated(usize),
    /// `Content-Length` says this many bytes more (or fewer) than come.
    WrongLength(i64),
    /// Bytes that are not HTTP.
    Garbage,
    /// An answer of status 200 with this body in place of the right one.
    Body(Vec<u8>),
    /// A redirect to this place.
    Redirect(String),
}

#[derive(Debug)]
struct PlannedFault {
    path: String,
    times: Option<u32>,
    fault: Fault,
}

#[derive(Debug, Default)]
struct State(Mutex<Content>);

#[derive(Debug, Default)]
struct Content {
    collections: BTreeMap<String, Vec<Value>>,
    faults: Vec<PlannedFault>,
    requests: Vec<String>,
    connections: u64,
    delay: Duration,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Content> {
        // A test that panicked while it held the lock has failed already; the others go on.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Api {
    /// Starts an API with no content on a free loopback port.
    pub fn start() -> Result<Self> {
        let state = Arc::new(State::default());
        let listener = wire::Listener::open(0, &state)?;
        Ok(Self { port: listener.port(), listener: Some(listener), state })
    }

    /// The port it listens on, at 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Adds items to the end of a collection.
    pub fn append(&self, collection: &str, items: impl IntoIterator<Item = Value>) {
        self.state.lock().collections.entry(collection.to_owned()).or_default().extend(items);
    }

    /// Puts items in place of what a collection held.
    pub fn replace(&self, collection: &str, items: impl IntoIterator<Item = Value>) {
        self.state.lock().collections.insert(collection.to_owned(), items.into_iter().collect());
    }

    /// What a collection holds.
    pub fn items(&self, collection: &str) -> Vec<Value> {
        self.state.lock().collections.get(collection).cloned().unwrap_or_default()
    }

    /// Answers the next `times` requests (all, where `None`) whose path starts with `path` wrongly. Several faults
    /// for one path apply one after the other.
    pub fn fail(&self, path: &str, times: Option<u32>, fault: Fault) {
        self.state.lock().faults.push(PlannedFault { path: path.to_owned(), times, fault });
    }

    /// Answers rightly from now on.
    pub fn heal(&self) {
        self.state.lock().faults.clear();
    }

    /// Makes every answer take at least this long.
    pub fn set_delay(&self, delay: Duration) {
        self.state.lock().delay = delay;
    }

    /// The requests since the start or the last call, as `METHOD TARGET`.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().requests)
    }

    /// How many connections have been accepted since the start.
    pub fn connections(&self) -> u64 {
        self.state.lock().connections
    }

    /// Closes the port and every connection at once; the content stays.
    pub fn kill(&mut self) {
        self.listener = None;
    }

    /// Listens again on the same port.
    pub fn start_again(&mut self) -> Result<()> {
        self.listener = None;
        self.listener = Some(wire::Listener::open(self.port, &self.state)?);
        Ok(())
    }
}
