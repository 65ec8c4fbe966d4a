//! A file on its way through the disk: Parquet is read from its end, and may be larger than memory.
//!
//! Promise: the file on disk has no name once it is there, so that it goes with the process; a full disk is `StorageFull`;
//! memory is bounded by a few batches and the largest page.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::ErrorKind as Io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{Context, SHA256};
use portolan_model::source::Output;
use portolan_model::{Error, ErrorKind, Result};
use tokio::io::AsyncWriteExt;

use super::convert::{give, of_file, with_path};
use super::lines::shown;
use super::options::Plan;
use crate::format::parquet::{self, Body};
use crate::format::{Item, Sink};

const OPERATION: &str = "spool file";
/// Bytes written at once.
const WRITE_BYTES: usize = 1 << 20;
/// Bytes of payload passed on at once.
const PAYLOAD_BYTES: usize = 256 << 10;
/// What waits between the converting thread and the output.
const PIECES_WAITING: usize = 2;

/// A file that is being written.
#[derive(Debug)]
pub(super) struct Spool {
    file: tokio::fs::File,
    folder: PathBuf,
    buffer: Vec<u8>,
    bytes: u64,
    context: DigestContext,
}

/// SHA-256 of what has been written.
struct DigestContext(Context);

impl std::fmt::Debug for DigestContext {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("DigestContext")
    }
}

/// A file that has been written.
#[derive(Debug)]
pub(super) struct Spooled {
    file: Arc<File>,
    pub(super) bytes: u64,
    /// Of all of it, see [`super::lines::digest`].
    pub(super) digest: String,
}

/// What the converting thread gives.
enum Piece {
    Payload(Vec<u8>),
    Item(Item),
}

impl Spool {
    /// Begins a file in `folder`, which is made where it is missing.
    ///
    /// # Errors
    /// `StorageFull`, `Storage`.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let file = unnamed(folder).map_err(|error| failed(folder, error))?;
        Ok(Self::into(file, folder))
    }

    fn into(file: File, folder: &Path) -> Self {
        let context = DigestContext(Context::new(&SHA256));
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(WRITE_BYTES);
        Self { file, folder: folder.to_owned(), buffer: Vec::with_capacity(WRITE_BYTES), bytes: 0, context }
    }

    /// Adds bytes.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.context.0.update(bytes);
        self.bytes += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= WRITE_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<()> {
        let written = async {
            self.file.write_all(&self.buffer).await?;
            self.file.flush().await
        };
        written.await.map_err(|error| failed(&self.folder, error))?;
        self.buffer.clear();
        Ok(())
    }

    /// Ends the file.
    pub(super) async fn finish(mut self) -> Result<Spooled> {
        self.flush().await?;
        Ok(Spooled { file: Arc::new(self.file.into_std().await), bytes: self.bytes, digest: shown(self.context.0) })
    }
}

/// A file that only this process sees.
fn unnamed(folder: &Path) -> std::io::Result<File> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("portolan-spool-{}-{number}", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            // Left by a process of the same number that was killed between the two.
            Err(error) if error.kind() == Io::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

fn failed(folder: &Path, error: std::io::Error) -> Error {
    let is_full = matches!(error.kind(), Io::StorageFull | Io::QuotaExceeded);
    let kind = if is_full { ErrorKind::StorageFull } else { ErrorKind::Storage };
    let what = if is_full { "has no room for it" } else { "could not be written to" };
    Error::new(kind, OPERATION, format!("{} {what}", folder.display()))
        .with_hint("a Parquet file is kept there while it is read: free as much space as it has, or narrow `path`")
        .with_cause(error)
}

impl Spooled {
    /// Gives the file's rows, and its bytes then as payload: what is not readable has given nothing.
    ///
    /// # Errors
    /// `Data` if it is not readable; what `output` returns.
    pub(super) async fn convert(self, path: &str, plan: &Arc<Plan>, output: &mut dyn Output) -> Result<()> {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(PIECES_WAITING);
        let (path, plan) = (path.to_owned(), Arc::clone(plan));
        let task = tokio::task::spawn_blocking(move || {
            let mut send = |piece: Piece| {
                // The receiver is gone when the read was dropped: nobody waits for the rest.
                let gone = |_| Error::new(ErrorKind::Cancelled, "decode file", "the read was given up");
                sender.blocking_send(piece).map_err(gone)
            };
            self.rows(&path, &plan.file_column, &mut |item| send(Piece::Item(item)))?;
            self.payload(&mut send)
        });
        while let Some(piece) = receiver.recv().await {
            match piece {
                Piece::Payload(bytes) => output.payload(&bytes),
                Piece::Item(item) => give(item, output).await?,
            }
        }
        task.await.map_err(|error| {
            Error::new(ErrorKind::Internal, "decode file", "the conversion ended early").with_cause(error)
        })?
    }

    fn payload(&self, send: &mut dyn FnMut(Piece) -> Result<()>) -> Result<()> {
        let mut offset = 0;
        while offset < self.bytes {
            let length = (self.bytes - offset).min(PAYLOAD_BYTES as u64);
            let mut bytes = vec![0; length as usize];
            self.file.read_exact_at(&mut bytes, offset).map_err(|error| {
                Error::new(ErrorKind::Storage, OPERATION, "what was spooled is not readable").with_cause(error)
            })?;
            offset += length;
            send(Piece::Payload(bytes))?;
        }
        Ok(())
    }

    fn rows(&self, path: &str, file_column: &str, sink: &mut Sink<'_>) -> Result<()> {
        let decoded = parquet::decode(&Body::File(Arc::clone(&self.file), self.bytes), &mut |item| {
            sink(match item {
                Item::Batch(batch) => Item::Batch(with_path(&batch, path, file_column)?),
                item => item,
            })
        });
        decoded.map(drop).map_err(|error| of_file(error, path, "look at the file; set `format`, or narrow `path`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_written_is_there_without_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("made");
        let mut spool = Spool::new(&place).unwrap();
        let bytes: Vec<u8> = (0..3 * WRITE_BYTES + 5).map(|index| (index % 251) as u8).collect();
        for piece in bytes.chunks(70_000) {
            spool.write(piece).await.unwrap();
        }
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
        let spooled = spool.finish().await.unwrap();
        assert_eq!((spooled.bytes, &spooled.digest), (bytes.len() as u64, &super::super::lines::digest(&bytes)));
        let mut read = Vec::new();
        spooled
            .payload(&mut |piece| {
                if let Piece::Payload(bytes) = piece {
                    read.extend(bytes);
                }
                Ok(())
            })
            .unwrap();
        assert!(read == bytes);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_full_disk_is_said() {
        let full = OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
        let mut spool = Spool::into(full, Path::new("/spool"));
        spool.write(b"PAR1").await.unwrap();
        let error = spool.finish().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert!(error.message().contains("/spool") && error.hint().is_some(), "{error:?}");
        let error = Spool::new(Path::new("/dev/null/spool")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
    }
}
