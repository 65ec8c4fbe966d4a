//! What a server's first bytes look like, for errors that say more than "not HTTP".

/// Names the protocol that `bytes`, the first that a server sent, look like.
pub fn describe(bytes: &[u8]) -> Option<&'static str> {
    let starts = |prefix: &[u8]| bytes.starts_with(prefix);
    let name = match bytes {
        [] => return None,
        [0x15, 0x03, ..] => "a TLS alert",
        [0x16, 0x03, ..] => "a TLS handshake",
        [_, _, 0, 0, 0x0a, ..] => "a MySQL greeting",
        [_, _, 0, 0, 0xff, ..] => "a MySQL error",
        [0, 0, _, 0x04, _, 0, 0, 0, 0, ..] => "HTTP/2 settings",
        _ if starts(b"SSH-") => "an SSH banner",
        _ if starts(b"HTTP/") => "an HTTP answer",
        _ if starts(b"220") => "an FTP or mail server's greeting",
        _ if starts(b"-ERR") || starts(b"-NOAUTH") || starts(b"-DENIED") => "a Redis error",
        _ if starts(b"+OK") => "a POP3 or Redis answer",
        _ if starts(b"* OK") => "an IMAP greeting",
        _ if starts(b"RFB ") => "a VNC greeting",
        _ if starts(b"AMQP") => "an AMQP header",
        _ if starts(b"INFO {") => "a NATS greeting",
        [b'E', 0, 0, _, _, b'S', ..] => "a PostgreSQL error",
        _ if starts(b"<") => "markup without HTTP in front of it",
        _ => return None,
    };
    Some(name)
}

/// The first bytes for people: printable ones as they are, the others as `\xNN`.
pub fn shown(bytes: &[u8]) -> String {
    bytes.iter().take(32).flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_greetings() {
        assert_eq!(describe(b"J\0\0\0\n5.5.5-10.11.6-MariaDB"), Some("a MySQL greeting"));
        assert_eq!(describe(b"SSH-2.0-OpenSSH_9.2"), Some("an SSH banner"));
        assert_eq!(describe(&[0x15, 3, 3, 0, 2, 2, 0x46]), Some("a TLS alert"));
        assert_eq!(describe(b"220 (vsFTPd 3.0.3)"), Some("an FTP or mail server's greeting"));
        assert_eq!(describe(b""), None);
        assert_eq!(describe(b"????"), None);
        assert_eq!(shown(b"a\x00\r\n"), "a\\x00\\r\\n");
    }
}
