//! What a server says, beside rows.

use super::reader::{Malformed, Reader};
use crate::relational::Named;

/// The most columns of one row that PostgreSQL knows (`MaxTupleAttributeNumber`).
const COLUMNS_MAX: usize = 1_664;

/// The first bytes of messages.
pub(crate) mod tag {
    pub(crate) const AUTHENTICATION: u8 = b'R';
    pub(crate) const BACKEND_KEY: u8 = b'K';
    pub(crate) const BIND_COMPLETE: u8 = b'2';
    pub(crate) const CLOSE_COMPLETE: u8 = b'3';
    pub(crate) const COMMAND_COMPLETE: u8 = b'C';
    pub(crate) const COPY_DATA: u8 = b'd';
    pub(crate) const COPY_DONE: u8 = b'c';
    pub(crate) const COPY_OUT: u8 = b'H';
    pub(crate) const DATA_ROW: u8 = b'D';
    pub(crate) const EMPTY_QUERY: u8 = b'I';
    pub(crate) const ERROR: u8 = b'E';
    pub(crate) const NEGOTIATE_VERSION: u8 = b'v';
    pub(crate) const NO_DATA: u8 = b'n';
    pub(crate) const NOTICE: u8 = b'N';
    pub(crate) const NOTIFICATION: u8 = b'A';
    pub(crate) const PARAMETER_DESCRIPTION: u8 = b't';
    pub(crate) const PARAMETER_STATUS: u8 = b'S';
    pub(crate) const PARSE_COMPLETE: u8 = b'1';
    pub(crate) const READY: u8 = b'Z';
    pub(crate) const ROW_DESCRIPTION: u8 = b'T';
}

/// A column of a result. Of a domain the server tells the type beneath it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The table it comes from, 0 if none.
    pub table: u32,
    /// Its number there, 0 if none.
    pub attribute: i16,
    /// The type's number.
    pub type_id: u32,
    /// What narrows the type, such as the digits of a `numeric`; −1 if nothing does.
    pub modifier: i32,
}

impl Named for Column {
    fn name(&self) -> &str {
        &self.name
    }
}

/// The columns of a RowDescription.
pub(crate) fn columns(message: &[u8]) -> Result<Vec<Column>, Malformed> {
    let mut reader = Reader::new(message);
    let count = usize::try_from(reader.i16()?).ok().filter(|count| *count <= COLUMNS_MAX);
    let count = count.ok_or(Malformed("an absurd number of columns"))?;
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        let name = reader.text()?;
        let (table, attribute, type_id) = (reader.u32()?, reader.i16()?, reader.u32()?);
        let _length = reader.i16()?;
        let modifier = reader.i32()?;
        let _format = reader.i16()?;
        columns.push(Column { name, table, attribute, type_id, modifier });
    }
    if reader.is_empty() { Ok(columns) } else { Err(Malformed("a description goes on after its last column")) }
}

/// The values of a DataRow, as text.
pub(crate) fn row(message: &[u8]) -> Result<Vec<Option<String>>, Malformed> {
    let mut reader = Reader::new(message);
    let count = reader.i16()?;
    (0..count).map(|_| Ok(reader.value()?.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))).collect()
}

/// An error or a notice of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerError {
    /// SQLSTATE.
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) detail: Option<String>,
    pub(crate) hint: Option<String>,
    /// The function of the server that says so: the same in every language.
    pub(crate) routine: String,
}

impl ServerError {
    pub(crate) fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(message);
        let mut error = Self::default();
        loop {
            match reader.u8()? {
                0 => return Ok(error),
                b'C' => error.code = reader.text()?,
                b'M' => error.message = reader.text()?,
                b'D' => error.detail = Some(reader.text()?),
                b'H' => error.hint = Some(reader.text()?),
                b'R' => error.routine = reader.text()?,
                _ => drop(reader.text()?),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_and_errors_are_read() {
        let message = b"\0\x01id\0\0\0\0\x07\0\x01\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";
        let column = Column { name: "id".into(), table: 7, attribute: 1, type_id: 23, modifier: -1 };
        assert_eq!(columns(message), Ok(vec![column]));
        assert!(columns(&message[..20]).is_err());
        assert!(columns(b"\x7f\xff").is_err());
        let error = ServerError::parse(b"SERROR\0C42P01\0Mno such\0Rparser\0\0").unwrap();
        assert_eq!((error.code.as_str(), error.message.as_str()), ("42P01", "no such"));
        assert!(ServerError::parse(b"C42").is_err());
    }
}
