//! Redis: an empty server that keeps what it is told in a log, so that a restart keeps it too.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::{READY_PATIENCE, answers, with_retries};
use crate::process::{Process, Signal, free_port, program};
use crate::tls::TlsFiles;

/// The longest one command may take.
const COMMAND_PATIENCE: Duration = Duration::from_secs(60);

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// Further arguments of `redis-server`, such as `["--maxclients", "10"]`.
    pub arguments: Vec<String>,
}

/// A running Redis with 16 empty databases.
///
/// Users: `default` without a password, and those that [`Redis::command`] makes (`ACL SETUSER …`), which a restart
/// keeps. The TLS port accepts client certificates of [`Redis::tls`] and does not ask for one.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
    tls_port: u16,
    tls: TlsFiles,
    options: RedisOptions,
    folder: TempDir,
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A status or a string; bytes that are not UTF-8 are replaced.
    Text(String),
    /// An integer.
    Integer(i64),
    /// Nothing.
    Null,
    /// Several.
    List(Vec<Reply>),
}

impl Redis {
    /// Starts a server of its own for the caller.
    pub fn start() -> Result<Self> {
        Self::start_with(RedisOptions::default())
    }

    /// Starts a server with further arguments.
    pub fn start_with(options: RedisOptions) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("portolan-redis-").tempdir()?;
        let tls = TlsFiles::create(&folder.path().join("tls"))?;
        std::fs::write(folder.path().join("users.acl"), "user default on nopass ~* &* +@all\n")?;
        let (process, port, tls_port) = with_retries(|| {
            let (port, tls_port) = (free_port()?, free_port()?);
            Ok((launch(folder.path(), &tls, &options, port, tls_port)?, port, tls_port))
        })?;
        Ok(Self { process, port, tls_port, tls, options, folder })
    }

    /// The TCP port it listens on without TLS, at 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The TCP port it listens on with TLS, at 127.0.0.1.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// The certificates it uses and those it accepts.
    pub fn tls(&self) -> &TlsFiles {
        &self.tls
    }

    /// The process, to pause or resume it.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// A connection as the user `default`, who may do everything.
    pub fn session(&self) -> Result<RedisSession> {
        RedisSession::open(self.port)
    }

    /// Runs one command, its words separated by spaces; a word in double quotes may hold spaces.
    ///
    /// # Errors
    /// The server's own.
    pub fn command(&self, words: &str) -> Result<Reply> {
        let words = split(words);
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        self.session()?.run(&words)
    }

    /// Kills it, as a power cut of the machine it runs on would as far as its clients can see. What it has answered
    /// stays: its log is written before each answer.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    /// Starts it again on the same ports with the same data, after a kill or a stop.
    pub fn start_again(&mut self) -> Result<()> {
        self.process.kill()?;
        let (folder, tls) = (self.folder.path(), &self.tls);
        self.process = with_retries(|| launch(folder, tls, &self.options, self.port, self.tls_port))?;
        Ok(())
    }

    /// Stops it politely and starts it again on the same ports.
    pub fn restart(&mut self) -> Result<()> {
        self.command("ACL SAVE")?;
        self.process.stop(Signal::TERM, READY_PATIENCE)?;
        self.start_again()
    }
}

/// A kept connection for a writer.
#[derive(Debug)]
pub struct RedisSession {
    stream: TcpStream,
    received: Vec<u8>,
    at: usize,
}

impl RedisSession {
    fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), COMMAND_PATIENCE)?;
        stream.set_read_timeout(Some(COMMAND_PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::new(), at: 0 })
    }

    /// Runs one command.
    ///
    /// # Errors
    /// The server's own, or the connection is lost.
    pub fn run(&mut self, words: &[&[u8]]) -> Result<Reply> {
        self.run_all(&[words.to_vec()])?.pop().context("no reply")
    }

    /// Runs commands, sent in one write; their replies in order.
    ///
    /// # Errors
    /// The first of the server's own, or the connection is lost.
    pub fn run_all(&mut self, commands: &[Vec<&[u8]>]) -> Result<Vec<Reply>> {
        let mut out = Vec::new();
        for words in commands {
            write!(out, "*{}\r\n", words.len())?;
            for word in words {
                write!(out, "${}\r\n", word.len())?;
                out.extend_from_slice(word);
                out.extend_from_slice(b"\r\n");
            }
        }
        self.stream.write_all(&out)?;
        commands.iter().map(|_| self.reply()).collect()
    }

    fn reply(&mut self) -> Result<Reply> {
        let line = self.line()?;
        let (kind, text) = line.split_at(1);
        Ok(match kind {
            "+" => Reply::Text(text.to_owned()),
            "-" => bail!("{text}"),
            ":" => Reply::Integer(text.parse()?),
            "$" => match text.parse::<i64>()? {
                -1 => Reply::Null,
                length => Reply::Text(String::from_utf8_lossy(&self.bytes(usize::try_from(length)?)?).into_owned()),
            },
            "*" => match text.parse::<i64>()? {
                -1 => Reply::Null,
                count => Reply::List((0..count).map(|_| self.reply()).collect::<Result<_>>()?),
            },
            _ => bail!("{line:?} is no reply"),
        })
    }

    fn line(&mut self) -> Result<String> {
        loop {
            let rest = &self.received[self.at..];
            if let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&rest[..end]).into_owned();
                self.at += end + 2;
                ensure!(!line.is_empty(), "an empty line is no reply");
                return Ok(line);
            }
            self.fill()?;
        }
    }

    fn bytes(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.received.len() < self.at + length + 2 {
            self.fill()?;
        }
        let bytes = self.received[self.at..self.at + length].to_vec();
        self.at += length + 2;
        Ok(bytes)
    }

    fn fill(&mut self) -> Result<()> {
        self.received.drain(..self.at);
        self.at = 0;
        let mut buffer = [0; 64 << 10];
        let count = self.stream.read(&mut buffer)?;
        ensure!(count > 0, "the server closed the connection");
        self.received.extend_from_slice(&buffer[..count]);
        Ok(())
    }
}

fn split(words: &str) -> Vec<String> {
    let mut result = Vec::new();
    for (index, part) in words.split('"').enumerate() {
        if index % 2 == 1 {
            result.push(part.to_owned());
        } else {
            result.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    result
}

/// The arguments that every server is started with. A killed server keeps what it has answered: the log is written at
/// each command, though not synced, because the machine does not fail under it.
fn launch(folder: &Path, tls: &TlsFiles, options: &RedisOptions, port: u16, tls_port: u16) -> Result<Process> {
    let server = program("redis-server", "redis-server")?;
    let mut process = Process::spawn(&server, &folder.join("output.log"), Signal::KILL, |command| {
        command
            .args(["--bind", "127.0.0.1", "--daemonize", "no", "--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", "no", "--port", &port.to_string(), "--tls-port", &tls_port.to_string()])
            .arg("--dir")
            .arg(folder)
            .arg("--aclfile")
            .arg(folder.join("users.acl"))
            .arg("--tls-ca-cert-file")
            .arg(&tls.authority)
            .arg("--tls-cert-file")
            .arg(&tls.server_certificate)
            .arg("--tls-key-file")
            .arg(&tls.server_key)
            .args(["--tls-auth-clients", "optional"])
            .args(&options.arguments);
    })?;
    process.await_ready(READY_PATIENCE, || answers(port, b"PING\r\n", b"PONG"))?;
    Ok(process)
}
