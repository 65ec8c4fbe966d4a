//! What each path answers (the table is in the module above).

use std::io::Write;
use std::time::Instant;

use serde_json::{Value, json};

use super::wire::{Body, Request, Response};
use super::{Look, PASSWORD, State, TOKEN, USER};

const JSON: &str = "application/json";
/// Page size where the request names none.
const LIMIT_DEFAULT: usize = 100;
/// Bytes of one piece of a streamed body, about.
const PIECE_BYTES: usize = 64 << 10;

pub(super) fn answer(request: &Request, state: &State) -> Response {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let query = Query::parse(query);
    route(path.trim_start_matches('/'), &query, request, state)
}

fn route(path: &str, query: &Query, request: &Request, state: &State) -> Response {
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    match first {
        "plain" => conditional(array(&select(state, rest, query)), request, false),
        "weak" => conditional(array(&select(state, rest, query)), request, true),
        "vague" => tagged(array(&select(state, rest, query)), request, "W/\"same\"".to_owned()),
        "lying" => tagged(array(&select(state, rest, query)), request, "\"same\"".to_owned()),
        "ndjson" => Response::new(200, "application/x-ndjson", ndjson(&select(state, rest, query))),
        "csv" => Response::new(200, "text/csv", csv(&select(state, rest, query))),
        "enveloped" => {
            let items = select(state, rest, query);
            let total = items.len();
            conditional(json!({ "data": { "items": items }, "total": total }).to_string(), request, false)
        }
        "link" => by_link(rest, query, request, state),
        "cursor" => by_cursor(rest, query, state),
        "page" => by_page(rest, query, state),
        "offset" => {
            let (from, limit) = (query.number("offset", 0), query.number("limit", LIMIT_DEFAULT));
            Response::new(200, JSON, array(&select_slice(state, rest, query, from, limit).0).into_bytes())
        }
        "gzip" => encoded("gzip", route(rest, query, request, state), request),
        "zstd" => encoded("zstd", route(rest, query, request, state), request),
        "basic" | "bearer" | "header" => {
            if is_authorized(first, request) {
                route(rest, query, request, state)
            } else {
                Response::new(401, JSON, br#"{"error":"who are you?"}"#.to_vec())
                    .with("www-authenticate", if first == "basic" { "Basic realm=\"test\"" } else { "Bearer" })
            }
        }
        "forbidden" => Response::new(403, JSON, br#"{"error":"not for you"}"#.to_vec()),
        "redirect" => {
            let (_, query) = request.target.split_once('?').map_or(("", String::new()), |(p, q)| (p, format!("?{q}")));
            Response::new(302, "text/plain", Vec::new()).with("location", format!("/{rest}{query}"))
        }
        "redirect-loop" => Response::new(302, "text/plain", Vec::new()).with("location", "/redirect-loop"),
        "big" => big(rest.parse().unwrap_or(0)),
        "oversized" => {
            let text = "x".repeat(rest.parse().unwrap_or(0));
            Response::new(200, JSON, json!([{ "id": 1, "text": text }]).to_string().into_bytes())
        }
        "echo" => echo(request),
        "append" if request.method == "POST" => append(rest, request, state),
        _ => Response::new(404, JSON, json!({ "error": format!("no such path: {path}") }).to_string().into_bytes()),
    }
}

/// The query of a request, decoded.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn number(&self, name: &str, otherwise: usize) -> usize {
        self.get(name).and_then(|value| value.parse().ok()).unwrap_or(otherwise)
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = (byte == b'%').then(|| after.get(..2)).flatten();
        let value = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                rest = &after[2..];
            }
            None => {
                bytes.push(if byte == b'+' { b' ' } else { byte });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The items of a collection whose `id` is greater than `since`, as numbers where both are, else as text.
fn select(state: &State, collection: &str, query: &Query) -> Vec<Value> {
    select_slice(state, collection, query, 0, usize::MAX).0
}

/// `count` of these items from place `from` on, and how many there are in all. Only what is asked for is copied: a page
/// of a large collection costs little more than one of a small one.
fn select_slice(state: &State, collection: &str, query: &Query, from: usize, count: usize) -> (Vec<Value>, usize) {
    let mut content = state.lock();
    if let Some(looks) = &mut content.looks {
        looks.push(Look { at: Instant::now(), collection: collection.to_owned() });
    }
    let items = content.collections.get(collection).map(Vec::as_slice).unwrap_or_default();
    let since = query.get("since").filter(|since| !since.is_empty());
    let since_number: Option<f64> = since.and_then(|since| since.parse().ok());
    let is_newer = |item: &&Value| match (since, &item["id"], since_number) {
        (Some(_), Value::Number(id), Some(since)) => id.as_f64().is_some_and(|id| id > since),
        (Some(since), Value::String(id), _) => id.as_str() > since,
        _ => true,
    };
    let chosen = items.iter().filter(is_newer).skip(from).take(count).cloned().collect();
    (chosen, items.iter().filter(is_newer).count())
}

fn array(items: &[Value]) -> String {
    let mut text = String::from("[");
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&item.to_string());
    }
    text.push(']');
    text
}

