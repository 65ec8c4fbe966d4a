//! What a Parquet file says of itself, checked before the reader believes it.
//!
//! The reader reserves memory for as many elements, values and bytes as a file names; a file of a hundred bytes can name
//! more than a machine has, which would end the process. Thrift's compact protocol is walked here without keeping anything
//! (Apache Thrift, "Thrift Compact protocol encoding"; Apache Parquet, `parquet.thrift`).

use std::io::Read;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use parquet::basic::{Compression, Encoding, Type as PhysicalType};
use parquet::column::page::Page as Unpacked;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::ChunkReader;
use parquet::file::serialized_reader::SerializedPageReader;
use portolan_model::error::{Error, ErrorKind, Result};

use super::super::{COLUMNS_MAX, data_error};
use super::{Body, unreadable};

/// The file's last bytes: the footer's length and the magic.
const TAIL_BYTES: u64 = 8;
/// The longest footer.
const FOOTER_BYTES_MAX: u64 = 32 << 20;
/// The longest page header, in bytes: statistics may hold long values.
const PAGE_HEADER_BYTES_MAX: u64 = 16 << 20;
/// Bytes in which most page headers end.
const PAGE_HEADER_BYTES: u64 = 4 << 10;
/// The largest page, unpacked.
const PAGE_BYTES_MAX: i64 = 1 << 30;
/// The largest packed page whose codec is trusted to unpack it: no codec makes a thousand times as much of it as the largest
/// page.
const PACKED_BYTES_TRUSTED: u64 = 256 << 10;
/// The largest packed page of LZ4, which unpacks to at most 255 times as much.
const LZ4_BYTES_MAX: u64 = 8 << 20;
/// The most lengths of one page.
const LENGTHS_MAX: u64 = 1 << 26;
/// Encodings whose values have their lengths in front of them, by Parquet's numbers.
const DELTA_LENGTH_BYTE_ARRAY: i64 = 6;
const DELTA_BYTE_ARRAY: i64 = 7;
/// The deepest nesting of columns.
const DEPTH_MAX: usize = 32;
/// The deepest nesting of Thrift's structures.
const THRIFT_DEPTH_MAX: usize = 16;
/// The most structures in one list: row groups have numbers of 16 bits.
const STRUCTURES_MAX: u64 = 1 << 16;

fn damaged(what: &str) -> Error {
    data_error(format!("the file is damaged: {what}"))
}

/// Checks the footer: that there is one, that it is not encrypted, and what it says of lengths.
///
/// # Errors
/// `Data`; `Limit` if it is too long or names too many columns.
pub(super) fn footer(body: &Body) -> Result<()> {
    let size = body.bytes();
    let no_parquet =
        || data_error("it is not a Parquet file, or not all of one").with_hint("look at its last four bytes");
    let tail_start = size.checked_sub(TAIL_BYTES).ok_or_else(no_parquet)?;
    let tail = body.get_bytes(tail_start, TAIL_BYTES as usize).map_err(unreadable)?;
    let (length, magic) = tail.split_at(4);
    let encrypted = || {
        data_error("the file is encrypted, which is not read").with_hint("have it written without Parquet's encryption")
    };
    match magic {
        b"PAR1" => {}
        b"PARE" => return Err(encrypted()),
        _ => return Err(no_parquet()),
    }
    let length = u64::from(u32::from_le_bytes([length[0], length[1], length[2], length[3]]));
    let start = tail_start.checked_sub(length);
    let start = start.ok_or_else(|| damaged(&format!("a footer of {length} bytes in a file of {size}")))?;
    if length > FOOTER_BYTES_MAX {
        let message = format!("the footer has {length} bytes, more than the {FOOTER_BYTES_MAX} allowed");
        return Err(Error::new(ErrorKind::Limit, "decode body", message));
    }
    let bytes = body.get_bytes(start, length as usize).map_err(unreadable)?;
    let mut children = Vec::new();
    let mut is_encrypted = false;
    Cursor { bytes: &bytes, at: 0 }
        .structure(0, &mut |cursor, id, kind| match (id, kind) {
            (2, LIST) => {
                let (count, kind) = cursor.list()?;
                for _ in 0..count {
                    let mut own = 0;
                    if kind != STRUCTURE {
                        return None;
                    }
                    cursor.structure(1, &mut |cursor, id, kind| {
                        if id == 5 && kind == I32 {
                            own = cursor.zigzag()?;
                            return Some(true);
                        }
                        Some(false)
                    })?;
                    children.push(own);
                }
                Some(true)
            }
            (8, _) => {
                is_encrypted = true;
                Some(false)
            }
            _ => Some(false),
        })
        .ok_or_else(|| damaged("the footer is not readable"))?;
    if is_encrypted {
        return Err(encrypted());
    }
    tree(&children)
}

