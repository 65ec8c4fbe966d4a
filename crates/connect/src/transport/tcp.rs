//! Name resolution and TCP connections.
//!
//! A name is resolved once and its addresses are kept; when none of them answers they are forgotten and the name is
//! resolved anew. Every address is tried, each with its share of the time left. Promise: [`Dialer::connect`] ends by
//! its deadline.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use portolan_model::error::{Error, ErrorKind, Result};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

/// The most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;
/// `EMFILE` and `ENFILE`, which have no name in the standard library.
const FILES_OF_PROCESS: i32 = 24;
const FILES_OF_SYSTEM: i32 = 23;

/// Opens connections to one host and port.
#[derive(Clone, Debug)]
pub struct Dialer {
    host: String,
    port: u16,
    addresses: Vec<SocketAddr>,
}

impl Dialer {
    /// A dialer; resolves nothing yet.
    pub fn new(host: &str, port: u16) -> Self {
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let addresses = literal.map(|address| vec![SocketAddr::new(address, port)]).unwrap_or_default();
        Self { host: host.to_owned(), port, addresses }
    }

    /// Connects, with `TCP_NODELAY`, by `deadline`. `allowed` is the whole time there was, for messages.
    ///
    /// # Errors
    /// `NameResolution`, `Unreachable` or `Timeout`.
    pub async fn connect(&mut self, deadline: Instant, allowed: Duration) -> Result<TcpStream> {
        let kept = !self.addresses.is_empty();
        if !kept {
            self.resolve(deadline, allowed).await?;
        }
        let error = match self.connect_any(deadline, allowed).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        if self.host.parse::<IpAddr>().is_ok() {
            return Err(error);
        }
        let tried = std::mem::take(&mut self.addresses);
        if !kept || Instant::now() >= deadline {
            return Err(error);
        }
        // The addresses were old: the name may stand for others now.
        self.resolve(deadline, allowed).await?;
        if self.addresses.iter().all(|address| tried.contains(address)) {
            self.addresses.clear();
            return Err(error);
        }
        let result = self.connect_any(deadline, allowed).await;
        if result.is_err() {
            self.addresses.clear();
        }
        result
    }

    async fn resolve(&mut self, deadline: Instant, allowed: Duration) -> Result<()> {
        let fail = |message: String| {
            Error::new(ErrorKind::NameResolution, "resolve name", message)
                .with_hint(format!("check the name and the resolver: getent hosts {}", self.host))
        };
        let found = timeout_at(deadline, lookup_host((self.host.as_str(), self.port)))
            .await
            .map_err(|_| fail(format!("no answer for host {:?} within {allowed:?}", self.host)))?
            .map_err(|error| fail(format!("host {:?} is not known", self.host)).with_cause(error))?;
        let addresses: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
        if addresses.is_empty() {
            return Err(fail(format!("host {:?} has no address", self.host)));
        }
        self.addresses = addresses;
        Ok(())
    }

    async fn connect_any(&self, deadline: Instant, allowed: Duration) -> Result<TcpStream> {
        let mut last = None;
        for (index, address) in self.addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / (self.addresses.len() - index) as u32;
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Refused only by sockets that are closed already, which the first write will tell.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => last = Some(connect_error(*address, error)),
                Err(_) => last = Some(connect_timeout(*address, allowed)),
            }
        }
        Err(last.unwrap_or_else(|| connect_timeout(SocketAddr::from(([0, 0, 0, 0], self.port)), allowed)))
    }
}

fn connect_timeout(address: SocketAddr, allowed: Duration) -> Error {
    Error::new(ErrorKind::Timeout, "connect", format!("no answer from {address} within {allowed:?}")).with_hint(
        format!(
            "a firewall may drop the packets: run `tcpdump -ni any port {}` on the server and look whether they arrive",
            address.port()
        ),
    )
}

fn connect_error(address: SocketAddr, error: io::Error) -> Error {
    let port = address.port();
    let (kind, message, hint) = match error.kind() {
        io::ErrorKind::ConnectionRefused => (
            ErrorKind::Unreachable,
            format!("connection refused by {address}: nothing listens on port {port}"),
            format!("on the server, look who listens: ss -ltnp 'sport = :{port}'"),
        ),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => (
            ErrorKind::Unreachable,
            format!("no route to {address}"),
            format!("look at the way there: ip route get {}", address.ip()),
        ),
        io::ErrorKind::TimedOut => return connect_timeout(address, Duration::from_secs(0)).with_cause(error),
        io::ErrorKind::PermissionDenied => (
            ErrorKind::Unreachable,
            format!("the system forbids connecting to {address}"),
            "a local firewall rule rejects it: nft list ruleset".to_owned(),
        ),
        io::ErrorKind::AddrNotAvailable => (
            ErrorKind::Unreachable,
            format!("this machine has no address or port left from which to connect to {address}"),
            "count its connections: ss -s; widen the range: sysctl net.ipv4.ip_local_port_range".to_owned(),
        ),
        _ if matches!(error.raw_os_error(), Some(FILES_OF_PROCESS | FILES_OF_SYSTEM)) => (
            ErrorKind::Unreachable,
            format!("no file descriptor is left for a connection to {address}"),
            "raise the limit and start anew: ulimit -n 65536".to_owned(),
        ),
        _ => (
            ErrorKind::Unreachable,
            format!("cannot connect to {address}"),
            "look at the server's log and at the network between".to_owned(),
        ),
    };
    Error::new(kind, "connect", message).with_hint(hint).with_cause(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_port_is_refused_and_named() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let deadline = Instant::now() + Duration::from_secs(5);
        let error = Dialer::new("127.0.0.1", port).connect(deadline, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(error.message().contains(&port.to_string()), "{error}");
        assert!(error.hint().unwrap().contains("ss -ltnp"));
    }

    #[tokio::test]
    async fn every_address_of_a_name_is_tried() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut dialer = Dialer::new("localhost", port);
        dialer.addresses = vec![SocketAddr::from(([127, 0, 0, 1], 1)), listener.local_addr().unwrap()];
        let deadline = Instant::now() + Duration::from_secs(5);
        assert!(dialer.connect(deadline, Duration::from_secs(5)).await.is_ok());
    }

    #[tokio::test]
    async fn stale_addresses_are_resolved_anew() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut dialer = Dialer::new("localhost", port);
        dialer.addresses = vec![SocketAddr::from(([127, 0, 0, 1], 1))];
        let deadline = Instant::now() + Duration::from_secs(5);
        assert!(dialer.connect(deadline, Duration::from_secs(5)).await.is_ok());
    }

    #[tokio::test]
    async fn an_unknown_name_is_a_name_resolution_error() {
        let deadline = Instant::now() + Duration::from_secs(5);
        let error =
            Dialer::new("no-such-host.invalid", 80).connect(deadline, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NameResolution);
    }
}
