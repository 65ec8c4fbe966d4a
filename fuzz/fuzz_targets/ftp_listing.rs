//! Any reply and any line of a listing of an FTP server: entries that stay in their folder, replies within their bounds,
//! however the bytes are cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portolan_connect::source::ftp::listing::{NAME_BYTES_MAX, check_name, parse_list, parse_mlsd};
use portolan_connect::source::ftp::reply::{
    Features, Malformed, Reply, ReplyParser, extended_passive_port, modify_time, passive_address,
};

fn replies(bytes: &[u8], step: usize) -> (Vec<Reply>, Option<Malformed>) {
    let mut parser = ReplyParser::default();
    let mut replies = Vec::new();
    for piece in bytes.chunks(step) {
        parser.push(piece);
        loop {
            match parser.next_reply() {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => break,
                Err(malformed) => return (replies, Some(malformed)),
            }
        }
    }
    (replies, None)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, bytes) = input;
    for line in bytes.split(|byte| *byte == b'\n') {
        for parsed in [parse_list(line), parse_mlsd(line)] {
            if let Ok(Some(entry)) = parsed {
                let name = entry.name.as_str();
                assert!(check_name(name.as_bytes()).is_ok_and(|checked| checked == name));
                assert!(!name.contains('/') && name != ".." && name != "." && !name.is_empty());
                assert!(name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control));
                assert!(entry.modify.is_none_or(|time| modify_time(&time).as_deref() == Some(time.as_str())));
            }
        }
    }
    // However the network cuts them, the replies are the same.
    let (whole, refused) = replies(bytes, bytes.len().max(1));
    let (pieces, refused_in_pieces) = replies(bytes, usize::from(kind % 7) + 1);
    assert_eq!((&whole, refused), (&pieces, refused_in_pieces));
    for reply in &whole {
        assert!((100..700).contains(&reply.code) && !reply.lines.is_empty() && reply.lines.len() <= 1_001);
        let text = reply.text();
        assert!(!text.chars().any(char::is_control));
        assert!(extended_passive_port(&text) != Some(0));
        assert!(passive_address(&text).is_none_or(|(_, port)| port != 0));
        let _ = Features::of(reply);
    }
});
