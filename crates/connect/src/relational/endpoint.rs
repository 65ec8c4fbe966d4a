//! Where a database is, and who comes in.

use std::time::Duration;

use portolan_model::Result;
use portolan_model::source::Secret;
use tokio::time::Instant;

use crate::transport::tls::Tls;
use crate::transport::{Dialer, ObservedSocket};

/// Where to connect, and as whom; `subject` is what an error concerns in the engine's own words.
pub(crate) struct Endpoint<S> {
    pub(crate) dialer: Dialer,
    pub(crate) tls: Option<Tls>,
    pub(crate) password: Option<Secret>,
    pub(crate) subject: S,
    pub(crate) connect_timeout: Duration,
    pub(crate) idle_timeout: Duration,
}

impl<S> Endpoint<S> {
    /// A connection without a word said, and when the login over it has to be done.
    pub(crate) async fn connect(&self) -> Result<(ObservedSocket, Instant)> {
        let allowed = self.connect_timeout;
        let deadline = Instant::now() + allowed;
        let socket = self.dialer.clone().connect(deadline, allowed).await?;
        Ok((ObservedSocket::new(socket), deadline))
    }
}
