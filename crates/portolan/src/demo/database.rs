//! The sample database: a MariaDB of one's own in a temporary folder, where `mariadbd` is installed.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::server::CUSTOMERS;

/// How to get a MariaDB for the demo.
pub(crate) const INSTALL_HINT: &str = "apt-get install mariadb-server-core   (or your system's MariaDB server package)";
/// The account that the sample configuration reads with.
pub(crate) const USER: &str = "collector";
/// The port of the sample database, where it is free.
const PORT: u16 = 3306;
/// The longest the server may take to answer, once started.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A MariaDB that ends with this value.
pub(crate) struct SampleDatabase {
    /// Its port.
    pub(crate) port: u16,
    /// The file that holds the account's password.
    pub(crate) password_file: PathBuf,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Drop for SampleDatabase {
    fn drop(&mut self) {
        // A sample server in a temporary folder has nothing to save.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the programs are there.
pub(crate) fn is_installed() -> bool {
    find("mariadbd").is_some() && find("mariadb-install-db").is_some()
}

/// Sets a server up and starts it; blocks for a few seconds. `home` receives the password file.
pub(crate) fn start(home: &Path) -> anyhow::Result<SampleDatabase> {
    let server = find("mariadbd").context("mariadbd is not installed")?;
    let install = find("mariadb-install-db").context("mariadb-install-db is not installed")?;
    let folder = tempfile::tempdir().context("failed to make a temporary folder for MariaDB")?;
    let data = folder.path().join("data");
    let run_as = if is_root() { Some("--user=root") } else { None };
    let installed = Command::new(install)
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"])
        .args(run_as)
        .arg(format!("--datadir={}", data.display()))
        .stdin(Stdio::null())
        .output()
        .context("failed to start mariadb-install-db")?;
    if !installed.status.success() {
        bail!("mariadb-install-db failed: {}", String::from_utf8_lossy(&installed.stderr).trim());
    }
    let password = password()?;
    let password_file = home.join("mariadb.password");
    write_private(&password_file, &password)?;
    let script = folder.path().join("init.sql");
    write_private(&script, &init_script(&password))?;
    let port = free_port()?;
    let log = folder.path().join("server.log");
    let child = Command::new(server)
        .args(["--no-defaults", "--skip-name-resolve", "--bind-address=127.0.0.1", "--performance-schema=OFF"])
        .args(["--innodb-buffer-pool-size=16M", "--innodb-flush-log-at-trx-commit=0"])
        .args(run_as)
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--socket={}", folder.path().join("socket").display()))
        .arg(format!("--pid-file={}", folder.path().join("pid").display()))
        .arg(format!("--port={port}"))
        .arg(format!("--init-file={}", script.display()))
        .arg(format!("--log-error={}", log.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("failed to start mariadbd")?;
    let mut database = SampleDatabase { port, password_file, child, _folder: folder };
    let started = Instant::now();
    while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        if let Some(status) = database.child.try_wait()? {
            bail!("mariadbd ended at once ({status}): {}", std::fs::read_to_string(&log).unwrap_or_default());
        }
        if started.elapsed() > START_TIMEOUT {
            bail!("mariadbd did not answer within {} s", START_TIMEOUT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(database)
}

fn init_script(password: &str) -> String {
    let names = ["Aalto", "Brandt", "Costa", "Dubois", "Eriksen", "Fischer", "García", "Haddad"];
    let rows: Vec<String> = (1..=CUSTOMERS)
        .map(|id| {
            let name = names[(id as usize - 1) % names.len()];
            format!("({id}, '{name}', {}.50, '2026-01-{:02} 08:00:00.000001')", id * 1_000, id)
        })
        .collect();
    // One statement a line: that is how the server reads an init file.
    format!(
        "CREATE DATABASE demo CHARACTER SET utf8mb4;\n\
         CREATE TABLE demo.customers (id BIGINT UNSIGNED PRIMARY KEY, name VARCHAR(60) NOT NULL, credit DECIMAL(12,2) NOT NULL, since DATETIME(6) NOT NULL);\n\
         INSERT INTO demo.customers VALUES {};\n\
         CREATE USER '{USER}'@'127.0.0.1' IDENTIFIED BY '{password}';\n\
         GRANT SELECT ON demo.* TO '{USER}'@'127.0.0.1';\n",
        rows.join(", ")
    )
}

/// A password for one run, from the system's randomness.
fn password() -> anyhow::Result<String> {
    use std::io::Read;
    let mut bytes = [0u8; 16];
    std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).context("no randomness")?;
    Ok(portolan_rounds::output::hex(&bytes))
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
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

/// MariaDB's own port if it is free, else any that is.
fn free_port() -> anyhow::Result<u16> {
    if TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)).is_ok() {
        return Ok(PORT);
    }
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free loopback port")?.local_addr()?.port())
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")]);
    folders.map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}
