//! Statements that nobody waits for any more are ended on the server, too.
//!
//! Promise: a read that is dropped leaves no query behind, and a program that stops does not leave before it has said
//! so.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portolan_model::{ErrorKind, Result};
use tokio::task::JoinHandle;

/// The ends of statements that are under way, so that a program that stops does not leave before them.
#[derive(Clone, Default)]
pub(crate) struct Endings(Arc<Mutex<Vec<JoinHandle<()>>>>);

impl Endings {
    fn add(&self, ending: JoinHandle<()>) {
        let mut endings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        endings.retain(|ending| !ending.is_finished());
        endings.push(ending);
    }

    /// Waits until they have been sent, as long as `patience` allows.
    pub(crate) async fn finish(&self, patience: Duration) {
        let endings = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let ended = async {
            for ending in endings {
                // A task that failed has said so already.
                let _ = ending.await;
            }
        };
        let _ = tokio::time::timeout(patience, ended).await;
    }
}

/// Ends a statement when it is dropped, unless the statement has ended by itself.
pub(crate) struct EndGuard {
    ending: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    endings: Endings,
}

impl EndGuard {
    /// `ending` is what tells the server, through a connection of its own.
    pub(crate) fn new(endings: &Endings, ending: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { ending: Some(Box::pin(ending)), endings: endings.clone() }
    }

    /// The statement has ended by itself.
    pub(crate) fn disarm(&mut self) {
        self.ending = None;
    }

    /// A read has come to its end, with what `is_cut` says of: whether rows were left that the server still sends.
    /// `is_refused` if the server has ended the statement with an error of its own.
    pub(crate) fn settle<T>(&mut self, result: &Result<T>, is_cut: impl Fn(&T) -> bool, is_refused: bool) {
        let has_ended = match result {
            Ok(reading) => !is_cut(reading),
            // The server has ended it itself, and after a restart its number may be another connection's.
            Err(error) => error.kind() == ErrorKind::Disconnected || is_refused,
        };
        if has_ended {
            self.disarm();
        }
    }
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if let Some(ending) = self.ending.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            self.endings.add(runtime.spawn(ending));
        }
    }
}