fn ndjson(items: &[Value]) -> Vec<u8> {
    items.iter().flat_map(|item| format!("{item}\n").into_bytes()).collect()
}

/// The keys of the first item are the heading; text is quoted, a missing value is empty.
fn csv(items: &[Value]) -> Vec<u8> {
    let Some(Value::Object(first)) = items.first() else { return Vec::new() };
    let columns: Vec<&String> = first.keys().collect();
    let cell = |value: Option<&Value>| match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => format!("\"{}\"", text.replace('"', "\"\"")),
        Some(other) => other.to_string(),
    };
    let mut text = columns.iter().map(|column| column.as_str()).collect::<Vec<_>>().join(",") + "\r\n";
    for item in items {
        let cells: Vec<String> = columns.iter().map(|column| cell(item.get(column.as_str()))).collect();
        text.push_str(&(cells.join(",") + "\r\n"));
    }
    text.into_bytes()
}

/// The answer with an `ETag`, or 304 where the request holds it.
fn conditional(body: String, request: &Request, weak: bool) -> Response {
    // FNV-1a: equal bodies, equal tags; nothing more is asked of it.
    let digest = body
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    tagged(body, request, format!("{}\"{digest:016x}\"", if weak { "W/" } else { "" }))
}

/// The answer with this `ETag`, or 304 where the request holds it.
fn tagged(body: String, request: &Request, tag: String) -> Response {
    let known = request.header("if-none-match").unwrap_or_default();
    // If-None-Match compares weakly (RFC 9110, section 13.1.2).
    let opaque = tag.trim_start_matches("W/");
    if known.split(',').any(|candidate| candidate.trim().trim_start_matches("W/") == opaque) {
        return Response::new(304, JSON, Vec::new()).with("etag", tag);
    }
    Response::new(200, JSON, body.into_bytes()).with("etag", tag)
}

fn by_link(collection: &str, query: &Query, request: &Request, state: &State) -> Response {
    let (from, limit) = (query.number("from", 0), query.number("limit", LIMIT_DEFAULT));
    let (items, total) = select_slice(state, collection, query, from, limit);
    let response = Response::new(200, JSON, array(&items).into_bytes());
    if from.saturating_add(limit) >= total {
        return response;
    }
    let since = query.get("since").map_or_else(String::new, |since| format!("&since={since}"));
    let host = request.header("host").unwrap_or("127.0.0.1");
    // Every other page is linked by path alone, as real APIs do both.
    let scheme = request.header("x-forwarded-proto").unwrap_or("http");
    let base = if (from / limit.max(1)).is_multiple_of(2) { format!("{scheme}://{host}") } else { String::new() };
    // A server behind a proxy is told under which path it is seen.
    let prefix = request.header("x-forwarded-prefix").unwrap_or_default();
    let path = format!("{prefix}{}", request.target.split('?').next().unwrap_or_default());
    let next = format!("<{base}{path}?from={}&limit={limit}{since}>; rel=\"next\"", from + limit);
    response.with("link", format!("<{path}>; rel=\"first\", {next}"))
}