/// Checks that a schema's elements, with the number of their children each, are a tree that is not too deep.
fn tree(children: &[i64]) -> Result<()> {
    let mut open: Vec<i64> = Vec::new();
    for (place, own) in children.iter().enumerate() {
        while open.last() == Some(&0) {
            open.pop();
        }
        match open.last_mut() {
            Some(left) => *left -= 1,
            None if place > 0 => return Err(damaged("its schema has more than one root")),
            None => {}
        }
        if !(0..children.len() as i64).contains(own) {
            return Err(damaged(&format!("a column with {own} parts")));
        }
        if *own > 0 {
            open.push(*own);
        }
        if open.len() > DEPTH_MAX {
            let message = format!("columns are nested more than {DEPTH_MAX} deep");
            return Err(Error::new(ErrorKind::Limit, "decode body", message));
        }
    }
    Ok(())
}

/// Checks what the footer says of columns.
///
/// # Errors
/// `Data` for a codec that is not read, naming the column; `Limit` for too many columns.
pub(super) fn columns(metadata: &ParquetMetaData) -> Result<()> {
    let count = metadata.file_metadata().schema_descr().num_columns();
    if count > COLUMNS_MAX {
        let message = format!("the file has {count} columns, more than the {COLUMNS_MAX} allowed");
        return Err(Error::new(ErrorKind::Limit, "decode body", message));
    }
    for column in metadata.row_groups().iter().flat_map(RowGroupMetaData::columns) {
        use Compression as C;
        let codec = column.compression();
        if !matches!(codec, C::UNCOMPRESSED | C::SNAPPY | C::GZIP(_) | C::ZSTD(_) | C::LZ4 | C::LZ4_RAW) {
            let name = column.column_path().string();
            let codec = format!("{codec:?}");
            let codec = codec.split('(').next().unwrap_or_default();
            return Err(data_error(format!("column `{name}` is packed with {codec}, which is not read"))
                .with_hint("have it written with ZSTD, SNAPPY, GZIP, LZ4 or without compression"));
        }
    }
    Ok(())
}

/// Checks what the pages of a row group say of themselves.
///
/// # Errors
/// `Data`, naming the column.
pub(super) fn pages(body: &Body, group: &RowGroupMetaData) -> Result<()> {
    for column in group.columns() {
        chunk(body, column).map_err(|what| {
            let name = column.column_path().string();
            damaged(&format!("column `{name}`: {what}"))
        })?;
    }
    Ok(())
}

/// A page as its header has it.
#[derive(Default)]
struct Page {
    encoding: i64,
    unpacked: i64,
    packed: i64,
    values: i64,
    dictionary_values: Option<i64>,
}

