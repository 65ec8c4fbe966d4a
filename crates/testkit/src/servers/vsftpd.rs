//! vsftpd: LIST without MLSD, TLS explicit or implicit, data connections that must reuse the control connection's session.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use anyhow::Result;

use super::ftp::{ADDRESS, FtpServer, Ports};
use super::{COLLECTOR_PASSWORD, READY_PATIENCE, answers_at};
use crate::process::{Process, Signal, program};
use crate::tls::TlsFiles;

/// Starts vsftpd.
#[derive(Debug)]
pub struct VsFtpd;

impl VsFtpd {
    /// A server that lets `anonymous` in with [`COLLECTOR_PASSWORD`]: accounts of the system are none of the tests'.
    pub fn start() -> Result<FtpServer> {
        Self::start_with(&[])
    }

    /// A server with further lines of configuration, such as `implicit_ssl=YES`.
    pub fn start_with(lines: &[&str]) -> Result<FtpServer> {
        Self::start_as(lines.join("\n"), "")
    }

    /// A server that speaks no newer TLS than 1.2.
    pub fn start_with_tls12() -> Result<FtpServer> {
        Self::start_as(String::new(), "MaxProtocol = TLSv1.2")
    }

    fn start_as(lines: String, openssl: &'static str) -> Result<FtpServer> {
        let launch = move |folder: &Path, files: &Path, tls: &TlsFiles, ports: &Ports| {
            let configuration = folder.join("openssl.cnf");
            let text = format!("openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\n{openssl}\n");
            std::fs::write(&configuration, text)?;
            launch(folder, files, tls, ports, &lines, &configuration)
        };
        FtpServer::start("vsftpd", ("anonymous", COLLECTOR_PASSWORD), Box::new(launch))
    }
}

fn launch(folder: &Path, files: &Path, tls: &TlsFiles, ports: &Ports, lines: &str, openssl: &Path) -> Result<Process> {
    let (empty, passwords, configuration) =
        (folder.join("empty"), folder.join("passwords"), folder.join("vsftpd.conf"));
    std::fs::create_dir_all(&empty)?;
    std::fs::write(&passwords, format!("{COLLECTOR_PASSWORD}\n"))?;
    // `ftp_username` needs a home folder that exists. A space at the end of a line would belong to the value.
    let text = format!(
        "listen=YES
background=NO
listen_address={ADDRESS}
listen_port={control}
anonymous_enable=YES
local_enable=NO
ftp_username=daemon
anon_root={files}
secure_email_list_enable=YES
email_password_file={passwords}
secure_chroot_dir={empty}
seccomp_sandbox=NO
pasv_min_port={first}
pasv_max_port={last}
xferlog_enable=NO
delay_failed_login=0
ssl_enable=YES
allow_anon_ssl=YES
force_anon_logins_ssl=NO
force_anon_data_ssl=NO
require_ssl_reuse=YES
ssl_ciphers=HIGH
rsa_cert_file={certificate}
rsa_private_key_file={key}
{lines}
",
        control = ports.control,
        files = files.display(),
        passwords = passwords.display(),
        empty = empty.display(),
        first = ports.passive.start,
        last = ports.passive.end - 1,
        certificate = tls.server_certificate.display(),
        key = tls.server_key.display(),
    );
    std::fs::write(&configuration, text)?;
    let server = program("vsftpd", "vsftpd")?;
    let mut process = Process::spawn(&server, &folder.join("output.log"), Signal::KILL, |command| {
        command.arg(&configuration).env("OPENSSL_CONF", openssl);
    })?;
    // Inside TLS no greeting can be seen from here.
    let is_implicit = lines.contains("implicit_ssl=YES");
    process.await_ready(READY_PATIENCE, || {
        let address = SocketAddr::from((ADDRESS, ports.control));
        if is_implicit { TcpStream::connect(address).is_ok() } else { answers_at(address, b"", b"220") }
    })?;
    Ok(process)
}
