//! The request of a source, assembled once.
//!
//! Promise: `Debug` shows no secret; a request costs a copy of prepared parts, nothing is encoded anew.

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST, IF_NONE_MATCH, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, Version};
use http_body_util::Full;
use portolan_model::config::SourceSpec;
use portolan_model::error::{Error, ErrorKind, Result};
use portolan_model::source::{Secret, Secrets};

use super::options::{Auth, FormatOption, HttpOptions, Method};

/// Headers that follow from the request itself and are not configured.
pub(super) const RESERVED_HEADERS: [&str; 9] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "upgrade",
    "te",
    "trailer",
    "if-none-match",
];

/// Everything of a request but its target.
pub(super) struct Template {
    method: http::Method,
    headers: HeaderMap,
    body: Bytes,
    scheme: &'static str,
    authority: String,
}

impl Template {
    pub(super) fn new(spec: &SourceSpec, options: &HttpOptions, secrets: &dyn Secrets) -> Result<Self> {
        let tls = spec.tls.is_enabled();
        let default_port = if tls { 443 } else { 80 };
        let address = spec.address();
        let authority = if spec.port == default_port {
            address.trim_end_matches(&format!(":{}", spec.port)).to_owned()
        } else {
            address
        };
        let mut headers = HeaderMap::with_capacity(8 + options.headers.len());
        headers.insert(HOST, value("host", &authority)?);
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("portolan/", env!("CARGO_PKG_VERSION"))));
        headers.insert(ACCEPT, HeaderValue::from_static(accept(options.format)));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("zstd, gzip"));
        for (name, text) in &options.headers {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| configuration(format!("{name:?} is not a header name")))?;
            headers.insert(name.clone(), value(name.as_str(), text)?);
        }
        if let Some(auth) = &options.auth {
            let (name, value) = authentication(auth, secrets)?;
            headers.insert(name, value);
        }
        let method = match options.method {
            Method::Get => http::Method::GET,
            Method::Post => http::Method::POST,
        };
        if let Some(content_type) = &options.content_type {
            headers.insert(CONTENT_TYPE, value("content-type", content_type)?);
        } else if options.body.is_some() {
            headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        }
        let body = Bytes::from(options.body.clone().unwrap_or_default());
        Ok(Self { method, headers, body, scheme: if tls { "https" } else { "http" }, authority })
    }

    /// `scheme://authority`, of which every target is a part.
    pub(super) fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }

    /// Whether a request may be sent again when it is unknown whether the first one was received (RFC 9110, 9.2.2).
    pub(super) fn is_idempotent(&self) -> bool {
        self.method.is_idempotent()
    }

    /// The request for `target`, which is a path with its query.
    pub(super) fn request(
        &self,
        target: &Uri,
        etag: Option<&HeaderValue>,
        http2: bool,
    ) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        if let Some(etag) = etag {
            request.headers_mut().insert(IF_NONE_MATCH, etag.clone());
        }
        if http2 {
            // HTTP/2 carries scheme and authority in fields of its own, in the place of Host (RFC 9113, 8.3.1).
            let target = target.path_and_query().map_or("/", |path| path.as_str());
            *request.uri_mut() = Uri::builder()
                .scheme(self.scheme)
                .authority(self.authority.as_str())
                .path_and_query(target)
                .build()
                .map_err(|error| configuration(format!("{target:?} cannot be requested")).with_cause(error))?;
            *request.version_mut() = Version::HTTP_2;
            request.headers_mut().remove(HOST);
        } else {
            *request.uri_mut() = target.clone();
        }
        Ok(request)
    }
}

impl std::fmt::Debug for Template {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Template")
            .field("method", &self.method)
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

fn accept(format: FormatOption) -> &'static str {
    match format {
        FormatOption::Auto => "application/json, application/x-ndjson, text/csv;q=0.9, */*;q=0.1",
        FormatOption::Json => "application/json, */*;q=0.1",
        FormatOption::Ndjson => "application/x-ndjson, application/json;q=0.5, */*;q=0.1",
        FormatOption::Csv => "text/csv, */*;q=0.1",
    }
}

fn configuration(message: String) -> Error {
    Error::new(ErrorKind::Configuration, "assemble request", message)
}

fn value(name: &str, text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text)
        .map_err(|_| configuration(format!("the value of header `{name}` holds a byte that headers cannot carry")))
}

fn secret_value(name: &str, secret: &str) -> Result<HeaderValue> {
    let mut value = value(name, secret)?;
    value.set_sensitive(true);
    Ok(value)
}

fn authentication(auth: &Auth, secrets: &dyn Secrets) -> Result<(HeaderName, HeaderValue)> {
    match auth {
        Auth::Basic { user, password } => {
            let password: Secret = secrets.resolve(password)?;
            let credentials = base64(format!("{user}:{}", password.expose()).as_bytes());
            Ok((AUTHORIZATION, secret_value("authorization", &format!("Basic {credentials}"))?))
        }
        Auth::Bearer(token) => {
            let token = secrets.resolve(token)?;
            Ok((AUTHORIZATION, secret_value("authorization", &format!("Bearer {}", token.expose()))?))
        }
        Auth::Header { name, value: reference } => {
            let secret = secrets.resolve(reference)?;
            let header = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| configuration(format!("{name:?} is not a header name")))?;
            Ok((header, secret_value(name, secret.expose())?))
        }
    }
}

/// Base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            if index <= chunk.len() {
                text.push(char::from(ALPHABET[(group >> (18 - 6 * index)) as usize & 63]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

/// Percent-encodes all but the unreserved characters of RFC 3986, section 2.3.
pub(super) fn percent_encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            into.push(char::from(byte));
        } else {
            into.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// Adds a parameter to the query string of a path, replacing one of the same name.
pub(super) fn with_parameter(target: &str, name: &str, value: &str) -> String {
    let mut encoded = String::new();
    percent_encode(name, &mut encoded);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut result = format!("{path}?");
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let key = pair.split('=').next().unwrap_or(pair);
        if key != name && key != encoded {
            result.push_str(pair);
            result.push('&');
        }
    }
    result.push_str(&encoded);
    result.push('=');
    percent_encode(value, &mut result);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_rfc_4648() {
        for (plain, encoded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn parameters_are_added_and_replaced() {
        assert_eq!(with_parameter("/a", "page", "2"), "/a?page=2");
        assert_eq!(with_parameter("/a?x=1&page=1&y=2", "page", "2"), "/a?x=1&y=2&page=2");
        assert_eq!(
            with_parameter("/a?", "since", "2026-01-01T00:00:00+02:00"),
            "/a?since=2026-01-01T00%3A00%3A00%2B02%3A00"
        );
    }
}
