//! Programs that send messages over TCP, as devices do: one that is acknowledged and sends again what was not, and one
//! that sends each message once to whoever connects.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, bail};

/// Messages written before acknowledgements are looked at.
const BURST: usize = 500;
/// The pause before a connection is tried again, and while there is nothing to send.
const PAUSE: Duration = Duration::from_millis(5);
/// The longest an answer is waited for at a time.
const ANSWER_WAIT: Duration = Duration::from_millis(2);
/// What a sender has written of the message within which it dies.
const CUT_MESSAGE: &str = r#"{"id": 9"#;

#[derive(Default)]
struct State {
    port: Option<u16>,
    name: String,
    messages: Vec<String>,
    generation: u64,
    is_ending: bool,
    /// Whoever connects is sent away.
    is_closed: bool,
    /// It dies within its next message, and stays dead.
    is_killed: bool,
    /// The highest number acknowledged over any connection.
    acknowledged: usize,
    broken_promise: Option<String>,
}

impl std::fmt::Debug for AcknowledgedSender {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("AcknowledgedSender")
    }
}

/// Sends numbered lines to a port until they are acknowledged, over as many connections as it takes.
pub struct AcknowledgedSender {
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl AcknowledgedSender {
    /// A sender without a port and without messages.
    pub fn start() -> Self {
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        Self { state, thread: Some(std::thread::spawn(move || send_for_good(&shared))) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The port it sends to from now on.
    pub fn set_port(&self, port: u16) {
        self.state().port = Some(port);
    }

    /// Forgets everything and takes another name, with nothing to send.
    pub fn begin_as(&self, name: &str) {
        let mut state = self.state();
        (state.name, state.port) = (name.to_owned(), None);
        (state.acknowledged, state.broken_promise) = (0, None);
        state.messages.clear();
        state.generation += 1;
    }

    /// What it was told is safe and was asked for again, if that has ever been.
    pub fn broken_promise(&self) -> Option<String> {
        self.state().broken_promise.clone()
    }

    /// Adds messages.
    pub fn send(&self, messages: impl IntoIterator<Item = String>) {
        self.state().messages.extend(messages);
    }

    /// Ends its connection and begins another one.
    pub fn reconnect(&self) {
        self.state().generation += 1;
    }

    /// Dies within a message, as soon as it can write, and stays dead until it is [revived](Self::revive).
    pub fn kill(&self) {
        self.state().is_killed = true;
    }

    /// Sends again, from what was not acknowledged.
    pub fn revive(&self) {
        self.state().is_killed = false;
    }
}

impl Drop for AcknowledgedSender {
    fn drop(&mut self) {
        self.state().is_ending = true;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn send_for_good(state: &Mutex<State>) {
    while !lock(state).is_ending {
        // However a connection ends, the next one begins with what is not acknowledged.
        let _ = send_over_one_connection(state);
        std::thread::sleep(PAUSE);
    }
}

fn send_over_one_connection(state: &Mutex<State>) -> Result<()> {
    let (port, name, generation) = {
        let state = lock(state);
        match state.port {
            Some(port) if !state.messages.is_empty() && !state.is_killed => {
                (port, state.name.clone(), state.generation)
            }
            _ => return Ok(()),
        }
    };
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    stream.write_all(format!("HELLO {name}\n").as_bytes())?;
    let mut line = String::new();
    answers.read_line(&mut line)?;
    let Some(mut acknowledged) = line.trim_end().strip_prefix("OK ").and_then(|number| number.parse::<usize>().ok())
    else {
        bail!("not greeted: {line:?}")
    };
    {
        let mut state = lock(state);
        if state.generation == generation && acknowledged < state.acknowledged {
            let told = format!(
                "message {} was acknowledged, and then {} was the last that is safe",
                state.acknowledged, acknowledged
            );
            state.broken_promise.get_or_insert(told);
        }
    }
    let mut sent = acknowledged;
    stream.set_read_timeout(Some(ANSWER_WAIT))?;
    line.clear();
    loop {
        let burst = {
            let state = lock(state);
            if state.generation != generation || state.is_ending {
                return Ok(());
            }
            if state.is_killed {
                drop(state);
                stream.write_all(format!("{} {CUT_MESSAGE}", sent + 1).as_bytes())?;
                return Ok(());
            }
            let burst = &state.messages[sent.min(state.messages.len())..];
            let burst = burst.iter().take(BURST).enumerate();
            burst.map(|(index, message)| format!("{} {message}\n", sent + index + 1)).collect::<Vec<_>>()
        };
        stream.write_all(burst.concat().as_bytes())?;
        sent += burst.len();
        // A line may come in pieces: what has come of it stays in `line`.
        match answers.read_line(&mut line) {
            Ok(0) => bail!("the connection has ended"),
            Ok(_) if line.ends_with('\n') => {
                match line.trim_end().strip_prefix("ACK ").and_then(|number| number.parse().ok()) {
                    Some(number) if (acknowledged..=sent).contains(&number) => {
                        acknowledged = number;
                        let mut state = lock(state);
                        if state.generation == generation {
                            state.acknowledged = state.acknowledged.max(number);
                        }
                    }
                    _ => bail!("not an acknowledgement: {line:?}"),
                }
                line.clear();
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A port that sends each message once, as a line, to whoever is connected.
pub struct Device {
    port: u16,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl Device {
    /// Listens on a free port.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        Ok(Self { port, state, thread: Some(std::thread::spawn(move || serve_for_good(&listener, &shared))) })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Adds messages.
    pub fn send(&self, messages: impl IntoIterator<Item = String>) {
        lock(&self.state).messages.extend(messages);
    }

    /// Forgets what was not sent, and whoever is connected or about to be.
    pub fn clear(&self) {
        {
            let mut state = lock(&self.state);
            state.messages.clear();
            state.generation += 1;
            state.is_closed = true;
        }
        std::thread::sleep(20 * PAUSE);
        lock(&self.state).is_closed = false;
    }

    /// Ends its connection.
    pub fn restart(&self) {
        lock(&self.state).generation += 1;
    }

    /// Dies within a message, after those before, and sends whoever connects away until it is
    /// [revived](Self::revive).
    pub fn kill(&self) {
        lock(&self.state).is_killed = true;
    }

    /// Takes connections again.
    pub fn revive(&self) {
        lock(&self.state).is_killed = false;
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        lock(&self.state).is_ending = true;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve_for_good(listener: &TcpListener, state: &Mutex<State>) {
    let mut connection: Option<(TcpStream, u64)> = None;
    // A connection that somebody gives up at once must take no message with it.
    let mut warm_at = std::time::Instant::now();
    loop {
        if let Ok((stream, _)) = listener.accept() {
            let _ = stream.set_nonblocking(false);
            let state = lock(state);
            connection = (!state.is_closed && !state.is_killed).then_some((stream, state.generation));
            warm_at = std::time::Instant::now() + 20 * PAUSE;
        }
        let (messages, is_killed) = {
            let mut state = lock(state);
            if state.is_ending {
                return;
            }
            if connection.as_ref().is_some_and(|(_, generation)| *generation != state.generation) {
                connection = None;
            }
            if connection.as_ref().is_some_and(|(stream, _)| has_ended(stream)) {
                connection = None;
            }
            let is_warm = connection.is_some() && std::time::Instant::now() >= warm_at;
            (if is_warm { std::mem::take(&mut state.messages) } else { Vec::new() }, state.is_killed)
        };
        if let Some((stream, _)) = &mut connection {
            let mut text: String = messages.iter().map(|message| format!("{message}\n")).collect();
            if is_killed {
                text.push_str(CUT_MESSAGE);
            }
            if stream.write_all(text.as_bytes()).is_err() || is_killed {
                let _ = stream.shutdown(Shutdown::Both);
                connection = None;
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether the other side has closed the connection.
fn has_ended(stream: &TcpStream) -> bool {
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    let peeked = stream.peek(&mut [0]);
    let ended = !matches!(&peeked, Err(error) if error.kind() == ErrorKind::WouldBlock) && !matches!(peeked, Ok(1..));
    ended || stream.set_nonblocking(false).is_err()
}
