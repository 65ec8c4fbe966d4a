//! The sample server that `portolan demo` collects from: ports of five kinds, each in a module of its own. HTTP and the
//! device are parts of this process; MariaDB, Redis and FTP are real servers, started where they are installed.
//!
//! The demo shows; it proves nothing: proofs stand on real servers, in the tests.

mod api;
mod cache;
mod database;
mod device;
mod files;
mod process;
pub(crate) mod queries;

use std::path::Path;

use anyhow::Context;

use self::process::{KnownPorts, SampleProcess};

/// The machines of the sample factory, whose data every port holds a part of.
const MACHINES: [&str; 5] = ["press_1", "press_2", "lathe_1", "lathe_2", "oven_1"];

/// One part of the sample server.
pub(crate) struct Part {
    /// The name of its source.
    pub(crate) source: &'static str,
    /// Its `[[source]]` in the configuration.
    configuration: String,
    /// What ends with it.
    _process: Option<SampleProcess>,
}

impl Part {
    fn new(source: &'static str, configuration: String, process: Option<SampleProcess>) -> Self {
        Self { source, configuration, _process: process }
    }
}

/// A part that is not there.
pub(crate) struct LeftOut {
    /// What it is.
    pub(crate) name: &'static str,
    /// Why it is not there, and what to do to have it.
    pub(crate) reason: String,
}

/// A real server that the sample server has where it is installed.
struct Optional {
    name: &'static str,
    is_installed: fn() -> bool,
    /// Starts it; blocks for some seconds. The folder is the demo's own and takes its password file.
    start: fn(&Path, KnownPorts) -> anyhow::Result<Part>,
    install_hint: &'static str,
}

/// Every server that may be installed.
const OPTIONAL: [Optional; 3] = [database::SERVER, cache::SERVER, files::SERVER];

/// The running sample server. What it has started ends with it.
pub(crate) struct SampleServer {
    /// What runs.
    pub(crate) parts: Vec<Part>,
    /// What does not.
    pub(crate) left_out: Vec<LeftOut>,
}

impl SampleServer {
    /// Starts all parts at once. `folder` takes their password files.
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<Self> {
        let (mut parts, ports) = api::start().await?;
        let starting: Vec<_> = OPTIONAL
            .iter()
            .filter(|server| (server.is_installed)())
            .map(|server| {
                let folder = folder.to_path_buf();
                (server.name, tokio::task::spawn_blocking(move || (server.start)(&folder, ports)))
            })
            .collect();
        parts.push(device::start(ports)?);
        let mut left_out: Vec<_> = OPTIONAL
            .iter()
            .filter(|server| !(server.is_installed)())
            .map(|server| LeftOut {
                name: server.name,
                reason: format!("not installed. To have it: {}", server.install_hint),
            })
            .collect();
        for (name, task) in starting {
            match task.await.context("starting a sample server panicked")? {
                Ok(part) => parts.push(part),
                Err(error) => left_out.push(LeftOut { name, reason: format!("could not be started: {error:#}") }),
            }
        }
        Ok(Self { parts, left_out })
    }

    /// The text of `portolan.toml`.
    pub(crate) fn configuration(&self) -> String {
        let mut text = "# The sample server of `portolan demo`. Its ports close when the demo ends.\n\
                        [server]\nhost = \"127.0.0.1\"\n\n[lake]\npath = \"lake\"\n"
            .to_owned();
        for part in &self.parts {
            text.push('\n');
            text.push_str(&part.configuration);
        }
        let names: Vec<String> = self.parts.iter().map(|part| format!("\"{}\"", part.source)).collect();
        text.push_str(&format!(
            "\n# All ports at once, four times a second, in one commit.\n\
             [[round]]\nname = \"tour\"\nsources = [{}]\nevery = \"250ms\"\n",
            names.join(", ")
        ));
        text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// Where the optional servers are installed or not: what is written can be read, and names every part.
    #[tokio::test(flavor = "multi_thread")]
    async fn the_written_configuration_is_right() {
        let folder = tempfile::tempdir().unwrap();
        let sample = SampleServer::start(folder.path()).await.unwrap();
        let read = portolan_model::config::read(&sample.configuration(), &portolan_connect::Registry).unwrap();
        let names: Vec<&str> = read.sources.iter().map(|source| source.name.as_str()).collect();
        assert_eq!(names, sample.parts.iter().map(|part| part.source).collect::<Vec<_>>());
        assert_eq!(names[..3], ["metrics", "orders", "vibration"]);
        assert_eq!(sample.parts.len() + sample.left_out.len(), 3 + OPTIONAL.len());
    }
}
