//! What the real servers of the demo have in common: programs found, ports chosen, processes that end with the demo.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// The longest a server may take to answer, once started.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A server that ends with this value.
pub(super) struct SampleProcess {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Drop for SampleProcess {
    fn drop(&mut self) {
        // A sample server in a temporary folder has nothing to save.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl SampleProcess {
    /// Starts a server and waits until it listens on `port`; `log` is quoted if it ends. `folder` is removed with it.
    pub(super) fn start(
        mut command: Command,
        port: u16,
        log: &Path,
        folder: tempfile::TempDir,
    ) -> anyhow::Result<Self> {
        let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("failed to start {name}"))?;
        let mut server = Self { child, _folder: folder };
        let started = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("{name} ended at once ({status}): {}", std::fs::read_to_string(log).unwrap_or_default().trim());
            }
            if started.elapsed() > START_TIMEOUT {
                bail!("{name} did not answer within {} s", START_TIMEOUT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }
}

/// Where a program is.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")]);
    folders.map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

/// Whether this demo may have the ports that protocols are known by. A second one beside it takes any others: a server
/// that ends because its port was taken looks, for a moment, like the one that took it.
#[derive(Clone, Copy)]
pub(super) struct KnownPorts(pub(super) bool);

impl KnownPorts {
    /// The port that the protocol is known by if it is free, else any that is.
    pub(super) fn free(self, known: u16) -> anyhow::Result<u16> {
        let known = if self.0 { known } else { 0 };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, known))
            .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .context("no free loopback port")?;
        Ok(listener.local_addr()?.port())
    }
}

/// A password for one run, from the system's randomness.
pub(super) fn password() -> anyhow::Result<String> {
    use std::io::Read;
    let mut bytes = [0u8; 16];
    std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).context("no randomness")?;
    Ok(portolan_rounds::output::hex(&bytes))
}

/// Writes a file that nobody else may read.
pub(super) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("failed to write {}", path.display()))
}

/// Whether we may become other accounts.
pub(super) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
