//! MariaDB, from a prepared data folder: set-up takes seconds and is done once, a copy of it starts in 0.2 s.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::session::{Session, shortened};
use super::{READY_PATIENCE, answers, on_free_port, with_retries};
use crate::folders;
use crate::process::{Process, Signal, program, run};
use crate::tls::TlsFiles;

/// The password of the user `collector`. It holds what must be quoted in one place or another.
pub const COLLECTOR_PASSWORD: &str = "p@ss:w'o/rd";

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct MariaDbOptions {
    /// Further arguments of `mariadbd`, such as `--innodb-buffer-pool-size=256M`.
    pub arguments: Vec<String>,
}

/// A running MariaDB with an empty database `shop`.
///
/// Users: `root` without a password; `collector` with [`COLLECTOR_PASSWORD`]; `certified`, who needs the client
/// certificate of [`MariaDb::tls`] and no password. The last two may read and write every database.
#[derive(Debug)]
pub struct MariaDb {
    process: Process,
    port: u16,
    tls: TlsFiles,
    options: MariaDbOptions,
    folder: TempDir,
}

impl MariaDb {
    /// The database that exists from the start.
    pub const DATABASE: &'static str = "shop";

    /// Starts a server of its own for the caller.
    pub fn start() -> Result<Self> {
        Self::start_with(MariaDbOptions::default())
    }

    /// Starts a server with further arguments.
    pub fn start_with(options: MariaDbOptions) -> Result<Self> {
        let template = template()?;
        let folder = tempfile::Builder::new().prefix("portolan-mariadb-").tempdir()?;
        folders::copy(&template, &folder.path().join("data"))?;
        let tls = TlsFiles::create(&folder.path().join("tls"))?;
        std::fs::write(folder.path().join("start.sql"), start_statements())?;
        let (process, port) = on_free_port(|port| launch(folder.path(), &tls, &options, port))?;
        Ok(Self { process, port, tls, options, folder })
    }

    /// A replica of its own, which takes over what is committed here from now on; this one must have a binary log, and both a
    /// `--server-id`.
    pub fn replica(&self, options: MariaDbOptions) -> Result<Self> {
        let replica = Self::start_with(options)?;
        let status = self.sql("SHOW MASTER STATUS")?;
        let [file, position, ..] = status.split('\t').collect::<Vec<_>>()[..] else {
            bail!("no binary log: {status:?}")
        };
        replica.sql(&format!(
            "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {}, MASTER_USER = 'root', MASTER_LOG_FILE = '{file}', \
             MASTER_LOG_POS = {position}, MASTER_USE_GTID = no; START SLAVE",
            self.port
        ))?;
        Ok(replica)
    }

    /// The TCP port it listens on, at 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The certificates it uses and those it accepts.
    pub fn tls(&self) -> &TlsFiles {
        &self.tls
    }

    /// The process, to pause or resume it.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Runs statements as root in the database `shop`; returns what they print: rows of tab-separated values with
    /// escapes, without headings.
    pub fn sql(&self, statements: &str) -> Result<String> {
        let mut command = client(self.port)?;
        run(command.arg("--batch").arg("--skip-column-names").arg("--execute").arg(statements))
            .with_context(|| format!("run {}", shortened(statements)))
    }

