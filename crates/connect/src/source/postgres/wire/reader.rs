//! How the numbers and texts of a message are written.

pub(crate) use crate::relational::Malformed;

/// The protocol of these bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Message {}

/// The unread rest of a message.
pub(crate) type Reader<'a> = crate::relational::Reader<'a, Message>;

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) fn i16(&mut self) -> Result<i16, Malformed> {
        self.array().map(i16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// A value with its length in front; `None` for the length −1, which stands for NULL.
    #[inline]
    pub(crate) fn value(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.i32()? {
            -1 => Ok(None),
            length => match usize::try_from(length) {
                Ok(length) => self.take(length).map(Some),
                Err(_) => Err(Malformed("a length is negative")),
            },
        }
    }

    /// Text up to a NUL, which is consumed.
    pub(crate) fn text(&mut self) -> Result<String, Malformed> {
        let text = self.split_nul().ok_or(Malformed("a text without an end"))?;
        Ok(String::from_utf8_lossy(text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_malformed() {
        assert!(Reader::new(b"\0\0\0\x05ab").value().is_err());
        assert!(Reader::new(b"\xff\xff\xff\xfe").value().is_err());
        assert_eq!(Reader::new(b"\xff\xff\xff\xff").value(), Ok(None));
        assert_eq!(Reader::new(b"\0\0\0\x02ab").value(), Ok(Some(&b"ab"[..])));
        assert!(Reader::new(b"ab").text().is_err());
        assert_eq!(Reader::new(b"ab\0c").text().as_deref(), Ok("ab"));
    }
}
