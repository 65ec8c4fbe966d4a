//! pure-ftpd: MLSD, virtual users, TLS by `AUTH TLS` on the port that speaks plain text, too.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::ftp::{ADDRESS, FtpServer, Ports};
use super::{COLLECTOR_PASSWORD, READY_PATIENCE, answers_at};
use crate::process::{Process, Signal, program, run};
use crate::tls::TlsFiles;

/// [`COLLECTOR_PASSWORD`] as `crypt` keeps it.
const PASSWORD_HASH: &str =
    "$6$portolan$pRyNUSDb9QehHJkKFR58tTrcRP2UwihdmUOesyrp7Co.63e0i66g2G0ba5zvE/Pn.XbpFmh/6PxtGjfAXCyPg0";

/// Starts pure-ftpd.
#[derive(Debug)]
pub struct PureFtpd;

impl PureFtpd {
    /// A server whose user `collector` has [`COLLECTOR_PASSWORD`].
    pub fn start() -> Result<FtpServer> {
        Self::start_with(&[])
    }

    /// A server with further arguments, such as `-L 100:5`.
    pub fn start_with(arguments: &[&str]) -> Result<FtpServer> {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let launch = move |folder: &Path, files: &Path, tls: &TlsFiles, ports: &Ports| {
            launch(folder, files, tls, ports, &arguments)
        };
        FtpServer::start("pure-ftpd", ("collector", COLLECTOR_PASSWORD), Box::new(launch))
    }
}

fn launch(folder: &Path, files: &Path, tls: &TlsFiles, ports: &Ports, arguments: &[String]) -> Result<Process> {
    let (users, database, certificate) =
        (folder.join("users"), folder.join("users.pdb"), folder.join("certificate.pem"));
    // The accounts `nobody` and `nogroup` have this number nearly everywhere; the files are readable for all.
    let user = format!("collector:{PASSWORD_HASH}:65534:65534::{}/./::::::::::::\n", files.display());
    std::fs::write(&users, user)?;
    run(Command::new(program("pure-pw", "pure-ftpd")?).arg("mkdb").arg(&database).arg("-f").arg(&users))?;
    let pair = [std::fs::read(&tls.server_certificate)?, std::fs::read(&tls.server_key)?].concat();
    std::fs::write(&certificate, pair)?;
    let server = program("pure-ftpd", "pure-ftpd")?;
    let mut process = Process::spawn(&server, &folder.join("output.log"), Signal::KILL, |command| {
        command
            .arg("-S")
            .arg(format!("{ADDRESS},{}", ports.control))
            .arg("-p")
            .arg(format!("{}:{}", ports.passive.start, ports.passive.end - 1))
            .arg("-l")
            .arg(format!("puredb:{}", database.display()))
            .arg("-2")
            .arg(&certificate)
            .arg("-g")
            .arg(folder.join("pid"))
            .args(["-4", "-E", "-A", "-H", "-Y", "1", "-u", "1", "-c", "100", "-C", "100"])
            .args(arguments);
    })?;
    process.await_ready(READY_PATIENCE, || answers_at((ADDRESS, ports.control).into(), b"", b"220"))?;
    Ok(process)
}
