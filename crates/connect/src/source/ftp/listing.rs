//! Listings of a folder: the facts of MLSD (RFC 3659, section 7) and the two dialects in which LIST is written.
//!
//! Promise: pure functions of the bytes; no input panics; a name that is given on is one name within its folder, of
//! UTF-8 without control characters.

use super::reply::modify_time;

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 1_024;

/// What an entry of a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link: what it leads to is not said.
    Link,
    /// A device, a socket, a pipe.
    Other,
}

/// One entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name within the folder.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its size in bytes, where the listing tells it.
    pub size: Option<u64>,
    /// When it was changed, as RFC 3659 writes it; LIST does not tell it precisely enough.
    pub modify: Option<String>,
}

/// An entry that is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its name is none that a file within this folder can have; why.
    Name(&'static str),
    /// The line is in no dialect known here.
    Line,
}

/// Reads one line of MLSD. `None`: the folder itself, or the one above it.
///
/// # Errors
/// The entry is not taken.
pub fn parse_mlsd(line: &[u8]) -> Result<Option<Entry>, Refused> {
    let space = line.iter().position(|byte| *byte == b' ').ok_or(Refused::Line)?;
    let facts = std::str::from_utf8(&line[..space]).map_err(|_| Refused::Line)?;
    let mut kind = None;
    let (mut size, mut modify) = (None, None);
    for fact in facts.split(';').filter(|fact| !fact.is_empty()) {
        let (name, value) = fact.split_once('=').ok_or(Refused::Line)?;
        match name.to_ascii_lowercase().as_str() {
            "type" => {
                let value = value.to_ascii_lowercase();
                kind = Some(match value.as_str() {
                    "file" => Kind::File,
                    "dir" => Kind::Folder,
                    "cdir" | "pdir" => return Ok(None),
                    _ if value.contains("link") => Kind::Link,
                    _ => Kind::Other,
                });
            }
            "size" => size = value.parse().ok(),
            "modify" => modify = modify_time(value),
            _ => {}
        }
    }
    // Facts are optional: what has a size is a file.
    let kind = kind.unwrap_or(if size.is_some() { Kind::File } else { Kind::Other });
    let name = &line[space + 1..];
    if matches!(name, b"." | b"..") {
        return Ok(None);
    }
    Ok(Some(Entry { name: check_name(name).map_err(Refused::Name)?, kind, size, modify }))
}

/// Reads one line of LIST, as Unix servers or as DOS servers write it. `None`: no entry (`total 8`, the folder itself).
///
/// # Errors
/// The entry is not taken.
pub fn parse_list(line: &[u8]) -> Result<Option<Entry>, Refused> {
    if line.iter().all(u8::is_ascii_whitespace) || line.starts_with(b"total ") {
        return Ok(None);
    }
    let (name, kind, size) = match line[0] {
        b'-' | b'd' | b'l' | b'b' | b'c' | b'p' | b's' => unix(line),
        b'0'..=b'9' => dos(line),
        _ => None,
    }
    .ok_or(Refused::Line)?;
    if matches!(name, b"." | b"..") {
        return Ok(None);
    }
    let name = check_name(name).map_err(Refused::Name)?;
    Ok(Some(Entry { name, kind, size, modify: None }))
}

/// The name of an entry, if it is one name within its folder.
///
/// # Errors
/// Why it is not.
pub fn check_name(name: &[u8]) -> Result<String, &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > NAME_BYTES_MAX {
        return Err("it is longer than 1024 bytes");
    }
    if matches!(name, b"." | b"..") {
        return Err("it leads out of its folder");
    }
    if name.contains(&b'/') {
        return Err("it holds a `/`");
    }
    let text = std::str::from_utf8(name).map_err(|_| "it is not UTF-8")?;
    if text.chars().any(char::is_control) {
        return Err("it holds a control character");
    }
    Ok(text.to_owned())
}

type Parts<'l> = (&'l [u8], Kind, Option<u64>);

