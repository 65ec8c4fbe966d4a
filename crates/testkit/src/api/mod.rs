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
//! | `/vague/NAME` | the same with a weak `ETag` that never changes; 304 |
//! | `/lying/NAME` | the same with a strong `ETag` that never changes, against RFC 9110; 304 |
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
//!
//! Everything is behind one lock: what an answer shows is made while it is held, at every port that the API has.

mod routes;
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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
    listeners: Vec<wire::Listener>,
    ports: Vec<u16>,
}

/// A look at the content, noted under the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// When.
    pub at: Instant,
    /// The collection looked at.
    pub collection: String,
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

/// What is called with the target of each request before it is answered.
type Hook = Arc<dyn Fn(&str) -> Duration + Send + Sync>;

#[derive(Default)]
struct State {
    content: Mutex<Content>,
    hook: Mutex<Option<Hook>>,
}

#[derive(Debug, Default)]
struct Content {
    collections: BTreeMap<String, Vec<Value>>,
    faults: Vec<PlannedFault>,
    requests: Vec<String>,
    /// Where they are noted.
    looks: Option<Vec<Look>>,
    connections: u64,
    connections_ended: u64,
    delay: Duration,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Content> {
        // A test that panicked while it held the lock has failed already; the others go on.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls what is to be called with each request; how much later its answer is to be sent.
    fn asked(&self, target: &str) -> Duration {
        let hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner).clone();
        hook.map_or(Duration::ZERO, |hook| hook(target))
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.content.fmt(formatter)
    }
}

impl Api {
    /// Starts an API with no content on a free loopback port.
    pub fn start() -> Result<Self> {
        let state = Arc::new(State::default());
        let listener = wire::Listener::open(0, &state)?;
        Ok(Self { ports: vec![listener.port()], listeners: vec![listener], state })
    }

    /// Opens one more port in front of the same content; its number.
    pub fn open_port(&mut self) -> Result<u16> {
        let listener = wire::Listener::open(0, &self.state)?;
        let port = listener.port();
        self.ports.push(port);
        self.listeners.push(listener);
        Ok(port)
    }

    /// The port it listens on, at 127.0.0.1; the first, where there are several.
    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// Adds items to the end of a collection.
    pub fn append(&self, collection: &str, items: impl IntoIterator<Item = Value>) {
        self.state.lock().collections.entry(collection.to_owned()).or_default().extend(items);
    }

    /// Puts items in place of what a collection held.
    pub fn replace(&self, collection: &str, items: impl IntoIterator<Item = Value>) {
        self.state.lock().collections.insert(collection.to_owned(), items.into_iter().collect());
    }

    /// Puts items in place of what several collections held, in one step for whoever looks; when that was.
    pub fn replace_all(&self, contents: impl IntoIterator<Item = (String, Vec<Value>)>) -> Instant {
        let mut content = self.state.lock();
        content.collections.extend(contents);
        Instant::now()
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

    /// Calls `hook` with the target of each request that has arrived whole, before its answer is made, on the thread of its
    /// connection. It may take its time. The answer, once made, is sent after the time that it returns.
    pub fn on_request(&self, hook: impl Fn(&str) -> Duration + Send + Sync + 'static) {
        *self.state.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(hook));
    }

    /// The looks at the content since the last call; noted from the first call on.
    pub fn take_looks(&self) -> Vec<Look> {
        self.state.lock().looks.replace(Vec::new()).unwrap_or_default()
    }

    /// How often a collection has been looked at since the last call of [`Self::take_looks`].
    pub fn looks(&self, collection: &str) -> usize {
        let content = self.state.lock();
        content.looks.iter().flatten().filter(|look| look.collection == collection).count()
    }

    /// The requests since the start or the last call, as `METHOD TARGET`.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().requests)
    }

    /// How many connections have been accepted since the start.
    pub fn connections(&self) -> u64 {
        self.state.lock().connections
    }

    /// How many connections are open now.
    pub fn connections_open(&self) -> u64 {
        let content = self.state.lock();
        content.connections - content.connections_ended
    }

    /// Closes every connection at once; its ports stay open.
    pub fn close_connections(&self) {
        self.listeners.iter().for_each(wire::Listener::close_connections);
    }

    /// Closes its ports and every connection at once; the content stays.
    pub fn kill(&mut self) {
        self.listeners.clear();
    }

    /// Listens again on the same ports.
    pub fn start_again(&mut self) -> Result<()> {
        self.listeners.clear();
        for port in &self.ports {
            self.listeners.push(wire::Listener::open(*port, &self.state)?);
        }
        Ok(())
    }
}
