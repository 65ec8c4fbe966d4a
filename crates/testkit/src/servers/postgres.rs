//! PostgreSQL, from a prepared data folder: set-up takes a second and is done once, a copy of it starts in 0.1 s.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::session::{Session, shortened};
use super::{COLLECTOR_PASSWORD, READY_PATIENCE, on_free_port, with_retries};
use crate::folders;
use crate::process::{Process, Signal, program, run};
use crate::tls::TlsFiles;

/// The Debian package that holds the server.
const PACKAGE: &str = "postgresql-15";
/// The account of the system that the server runs as where the tests run as root, which it refuses.
const ACCOUNT: &str = "postgres";
/// How long a server may take to clear up when its handle is dropped.
const PARTING_PATIENCE: Duration = Duration::from_secs(5);

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    /// Further settings, such as `max_connections=10`.
    pub settings: Vec<String>,
    /// Lines of `pg_hba.conf` that stand before the usual ones.
    pub access: Vec<String>,
}

/// A running PostgreSQL with an empty database `shop`.
///
/// Users: `postgres`, who needs no password; `collector` with [`COLLECTOR_PASSWORD`] (SCRAM-SHA-256); `certified`, who
/// needs the client certificate of [`Postgres::tls`] and no password. The last two may read every table.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    port: u16,
    tls: TlsFiles,
    options: PostgresOptions,
    folder: TempDir,
}

impl Postgres {
    /// The database that exists from the start.
    pub const DATABASE: &'static str = "shop";

    /// Starts a server of its own for the caller.
    pub fn start() -> Result<Self> {
        Self::start_with(PostgresOptions::default())
    }

    /// Starts a server with further settings.
    pub fn start_with(options: PostgresOptions) -> Result<Self> {
        let (template, folder) = (template()?, folder()?);
        let data = folder.path().join("data");
        folders::copy(&template, &data)?;
        let tls = TlsFiles::create(&folder.path().join("tls"))?;
        std::fs::write(data.join("pg_hba.conf"), access(&options))?;
        std::fs::write(data.join("pg_ident.conf"), "certificate collector certified\n")?;
        take_key(&tls, &data)?;
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700))?;
        hand_over(&data)?;
        let (process, port) = on_free_port(|port| launch(folder.path(), &tls, &options, port))?;
        Ok(Self { process, port, tls, options, folder })
    }

    /// A standby of its own, which takes over what is committed here and can be read meanwhile.
    pub fn standby(&self) -> Result<Self> {
        let folder = folder()?;
        let data = folder.path().join("data");
        std::fs::create_dir(&data)?;
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700))?;
        hand_over(&data)?;
        let (program, before) = as_account(&server_program("pg_basebackup")?);
        let mut copy = Command::new(program);
        copy.args(before).arg("--pgdata").arg(&data).args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]);
        copy.args(["--host=127.0.0.1", "--username=postgres", "--no-password"]).arg(format!("--port={}", self.port));
        run(&mut copy)?;
        let tls = TlsFiles::create(&folder.path().join("tls"))?;
        take_key(&tls, &data)?;
        hand_over(&data)?;
        let options = self.options.clone();
        let (process, port) = on_free_port(|port| launch(folder.path(), &tls, &options, port))?;
        Ok(Self { process, port, tls, options, folder })
    }

    /// The TCP port it listens on, at 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The certificates it uses and those it accepts.
    pub fn tls(&self) -> &TlsFiles {
        &self.tls
    }

    /// Its own process, without those of its sessions.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Runs statements as `postgres` in the database `shop`, in one transaction where several; returns what they print:
    /// rows of tab-separated values, without headings.
    pub fn sql(&self, statements: &str) -> Result<String> {
        let mut command = client(self.port)?;
        run(command.args(["--command", statements])).with_context(|| format!("run {}", shortened(statements)))
    }

    /// A kept connection as `postgres`, for a writer.
    pub fn session(&self) -> Result<Session> {
        Session::open(client(self.port)?, |word| format!("\\echo {word}"))
    }

    /// Freezes it and its sessions: connections stay open and nothing answers.
    pub fn pause(&self) -> Result<()> {
        self.process.pause()?;
        self.signal_sessions(Signal::STOP);
        Ok(())
    }

    /// Lets a frozen server go on.
    pub fn resume(&self) -> Result<()> {
        self.signal_sessions(Signal::CONT);
        self.process.resume()
    }

    fn signal_sessions(&self, signal: Signal) {
        for id in self.process.descendants() {
            let _ = rustix::process::kill_process(id, signal);
        }
    }

    /// Kills it and its sessions, as a power cut of the machine it runs on would as far as its clients can see.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill_all().map(drop)
    }

    /// Starts it again on the same port with the same data, after a kill or a stop.
    pub fn start_again(&mut self) -> Result<()> {
        self.process.kill_all()?;
        let (folder, tls) = (self.folder.path(), &self.tls);
        self.process = with_retries(|| launch(folder, tls, &self.options, self.port))?;
        Ok(())
    }

    /// Stops it politely, ending its sessions, and starts it again on the same port.
    pub fn restart(&mut self) -> Result<()> {
        self.process.stop(Signal::INT, READY_PATIENCE)?;
        self.start_again()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A killed server leaves its shared memory behind; one that is told to quit takes it along.
        let _ = self.process.stop(Signal::QUIT, PARTING_PATIENCE);
        let _ = self.process.kill_all();
    }
}

