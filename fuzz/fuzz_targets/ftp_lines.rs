//! Any CSV or NDJSON file read in any pieces: the parts that the scanner cuts it into hold the same records as the file
//! whole, and what it keeps of the bytes before a part does not depend on the pieces.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portolan_connect::source::ftp::lines::{Prefix, Scanner};

/// Every record of a text, as the CSV reader tells them apart.
fn records(bytes: &[u8], delimiter: Option<u8>) -> Vec<Vec<Vec<u8>>> {
    let Some(delimiter) = delimiter else {
        return bytes.split_inclusive(|byte| *byte == b'\n').map(|line| vec![line.to_vec()]).collect();
    };
    let mut builder = csv::ReaderBuilder::new();
    let reader = builder.delimiter(delimiter).has_headers(false).flexible(true).from_reader(bytes);
    let fields = |record: csv::ByteRecord| record.iter().map(<[u8]>::to_vec).collect();
    reader.into_byte_records().filter_map(Result::ok).map(fields).collect()
}

fuzz_target!(|input: (u8, u8, Vec<u8>)| {
    let (kind, piece, bytes) = input;
    let delimiter = [None, Some(b','), Some(b'\t'), Some(b';')][usize::from(kind % 4)];
    let mut scanner = Scanner::new(delimiter, 0);
    let (mut buffer, mut found, mut taken) = (Vec::new(), Vec::new(), 0);
    // Of CSV: the first record, which stands before each part as it is read.
    let mut header: Option<Vec<u8>> = None;
    let (mut prefix, mut whole) = (Prefix::default(), Prefix::default());
    for piece in bytes.chunks(usize::from(piece).max(1)) {
        buffer.extend_from_slice(piece);
        scanner.scan(&buffer);
        let end = scanner.end;
        assert!(end <= buffer.len() && scanner.longest <= bytes.len());
        if end > 0 {
            assert_eq!(buffer[end - 1], b'\n');
            let before = match &header {
                Some(header) => header.as_slice(),
                // Behind empty lines, a byte order mark is none.
                None if taken > 0 && delimiter.is_some() => b"\n",
                None => b"",
            };
            let part = records(&[before, &buffer[..end]].concat(), delimiter);
            found.extend(part.into_iter().skip(usize::from(header.is_some())));
            let first_end = scanner.first_end.filter(|first| delimiter.is_some() && *first <= end);
            if let (None, Some(first)) = (&header, first_end) {
                header = Some(buffer[..first].to_vec());
            }
            prefix.push(&buffer[..end]);
            buffer.drain(..end);
            scanner.taken();
            taken += end;
        }
    }
    assert_eq!(found, records(&bytes[..taken], delimiter), "the parts hold other records than the file");
    whole.push(&bytes[..taken]);
    assert_eq!((prefix.length(), prefix.digest()), (whole.length(), whole.digest()));
});
