//! Parquet files as the lake writes them: field ids, zstd, an encoding for each column chosen from its first rows.
//!
//! Promise: memory is bounded by one row group; a file whose [`FileWriter::finish`] has returned is synced to disk; every
//! byte of it is in one of its digests, taken of what goes to the disk and not of what comes back.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::{ColumnPath, SchemaDescriptor, Type};
use portolan_model::Result;
use sha2::{Digest, Sha256};

use crate::error::{file as file_error, parquet as parquet_error};
use crate::failpoint;
use crate::statistics::Statistics;
use crate::types::{Column, Kind};

const OPERATION: &str = "write data file";
/// Rows of a row group, as DuckDB has it: what one thread reads at a time.
const ROW_GROUP_ROWS: usize = 122_880;
/// Bytes of a row group, encoded, above which it ends early: bounds memory with wide rows.
const ROW_GROUP_BYTES: usize = 12 << 20;
/// Rows looked at to choose encodings.
const SAMPLE_ROWS: usize = 2_048;

/// A stretch of a file: a row group with what stands before it, or what follows the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Its length.
    pub(crate) bytes: u64,
    /// The SHA-256 of its bytes.
    pub(crate) sha256: [u8; 32],
}

/// A file whose bytes are digested on their way.
struct Digested {
    file: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
    parts: Vec<Part>,
}

impl Digested {
    fn new(file: File) -> Self {
        Self { file: BufWriter::with_capacity(256 << 10, file), hash: Sha256::new(), bytes: 0, parts: Vec::new() }
    }

    /// Ends a part.
    fn cut(&mut self) {
        let sha256 = self.hash.finalize_reset().into();
        self.parts.push(Part { bytes: std::mem::take(&mut self.bytes), sha256 });
    }
}

impl Write for Digested {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// A finished file, on disk and synced.
#[derive(Clone, Debug)]
pub(crate) struct WrittenFile {
    pub(crate) path: PathBuf,
    pub(crate) rows: u64,
    pub(crate) size_bytes: u64,
    pub(crate) footer_size_bytes: u64,
    /// Statistics of each column, by its place.
    pub(crate) statistics: Vec<Statistics>,
    /// Digests of its bytes: one part for each row group, then one for the rest.
    pub(crate) parts: Vec<Part>,
}

/// A file being written.
pub(crate) struct FileWriter {
    path: PathBuf,
    columns: Vec<Column>,
    writer: ArrowWriter<Digested>,
    /// Row groups whose digest is taken.
    row_groups: usize,
    statistics: Vec<Statistics>,
    rows: u64,
}

impl FileWriter {
    /// Creates `path` for rows of `columns`; `sample` chooses the encodings.
    pub(crate) fn create(path: PathBuf, columns: &[Column], sample: &RecordBatch) -> Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| file_error(OPERATION, &path, error))?;
        let wrong = |error| parquet_error(OPERATION, &path, error);
        let fields = columns.iter().map(|column| parquet_type(column, true).map(Arc::new));
        let fields = fields.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        let root = Type::group_type_builder("duckdb_schema").with_fields(fields).build().map_err(wrong)?;
        let options = ArrowWriterOptions::new()
            .with_properties(properties(columns, sample))
            .with_skip_arrow_metadata(true)
            .with_parquet_schema(SchemaDescriptor::new(Arc::new(root)));
        let schema = crate::types::schema_of(columns);
        let writer = ArrowWriter::try_new_with_options(Digested::new(file), schema, options).map_err(wrong)?;
        let statistics = vec![Statistics::default(); columns.len()];
        Ok(Self { path, columns: columns.to_vec(), writer, row_groups: 0, statistics, rows: 0 })
    }

    /// Adds rows.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut start = 0;
        while start < batch.num_rows() {
            // One row group at a time, so that each has its digest.
            let room = ROW_GROUP_ROWS.saturating_sub(self.writer.in_progress_rows()).max(1);
            let rows = room.min(batch.num_rows() - start);
            self.writer
                .write(&batch.slice(start, rows))
                .map_err(|error| parquet_error(OPERATION, &self.path, error))?;
            if self.writer.in_progress_size() >= ROW_GROUP_BYTES {
                self.writer.flush().map_err(|error| parquet_error(OPERATION, &self.path, error))?;
            }
            self.digest_row_group()?;
            start += rows;
        }
        for ((statistics, column), array) in self.statistics.iter_mut().zip(&self.columns).zip(batch.columns()) {
            statistics.update(array.as_ref(), &column.kind);
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// Takes the digest of a row group that has just ended.
    fn digest_row_group(&mut self) -> Result<()> {
        let ended = self.writer.flushed_row_groups().len();
        if ended > self.row_groups {
            self.row_groups = ended;
            // The last of its bytes may still be in the encoder's own buffer.
            self.writer.sync().map_err(|error| file_error(OPERATION, &self.path, error))?;
            self.writer.inner_mut().cut();
        }
        Ok(())
    }

    /// Ends the file and syncs it. The folder is synced by the commit.
    pub(crate) fn finish(mut self) -> Result<WrittenFile> {
        self.writer.flush().map_err(|error| parquet_error(OPERATION, &self.path, error))?;
        self.digest_row_group()?;
        let path = self.path;
        // Writes the footer.
        let mut digested = self.writer.into_inner().map_err(|error| parquet_error(OPERATION, &path, error))?;
        digested.cut();
        let io = |error: std::io::Error| file_error(OPERATION, &path, error);
        let Digested { file, parts, .. } = digested;
        let mut file = file.into_inner().map_err(|error| io(error.into_error()))?;
        file.flush().map_err(io)?;
        failpoint::pass("stage::after_file_write");
        file.sync_all().map_err(io)?;
        failpoint::pass("stage::after_file_fsync");
        let size_bytes = file.seek(SeekFrom::End(-8)).map_err(io)? + 8;
        let mut tail = [0; 4];
        file.read_exact(&mut tail).map_err(io)?;
        let footer_size_bytes = u64::from(u32::from_le_bytes(tail));
        Ok(WrittenFile { path, rows: self.rows, size_bytes, footer_size_bytes, statistics: self.statistics, parts })
    }
}