/// Puts the server's key where its account alone may read it.
fn take_key(tls: &TlsFiles, data: &Path) -> Result<()> {
    let key = data.join("server.key");
    std::fs::copy(&tls.server_key, &key)?;
    Ok(std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600))?)
}

/// A folder that the server's account can pass through.
fn folder() -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("portolan-postgres-").tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}

fn client(port: u16) -> Result<Command> {
    let mut command = Command::new(server_program("psql")?);
    // Nothing of the caller's own settings.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    command
        .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--field-separator=\t"])
        .args(["--set=ON_ERROR_STOP=1", "--host=127.0.0.1", "--username=postgres", "--no-password"])
        .arg(format!("--port={port}"))
        .arg(format!("--dbname={}", Postgres::DATABASE))
        .env("PGSSLMODE", "disable")
        .env("PGCLIENTENCODING", "UTF8");
    Ok(command)
}

/// Who may come in, the first line that fits counts.
fn access(options: &PostgresOptions) -> String {
    let usual = "host all,replication postgres 127.0.0.1/32 trust\n\
                 hostssl all certified 127.0.0.1/32 cert map=certificate\n\
                 host all all 127.0.0.1/32 scram-sha-256\n";
    options.access.iter().map(|line| format!("{line}\n")).collect::<String>() + usual
}

/// A program of the server or its client: Debian keeps them out of the search path, a folder for each version.
fn server_program(name: &str) -> Result<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        folders.map(|version| version.path().join("bin").join(name)).filter(|path| path.is_file()).collect();
    found.sort();
    match found.pop() {
        Some(path) => Ok(path),
        None => program(name, PACKAGE),
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A program of the server with what it needs before its own arguments: root hands it to the server's account, which takes
/// away the kernel's parting signal, so that it is set once more.
fn as_account(path: &Path) -> (PathBuf, Vec<String>) {
    if !is_root() {
        return (path.to_owned(), Vec::new());
    }
    let account = ["--reuid", ACCOUNT, "--regid", ACCOUNT, "--clear-groups", "--pdeathsig", "KILL", "--"];
    let arguments = account.iter().map(ToString::to_string).chain([path.display().to_string()]).collect();
    (PathBuf::from("setpriv"), arguments)
}

/// Gives a folder and what is in it to the server's account.
fn hand_over(folder: &Path) -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let number = |option: &str| -> Result<u32> {
        let text = run(Command::new("id").args([option, ACCOUNT]))
            .with_context(|| format!("the account `{ACCOUNT}` comes with the Debian package {PACKAGE}"))?;
        Ok(text.trim().parse()?)
    };
    chown_all(folder, number("-u")?, number("-g")?)
}

