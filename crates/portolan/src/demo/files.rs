//! The sample file server: an FTP server of one's own, where `vsftpd` is installed, with a CSV file that grows.

use std::fs::{OpenOptions, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::process::{KnownPorts, SampleProcess, find, is_root, password, write_private};
use super::{MACHINES, Optional, Part};

/// The port of the sample file server, where it is free and we may have it.
const PORT: u16 = 21;
/// The longest the server may take to greet.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// The time from one inspection to the next.
const INSPECTION_INTERVAL: Duration = Duration::from_millis(100);

pub(super) const SERVER: Optional = Optional {
    name: "FTP",
    is_installed: || find("vsftpd").is_some(),
    start,
    install_hint: "apt-get install vsftpd   (or your system's vsftpd package; on a server of yours see that it does not run)",
};

/// Starts a server and the writer of its file, which ends with it.
fn start(home: &Path, ports: KnownPorts) -> anyhow::Result<Part> {
    let server = find("vsftpd").context("vsftpd is not installed")?;
    let folder = tempfile::tempdir().context("failed to make a temporary folder for vsftpd")?;
    let (files, empty) = (folder.path().join("files"), folder.path().join("empty"));
    for path in [&files, &files.join("out"), &empty] {
        std::fs::create_dir(path)?;
    }
    // The server's account is another one then, and refuses to begin where it may write.
    if is_root() {
        for (path, mode) in [(folder.path(), 0o755), (&files, 0o555), (&files.join("out"), 0o755), (&empty, 0o555)] {
            std::fs::set_permissions(path, Permissions::from_mode(mode))?;
        }
    }
    let port = ports.free(PORT)?;
    // Root may become an account that owns nothing; another user's server stays that user's.
    // Such a server shows the whole file system to who has the password, and a root's only the folder.
    let (as_launched, shown) = if is_root() { ("NO", String::new()) } else { ("YES", files.display().to_string()) };
    let (password, password_file) = (password()?, "vsftpd.password");
    write_private(&home.join(password_file), &password)?;
    let passwords = folder.path().join("passwords");
    write_private(&passwords, &format!("{password}\n"))?;
    let text = format!(
        "listen=YES\nbackground=NO\nlisten_address=127.0.0.1\nlisten_port={port}\nanonymous_enable=YES\nlocal_enable=NO\n\
         secure_email_list_enable=YES\nemail_password_file={}\nftp_username=daemon\n\
         run_as_launching_user={as_launched}\nanon_root={}\nsecure_chroot_dir={}\nseccomp_sandbox=NO\nxferlog_enable=NO\n",
        passwords.display(),
        files.display(),
        empty.display()
    );
    let file = folder.path().join("vsftpd.conf");
    std::fs::write(&file, text)?;
    let mut command = Command::new(server);
    command.arg(&file);
    let csv = files.join("out/inspections.csv");
    inspect(&csv, 0)?;
    let log = folder.path().join("server.log");
    let process = SampleProcess::start(command, port, &log, folder)?;
    greet(port)?;
    tokio::spawn(write(csv));
    let configuration = format!(
        r#"[[source]]
name = "inspections"
port = {port}
protocol = "ftp"
path = "{shown}/out/*.csv"
password = {{ file = "{password_file}" }}
columns = {{ number = "bigint", inspected = "integer", scrap = "integer" }}
tls = {{ allow_plaintext = "sample server on loopback" }}
"#
    );
    Ok(Part::new("inspections", configuration, Some(process)))
}

/// Sees that the server lets somebody in: what it does not like of its configuration it says to each client.
fn greet(port: u16) -> anyhow::Result<()> {
    let connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    connection.set_read_timeout(Some(GREETING_TIMEOUT))?;
    let mut greeting = String::new();
    BufReader::new(connection).take(1_024).read_line(&mut greeting)?;
    ensure!(greeting.starts_with("220"), "vsftpd says `{}`", greeting.trim_end());
    Ok(())
}

/// Adds inspections until the folder has gone.
async fn write(path: PathBuf) {
    let mut interval = tokio::time::interval(INSPECTION_INTERVAL);
    for number in 1.. {
        interval.tick().await;
        if inspect(&path, number).is_err() {
            return;
        }
    }
}

/// Adds the line of an inspection; number 0 makes the file with its header.
fn inspect(path: &Path, number: usize) -> std::io::Result<()> {
    if number == 0 {
        return std::fs::write(path, "number,machine,inspected,scrap\n");
    }
    let (machine, inspected) = (MACHINES[number * 2 % MACHINES.len()], number * 11 % 30 + 20);
    let line = format!("{number},{machine},{inspected},{}\n", number * 7 % 4);
    OpenOptions::new().append(true).open(path)?.write_all(line.as_bytes())
}