fn chunk(body: &Body, column: &ColumnChunkMetaData) -> Result<(), String> {
    let begin = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
    if begin < 0 || column.data_page_offset() < 0 || column.compressed_size() < 0 || column.num_values() < 0 {
        return Err("a negative place or length".into());
    }
    let (mut at, length) = column.byte_range();
    let end = at.checked_add(length).filter(|end| *end <= body.bytes()).ok_or("its pages are beyond the file's end")?;
    let mut has_lengths = false;
    while at < end {
        let (header_bytes, page) = page(body, at, end).ok_or_else(|| format!("no page header at byte {at}"))?;
        at += header_bytes;
        let packed = u64::try_from(page.packed).ok().filter(|packed| *packed <= end - at);
        let packed = packed.ok_or_else(|| format!("a page of {} bytes at byte {at}", page.packed))?;
        if !(0..=PAGE_BYTES_MAX).contains(&page.unpacked) {
            return Err(format!("a page of {} bytes unpacked, more than {PAGE_BYTES_MAX}", page.unpacked));
        }
        if !(0..=column.num_values()).contains(&page.values) {
            return Err(format!("a page of {} values where the column has {}", page.values, column.num_values()));
        }
        let width = match column.column_type() {
            PhysicalType::INT64 | PhysicalType::DOUBLE => 8,
            PhysicalType::INT96 => 12,
            PhysicalType::FIXED_LEN_BYTE_ARRAY => i64::from(column.column_descr().type_length()).max(1),
            _ => 4,
        };
        if page.dictionary_values.is_some_and(|values| !(0..=page.unpacked / width).contains(&values)) {
            return Err(format!("a dictionary of {} bytes with {:?} values", page.unpacked, page.dictionary_values));
        }
        match column.compression() {
            Compression::GZIP(_) if packed > PACKED_BYTES_TRUSTED => gzip(body, at, packed, page.unpacked)?,
            Compression::LZ4 if packed > LZ4_BYTES_MAX => {
                return Err(format!("a page of LZ4 of {packed} bytes, more than {LZ4_BYTES_MAX}"));
            }
            _ => {}
        }
        at += packed;
        has_lengths |= [DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY].contains(&page.encoding);
    }
    if has_lengths { lengths(body, column) } else { Ok(()) }
}

/// Checks how many lengths pages of these encodings say that they have, which the reader keeps all at once.
fn lengths(body: &Body, column: &ColumnChunkMetaData) -> Result<(), String> {
    let pages =
        SerializedPageReader::new(Arc::new(body.clone()), column, 0, None).map_err(|error| error.to_string())?;
    for page in pages {
        let page = page.map_err(|error| error.to_string())?;
        let values = page.num_values();
        let (is_delta, bytes) = match &page {
            Unpacked::DataPage { buf, encoding, .. } => (
                [Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY].contains(encoding),
                behind_levels(buf, column),
            ),
            Unpacked::DataPageV2 { buf, encoding, def_levels_byte_len, rep_levels_byte_len, .. } => (
                [Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY].contains(encoding),
                buf.get(*def_levels_byte_len as usize + *rep_levels_byte_len as usize..),
            ),
            Unpacked::DictionaryPage { .. } => continue,
        };
        if !is_delta {
            continue;
        }
        let mut cursor = Cursor { bytes: bytes.ok_or("levels that end behind their page")?, at: 0 };
        let runs = if page.encoding() == Encoding::DELTA_BYTE_ARRAY { 2 } else { 1 };
        for _ in 0..runs {
            let count = cursor.deltas().ok_or("lengths that end behind their page")?;
            if count > u64::from(values).min(LENGTHS_MAX) {
                return Err(format!("a page of {values} values with {count} lengths"));
            }
        }
    }
    Ok(())
}

/// The values of a page of version 1, behind its levels, each with its length in front.
fn behind_levels<'b>(bytes: &'b [u8], column: &ColumnChunkMetaData) -> Option<&'b [u8]> {
    let mut rest = bytes;
    for level in [column.column_descr().max_rep_level(), column.column_descr().max_def_level()] {
        if level > 0 {
            let (length, behind) = rest.split_at_checked(4)?;
            rest = behind.get(u32::from_le_bytes(length.try_into().ok()?) as usize..)?;
        }
    }
    Some(rest)
}

/// The header at a place, and its length.
fn page(body: &Body, at: u64, end: u64) -> Option<(u64, Page)> {
    for most in [PAGE_HEADER_BYTES, PAGE_HEADER_BYTES_MAX] {
        let bytes = body.get_bytes(at, (end - at).min(most) as usize).ok()?;
        let mut cursor = Cursor { bytes: &bytes, at: 0 };
        let mut page = Page::default();
        let read = cursor.structure(0, &mut |cursor, id, kind| {
            match (id, kind) {
                (2, I32) => page.unpacked = cursor.zigzag()?,
                (3, I32) => page.packed = cursor.zigzag()?,
                (5 | 7 | 8, STRUCTURE) => {
                    let mut values = 0;
                    let encoding_field = match id {
                        5 => 2,
                        8 => 4,
                        _ => 0,
                    };
                    cursor.structure(1, &mut |cursor, field, kind| {
                        match (field, kind) {
                            (1, I32) => values = cursor.zigzag()?,
                            _ if field == encoding_field && kind == I32 => page.encoding = cursor.zigzag()?,
                            _ => return Some(false),
                        }
                        Some(true)
                    })?;
                    if id == 7 {
                        page.dictionary_values = Some(values);
                    } else {
                        page.values = values;
                    }
                }
                _ => return Some(false),
            }
            Some(true)
        });
        if read.is_some() {
            return Some((cursor.at as u64, page));
        }
    }
    None
}

