//! The bytes of a file, in memory or on disk, as the Parquet reader asks for them.
//!
//! Promise: no more memory is reserved than the bytes asked for that are there.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

/// Where the bytes are.
#[derive(Clone, Debug)]
pub enum Body {
    /// In memory.
    Memory(Bytes),
    /// On disk: the file and its length in bytes.
    File(Arc<File>, u64),
}

impl Body {
    /// How many bytes there are.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, bytes) => *bytes,
        }
    }

    fn read_at(&self, start: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Memory(bytes) => {
                let start = usize::try_from(start).unwrap_or(usize::MAX).min(bytes.len());
                let count = buffer.len().min(bytes.len() - start);
                buffer[..count].copy_from_slice(&bytes[start..start + count]);
                Ok(count)
            }
            Self::File(file, _) => file.read_at(buffer, start),
        }
    }
}

impl Length for Body {
    fn len(&self) -> u64 {
        self.bytes()
    }
}

impl ChunkReader for Body {
    type T = BufReader<Chunk>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(BufReader::new(Chunk { body: self.clone(), offset: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let beyond = || ParquetError::EOF(format!("bytes {start} to {start}+{length} of {}", self.bytes()));
        let end = start.checked_add(length as u64).filter(|end| *end <= self.bytes()).ok_or_else(beyond)?;
        match self {
            // Both are no more than the length of what is in memory.
            Self::Memory(bytes) => Ok(bytes.slice(start as usize..end as usize)),
            Self::File(file, _) => {
                let mut buffer = vec![0; length];
                file.read_exact_at(&mut buffer, start)?;
                Ok(buffer.into())
            }
        }
    }
}

/// The bytes from an offset on.
#[derive(Debug)]
pub struct Chunk {
    body: Body,
    offset: u64,
}

impl Read for Chunk {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.body.read_at(self.offset, buffer)?;
        // The reader asks for what it needs, and takes nothing for any number of bytes: a list of values that are not there
        // would be passed over one by one.
        if count == 0 && !buffer.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += count as u64;
        Ok(count)
    }
}
