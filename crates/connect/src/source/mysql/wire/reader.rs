//! How the numbers and texts of a packet are written.

pub(crate) use crate::relational::Malformed;

/// The protocol of these bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Packet {}

/// The unread rest of a packet.
pub(crate) type Reader<'a> = crate::relational::Reader<'a, Packet>;

impl<'a> Reader<'a> {
    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    /// A length-encoded integer; `None` for the byte 0xFB, which stands for NULL in text rows.
    #[inline]
    pub(crate) fn length_or_null(&mut self) -> Result<Option<u64>, Malformed> {
        Ok(Some(match self.u8()? {
            byte @ 0..=0xFA => u64::from(byte),
            0xFB => return Ok(None),
            0xFC => u64::from(self.u16()?),
            0xFD => {
                let [a, b, c] = self.array()?;
                u64::from(u32::from_le_bytes([a, b, c, 0]))
            }
            0xFE => u64::from_le_bytes(self.array()?),
            0xFF => return Err(Malformed("0xFF is not a length")),
        }))
    }

    #[inline]
    pub(crate) fn length(&mut self) -> Result<u64, Malformed> {
        self.length_or_null()?.ok_or(Malformed("NULL where a length belongs"))
    }

    /// A length-encoded string.
    #[inline]
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.length()?;
        self.take(usize::try_from(length).map_err(|_| Malformed("a length beyond memory"))?)
    }

    /// A length-encoded string or NULL, as in text rows.
    pub(crate) fn bytes_or_null(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.length_or_null()? {
            None => Ok(None),
            Some(length) => {
                self.take(usize::try_from(length).map_err(|_| Malformed("a length beyond memory"))?).map(Some)
            }
        }
    }

    /// Bytes up to a NUL, which is consumed; up to the end where there is none.
    pub(crate) fn until_nul(&mut self) -> &'a [u8] {
        match self.split_nul() {
            Some(head) => head,
            None => self.take(self.rest().len()).unwrap_or_default(),
        }
    }
}

/// Appends a length-encoded integer.
pub(crate) fn put_length(out: &mut Vec<u8>, length: u64) {
    match length {
        0..=0xFA => out.push(length as u8),
        0xFB..=0xFFFF => {
            out.push(0xFC);
            out.extend_from_slice(&(length as u16).to_le_bytes());
        }
        0x1_0000..=0xFF_FFFF => {
            out.push(0xFD);
            out.extend_from_slice(&(length as u32).to_le_bytes()[..3]);
        }
        _ => {
            out.push(0xFE);
            out.extend_from_slice(&length.to_le_bytes());
        }
    }
}

/// Appends a length-encoded string.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_round_trip() {
        for length in [0, 1, 0xFA, 0xFB, 0xFC, 0xFFFF, 0x1_0000, 0xFF_FFFF, 0x100_0000, u64::MAX] {
            let mut bytes = Vec::new();
            put_length(&mut bytes, length);
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.length(), Ok(length));
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn a_length_beyond_the_packet_is_malformed() {
        for bytes in
            [&[5u8, 1, 2][..], &[0xFE, 255, 255, 255, 255, 255, 255, 255, 255], &[0xFF], &[0xFB], &[0xFC, 1], &[]]
        {
            assert!(Reader::new(bytes).bytes().is_err(), "{bytes:?}");
        }
        assert_eq!(Reader::new(b"ab\0c").until_nul(), b"ab");
        assert_eq!(Reader::new(b"ab").until_nul(), b"ab");
    }
}
