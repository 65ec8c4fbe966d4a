//! The parts of the sample server that `portolan demo` starts: an HTTP JSON API on two ports in this process, and a
//! MariaDB beside it where one is installed.

pub(crate) mod database;
pub(crate) mod server;
