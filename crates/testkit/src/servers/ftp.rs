//! What the FTP servers have in common: their address and ports, and the folder that they show.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::process::kill_process;
use tempfile::TempDir;

use super::{READY_PATIENCE, with_retries};
use crate::process::{Process, Signal, free_port};
use crate::proxy::FaultProxy;
use crate::tls::TlsFiles;

/// Where the servers listen: not at 127.0.0.1, so that a proxy there can have the same ports for data as the server.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// How many ports a server has for data connections.
const PASSIVE_PORTS: u16 = 24;
/// Below the ports that systems give out by themselves.
const PASSIVE_FROM: Range<u16> = 12_000..31_000;

/// The ports of a server.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    pub(super) control: u16,
    pub(super) passive: Range<u16>,
}

impl Ports {
    fn free() -> Result<Self> {
        use std::hash::{BuildHasher, Hasher};
        for _ in 0..100 {
            let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
            let room = u64::from(PASSIVE_FROM.end - PASSIVE_FROM.start);
            let first = PASSIVE_FROM.start + (random % room) as u16;
            let passive = first..first + PASSIVE_PORTS;
            let is_free = |port| [ADDRESS, Ipv4Addr::LOCALHOST].iter().all(|ip| TcpListener::bind((*ip, port)).is_ok());
            if passive.clone().all(is_free) {
                return Ok(Self { control: free_port()?, passive });
            }
        }
        bail!("no {PASSIVE_PORTS} free ports in a row from {PASSIVE_FROM:?}")
    }
}

/// What starts a server: folder of its files, folder that it shows, certificates, ports.
pub(super) type Launch = dyn Fn(&Path, &Path, &TlsFiles, &Ports) -> Result<Process> + Send + Sync;

/// A running FTP server, which shows an empty folder with the folder `out` in it.
pub struct FtpServer {
    process: Process,
    ports: Ports,
    tls: TlsFiles,
    launch: Box<Launch>,
    /// Who may log in.
    pub user: &'static str,
    /// With which password.
    pub password: &'static str,
    folder: TempDir,
}

impl std::fmt::Debug for FtpServer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("FtpServer").field("process", &self.process).field("ports", &self.ports).finish()
    }
}

impl FtpServer {
    pub(super) fn start(
        name: &str,
        (user, password): (&'static str, &'static str),
        launch: Box<Launch>,
    ) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("{name} changes to the accounts of its users, which only root may: run the tests as root");
        }
        let folder = tempfile::Builder::new().prefix(&format!("portolan-{name}-")).tempdir()?;
        // The server's account is not ours.
        readable(folder.path())?;
        for name in ["files", "files/out"] {
            std::fs::create_dir(folder.path().join(name))?;
            readable(&folder.path().join(name))?;
        }
        let tls = TlsFiles::create(&folder.path().join("tls"))?;
        let files = folder.path().join("files");
        let (process, ports) = with_retries(|| {
            let ports = Ports::free()?;
            Ok((launch(folder.path(), &files, &tls, &ports)?, ports))
        })?;
        Ok(Self { process, ports, tls, launch, user, password, folder })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((ADDRESS, self.ports.control))
    }

    /// A proxy at 127.0.0.1 in front of its port and of its ports for data.
    pub fn proxy(&self) -> Result<FaultProxy> {
        FaultProxy::start_before(self.address(), self.ports.passive.clone())
    }

    /// The certificates it uses and those it accepts.
    pub fn tls(&self) -> &TlsFiles {
        &self.tls
    }

    /// The place of a file (`out/a.csv`) that it shows as `/out/a.csv`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("files").join(name)
    }

    /// Writes a file, whole; makes its folder.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(name);
        if let Some(folder) = path.parent().filter(|folder| !folder.is_dir()) {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        for path in path.ancestors().take_while(|path| *path != self.folder.path()) {
            readable(path)?;
        }
        Ok(())
    }

    /// Adds to the end of a file.
    pub fn append(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(name);
        OpenOptions::new().create(true).append(true).open(&path)?.write_all(content.as_ref())?;
        readable(&path)
    }

    /// Sets a file's time of change, in seconds since 1970.
    pub fn touch(&self, name: &str, seconds: u64) -> Result<()> {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        Ok(OpenOptions::new().append(true).open(self.path(name))?.set_modified(time)?)
    }

    /// Removes everything it shows but the folder `out`.
    pub fn clear(&self) -> Result<()> {
        for entry in std::fs::read_dir(self.path(""))? {
            std::fs::remove_dir_all(entry?.path())?;
        }
        std::fs::create_dir(self.path("out"))?;
        readable(&self.path("out"))
    }

    /// Freezes it with its sessions: connections stay open and nothing answers.
    pub fn pause(&self) -> Result<()> {
        self.process.pause()?;
        self.process.descendants().into_iter().try_for_each(|id| Ok(kill_process(id, Signal::STOP)?))
    }

    /// Lets a frozen server go on.
    pub fn resume(&self) -> Result<()> {
        self.process.descendants().into_iter().try_for_each(|id| anyhow::Ok(kill_process(id, Signal::CONT)?))?;
        self.process.resume()
    }

    /// Kills it with its sessions.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill_all().map(drop)
    }

    /// Starts it again on the same ports, after a kill or a stop.
    pub fn start_again(&mut self) -> Result<()> {
        self.process.kill_all()?;
        let files = self.path("");
        self.process = with_retries(|| (self.launch)(self.folder.path(), &files, &self.tls, &self.ports))?;
        Ok(())
    }

    /// Stops it politely and starts it again on the same ports.
    pub fn restart(&mut self) -> Result<()> {
        self.process.stop(Signal::TERM, READY_PATIENCE)?;
        self.start_again()
    }
}

impl Drop for FtpServer {
    fn drop(&mut self) {
        let _ = self.process.kill_all();
    }
}

/// Lets other accounts read a file or folder.
fn readable(path: &Path) -> Result<()> {
    let mode = if path.is_dir() { 0o755 } else { 0o644 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("make {} readable", path.display()))
}
