//! What every connector stands on: name resolution and TCP with a deadline, TLS, secrets.

mod secret;

pub use secret::SystemSecrets;
