//! Arrow IPC streams and Parquet: every type as it is.

use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use portolan_model::{Error, ErrorKind, Result};

use super::target::{failed_within, flush};
use super::{Flow, Options, Sink, Writer};

/// Rows of one Parquet row group.
const GROUP_ROWS: usize = 128 * 1024;
/// What one Parquet row group may hold in memory, in bytes.
const GROUP_BYTES: usize = 32 * 1024 * 1024;

pub(super) fn open_arrow(sink: Sink, _: &Options) -> Box<dyn Writer> {
    Box::new(Arrow { sink: Some(sink), stream: None })
}

pub(super) fn open_parquet(sink: Sink, _: &Options) -> Box<dyn Writer> {
    Box::new(Parquet { sink: Some(sink), file: None })
}

struct Arrow {
    sink: Option<Sink>,
    stream: Option<StreamWriter<Sink>>,
}

impl Writer for Arrow {
    fn begin(&mut self, _: &str, schema: &SchemaRef) -> Result<()> {
        let sink = self.sink.take().ok_or_else(one_result)?;
        self.stream = Some(StreamWriter::try_new(sink, schema).map_err(failed_within)?);
        Ok(())
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<Flow> {
        let stream = self.stream.as_mut().ok_or_else(one_result)?;
        stream.write(batch).map_err(failed_within)?;
        flush(stream.get_mut())?;
        Ok(Flow::More)
    }

    fn end(&mut self, _: bool) -> Result<()> {
        let stream = self.stream.as_mut().ok_or_else(one_result)?;
        stream.finish().map_err(failed_within)?;
        flush(stream.get_mut())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

struct Parquet {
    sink: Option<Sink>,
    file: Option<ArrowWriter<Sink>>,
}

impl Writer for Parquet {
    fn begin(&mut self, _: &str, schema: &SchemaRef) -> Result<()> {
        let sink = self.sink.take().ok_or_else(one_result)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .build();
        self.file = Some(ArrowWriter::try_new(sink, schema.clone(), Some(properties)).map_err(failed_within)?);
        Ok(())
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<Flow> {
        let file = self.file.as_mut().ok_or_else(one_result)?;
        file.write(batch).map_err(failed_within)?;
        if file.in_progress_size() > GROUP_BYTES {
            file.flush().map_err(failed_within)?;
        }
        Ok(Flow::More)
    }

    fn end(&mut self, _: bool) -> Result<()> {
        let file = self.file.as_mut().ok_or_else(one_result)?;
        file.finish().map_err(failed_within)?;
        // `into_inner` would turn a failed write into text, and a reader that went away could not be told from a disk
        // that is full.
        file.sync().map_err(failed_within)?;
        flush(file.inner_mut())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

fn one_result() -> Error {
    Error::new(ErrorKind::Internal, "write output", "this format holds one result")
}
