//! The sample database: a MariaDB of one's own in a temporary folder, where `mariadbd` is installed.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::api::CUSTOMERS;
use super::process::{KnownPorts, SampleProcess, find, is_root, password, write_private};
use super::{Optional, Part};

/// The account that the sample configuration reads with.
const USER: &str = "collector";
/// The port of the sample database, where it is free.
const PORT: u16 = 3306;

pub(super) const SERVER: Optional = Optional {
    name: "MySQL",
    is_installed: || find("mariadbd").is_some() && find("mariadb-install-db").is_some(),
    start,
    install_hint: "apt-get install mariadb-server-core   (or your system's MariaDB server package)",
};

/// Sets a server up and starts it.
fn start(home: &Path, ports: KnownPorts) -> anyhow::Result<Part> {
    let server = find("mariadbd").context("mariadbd is not installed")?;
    let install = find("mariadb-install-db").context("mariadb-install-db is not installed")?;
    let folder = tempfile::tempdir().context("failed to make a temporary folder for MariaDB")?;
    // Temporary files of its own: two servers being set up at once trip over each other's.
    let (data, temporary) = (folder.path().join("data"), folder.path().join("temporary"));
    std::fs::create_dir(&temporary)?;
    let run_as = if is_root() { Some("--user=root") } else { None };
    let installed = Command::new(install)
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"])
        .args(run_as)
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--tmpdir={}", temporary.display()))
        .stdin(Stdio::null())
        .output()
        .context("failed to start mariadb-install-db")?;
    if !installed.status.success() {
        bail!("mariadb-install-db failed: {}", String::from_utf8_lossy(&installed.stderr).trim());
    }
    let (password, password_file) = (password()?, "mariadb.password");
    write_private(&home.join(password_file), &password)?;
    let script = folder.path().join("init.sql");
    write_private(&script, &init_script(&password))?;
    let port = ports.free(PORT)?;
    let log = folder.path().join("server.log");
    let mut command = Command::new(server);
    command
        .args(["--no-defaults", "--skip-name-resolve", "--bind-address=127.0.0.1", "--performance-schema=OFF"])
        .args(["--innodb-buffer-pool-size=16M", "--innodb-flush-log-at-trx-commit=0"])
        .args(run_as)
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--tmpdir={}", temporary.display()))
        .arg(format!("--socket={}", folder.path().join("socket").display()))
        .arg(format!("--pid-file={}", folder.path().join("pid").display()))
        .arg(format!("--port={port}"))
        .arg(format!("--init-file={}", script.display()))
        .arg(format!("--log-error={}", log.display()));
    let process = SampleProcess::start(command, port, &log, folder)?;
    let configuration = format!(
        r#"[[source]]
name = "customers"
port = {port}
protocol = "mysql"
user = "{USER}"
password = {{ file = "{password_file}" }}
database = "demo"
table = "customers"
tls = {{ allow_plaintext = "sample server on loopback" }}
"#
    );
    Ok(Part::new("customers", configuration, Some(process)))
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
