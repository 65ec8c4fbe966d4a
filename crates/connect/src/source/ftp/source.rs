//! An `ftp` source: lists, decides what to read of each file, reads, and ends with a position.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use portolan_model::clock::Clock;
use portolan_model::name::SourceName;
use portolan_model::position::Position;
use portolan_model::source::{Capabilities, Held, Output, Phase, Probe, QuarantineItem, ReadEnd, Source};
use portolan_model::{Error, ErrorKind, Result, Retry};
use serde_json::json;

use super::control::{Control, Endpoint};
use super::options::{FileFormat, Plan};
use super::position::{FileState, FtpPosition};
use super::read::{FileReader, Lines};
use super::walk::{RemoteFile, walk};

/// A line that has been unfinished for so long is reported, in seconds.
const HELD_SECONDS_MAX: i64 = 600;

/// The files of one server.
pub(super) struct FtpSource {
    pub(super) name: SourceName,
    pub(super) address: String,
    pub(super) endpoint: Endpoint,
    pub(super) plan: Arc<Plan>,
    /// Where files are spooled.
    pub(super) spool: PathBuf,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) control: Option<Control>,
    /// The file that failed after it had given rows.
    pub(super) failed: Option<String>,
}

/// What is to be done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// It is as it was.
    Skip,
    /// Read it from the start.
    Fresh,
    /// Read on, if it still begins as it did.
    Resume,
    /// Read it whole; it may be as it was.
    Compare,
    /// Read it from the start: it is not what it was.
    Again,
}

/// What follows from what is known of a file.
fn action(plan: &Plan, format: FileFormat, file: &RemoteFile, before: Option<&FileState>) -> Action {
    let Some(before) = before else { return Action::Fresh };
    let is_same = before.size == file.size && before.modify == file.modify;
    match (format.is_lines(), plan.is_growing) {
        (false, _) if is_same => Action::Skip,
        (false, _) => Action::Compare,
        (true, _) if is_same => {
            if before.is_partial {
                Action::Resume
            } else {
                Action::Skip
            }
        }
        // A listing may lag behind a file that is being written: only the file itself tells that it has become shorter.
        (true, true) => Action::Resume,
        (true, false) if before.is_partial && before.size <= file.size && before.modify == file.modify => {
            Action::Resume
        }
        (true, false) => Action::Again,
    }
}

impl FtpSource {
    fn place(&self, error: Error) -> Error {
        error.with_source(&self.name).with_address(self.address.as_str())
    }

    async fn ready(&mut self) -> Result<Control> {
        // Out of its place while it is used: what is dropped midway drops the connection, too.
        if let Some(mut control) = self.control.take()
            && control.is_alive().await
        {
            return Ok(control);
        }
        Control::open(&mut self.endpoint).await
    }

    /// Reads what is to be read. The connection goes back to its place where it may be used again.
    async fn read_files(
        &mut self,
        mut control: Control,
        from: Option<&Position>,
        output: &mut dyn Output,
    ) -> Result<ReadEnd> {
        let plan = &Arc::clone(&self.plan);
        let mut position = if plan.is_incremental { FtpPosition::read(from)? } else { FtpPosition::default() };
        let found = walk(&mut control, &plan.pattern, plan.files_max, output).await?;
        let now = self.clock.wall().as_second();
        for (line, why) in &found.refused {
            if !position.refused.contains(line) {
                output.quarantine(refused(line, why)).await?;
            }
        }
        position.refused = found.refused.keys().cloned().collect();
        let paths = found.files.keys().map(String::as_str).collect();
        position.settle(&paths, |path| plan.pattern.matches(path), now, plan.files_max)?;
        let mut jobs = Vec::new();
        for file in found.files.values() {
            let format = plan.format(&file.path).ok_or_else(|| unknown_format(&file.path))?;
            match action(plan, format, file, position.files.get(&file.path)) {
                Action::Skip => self.report_held(&mut position, file, now, output).await?,
                action => jobs.push((file, format, action)),
            }
        }
        // After a read that ended early the files behind come first: one that always grows keeps no other waiting.
        if let Some(last) = position.last.take() {
            let first = jobs.partition_point(|(file, ..)| file.path <= last);
            jobs.rotate_left(first);
        }
        let count = jobs.len();
        let mut last = None;
        for (index, (file, format, action)) in jobs.into_iter().enumerate() {
            let before = position.files.get(&file.path).cloned();
            // What stands before a file that fails is stored first, so that its error comes alone.
            let is_behind = plan.is_incremental && last.is_some();
            if is_behind && self.failed.as_ref() == Some(&file.path) {
                self.control = Some(control);
                return Ok(ended_at(position, last, true));
            }
            let mut watched = Watched { output: &mut *output, has_given: false };
            let state = match self.read_one(&mut control, (file, format, action), before, now, &mut watched).await {
                Ok(state) => state,
                Err(_) if is_behind && !watched.has_given => return Ok(ended_at(position, last, true)),
                Err(error) => {
                    // Rows that have been given cannot be taken back: the next read ends before them.
                    self.failed = Some(file.path.clone());
                    return Err(error);
                }
            };
            self.failed.take_if(|path| *path == file.path);
            last = Some(file.path.clone());
            let more = state.is_partial || (index + 1 < count && plan.is_incremental && output.is_enough());
            position.files.insert(file.path.clone(), state);
            if more {
                self.control = Some(control);
                return Ok(ended_at(position, last, more));
            }
        }
        self.control = Some(control);
        Ok(if plan.is_incremental { ended_at(position, None, false) } else { ReadEnd::default() })
    }

