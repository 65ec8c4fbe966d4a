//! The packets of the client/server protocol, as values.
//!
//! Follows "Client/Server Protocol" of the MySQL internals manual and its MariaDB dialect (extended capabilities and
//! extended column metadata).

use super::reader::{Malformed, Reader};
use crate::relational::Named;

/// Capability flags (`CLIENT_…`) that are used here.
pub(crate) mod capability {
    /// Set by MySQL, not set by MariaDB, whose own capabilities then follow.
    pub(crate) const MYSQL: u32 = 1;
    pub(crate) const LONG_FLAG: u32 = 1 << 2;
    pub(crate) const CONNECT_WITH_DATABASE: u32 = 1 << 3;
    pub(crate) const PROTOCOL_41: u32 = 1 << 9;
    pub(crate) const TLS: u32 = 1 << 11;
    pub(crate) const TRANSACTIONS: u32 = 1 << 13;
    pub(crate) const SECURE_CONNECTION: u32 = 1 << 15;
    pub(crate) const PLUGIN_AUTHENTICATION: u32 = 1 << 19;
    pub(crate) const CONNECT_ATTRIBUTES: u32 = 1 << 20;
    pub(crate) const AUTHENTICATION_DATA_LENGTH_ENCODED: u32 = 1 << 21;
    pub(crate) const DEPRECATE_EOF: u32 = 1 << 24;
    /// MariaDB's own capabilities, in a word of their own: types beyond MySQL's are named in column definitions.
    pub(crate) const MARIADB_EXTENDED_METADATA: u32 = 1 << 3;
}

/// Column flags that are used here.
pub(crate) mod column_flag {
    pub(crate) const NOT_NULL: u16 = 1;
    pub(crate) const PRIMARY_KEY: u16 = 2;
    pub(crate) const UNSIGNED: u16 = 32;
    pub(crate) const ENUM: u16 = 256;
    pub(crate) const SET: u16 = 2048;
}

/// Column types as they stand on the wire.
pub mod column_type {
    #![expect(missing_docs, reason = "the names are those of the protocol's own table")]
    pub const DECIMAL: u8 = 0;
    pub const TINY: u8 = 1;
    pub const SHORT: u8 = 2;
    pub const LONG: u8 = 3;
    pub const FLOAT: u8 = 4;
    pub const DOUBLE: u8 = 5;
    pub const NULL: u8 = 6;
    pub const TIMESTAMP: u8 = 7;
    pub const LONGLONG: u8 = 8;
    pub const INT24: u8 = 9;
    pub const DATE: u8 = 10;
    pub const TIME: u8 = 11;
    pub const DATETIME: u8 = 12;
    pub const YEAR: u8 = 13;
    pub const VARCHAR: u8 = 15;
    pub const BIT: u8 = 16;
    pub const VECTOR: u8 = 242;
    pub const JSON: u8 = 245;
    pub const NEWDECIMAL: u8 = 246;
    pub const ENUM: u8 = 247;
    pub const SET: u8 = 248;
    pub const TINY_BLOB: u8 = 249;
    pub const MEDIUM_BLOB: u8 = 250;
    pub const LONG_BLOB: u8 = 251;
    pub const BLOB: u8 = 252;
    pub const VAR_STRING: u8 = 253;
    pub const STRING: u8 = 254;
    pub const GEOMETRY: u8 = 255;
}

/// The character set number of bytes that are not text.
pub(crate) const BINARY_CHARACTER_SET: u16 = 63;
/// `utf8mb4_general_ci`: known to every server since MySQL 5.5 and MariaDB 5.5.
pub(crate) const CONNECTION_CHARACTER_SET: u8 = 45;

/// The challenge of every method that ends it with a NUL.
const CHALLENGE_BYTES: usize = 20;

/// The challenge in a greeting or a request to switch methods: 20 bytes and a NUL that ends them. One of another length
/// (MariaDB's ed25519 sends 32 random bytes) has no such NUL, though its last byte may be 0.
pub(crate) fn challenge(data: &[u8]) -> &[u8] {
    match data {
        [challenge @ .., 0] if challenge.len() == CHALLENGE_BYTES => challenge,
        _ => data,
    }
}

/// The server's first packet (protocol version 10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) version: String,
    pub(crate) thread_id: u32,
    pub(crate) capabilities: u32,
    pub(crate) mariadb_capabilities: u32,
    pub(crate) nonce: Vec<u8>,
    pub(crate) plugin: String,
}

impl Greeting {
    pub(crate) fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(packet);
        if reader.u8()? != 10 {
            return Err(Malformed("not a greeting of protocol version 10"));
        }
        let version = String::from_utf8_lossy(reader.until_nul()).into_owned();
        let thread_id = reader.u32()?;
        let mut nonce = reader.take(8)?.to_vec();
        reader.u8()?;
        let low = reader.u16()?;
        reader.take(3)?; // default character set, status
        let capabilities = u32::from(low) | u32::from(reader.u16()?) << 16;
        let nonce_length = usize::from(reader.u8()?);
        reader.take(6)?;
        let reserved = reader.u32()?;
        let mariadb_capabilities = if capabilities & capability::MYSQL == 0 { reserved } else { 0 };
        if capabilities & capability::SECURE_CONNECTION != 0 {
            nonce.extend_from_slice(reader.take(nonce_length.saturating_sub(8).max(13))?);
            nonce.truncate(challenge(&nonce).len());
        }
        let plugin = String::from_utf8_lossy(reader.until_nul()).into_owned();
        Ok(Self { version, thread_id, capabilities, mariadb_capabilities, nonce, plugin })
    }

    /// The version as people know it: MariaDB puts `5.5.5-` before its own for the sake of old clients.
    pub(crate) fn display_version(&self) -> &str {
        match self.version.strip_prefix("5.5.5-") {
            Some(rest) if rest.contains("MariaDB") => rest,
            _ => &self.version,
        }
    }
}