/// `-rw-r--r--  1 owner group  1234 Nov 23 07:50 name`: owner and group may be missing or hold spaces, so the date is
/// looked for, with the size before and the name behind it.
fn unix(line: &[u8]) -> Option<Parts<'_>> {
    let kind = match line[0] {
        b'-' => Kind::File,
        b'd' => Kind::Folder,
        b'l' => Kind::Link,
        _ => Kind::Other,
    };
    let words = words(line);
    // The fewest words before a date: rights, size.
    let (size, end) = (2..words.len()).find_map(|at| {
        let size = number(words[at - 1].0)?;
        let word = |offset: usize| words.get(at + offset).map(|word| word.0);
        let (first, second) = (word(0)?, word(1)?);
        let end = if is_date(first) && is_clock(second) {
            words[at + 1].1
        } else {
            let is_day_of_month = (is_month(first) && is_day(second)) || (is_day(first) && is_month(second));
            let third = word(2)?;
            if !is_day_of_month || !(is_clock(third) || is_year(third)) {
                return None;
            }
            words[at + 2].1
        };
        Some((size, end))
    })?;
    // One space, then the name with whatever spaces it has.
    let mut name = line.get(end + 1..).filter(|name| !name.is_empty())?;
    if kind == Kind::Link {
        let arrow = name.windows(4).position(|window| window == b" -> ");
        name = &name[..arrow.unwrap_or(name.len())];
    }
    Some((name, kind, (kind == Kind::File).then_some(size)))
}

/// `11-23-26  07:50AM  <DIR>  name` and `11-23-2026  19:50  1234 name`.
fn dos(line: &[u8]) -> Option<Parts<'_>> {
    let words = words(line);
    let (date, clock, what) = (words.first()?.0, words.get(1)?.0, words.get(2)?);
    if !is_date(date) || !is_clock(clock) {
        return None;
    }
    let (kind, size) = match what.0 {
        b"<DIR>" => (Kind::Folder, None),
        b"<JUNCTION>" | b"<SYMLINK>" | b"<SYMLINKD>" => (Kind::Link, None),
        digits => (Kind::File, Some(number(digits)?)),
    };
    let rest = line.get(what.1 + 1..)?;
    Some((rest.trim_ascii_start(), kind, size))
}

/// The words of a line, each with the place behind it.
fn words(line: &[u8]) -> Vec<(&[u8], usize)> {
    let mut words = Vec::new();
    let mut start = None;
    for (index, byte) in line.iter().chain(b" ").enumerate() {
        match (*byte == b' ', start) {
            (true, Some(from)) => {
                words.push((&line[from..index], index));
                start = None;
            }
            (false, None) => start = Some(index),
            _ => {}
        }
    }
    words
}

fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

