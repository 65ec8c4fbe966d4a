//! Content codings (RFC 9110, section 8.4): gzip and zstd, with a limit on what comes out.

use std::io::Read;

use bytes::Bytes;
use portolan_model::error::{Error, ErrorKind, Result};

use super::data_error;

/// The most codings applied one over the other.
const CODINGS_MAX: usize = 4;
/// The largest zstd window accepted (RFC 8878 asks for 8 MiB at least), as a power of two.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Decodes `body` as its `Content-Encoding` says; up to `limit` bytes.
///
/// # Errors
/// `Data` if it is damaged or of an unknown coding, `Limit` if more comes out than allowed.
pub fn decode(encoding: Option<&str>, body: &Bytes, limit: u64) -> Result<Bytes> {
    let mut body = body.clone();
    let codings: Vec<&str> =
        encoding.unwrap_or("").split(',').map(str::trim).filter(|coding| !coding.is_empty()).collect();
    if codings.len() > CODINGS_MAX {
        return Err(data_error(format!("more than {CODINGS_MAX} content codings")));
    }
    for coding in codings.into_iter().rev() {
        body = match coding.to_ascii_lowercase().as_str() {
            "identity" => body,
            "gzip" | "x-gzip" => collect(coding, flate2::read::MultiGzDecoder::new(body.as_ref()), limit)?,
            "zstd" => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(body.as_ref()).map_err(|error| damaged(coding, error))?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|error| damaged(coding, error))?;
                collect(coding, decoder, limit)?
            }
            other => {
                return Err(data_error(format!("unknown content coding {other:?}"))
                    .with_hint("gzip and zstd are asked for; the server sent another one"));
            }
        };
    }
    Ok(body)
}

fn damaged(coding: &str, error: std::io::Error) -> Error {
    data_error(format!("the {coding} body is damaged")).with_cause(error)
}

fn collect(coding: &str, decoder: impl Read, limit: u64) -> Result<Bytes> {
    let mut decoded = Vec::new();
    decoder.take(limit.saturating_add(1)).read_to_end(&mut decoded).map_err(|error| damaged(coding, error))?;
    if decoded.len() as u64 > limit {
        return Err(Error::new(
            ErrorKind::Limit,
            "decode body",
            format!("the {coding} body unpacks to more than {limit} bytes"),
        )
        .with_hint("raise `max_body`, or read less at a time"));
    }
    Ok(decoded.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn gzip(bytes: &[u8]) -> Bytes {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap().into()
    }

    #[test]
    fn codings_are_undone_and_bounded() {
        let plain = vec![b'a'; 1 << 20];
        let zstd: Bytes = zstd::encode_all(plain.as_slice(), 3).unwrap().into();
        assert_eq!(decode(Some("gzip"), &gzip(&plain), 1 << 20).unwrap(), plain);
        assert_eq!(decode(Some("zstd"), &zstd, 1 << 20).unwrap(), plain);
        assert_eq!(decode(Some("zstd, gzip"), &gzip(&zstd), 1 << 20).unwrap(), plain);
        assert_eq!(decode(None, &Bytes::from_static(b"x"), 1).unwrap(), "x");
        assert_eq!(decode(Some("zstd"), &zstd, (1 << 20) - 1).unwrap_err().kind(), ErrorKind::Limit);
        assert_eq!(decode(Some("gzip"), &gzip(&plain), 10).unwrap_err().kind(), ErrorKind::Limit);
        assert_eq!(decode(Some("br"), &zstd, 10).unwrap_err().kind(), ErrorKind::Data);
        assert_eq!(decode(Some("gzip"), &Bytes::from_static(b"plain"), 10).unwrap_err().kind(), ErrorKind::Data);
        let cut = zstd.slice(..zstd.len() / 2);
        assert_eq!(decode(Some("zstd"), &cut, 1 << 20).unwrap_err().kind(), ErrorKind::Data);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), coding in "(gzip|zstd|gzip,zstd)") {
            let _ = decode(Some(&coding), &bytes.into(), 1_000);
        }
    }
}
