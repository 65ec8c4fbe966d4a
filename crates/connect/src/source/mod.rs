//! One module per protocol; each holds a unit struct that implements [`portolan_model::source::Connector`].

pub mod ftp;
pub mod http;
pub mod mysql;
pub mod postgres;
pub mod redis;
pub mod tcp;
