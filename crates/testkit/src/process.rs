//! Processes that end with the test: each in a process group of its own, killed when its handle is dropped, and by
//! the kernel if the test process itself is killed.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process_group};

/// What the tests need is installed by this command.
pub const INSTALL: &str = "run `cargo xtask test`, which installs what the tests need, or install it by hand";

/// A running program and its process group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    group: Pid,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `program` with its output going to the file `log`. `parting` is the signal the kernel sends it if this
    /// process dies without having stopped it.
    ///
    /// # Errors
    /// Says how to install the program where it is missing.
    pub fn spawn(
        program: &Path,
        log: &Path,
        parting: Signal,
        configure: impl FnOnce(&mut Command) + Send,
    ) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        // `setpriv` sets the signal and becomes the program: same process number.
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig").arg(signal_name(parting)).arg("--").arg(program);
        configure(&mut command);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let child = spawn_from_lasting_thread(command).with_context(|| format!("start {name}"))?;
        let group = Pid::from_child(&child);
        Ok(Self { name, child, group, log: log.to_owned(), status: None })
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it has written, for messages.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// Sends a signal to its whole group.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.status.is_some() {
            bail!("{} has ended, no signal can reach it", self.name);
        }
        kill_process_group(self.group, signal).with_context(|| format!("signal {}", self.name))
    }

    /// Freezes it: connections stay open and nothing answers.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen process go on.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Kills it at once and waits until it is gone.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        // The group may hold processes that outlive their parent: they get the signal too.
        let _ = kill_process_group(self.group, Signal::KILL);
        let status = self.child.wait()?;
        self.status = Some(status);
        Ok(status)
    }

    /// The processes that it has started, and those that these have, as far as they live: some servers put their sessions
    /// into groups of their own, which a signal to its group does not reach.
    pub fn descendants(&self) -> Vec<Pid> {
        let stat = |entry: std::fs::DirEntry| {
            let id: i32 = entry.file_name().to_str()?.parse().ok()?;
            let text = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // `number (name) state parent …`; the name may hold anything.
            let parent: i32 = text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((id, parent))
        };
        let all: Vec<(i32, i32)> =
            std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(stat).collect();
        let mut found = vec![self.group.as_raw_nonzero().get()];
        let mut index = 0;
        while let Some(parent) = found.get(index).copied() {
            found.extend(all.iter().filter(|(_, of)| *of == parent).map(|(id, _)| *id));
            index += 1;
        }
        found.drain(..1);
        found.into_iter().filter_map(Pid::from_raw).collect()
    }

    /// Kills it and its [descendants](Self::descendants).
    pub fn kill_all(&mut self) -> Result<ExitStatus> {
        let descendants = if self.ended()?.is_none() { self.descendants() } else { Vec::new() };
        let status = self.kill()?;
        for id in descendants {
            let _ = rustix::process::kill_process(id, Signal::KILL);
        }
        Ok(status)
    }

    /// Asks it to end and waits.
    ///
    /// # Errors
    /// It has not ended after `patience`; it is then killed.
    pub fn stop(&mut self, signal: Signal, patience: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(signal)?;
        if let Some(status) = self.wait(patience)? {
            return Ok(status);
        }
        self.kill()?;
        bail!("{} did not end within {patience:?} of {signal:?}; its output ends:\n{}", self.name, self.log_tail())
    }

    /// Waits for its end, at most `patience`.
    pub fn wait(&mut self, patience: Duration) -> Result<Option<ExitStatus>> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            if start.elapsed() >= patience {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Polls `ready` until it is true.
    ///
    /// # Errors
    /// The process ended, or is not ready after `patience`; with the end of its output.
    pub fn await_ready(&mut self, patience: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let start = Instant::now();
        while !ready() {
            if let Some(status) = self.ended()? {
                bail!("{} ended with {status} before it was ready; its output ends:\n{}", self.name, self.log_tail());
            }
            if start.elapsed() >= patience {
                bail!("{} was not ready after {patience:?}; its output ends:\n{}", self.name, self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(4));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = kill_process_group(self.group, Signal::CONT);
        }
        let _ = self.kill();
    }
}

/// Whether a status says that the process was killed by `signal`.
pub fn was_killed_by(status: ExitStatus, signal: Signal) -> bool {
    status.signal() == Some(signal.as_raw())
}

fn signal_name(signal: Signal) -> &'static str {
    if signal == Signal::TERM { "TERM" } else { "KILL" }
}

type SpawnRequest = (Command, Sender<std::io::Result<Child>>);

/// The kernel's parting signal follows the *thread* that started a process, and a test's thread ends before what it
/// shares with others does: so one thread that lasts starts them all.
fn spawn_from_lasting_thread(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<Sender<SpawnRequest>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (requests, queue) = channel::<SpawnRequest>();
        std::thread::spawn(move || {
            for (mut command, answer) in queue {
                let _ = answer.send(command.spawn());
            }
        });
        requests
    });
    let (answer, child) = channel();
    spawner.send((command, answer)).map_err(|_| anyhow!("the thread that starts processes has ended"))?;
    Ok(child.recv()??)
}

/// Finds a program in the search path and where Debian keeps servers.
///
/// # Errors
/// It is not installed; the message names the Debian package and the command that installs it.
pub fn program(name: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Packages that exclude each other are not installed but unpacked, each into a folder of its own.
    let unpacked = std::fs::read_dir(crate::folders::tools()?.join("unpacked")).into_iter().flatten().flatten();
    let unpacked = unpacked.flat_map(|entry| ["usr/sbin", "usr/bin"].map(|folder| entry.path().join(folder)));
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/usr/local/sbin"].map(PathBuf::from))
        .chain(unpacked)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("`{name}` (Debian package {package}) is not installed: {INSTALL}"))
}

/// A loopback port that nobody listens on now. Somebody else may take it before its user does: the user tries again.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Runs a command to its end and returns what it wrote to standard output.
///
/// # Errors
/// It failed; with what it wrote to standard error.
pub fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {name}"))?;
    if !output.status.success() {
        bail!("{name} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
