//! HTTP/1.1 on plain threads: reading requests, writing answers rightly or with a fault.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Fault, State, routes};

/// The longest request body accepted.
const BODY_BYTES_MAX: u64 = 64 << 20;
/// How long a start on a given port is tried again while old connections are still being closed.
const BIND_ATTEMPTS: u32 = 200;

/// An open port and its connections.
#[derive(Debug)]
pub(super) struct Listener {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

/// A request, whole.
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// An answer before any fault.
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Body,
}

/// The content of an answer.
pub(super) enum Body {
    /// Known at once; sent with its length.
    Whole(Vec<u8>),
    /// Made piece by piece; sent in chunks.
    Pieces(Box<dyn Iterator<Item = Vec<u8>>>),
}

impl Response {
    pub(super) fn new(status: u16, content_type: &str, body: Vec<u8>) -> Self {
        Self { status, headers: vec![("content-type", content_type.to_owned())], body: Body::Whole(body) }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl Listener {
    pub(super) fn open(port: u16, state: &Arc<State>) -> Result<Self> {
        let listener = bind(port)?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared::default());
        let (accepting, state) = (shared.clone(), state.clone());
        let thread = std::thread::spawn(move || accept(&listener, &accepting, &state));
        Ok(Self { port, shared, thread: Some(thread) })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn close_connections(&self) {
        for connection in self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // `accept` has no other way to be woken.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.close_connections();
    }
}

fn bind(port: u16) -> Result<TcpListener> {
    let mut attempt = 1;
    loop {
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => return Ok(listener),
            Err(error) if port == 0 || attempt >= BIND_ATTEMPTS => {
                return Err(error).with_context(|| format!("listen on port {port}"));
            }
            Err(_) => attempt += 1,
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, state: &Arc<State>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let Ok(handle) = stream.try_clone() else { continue };
        {
            let mut connections = shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
            connections.retain(|known| known.peer_addr().is_ok());
            connections.push(handle);
        }
        state.lock().connections += 1;
        let state = state.clone();
        std::thread::spawn(move || {
            // A client that goes away is no news.
            let _ = serve(&stream, &state);
            let _ = stream.shutdown(Shutdown::Both);
            state.lock().connections_ended += 1;
        });
    }
}

/// Answers the requests of one connection until it ends.
fn serve(stream: &TcpStream, state: &State) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        let (fault, delay) = {
            let mut content = state.lock();
            content.requests.push(format!("{} {}", request.method, request.target));
            (content.take_fault(&request.target), content.delay)
        };
        std::thread::sleep(delay);
        let later = state.asked(&request.target);
        let response = routes::answer(&request, state);
        std::thread::sleep(later);
        let head_only = request.method == "HEAD";
        if !write_response(stream, response, fault, head_only)? {
            return Ok(());
        }
    }
    Ok(())
}

impl super::Content {
    fn take_fault(&mut self, target: &str) -> Option<Fault> {
        let index = self.faults.iter().position(|planned| target.starts_with(&planned.path))?;
        let planned = &mut self.faults[index];
        let fault = planned.fault.clone();
        if let Some(times) = &mut planned.times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                self.faults.remove(index);
            }
        }
        Some(fault)
    }
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else { bail!("not a request line: {line:?}") };
    let mut request = Request { method: method.into(), target: target.into(), headers: Vec::new(), body: Vec::new() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if !line.ends_with('\n') {
            // A request that lacks its end, be it one byte, asks for nothing.
            return Ok(None);
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').context("a header without a colon")?;
        request.headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
    if let Some(length) = request.header("content-length") {
        let length: u64 = length.parse()?;
        if length > BODY_BYTES_MAX {
            bail!("a request body of {length} bytes");
        }
        let mut body = vec![0; usize::try_from(length)?];
        reader.read_exact(&mut body)?;
        request.body = body;
    } else if request.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        request.body = read_chunks(reader)?;
    }
    Ok(Some(request))
}