fn by_cursor(collection: &str, query: &Query, state: &State) -> Response {
    let limit = query.number("limit", LIMIT_DEFAULT);
    let from: usize = query.get("cursor").and_then(|cursor| cursor.strip_prefix("at+/=")?.parse().ok()).unwrap_or(0);
    let (items, total) = select_slice(state, collection, query, from, limit);
    let next = (from + limit < total).then(|| format!("at+/={}", from + limit));
    let body = json!({ "items": items, "meta": { "next_cursor": next } });
    Response::new(200, JSON, body.to_string().into_bytes())
}

fn by_page(collection: &str, query: &Query, state: &State) -> Response {
    let limit = query.number("per_page", LIMIT_DEFAULT).max(1);
    let from = query.number("page", 1).saturating_sub(1).saturating_mul(limit);
    let (items, total) = select_slice(state, collection, query, from, limit);
    let body = json!({ "items": items, "pages": total.div_ceil(limit), "total": total });
    Response::new(200, JSON, body.to_string().into_bytes())
}

fn encoded(coding: &'static str, response: Response, request: &Request) -> Response {
    let Body::Whole(body) = &response.body else { return response };
    let accepted = request.header("accept-encoding").is_some_and(|accepted| accepted.contains(coding));
    if !accepted || response.status != 200 {
        return response;
    }
    let shorter = if coding == "gzip" {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(body).and_then(|()| encoder.finish())
    } else {
        zstd::encode_all(body.as_slice(), 1)
    };
    match shorter {
        Ok(shorter) => Response { body: Body::Whole(shorter), ..response }.with("content-encoding", coding),
        Err(error) => Response::new(500, "text/plain", error.to_string().into_bytes()),
    }
}

fn is_authorized(scheme: &str, request: &Request) -> bool {
    match scheme {
        "basic" => {
            let expected = format!("Basic {}", base64(format!("{USER}:{PASSWORD}").as_bytes()));
            request.header("authorization") == Some(&expected)
        }
        "bearer" => request.header("authorization") == Some(&format!("Bearer {TOKEN}")),
        _ => request.header("x-api-key") == Some(TOKEN),
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for position in 0..4 {
            let index = (bits >> (18 - 6 * position) & 63) as usize;
            text.push(if position <= group.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}

fn big(bytes: usize) -> Response {
    let mut sent = 0;
    let mut id = 0u64;
    let mut is_ended = false;
    let pieces = std::iter::from_fn(move || {
        if is_ended {
            return None;
        }
        let mut piece = Vec::with_capacity(PIECE_BYTES + 128);
        while piece.len() < PIECE_BYTES && sent + piece.len() < bytes {
            piece.push(if id == 0 { b'[' } else { b',' });
            piece.extend_from_slice(format!("{{\"id\":{id},\"text\":\"{:064}\"}}", id.wrapping_mul(7919)).as_bytes());
            id += 1;
        }
        sent += piece.len();
        if sent >= bytes {
            is_ended = true;
            piece.extend_from_slice(if id == 0 { b"[]" } else { b"]" });
        }
        Some(piece)
    });
    let headers = vec![("content-type", JSON.to_owned())];
    Response { status: 200, headers, body: Body::Pieces(Box::new(pieces)) }
}

fn echo(request: &Request) -> Response {
    let headers: serde_json::Map<String, Value> =
        request.headers.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    let body = String::from_utf8_lossy(&request.body);
    let item = json!({ "method": request.method, "target": request.target, "headers": headers, "body": body });
    Response::new(200, JSON, json!([item]).to_string().into_bytes())
}

fn append(collection: &str, request: &Request, state: &State) -> Response {
    let items = match serde_json::from_slice(&request.body) {
        Ok(Value::Array(items)) => items,
        Ok(item) => vec![item],
        Err(error) => return Response::new(400, JSON, json!({ "error": error.to_string() }).to_string().into_bytes()),
    };
    let mut content = state.lock();
    let collection = content.collections.entry(collection.to_owned()).or_default();
    collection.extend(items);
    Response::new(201, JSON, json!({ "items": collection.len() }).to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::{base64, decode};

    #[test]
    fn base64_pads_as_rfc_4648_says() {
        for (plain, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), text);
        }
    }

    #[test]
    fn queries_are_decoded() {
        assert_eq!(decode("at%2B%2F%3D10+x%zz%"), "at+/=10 x%zz%");
    }
}