/// What the names of our files begin with: only the collector, of which there is one, makes such files.
pub(crate) const FILE_PREFIX: &str = "portolan-";

/// A name for a new file.
pub(crate) fn file_name() -> String {
    format!("{FILE_PREFIX}{}.parquet", uuid::Uuid::now_v7())
}

/// Syncs a folder, so that the names of new files in it survive a power cut.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    // A table's first file may have made its folder, and the schema's: their names are safe with the folders above.
    for folder in folder.ancestors().take(3) {
        let synced = File::open(folder).and_then(|file| file.sync_all());
        synced.map_err(|error| file_error("sync folder", folder, error))?;
    }
    Ok(())
}

fn properties(columns: &[Column], sample: &RecordBatch) -> WriterProperties {
    let zstd = ZstdLevel::try_new(1).map(Compression::ZSTD).unwrap_or(Compression::UNCOMPRESSED);
    let mut builder = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(zstd)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .set_created_by(concat!("Portolan ", env!("CARGO_PKG_VERSION")).to_owned());
    for (column, array) in columns.iter().zip(sample.columns()) {
        if column.kind.is_nested() {
            continue;
        }
        let path = ColumnPath::new(vec![column.name.clone()]);
        let repeats = repeats(array.as_ref(), &column.kind);
        builder = builder.set_column_dictionary_enabled(path.clone(), repeats);
        let encoding = match column.kind {
            Kind::Boolean => None,
            Kind::Float32 | Kind::Float64 | Kind::Decimal(..) | Kind::Uuid => None,
            Kind::Varchar | Kind::Json | Kind::Blob => Some(Encoding::DELTA_LENGTH_BYTE_ARRAY),
            _ => Some(Encoding::DELTA_BINARY_PACKED),
        };
        if let Some(encoding) = encoding {
            builder = builder.set_column_encoding(path.clone(), encoding);
        }
        // Row-group bounds prune where values are ordered or few; on hashes and documents they only cost. Those of
        // floats leave NaN out, by which DuckDB misses it: the catalog's bounds, which do not, prune for them.
        let prunes = !matches!(column.kind, Kind::Json | Kind::Blob | Kind::Uuid | Kind::Float32 | Kind::Float64);
        let level = if prunes { EnabledStatistics::Chunk } else { EnabledStatistics::None };
        builder = builder.set_column_statistics_enabled(path, level);
    }
    builder.build()
}

/// Whether values repeat so much that a dictionary pays.
fn repeats(array: &dyn Array, kind: &Kind) -> bool {
    let rows = array.len().min(SAMPLE_ROWS);
    if rows < 16 {
        return matches!(kind, Kind::Varchar | Kind::Json | Kind::Blob);
    }
    let mut seen = std::collections::HashSet::new();
    let mut bytes = Vec::new();
    let mut changes = 0;
    let mut last = u64::MAX;
    for row in (0..rows).filter(|row| array.is_valid(*row)) {
        bytes.clear();
        crate::digest::value(array, row, kind, &mut bytes);
        let key = fingerprint(&bytes);
        changes += usize::from(key != last);
        last = key;
        seen.insert(key);
    }
    match kind {
        // Sequences and times are small as differences; only a handful of values is smaller as a dictionary.
        Kind::Boolean => false,
        Kind::Varchar | Kind::Json | Kind::Blob | Kind::Uuid => seen.len() * 2 <= rows,
        Kind::Float32 | Kind::Float64 | Kind::Decimal(..) => seen.len() * 4 <= rows,
        _ => seen.len() * 16 <= rows && changes > 1,
    }
}

