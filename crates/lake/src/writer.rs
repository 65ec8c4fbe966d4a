//! The one thread that writes the catalog.
//!
//! Promise: work is done in the order in which it is handed over, each piece with one hop there and one back; the
//! state in memory is the catalog's, or is loaded again before it is used.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use portolan_model::{Error, ErrorKind, Result};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::commit::refresh;
use crate::error::{internal, sqlite};
use crate::failpoint;
use crate::lock::CollectorLock;
use crate::reader::Unreadable;
use crate::shape::SharedShape;
use crate::spec::Layout;
use crate::stage::{FileGuard, Target};
use crate::state::{self, State};

/// Pieces of work that may wait.
const QUEUE: usize = 64;

type Work = Box<dyn FnOnce(&mut Writer) + Send>;

/// The columns of every table as last committed, or why there is no committing to it.
pub(crate) type Shapes = Arc<RwLock<HashMap<(String, String), std::result::Result<SharedShape, Unreadable>>>>;

/// The catalog's connection and what is known of its content.
pub(crate) struct Writer {
    connection: Connection,
    layout: Layout,
    /// `None` after a failure: what is known may not be so.
    state: Option<State>,
    shapes: Shapes,
    _lock: CollectorLock,
}

/// A transaction that failed.
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// Whether it may be committed nevertheless.
    in_doubt: bool,
}

impl Failure {
    /// Gives up the files that the transaction named to the catalog, unless it may be committed; the error.
    pub(crate) fn give_up<'a>(self, files: impl Iterator<Item = &'a mut FileGuard>) -> Error {
        if !self.in_doubt {
            files.for_each(FileGuard::release);
        }
        self.error
    }
}

impl Writer {
    pub(crate) fn new(connection: Connection, layout: Layout, lock: CollectorLock) -> Result<Self> {
        let state = state::load(&connection, &layout)?;
        let writer = Self { connection, layout, state: Some(state), shapes: Shapes::default(), _lock: lock };
        writer.publish();
        Ok(writer)
    }

    pub(crate) fn shapes(&self) -> Shapes {
        self.shapes.clone()
    }

    /// The connection, for reads outside a transaction and for pragmas.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Runs `action` inside `BEGIN IMMEDIATE` … `COMMIT`, with the state as of that moment.
    ///
    /// # Errors
    /// Whatever `action` or SQLite fail with; nothing is changed then.
    pub(crate) fn transaction<T>(&mut self, action: impl FnOnce(&Connection, &mut State) -> Result<T>) -> Result<T> {
        self.transaction_of_files(action).map_err(|failure| failure.error)
    }

    /// Runs `action` as [`transaction`](Self::transaction) does, and says of a failure whether files that it named to
    /// the catalog may be removed.
    pub(crate) fn transaction_of_files<T>(
        &mut self,
        action: impl FnOnce(&Connection, &mut State) -> Result<T>,
    ) -> std::result::Result<T, Failure> {
        let operation = "commit";
        let mut in_doubt = false;
        let run = |sql: &str| {
            self.connection.prepare_cached(sql).and_then(|mut statement| statement.raw_execute()).map(|_| ())
        };
        run("BEGIN IMMEDIATE").map_err(|error| Failure { error: sqlite(operation, error), in_doubt })?;
        failpoint::pass("commit::transaction_begun");
        let mut next = None;
        let result = (|| {
            let mut known = match self.state.take() {
                Some(known) => known,
                None => state::load(&self.connection, &self.layout)?,
            };
            refresh(&self.connection, &self.layout, &mut known)?;
            let value = action(&self.connection, &mut known)?;
            run("COMMIT").map_err(|error| {
                let error = sqlite(operation, error);
                // A full disk ends COMMIT before its last frame is in the log. After any other failure, of a sync say,
                // the frame may be there, rolled back for us but not for whoever recovers the log after a crash.
                in_doubt = error.kind() != ErrorKind::StorageFull;
                error
            })?;
            next = Some(known);
            Ok(value)
        })();
        match result {
            Ok(value) => {
                self.state = next;
                self.publish();
                Ok(value)
            }
            Err(error) => {
                if !self.connection.is_autocommit() {
                    in_doubt |= self.connection.execute_batch("ROLLBACK").is_err();
                }
                // What the action changed in memory is not so: look again, for the stagings that come.
                self.state = state::load(&self.connection, &self.layout).ok();
                self.publish();
                Err(Failure { error, in_doubt })
            }
        }
    }

    fn publish(&self) {
        let Some(state) = &self.state else { return };
        let mut shapes = self.shapes.write().unwrap_or_else(PoisonError::into_inner);
        let changed = shapes.len() != state.tables.len() + state.unreadable.len()
            || state.tables.iter().any(|(name, entry)| {
                shapes.get(name).and_then(|known| known.as_ref().ok()).is_none_or(|shape| {
                    shape.id != entry.shape.id || shape.schema_version != entry.shape.schema_version
                })
            })
            || state
                .unreadable
                .iter()
                .any(|(name, reason)| shapes.get(name).and_then(|known| known.as_ref().err()) != Some(reason));
        if changed {
            let readable = state.tables.iter().map(|(name, entry)| (name.clone(), Ok(entry.shape.clone())));
            let unreadable = state.unreadable.iter().map(|(name, reason)| (name.clone(), Err(reason.clone())));
            *shapes = readable.chain(unreadable).collect();
        }
    }
}

/// Hands work to the writer's thread.
#[derive(Clone)]
pub(crate) struct WriterHandle {
    sender: mpsc::Sender<Work>,
}

impl WriterHandle {
    /// Starts the thread, which ends when the last handle is dropped.
    pub(crate) fn start(mut writer: Writer) -> Result<Self> {
        let (sender, mut receiver) = mpsc::channel::<Work>(QUEUE);
        let run = move || {
            while let Some(work) = receiver.blocking_recv() {
                work(&mut writer);
            }
        };
        let started = std::thread::Builder::new().name("lake-writer".into()).spawn(run);
        started.map_err(|error| internal("open lake", "the writer's thread does not start").with_cause(error))?;
        Ok(Self { sender })
    }

    /// Runs `action` on the writer's thread and blocks for its end; for a lake that nobody else uses yet.
    pub(crate) fn run_now<T: Send + 'static>(
        &self,
        action: impl FnOnce(&mut Writer) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = std::sync::mpsc::sync_channel(1);
        let work: Work = Box::new(move |writer| drop(reply.send(action(writer))));
        self.sender.try_send(work).map_err(|_| ended())?;
        answer.recv().map_err(|_| ended())?
    }

    /// Runs `action` on the writer's thread.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        action: impl FnOnce(&mut Writer) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |writer| drop(reply.send(action(writer))));
        self.sender.send(work).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::Internal, "write catalog", "the writer's thread has ended")
}

/// The committed columns of a table, if there is one of that name.
///
/// # Errors
/// `Data` if another program gave it a type we do not know.
pub(crate) fn shape_of(shapes: &Shapes, target: &Target) -> Result<Option<SharedShape>> {
    let shapes = shapes.read().unwrap_or_else(PoisonError::into_inner);
    match shapes.get(&(target.schema.to_owned(), target.name.clone())) {
        None => Ok(None),
        Some(Ok(shape)) => Ok(Some(shape.clone())),
        Some(Err(reason)) => Err(reason.error("store rows", &target.name)),
    }
}
