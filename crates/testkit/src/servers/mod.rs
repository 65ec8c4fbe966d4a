//! Real servers from the distribution's packages, each in a temporary folder on free loopback ports, ready when
//! `start` returns and gone when the handle is dropped.

mod ftp;
mod mariadb;
mod nginx;
mod postgres;
mod pure_ftpd;
mod redis;
mod session;
mod vsftpd;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Result;

use crate::process::{Process, free_port};

pub use ftp::FtpServer;
pub use mariadb::{COLLECTOR_PASSWORD, MariaDb, MariaDbOptions};
pub use nginx::{Nginx, NginxOptions};
pub use postgres::{Postgres, PostgresOptions};
pub use pure_ftpd::PureFtpd;
pub use redis::{Redis, RedisOptions, RedisSession, Reply};
pub use session::Session;
pub use vsftpd::VsFtpd;

/// How long a server may take to be ready. Generous: the machine may be building beside.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// How often a start is tried again with other ports, should somebody take them first.
const START_ATTEMPTS: u32 = 5;

/// Tries `start` with fresh ports until it succeeds.
fn with_retries<T>(mut start: impl FnMut() -> Result<T>) -> Result<T> {
    let mut attempt = 1;
    loop {
        match start() {
            Ok(started) => return Ok(started),
            Err(error) if attempt >= START_ATTEMPTS => return Err(error),
            Err(_) => attempt += 1,
        }
    }
}

/// Starts a server on a port that is free, which it tells.
fn on_free_port(mut launch: impl FnMut(u16) -> Result<Process>) -> Result<(Process, u16)> {
    with_retries(|| {
        let port = free_port()?;
        Ok((launch(port)?, port))
    })
}

/// Whether what listens on `port` answers `request` with something that holds `expected`.
fn answers(port: u16, request: &[u8], expected: &[u8]) -> bool {
    answers_at(SocketAddr::from(([127, 0, 0, 1], port)), request, expected)
}

/// The same at any address.
fn answers_at(address: SocketAddr, request: &[u8], expected: &[u8]) -> bool {
    let patience = Duration::from_millis(500);
    let Ok(mut stream) = TcpStream::connect_timeout(&address, patience) else {
        return false;
    };
    if stream.set_read_timeout(Some(patience)).is_err() || stream.write_all(request).is_err() {
        return false;
    }
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..count]);
        if answer.windows(expected.len()).any(|window| window == expected) {
            return true;
        }
    }
    false
}