fn fingerprint(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

fn parquet_type(column: &Column, optional: bool) -> parquet::errors::Result<Type> {
    let repetition = if optional { Repetition::OPTIONAL } else { Repetition::REQUIRED };
    let id = Some(column.id as i32);
    let timestamp = |unit, zoned| LogicalType::timestamp(zoned, unit);
    let integer = |bits, signed| Some(LogicalType::integer(bits, signed));
    let (physical, logical) = match &column.kind {
        Kind::List(element) => {
            let item = parquet_type(&Column { name: "element".into(), ..element.as_ref().clone() }, true)?;
            let list = Type::group_type_builder("list")
                .with_repetition(Repetition::REPEATED)
                .with_fields(vec![Arc::new(item)])
                .build()?;
            return Type::group_type_builder(&column.name)
                .with_repetition(repetition)
                .with_id(id)
                .with_logical_type(Some(LogicalType::List))
                .with_converted_type(parquet::basic::ConvertedType::LIST)
                .with_fields(vec![Arc::new(list)])
                .build();
        }
        Kind::Struct(fields) => {
            let fields = fields.iter().map(|field| parquet_type(field, true).map(Arc::new));
            return Type::group_type_builder(&column.name)
                .with_repetition(repetition)
                .with_id(id)
                .with_fields(fields.collect::<parquet::errors::Result<_>>()?)
                .build();
        }
        Kind::Map(key, value) => {
            let key = parquet_type(&Column { name: "key".into(), ..key.as_ref().clone() }, false)?;
            let value = parquet_type(&Column { name: "value".into(), ..value.as_ref().clone() }, true)?;
            let entries = Type::group_type_builder("key_value")
                .with_repetition(Repetition::REPEATED)
                .with_fields(vec![Arc::new(key), Arc::new(value)])
                .build()?;
            return Type::group_type_builder(&column.name)
                .with_repetition(repetition)
                .with_id(id)
                .with_logical_type(Some(LogicalType::Map))
                .with_converted_type(parquet::basic::ConvertedType::MAP)
                .with_fields(vec![Arc::new(entries)])
                .build();
        }
        Kind::Decimal(precision, scale) => {
            let (precision, scale) = (i32::from(*precision), i32::from(*scale));
            let physical = match precision {
                ..=9 => Physical::INT32,
                10..=18 => Physical::INT64,
                _ => Physical::FIXED_LEN_BYTE_ARRAY,
            };
            let builder = Type::primitive_type_builder(&column.name, physical)
                .with_repetition(repetition)
                .with_id(id)
                .with_precision(precision)
                .with_scale(scale)
                .with_logical_type(Some(LogicalType::decimal(scale, precision)));
            let length = decimal_bytes(precision as u32);
            return if physical == Physical::FIXED_LEN_BYTE_ARRAY { builder.with_length(length) } else { builder }
                .build();
        }
        Kind::Boolean => (Physical::BOOLEAN, None),
        Kind::Int8 => (Physical::INT32, integer(8, true)),
        Kind::Int16 => (Physical::INT32, integer(16, true)),
        Kind::Int32 => (Physical::INT32, integer(32, true)),
        Kind::Int64 => (Physical::INT64, integer(64, true)),
        Kind::UInt8 => (Physical::INT32, integer(8, false)),
        Kind::UInt16 => (Physical::INT32, integer(16, false)),
        Kind::UInt32 => (Physical::INT32, integer(32, false)),
        Kind::UInt64 => (Physical::INT64, integer(64, false)),
        Kind::Float32 => (Physical::FLOAT, None),
        Kind::Float64 => (Physical::DOUBLE, None),
        Kind::Date => (Physical::INT32, Some(LogicalType::Date)),
        Kind::Time => (Physical::INT64, Some(LogicalType::time(false, TimeUnit::MICROS))),
        Kind::TimestampMs => (Physical::INT64, Some(timestamp(TimeUnit::MILLIS, false))),
        Kind::Timestamp => (Physical::INT64, Some(timestamp(TimeUnit::MICROS, false))),
        Kind::TimestampNs => (Physical::INT64, Some(timestamp(TimeUnit::NANOS, false))),
        Kind::TimestampTz => (Physical::INT64, Some(timestamp(TimeUnit::MICROS, true))),
        Kind::Varchar => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        Kind::Json => (Physical::BYTE_ARRAY, Some(LogicalType::Json)),
        Kind::Blob => (Physical::BYTE_ARRAY, None),
        Kind::Uuid => (Physical::FIXED_LEN_BYTE_ARRAY, Some(LogicalType::Uuid)),
    };
    let builder = Type::primitive_type_builder(&column.name, physical)
        .with_repetition(repetition)
        .with_id(id)
        .with_logical_type(logical);
    if column.kind == Kind::Uuid { builder.with_length(16) } else { builder }.build()
}

/// The fewest bytes that hold any decimal of `precision` digits, as Parquet's Arrow writer emits them.
fn decimal_bytes(precision: u32) -> i32 {
    let largest = 10i128.checked_pow(precision).unwrap_or(i128::MAX) - 1;
    (1..16).find(|bytes| largest < 1i128 << (8 * bytes - 1)).unwrap_or(16)
}