fn read_chunks(reader: &mut BufReader<&TcpStream>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = u64::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)?;
        if body.len() as u64 + size > BODY_BYTES_MAX {
            bail!("a request body of more than {BODY_BYTES_MAX} bytes");
        }
        reader.take(size).read_to_end(&mut body)?;
        line.clear();
        reader.read_line(&mut line)?;
        if size == 0 {
            return Ok(body);
        }
    }
}

/// Writes an answer; false if the connection must end after it.
fn write_response(mut stream: &TcpStream, response: Response, fault: Option<Fault>, head_only: bool) -> Result<bool> {
    let mut response = response;
    match &fault {
        Some(Fault::Status(status, retry_after_s)) => {
            let text = format!("{{\"error\":\"status {status} as planned\"}}");
            response = Response::new(*status, "application/json", text.into_bytes());
            if let Some(seconds) = retry_after_s {
                response = response.with("retry-after", seconds.to_string());
            }
        }
        Some(Fault::Delay(delay)) => std::thread::sleep(*delay),
        Some(Fault::Garbage) => {
            let noise: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            stream.write_all(&noise)?;
            return Ok(false);
        }
        Some(Fault::Body(body)) => response = Response::new(200, "application/json", body.clone()),
        Some(Fault::Redirect(place)) => {
            response = Response::new(302, "text/plain", Vec::new()).with("location", place.clone());
        }
        _ => {}
    }
    let mut head = format!("HTTP/1.1 {} {}\r\n", response.status, reason(response.status));
    for (name, value) in &response.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    match response.body {
        Body::Whole(body) => {
            let surplus = if let Some(Fault::WrongLength(surplus)) = fault { surplus } else { 0 };
            if response.status != 304 {
                head.push_str(&format!("content-length: {}\r\n", (body.len() as i64 + surplus).max(0)));
            }
            head.push_str("\r\n");
            if head_only || response.status == 304 {
                stream.write_all(head.as_bytes())?;
                return Ok(true);
            }
            if fault.is_none() {
                // One write, so that head and body travel together.
                let mut whole = head.into_bytes();
                whole.extend_from_slice(&body);
                stream.write_all(&whole)?;
                return Ok(true);
            }
            stream.write_all(head.as_bytes())?;
            write_body(stream, &body, fault.as_ref())
        }
        Body::Pieces(pieces) => {
            head.push_str("transfer-encoding: chunked\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            let mut sent = 0;
            for piece in pieces {
                let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
                chunk.extend_from_slice(&piece);
                chunk.extend_from_slice(b"\r\n");
                sent += piece.len();
                let cut = matches!(fault, Some(Fault::Truncated(limit)) if sent >= limit);
                let fault = if cut { None } else { fault.as_ref() };
                if !write_body(stream, &chunk, fault)? || cut {
                    return Ok(false);
                }
            }
            stream.write_all(b"0\r\n\r\n")?;
            Ok(true)
        }
    }
}

fn write_body(mut stream: &TcpStream, body: &[u8], fault: Option<&Fault>) -> Result<bool> {
    match fault {
        Some(Fault::Hang) => {
            // Until the client gives up; whatever it sends meanwhile is of no interest.
            let mut ignored = [0; 512];
            while stream.read(&mut ignored)? > 0 {}
            Ok(false)
        }
        Some(Fault::Truncated(limit)) => {
            stream.write_all(&body[..body.len().min(*limit)])?;
            Ok(false)
        }
        Some(Fault::Slow(bytes_per_second)) => {
            let step = (*bytes_per_second as usize / 50).max(1);
            for piece in body.chunks(step) {
                stream.write_all(piece)?;
                std::thread::sleep(Duration::from_secs_f64(piece.len() as f64 / f64::from((*bytes_per_second).max(1))));
            }
            Ok(true)
        }
        Some(Fault::WrongLength(_)) => {
            stream.write_all(body)?;
            Ok(false)
        }
        _ => {
            stream.write_all(body)?;
            Ok(true)
        }
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}