fn is_month(word: &[u8]) -> bool {
    const MONTHS: [&[u8]; 12] =
        [b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"];
    MONTHS.contains(&word.to_ascii_lowercase().as_slice())
}

fn is_day(word: &[u8]) -> bool {
    word.len() <= 2 && number(word).is_some_and(|day| (1..=31).contains(&day))
}

fn is_year(word: &[u8]) -> bool {
    word.len() == 4 && number(word).is_some()
}

/// `07:50`, `07:50:04`, `07:50AM`.
fn is_clock(word: &[u8]) -> bool {
    let word = word.strip_suffix(b"AM").or_else(|| word.strip_suffix(b"PM")).unwrap_or(word);
    let parts: Vec<&[u8]> = word.split(|byte| *byte == b':').collect();
    matches!(parts.len(), 2 | 3) && parts.iter().all(|part| matches!(part.len(), 1 | 2) && number(part).is_some())
}

/// `2026-11-23`, `11-23-26`, `11-23-2026`.
fn is_date(word: &[u8]) -> bool {
    let parts: Vec<&[u8]> = word.split(|byte| *byte == b'-').collect();
    parts.len() == 3 && parts.iter().all(|part| matches!(part.len(), 2 | 4) && number(part).is_some())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(name: &str, kind: Kind, size: Option<u64>, modify: Option<&str>) -> Option<Entry> {
        Some(Entry { name: name.into(), kind, size, modify: modify.map(str::to_owned) })
    }

    #[test]
    fn facts() {
        let parse = |line: &str| parse_mlsd(line.as_bytes()).unwrap();
        let time = Some("20261123080021");
        assert_eq!(
            parse("type=file;size=16;modify=20261123080021;UNIX.mode=0644;unique=fe00g98c13a; a b;c.csv"),
            entry("a b;c.csv", Kind::File, Some(16), time)
        );
        assert_eq!(parse("Type=dir;Modify=20261123080021; x"), entry("x", Kind::Folder, None, time));
        assert_eq!(parse("type=OS.unix=slink:/etc; x"), entry("x", Kind::Link, None, None));
        assert_eq!(parse("size=1; x"), entry("x", Kind::File, Some(1), None));
        assert_eq!(parse(" x"), entry("x", Kind::Other, None, None));
        for none in ["type=cdir;sizd=4096; .", "type=pdir; ..", "type=cdir; /out", "type=dir; .."] {
            assert_eq!(parse(none), None, "{none}");
        }
        assert_eq!(parse_mlsd(b"nonsense"), Err(Refused::Line));
        for name in ["a/b", "../a", "a\tb", "", "a\u{85}b"] {
            let line = format!("type=file;size=1; {name}");
            assert!(matches!(parse_mlsd(line.as_bytes()), Err(Refused::Name(_))), "{name:?}");
        }
        assert!(matches!(parse_mlsd(b"type=file; a\xff"), Err(Refused::Name(_))));
    }

    #[test]
    fn dialects_of_list() {
        let file = |name: &str, size| entry(name, Kind::File, Some(size), None);
        let folder = |name: &str| entry(name, Kind::Folder, None, None);
        for (line, expected) in [
            ("-rw-r--r--    1 65534    nogroup            16 Nov 23 08:00 a.csv", file("a.csv", 16)),
            (
                "-rw-r--r--    1 65534    65534       123456789012 Nov 23  2025  two  spaces.csv",
                file(" two  spaces.csv", 123_456_789_012),
            ),
            ("-rw-rw-rw-   1 Domain Users group 0 7 Jan  1 09:05 x", file("x", 7)),
            ("-rw-r--r-- 1 owner 12 May 1 00:01 May 2 00:02 x", file("May 2 00:02 x", 12)),
            ("-rw-r--r-- 1 root root 12 2026-11-23 08:00 iso.json", file("iso.json", 12)),
            ("-rw-r--r-- 1 root 12 23 nov 2025 day-first", file("day-first", 12)),
            ("drwxr-xr-x    2 0 0 4096 Nov 23 08:00 out", folder("out")),
            ("lrwxrwxrwx 1 root root 4 Nov 23 08:00 last.csv -> a.csv", entry("last.csv", Kind::Link, None, None)),
            ("crw-rw-rw- 1 root root 1, 3 Nov 23 08:00 null", entry("null", Kind::Other, None, None)),
            ("11-23-26  07:50AM       <DIR>          out", folder("out")),
            ("11-23-2026  19:50             1234 two words.csv", file("two words.csv", 1234)),
            ("2026-11-23  07:50PM                 5 iso.txt", file("iso.txt", 5)),
            ("total 12", None),
            ("drwxr-xr-x 2 0 0 4096 Nov 23 08:00 ..", None),
        ] {
            assert_eq!(parse_list(line.as_bytes()), Ok(expected), "{line}");
        }
        for bad in
            ["-rw-r--r--", "hello", "12-13 x", "+i8388621.48594,m825718503,r,s280,\tdjb.html", "- 1 Nov 23 08:00"]
        {
            assert_eq!(parse_list(bad.as_bytes()), Err(Refused::Line), "{bad}");
        }
        assert!(matches!(parse_list(b"-rw-r--r-- 1 0 0 1 Nov 23 08:00 a/../b"), Err(Refused::Name(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_names_stay_inside(
            line in prop::collection::vec(any::<u8>(), 0..120),
            name in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let listed = [b"-rw-r--r-- 1 0 0 1 Nov 23 08:00 ".as_slice(), &name].concat();
            let facts = [b"type=file;size=1; ".as_slice(), &name].concat();
            for found in [parse_list(&line), parse_list(&listed), parse_mlsd(&line), parse_mlsd(&facts)] {
                if let Ok(Some(entry)) = found {
                    prop_assert!(check_name(entry.name.as_bytes()).is_ok());
                }
            }
        }
    }
}
