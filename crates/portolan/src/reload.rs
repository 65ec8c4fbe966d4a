//! Notices that the configuration has changed: a signal, or the file itself.
//!
//! Promise: a file is read once it has stayed as it is from one look to the next, so that one being written is not taken
//! for a whole one; what is wrong with it is told once, with file, line and column, and changes nothing.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portolan_model::config::line_and_column;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::collector::Change;
use crate::wiring::{self, Loaded};

/// The time from one look at the file to the next.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Watches `config`, which held `text` when it was read. With `hangup`, SIGHUP has it read at once, and opens every
/// source anew; without, the signal keeps its meaning: the terminal has gone.
pub(crate) fn watch(config: &Path, text: String, hangup: bool) -> std::io::Result<mpsc::Receiver<Change>> {
    let signal = if hangup { Some(signal(SignalKind::hangup())?) } else { None };
    let (sender, receiver) = mpsc::channel(1);
    let watcher = Watcher { config: config.to_owned(), text, sender };
    tokio::spawn(watcher.watch(signal));
    Ok(receiver)
}

struct Watcher {
    config: PathBuf,
    /// What was read last, right or wrong.
    text: String,
    sender: mpsc::Sender<Change>,
}

/// What tells one content of a file from another without reading it.
type Stamp = Option<(i64, i64, u64, u64)>;

impl Watcher {
    async fn watch(mut self, mut signal: Option<Signal>) {
        let mut seen = self.stamp();
        // The file may have changed between its reading and now.
        let mut is_fresh = true;
        let hangup = async |signal: &mut Option<Signal>| match signal {
            Some(signal) => signal.recv().await,
            None => std::future::pending().await,
        };
        loop {
            let change = tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => {
                    let now = self.stamp();
                    if now != seen {
                        (seen, is_fresh) = (now, true);
                        continue;
                    }
                    if !std::mem::take(&mut is_fresh) {
                        continue;
                    }
                    self.read(false)
                }
                _ = hangup(&mut signal) => self.read(true),
                () = self.sender.closed() => return,
            };
            if let Some(change) = change
                && self.sender.send(change).await.is_err()
            {
                return;
            }
        }
    }

    fn stamp(&self) -> Stamp {
        let stamp = |metadata: Metadata| (metadata.mtime(), metadata.mtime_nsec(), metadata.size(), metadata.ino());
        std::fs::metadata(&self.config).ok().map(stamp)
    }

    /// The configuration, if it is right, and new or asked for.
    fn read(&mut self, reopen: bool) -> Option<Change> {
        let Loaded { file, outcome, text, .. } = match wiring::load(&self.config) {
            Ok(loaded) => loaded,
            Err(error) => {
                let next = error.hint().unwrap_or_default();
                tracing::error!(kind = %error.kind(), next, "the old configuration stays: {}", error.chain());
                return None;
            }
        };
        if !reopen && text == self.text {
            return None;
        }
        self.text = text;
        match outcome {
            Ok(configuration) => Some(Change { configuration, reopen }),
            Err(found) => {
                for diagnostic in &found {
                    let place = diagnostic.span.as_ref().map(|span| line_and_column(&self.text, span.start));
                    let place = place.map_or_else(String::new, |(line, column)| format!(":{line}:{column}"));
                    let next = diagnostic.help.as_deref().unwrap_or_default();
                    tracing::error!(next, "{file}{place}: {}", diagnostic.message);
                }
                let errors = found.len();
                tracing::error!(errors, next = "portolan check shows each in its place", "the old configuration stays");
                None
            }
        }
    }
}