    /// Reads one file, over a new connection again where one breaks behind rows that have been given.
    async fn read_one(
        &mut self,
        control: &mut Control,
        (file, format, mut action): (&RemoteFile, FileFormat, Action),
        mut before: Option<FileState>,
        now: i64,
        output: &mut dyn Output,
    ) -> Result<FileState> {
        loop {
            let (plan, spool) = (&self.plan, &self.spool);
            let mut reader = FileReader { control: &mut *control, plan, file, format, spool, now, progress: None };
            let result = read_file(&mut reader, action, before.as_ref(), output).await;
            match (result, reader.progress.take()) {
                (Ok(state), _) => return Ok(state),
                // Rows that have been given stay given: what follows them is read over a new connection. This ends,
                // because each time at least a part has come.
                (Err(error), Some(progress)) if is_interruption(&error) => {
                    *control = Control::open(&mut self.endpoint).await.map_err(|_| error)?;
                    (action, before) = (Action::Resume, Some(progress));
                }
                (Err(error), _) => return Err(error),
            }
        }
    }

    /// Says once that the line at the end of a file has been unfinished for long.
    async fn report_held(
        &self,
        position: &mut FtpPosition,
        file: &RemoteFile,
        now: i64,
        output: &mut dyn Output,
    ) -> Result<()> {
        let Some(state) = position.files.get_mut(&file.path) else { return Ok(()) };
        let Some(since) = state.held_since.filter(|since| !state.is_reported && now - since >= HELD_SECONDS_MAX) else {
            return Ok(());
        };
        state.is_reported = true;
        let detail = format!(
            "its last line, from byte {} to {}, has had no line end for {} seconds; it is read when it has one, or with \
             growing = false",
            state.offset,
            state.size,
            now - since
        );
        output.quarantine(notice("line_unfinished", &file.path, detail)).await
    }

    async fn probe_server(&mut self) -> Result<Probe> {
        let mut control = self.ready().await?;
        let found = walk(&mut control, &self.plan.pattern, self.plan.files_max, &mut Discard).await?;
        let bytes = found.files.values().fold(0_u64, |bytes, file| bytes.saturating_add(file.size));
        let listing = if control.features.mlsd { "MLSD" } else { "LIST" };
        let mut probe = Probe { server: Some(control.server.clone()), tls: control.tls.clone(), facts: Vec::new() };
        for (name, value) in [
            ("listing", listing.to_owned()),
            ("files", found.files.len().to_string()),
            ("bytes", bytes.to_string()),
            ("refused_names", found.refused.len().to_string()),
        ] {
            probe.facts.push((name.into(), value));
        }
        self.control = Some(control);
        Ok(probe)
    }
}

/// The end of a read that goes on behind the file `last`.
fn ended_at(mut position: FtpPosition, last: Option<String>, more: bool) -> ReadEnd {
    position.last = last;
    ReadEnd { position: Some(position.to_position()), more, ..ReadEnd::default() }
}

/// Reads one file as `action` says; what is known of it then.
async fn read_file(
    reader: &mut FileReader<'_>,
    action: Action,
    before: Option<&FileState>,
    output: &mut dyn Output,
) -> Result<FileState> {
    let path = &reader.file.path;
    if reader.format == FileFormat::Parquet {
        let spooled = reader.spooled(before, output).await?;
        if let Some(file) = spooled.content {
            if let Some(before) = before {
                output
                    .quarantine(notice("file_replaced", path, changed(before, reader.file, "its bytes are others")))
                    .await?;
            }
            reader.give_spooled(file, output).await?;
        }
        return Ok(spooled.state);
    }
    if !reader.format.is_lines() {
        let whole = reader.whole(before, output).await?;
        if let Some(bytes) = whole.content {
            if let Some(before) = before {
                output
                    .quarantine(notice("file_replaced", path, changed(before, reader.file, "its bytes are others")))
                    .await?;
            }
            reader.give_whole(bytes, output).await?;
        }
        return Ok(whole.state);
    }
    let other = match action {
        Action::Again => Some(("file_replaced", "it is not to grow, so that it is another one")),
        Action::Resume => match reader.lines(before, output).await? {
            Lines::Read(state) => return Ok(state),
            // Rows of the one file were given: with those of the other the round would hold a state that never was.
            _ if !reader.plan.is_incremental => return Err(mixed(path)),
            Lines::Differs => Some(("file_replaced", "it does not begin with them")),
            Lines::Shrunk => Some(("file_shrunk", "it is shorter than that")),
        },
        _ => None,
    };
    if let (Some((reason, why)), Some(before)) = (other, before) {
        output.quarantine(notice(reason, path, changed(before, reader.file, why))).await?;
    }
    match reader.lines(None, output).await? {
        Lines::Read(state) => Ok(state),
        _ => Err(Error::new(ErrorKind::Internal, "read file", "a read from the start was verified")),
    }
}