/// Counts what a page unpacks to: the reader takes as much as there is, whatever the header says.
fn gzip(body: &Body, at: u64, packed: u64, unpacked: i64) -> Result<(), String> {
    let read = body.get_read(at).map_err(|error| error.to_string())?.take(packed);
    // The levels of a page of version 2 are not packed: what then is no gzip is unpacked by nobody here.
    let mut decoder = MultiGzDecoder::new(read).take(unpacked.unsigned_abs() + 1);
    let count = std::io::copy(&mut decoder, &mut std::io::sink()).unwrap_or_default();
    if count > unpacked.unsigned_abs() {
        return Err(format!("a page unpacks to more than the {unpacked} bytes that it says"));
    }
    Ok(())
}

const I32: u8 = 5;
const LIST: u8 = 9;
const STRUCTURE: u8 = 12;

/// Called at each field of a structure with its id and type; whether it has been read.
type Visit<'v, 'b> = dyn FnMut(&mut Cursor<'b>, i64, u8) -> Option<bool> + 'v;

/// A place in bytes of the compact protocol. `None`: they are not.
struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Cursor<'b> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn skip(&mut self, count: u64) -> Option<()> {
        let end = self.at.checked_add(usize::try_from(count).ok()?)?;
        self.at = Some(end).filter(|end| *end <= self.bytes.len())?;
        Some(())
    }

    /// Passes over numbers of the encoding DELTA_BINARY_PACKED; how many there are (Apache Parquet, "Encodings").
    fn deltas(&mut self) -> Option<u64> {
        let (block, blocks, count) = (self.varint()?, self.varint()?, self.varint()?);
        self.varint()?;
        let in_one = block.checked_div(blocks)?;
        let mut left = count.saturating_sub(1);
        while left > 0 && in_one > 0 {
            self.varint()?;
            let start = self.at;
            self.skip(blocks)?;
            for place in 0..usize::try_from(blocks).ok()? {
                if left == 0 {
                    break;
                }
                let width = u64::from(*self.bytes.get(start + place)?);
                self.skip(in_one.checked_mul(width)? / 8)?;
                left = left.saturating_sub(in_one);
            }
        }
        Some(count)
    }

    /// The head of a list: the number of its elements, each of which has at least a byte, and their type.
    fn list(&mut self) -> Option<(u64, u8)> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => self.varint()?,
            few => u64::from(few),
        };
        let most = (self.bytes.len() - self.at) as u64;
        let most = if head & 15 == STRUCTURE { most.min(STRUCTURES_MAX) } else { most };
        (count <= most).then_some((count, head & 15))
    }

    fn structure(&mut self, depth: usize, visit: &mut Visit<'_, 'b>) -> Option<()> {
        let mut id = 0_i64;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            id = match head >> 4 {
                0 => self.zigzag()?,
                difference => id.checked_add(i64::from(difference))?,
            };
            if !visit(self, id, head & 15)? {
                self.value(head & 15, depth)?;
            }
        }
    }

    /// Passes over a value. That of a boolean field is in its head.
    fn value(&mut self, kind: u8, depth: usize) -> Option<()> {
        if depth > THRIFT_DEPTH_MAX {
            return None;
        }
        match kind {
            1 | 2 => Some(()),
            3 => self.skip(1),
            4..=6 => self.varint().map(drop),
            7 => self.skip(8),
            8 => {
                let length = self.varint()?;
                self.skip(length)
            }
            LIST | 10 => {
                let (count, kind) = self.list()?;
                match kind {
                    // Whether they have bytes is seen in different ways: the reader's is that they have none, however many.
                    1 | 2 if count > 0 => None,
                    1..=3 => self.skip(count),
                    _ => (0..count).try_for_each(|_| self.value(kind, depth + 1)),
                }
            }
            // Parquet has no maps, and nothing that is left is a type.
            STRUCTURE => self.structure(depth + 1, &mut |_, _, _| Some(false)),
            _ => None,
        }
    }
}
