//! What every connector stands on: name resolution and TCP with a deadline, TLS, secrets.
//!
//! Promise: an error says what happened on which address, whether trying again can help, and the next command to run.

mod batch;
mod hold;
mod secret;
pub mod sniff;
mod stream;
mod tcp;
pub mod tls;

pub use hold::{HoldKind, HoldPoint};
pub use secret::SystemSecrets;
pub use stream::{Observed, ObservedSocket, Stream};
pub use tcp::Dialer;