fn chown_all(path: &Path, user: u32, group: u32) -> Result<()> {
    chown(path, Some(user), Some(group))?;
    if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            chown_all(&entry?.path(), user, group)?;
        }
    }
    Ok(())
}

/// A killed server keeps what it has answered: its log is written at each commit, though not synced, because the machine
/// does not fail under it.
fn launch(folder: &Path, tls: &TlsFiles, options: &PostgresOptions, port: u16) -> Result<Process> {
    let (program, before) = as_account(&server_program("postgres")?);
    let data = folder.join("data");
    let mut process = Process::spawn(&program, &folder.join("output.log"), Signal::KILL, |command| {
        command.args(before).arg("-D").arg(&data);
        let mut set = |setting: &str| {
            command.args(["-c", setting]);
        };
        set(&format!("port={port}"));
        set(&format!("unix_socket_directories={}", data.display()));
        set(&format!("ssl_ca_file={}", tls.authority.display()));
        set(&format!("ssl_cert_file={}", tls.server_certificate.display()));
        for setting in [
            "ssl=on",
            "ssl_key_file=server.key",
            "listen_addresses=127.0.0.1",
            "fsync=off",
            "full_page_writes=off",
            "shared_buffers=32MB",
            "max_wal_size=256MB",
            "dynamic_shared_memory_type=mmap",
            "autovacuum_naptime=1h",
            "timezone=UTC",
            "log_timezone=UTC",
        ] {
            set(setting);
        }
        options.settings.iter().for_each(|setting| set(setting));
    })?;
    process.await_ready(READY_PATIENCE, || {
        client(port).is_ok_and(|mut client| run(client.args(["--command", "SELECT 1"])).is_ok())
    })?;
    Ok(process)
}

fn template() -> Result<PathBuf> {
    let initdb = server_program("initdb")?;
    let server = server_program("postgres")?;
    let version = run(Command::new(&server).arg("--version"))?;
    let version = version.split_whitespace().nth(2).unwrap_or("unknown").to_owned();
    folders::prepared(&format!("postgres-{version}"), |folder| {
        // The server's account may not be able to reach the workspace.
        let place = tempfile::Builder::new().prefix("portolan-postgres-").tempdir()?;
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755))?;
        let data = place.path().join("data");
        std::fs::create_dir(&data)?;
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700))?;
        hand_over(&data)?;
        let (program, before) = as_account(&initdb);
        let mut command = Command::new(program);
        command.args(before).arg("--pgdata").arg(&data).args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
            "--wal-segsize=1",
        ]);
        run(&mut command)?;
        let (program, before) = as_account(&server);
        let mut alone = Command::new(program)
            .args(before)
            .args(["--single", "-c", "fsync=off", "-D"])
            .arg(&data)
            .arg("postgres")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        alone.stdin.take().context("server without input")?.write_all(first_statements().as_bytes())?;
        let ended = alone.wait_with_output()?;
        if !ended.status.success() {
            bail!("set up PostgreSQL: {}", String::from_utf8_lossy(&ended.stderr));
        }
        folders::copy(&data, folder)
    })
}

/// One statement a line: that is how a server alone reads them.
fn first_statements() -> String {
    let password = COLLECTOR_PASSWORD.replace('\'', "''");
    format!(
        "CREATE DATABASE {database}\n\
         CREATE ROLE collector LOGIN PASSWORD '{password}'\n\
         CREATE ROLE certified LOGIN\n\
         GRANT pg_read_all_data TO collector, certified\n",
        database = Postgres::DATABASE
    )
}
