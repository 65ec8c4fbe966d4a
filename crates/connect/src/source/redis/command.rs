//! Commands as a server of RESP reads them. Promise: a part may hold any bytes.

/// Writes a command as the protocol has it: an array of bulk strings.
pub fn write_command(parts: &[&[u8]], out: &mut Vec<u8>) {
    let number = |mark: u8, count: usize, out: &mut Vec<u8>| {
        out.push(mark);
        out.extend_from_slice(count.to_string().as_bytes());
        out.extend_from_slice(b"\r\n");
    };
    number(b'*', parts.len(), out);
    for part in parts {
        number(b'$', part.len(), out);
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}