/// An error packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerError {
    pub(crate) code: u16,
    pub(crate) state: String,
    pub(crate) message: String,
}

impl ServerError {
    /// Reads a packet that begins with 0xFF.
    pub(crate) fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(packet);
        if reader.u8()? != 0xFF {
            return Err(Malformed("not an error packet"));
        }
        let code = reader.u16()?;
        // Before the capabilities are settled the state is left out.
        let state = match reader.rest().first() {
            Some(b'#') => String::from_utf8_lossy(&reader.take(6)?[1..]).into_owned(),
            _ => String::new(),
        };
        Ok(Self { code, state, message: String::from_utf8_lossy(reader.rest()).into_owned() })
    }
}

/// What the server says about one column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The column's name or alias.
    pub name: String,
    /// Its type, one of [`column_type`].
    pub column_type: u8,
    /// Its character set's number; 63 for bytes.
    pub character_set: u16,
    /// Its display length in bytes.
    pub length: u32,
    /// Its flags.
    pub flags: u16,
    /// Digits after the point.
    pub decimals: u8,
    /// A type or format that only MariaDB has (`json`, `uuid`, `inet6`, `point` …).
    pub extended_type: Option<String>,
}

impl Named for Column {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Column {
    /// Reads a column definition; `extended` if MariaDB's extended metadata was agreed on.
    ///
    /// # Errors
    /// The packet ends too early or a name is not UTF-8.
    pub fn parse(packet: &[u8], extended: bool) -> Result<Self, Malformed> {
        let mut reader = Reader::new(packet);
        for _catalog_schema_table_original in 0..4 {
            reader.bytes()?;
        }
        let name = std::str::from_utf8(reader.bytes()?).map_err(|_| Malformed("a column name is not UTF-8"))?;
        reader.bytes()?; // original name
        let mut extended_type = None;
        if extended {
            let mut chunks = Reader::new(reader.bytes()?);
            while !chunks.is_empty() {
                chunks.u8()?; // 0: type, 1: format
                extended_type = Some(String::from_utf8_lossy(chunks.bytes()?).into_owned());
            }
        }
        reader.length()?; // of the fixed fields
        Ok(Self {
            name: name.to_owned(),
            character_set: reader.u16()?,
            length: reader.u32()?,
            column_type: reader.u8()?,
            flags: reader.u16()?,
            decimals: reader.u8()?,
            extended_type,
        })
    }

    pub(crate) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// The answer to a request to prepare a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prepared {
    pub(crate) id: u32,
    pub(crate) columns: u16,
    pub(crate) parameters: u16,
}

impl Prepared {
    pub(crate) fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(packet);
        if reader.u8()? != 0 {
            return Err(Malformed("not an answer to a request to prepare"));
        }
        Ok(Self { id: reader.u32()?, columns: reader.u16()?, parameters: reader.u16()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_greeting_of_mariadb() {
        let mut packet = b"\x0a5.5.5-10.11.19-MariaDB\0\x09\0\0\0ABCDEFGH\0\xfe\xf7\x2d\x02\0\xff\x81\x15".to_vec();
        packet.extend_from_slice(&[0; 6]);
        packet.extend_from_slice(&[0x0d, 0, 0, 0]);
        packet.extend_from_slice(b"IJKLMNOPQRST\0mysql_native_password\0");
        let greeting = Greeting::parse(&packet).unwrap();
        assert_eq!(greeting.display_version(), "10.11.19-MariaDB");
        assert_eq!(greeting.nonce, b"ABCDEFGHIJKLMNOPQRST");
        assert_eq!(greeting.plugin, "mysql_native_password");
        assert_eq!((greeting.thread_id, greeting.mariadb_capabilities), (9, 0x0d));
        assert_eq!(greeting.capabilities & capability::MYSQL, 0);
    }

    #[test]
    fn a_challenge_loses_its_final_nul_and_no_byte_of_its_own() {
        let mut ed25519 = [7; 32];
        ed25519[31] = 0;
        assert_eq!(challenge(&ed25519), ed25519);
        let native = [7; 20];
        assert_eq!(challenge(&[&native[..], &[0]].concat()), native);
        assert_eq!(challenge(&native), native);
        assert_eq!(challenge(&[]), [0; 0]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..96), extended: bool) {
            let _ = Greeting::parse(&bytes);
            let _ = ServerError::parse(&bytes);
            let _ = Column::parse(&bytes, extended);
            let _ = Prepared::parse(&bytes);
        }
    }
}
