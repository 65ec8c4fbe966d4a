//! Where a database is, and who comes in.

use std::time::Duration;

use portolan_model::source::Secret;

use crate::transport::Dialer;
use crate::transport::tls::Tls;

/// Where to connect, and as whom; `subject` is what an error concerns in the engine's own words.
pub(crate) struct Endpoint<S> {
    pub(crate) dialer: Dialer,
    pub(crate) tls: Option<Tls>,
    pub(crate) password: Option<Secret>,
    pub(crate) subject: S,
    pub(crate) connect_timeout: Duration,
    pub(crate) idle_timeout: Duration,
}