fn mixed(path: &str) -> Error {
    let message = format!("{path}: it became another file while its transfer was broken off");
    Error::new(ErrorKind::Disconnected, "read file", message)
        .with_hint("the next round reads it anew; have files written under another name and renamed")
}

/// Whether an error is the server's or the network's and may pass by itself: 4xx replies, broken and silent connections.
fn is_interruption(error: &Error) -> bool {
    use ErrorKind as K;
    error.retry() == Retry::Transient && matches!(error.kind(), K::Disconnected | K::Timeout | K::Busy | K::Server)
}

fn changed(before: &FileState, file: &RemoteFile, why: &str) -> String {
    let time = |modify: &Option<String>| modify.clone().unwrap_or_else(|| "an unknown time".into());
    format!(
        "{} bytes of it, as changed at {}, had been read; it is now listed with {} bytes, as changed at {}, and {why}: it \
         is read from the start, and the rows of before stay",
        before.offset,
        time(&before.modify),
        file.size,
        time(&file.modify)
    )
}

fn notice(reason: &'static str, path: &str, detail: String) -> QuarantineItem {
    QuarantineItem { reason, column: None, row: json!({ "file": path }), content: String::new(), detail }
}

fn refused(line: &str, why: &str) -> QuarantineItem {
    let detail = format!("an entry of a folder was not taken: {why}");
    QuarantineItem { reason: "name_refused", column: None, row: json!(line), content: line.to_owned(), detail }
}

fn unknown_format(path: &str) -> Error {
    Error::new(ErrorKind::Data, "list files", format!("{path}: the ending does not say how the file is written"))
        .with_hint("set `format` to csv, ndjson, json, parquet or raw, or narrow `path`, such as to \"*.csv\"")
}

#[async_trait]
impl Source for FtpSource {
    fn capabilities(&self) -> Capabilities {
        Capabilities { resume: self.plan.is_incremental, ..super::CAPABILITIES }
    }

    async fn prepare(&mut self) -> Result<()> {
        let control = self.ready().await.map_err(|error| self.place(error))?;
        self.control = Some(control);
        Ok(())
    }

    async fn read(&mut self, from: Option<&Position>, output: &mut dyn Output) -> Result<ReadEnd> {
        let control = match self.control.take() {
            // Checked by `prepare`, a moment ago.
            Some(control) => control,
            None => self.ready().await.map_err(|error| self.place(error))?,
        };
        if output.is_held() {
            // Its commands go out one by one: the first one then.
            output.released(None).await;
        }
        self.read_files(control, from, output).await.map_err(|error| self.place(error))
    }

    async fn acknowledge(&mut self, _: &Position) -> Result<()> {
        Ok(())
    }

    async fn probe(&mut self) -> Result<Probe> {
        self.probe_server().await.map_err(|error| self.place(error))
    }

    async fn close(&mut self) {
        if let Some(control) = self.control.take() {
            control.close().await;
        }
    }
}

/// Passes everything on, and knows whether anything came that cannot be taken back.
struct Watched<'o> {
    output: &'o mut dyn Output,
    has_given: bool,
}

#[async_trait]
impl Output for Watched<'_> {
    fn mark(&mut self, phase: Phase) {
        self.output.mark(phase);
    }

    fn payload(&mut self, bytes: &[u8]) {
        self.has_given = true;
        self.output.payload(bytes);
    }

    fn count_bytes(&mut self, bytes: u64) {
        self.output.count_bytes(bytes);
    }

    fn is_enough(&self) -> bool {
        self.output.is_enough()
    }

    fn is_held(&self) -> bool {
        self.output.is_held()
    }

    async fn released(&mut self, held: Option<Arc<dyn Held>>) {
        self.output.released(held).await;
    }

    fn rows_wait(&self) -> Duration {
        self.output.rows_wait()
    }

    async fn batch(&mut self, batch: RecordBatch) -> Result<()> {
        self.has_given = true;
        self.output.batch(batch).await
    }

    async fn quarantine(&mut self, item: QuarantineItem) -> Result<()> {
        self.has_given = true;
        self.output.quarantine(item).await
    }
}

/// An output for probes: nothing is kept.
struct Discard;

#[async_trait]
impl Output for Discard {
    fn mark(&mut self, _: Phase) {}

    fn payload(&mut self, _: &[u8]) {}

    fn count_bytes(&mut self, _: u64) {}

    async fn batch(&mut self, _: RecordBatch) -> Result<()> {
        Ok(())
    }

    async fn quarantine(&mut self, _: QuarantineItem) -> Result<()> {
        Ok(())
    }
}