    /// Runs statements from a file, for more than fits on a command line.
    pub fn sql_file(&self, path: &Path) -> Result<()> {
        let output = client(self.port)?.stdin(std::fs::File::open(path)?).output()?;
        if !output.status.success() {
            bail!("run {}: {}", path.display(), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// A kept connection as root, for a writer.
    pub fn session(&self) -> Result<Session> {
        let mut client = client(self.port)?;
        client.args(["--batch", "--skip-column-names", "--unbuffered", "--skip-reconnect"]);
        Session::open(client, |word| format!("SELECT '{word}';"))
    }

    /// Kills it, as a power cut of the machine it runs on would as far as its clients can see.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    /// Starts it again on the same port with the same data, after a kill or a stop.
    pub fn start_again(&mut self) -> Result<()> {
        self.process.kill()?;
        let (folder, tls) = (self.folder.path(), &self.tls);
        self.process = with_retries(|| launch(folder, tls, &self.options, self.port))?;
        Ok(())
    }

    /// Stops it politely and starts it again on the same port.
    pub fn restart(&mut self) -> Result<()> {
        self.process.stop(Signal::TERM, READY_PATIENCE)?;
        self.start_again()
    }
}

fn client(port: u16) -> Result<Command> {
    let mut command = Command::new(program("mariadb", "mariadb-client-core")?);
    command
        .arg("--no-defaults")
        .args(["--protocol=tcp", "--host=127.0.0.1", "--user=root", "--skip-ssl", "--default-character-set=utf8mb4"])
        .arg(format!("--port={port}"))
        .arg(format!("--database={}", MariaDb::DATABASE));
    Ok(command)
}

fn start_statements() -> String {
    let password = COLLECTOR_PASSWORD.replace('\'', "''");
    format!(
        "CREATE DATABASE IF NOT EXISTS {database} CHARACTER SET utf8mb4;\n\
         CREATE USER IF NOT EXISTS collector@'%' IDENTIFIED BY '{password}';\n\
         GRANT ALL ON *.* TO collector@'%';\n\
         CREATE USER IF NOT EXISTS certified@'%' REQUIRE X509;\n\
         GRANT ALL ON *.* TO certified@'%';\n",
        database = MariaDb::DATABASE
    )
}

/// The arguments that every server is started with. A killed server keeps what it has answered: its log is written at
/// each commit, though not synced, because the machine does not fail under it.
fn launch(folder: &Path, tls: &TlsFiles, options: &MariaDbOptions, port: u16) -> Result<Process> {
    let server = program("mariadbd", "mariadb-server-core")?;
    let file = |name: &str| folder.join(name).display().to_string();
    // A server that starts removes what it takes for leftovers in its folder of temporary files: of another server, if
    // they share one, it removes tables in use.
    std::fs::create_dir_all(folder.join("temporary"))?;
    let mut process = Process::spawn(&server, &folder.join("output.log"), Signal::KILL, |command| {
        command.arg("--no-defaults");
        command.args(user_arguments());
        command
            .arg(format!("--datadir={}", file("data")))
            .arg(format!("--tmpdir={}", file("temporary")))
            .arg(format!("--socket={}", file("socket")))
            .arg(format!("--pid-file={}", file("pid")))
            .arg(format!("--init-file={}", file("start.sql")))
            .arg(format!("--port={port}"))
            .arg(format!("--ssl-ca={}", tls.authority.display()))
            .arg(format!("--ssl-cert={}", tls.server_certificate.display()))
            .arg(format!("--ssl-key={}", tls.server_key.display()))
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--tls-version=TLSv1.2,TLSv1.3"])
            .args(["--performance-schema=OFF", "--innodb-buffer-pool-size=32M", "--key-buffer-size=1M"])
            .args(["--innodb-flush-log-at-trx-commit=2", "--innodb-doublewrite=0", "--aria-pagecache-buffer-size=1M"])
            .args(["--default-time-zone=+00:00", "--max-allowed-packet=64M", "--sync-binlog=0"])
            .args(&options.arguments);
    })?;
    process.await_ready(READY_PATIENCE, || answers(port, b"", b"MariaDB"))?;
    Ok(process)
}

/// The server refuses to run as root unless told to.
fn user_arguments() -> Vec<String> {
    if rustix::process::geteuid().is_root() { vec!["--user=root".into()] } else { Vec::new() }
}

fn template() -> Result<PathBuf> {
    let install = program("mariadb-install-db", "mariadb-server-core")?;
    let server = program("mariadbd", "mariadb-server-core")?;
    let version = run(Command::new(&server).arg("--version"))?;
    let version: String =
        version.split_whitespace().nth(2).unwrap_or("unknown").chars().take_while(|c| *c != '-').collect();
    folders::prepared(&format!("mariadb-{version}"), |folder| {
        let temporary = tempfile::tempdir()?;
        let mut command = Command::new(&install);
        let (data, temporary) = (folder.display(), temporary.path().display());
        command.arg("--no-defaults").args(user_arguments());
        command.arg(format!("--datadir={data}")).arg(format!("--tmpdir={temporary}")).args([
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
        ]);
        run(&mut command).map(drop)
    })
}
