//! nginx: static JSON, a reverse proxy for the stateful API, TLS 1.3 with HTTP/2, client certificates, gzip.

use std::path::Path;

use anyhow::Result;
use tempfile::TempDir;

use super::{READY_PATIENCE, answers, with_retries};
use crate::process::{Process, Signal, free_port, program};
use crate::tls::TlsFiles;

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct NginxOptions {
    /// The loopback port that `/api/` is passed on to (the path keeps its `/api`-less rest).
    pub upstream_port: Option<u16>,
}

/// A running nginx: the same content on three ports.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    ports: Ports,
    tls: TlsFiles,
    options: NginxOptions,
    folder: TempDir,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    http: u16,
    https: u16,
    certified: u16,
}

impl Nginx {
    /// Starts a server with one static file, `/ok.json`.
    pub fn start(options: NginxOptions) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("portolan-nginx-").tempdir()?;
        for name in ["files", "temporary"] {
            std::fs::create_dir(folder.path().join(name))?;
        }
        std::fs::write(folder.path().join("files/ok.json"), "{\"ok\":1}\n")?;
        let tls = TlsFiles::create(&folder.path().join("tls"))?;
        let (process, ports) = with_retries(|| {
            let ports = Ports { http: free_port()?, https: free_port()?, certified: free_port()? };
            Ok((launch(folder.path(), &tls, &options, ports)?, ports))
        })?;
        Ok(Self { process, ports, tls, options, folder })
    }

    /// The port that speaks plain HTTP/1.1.
    pub fn http_port(&self) -> u16 {
        self.ports.http
    }

    /// The port that speaks TLS 1.3 with HTTP/2 and HTTP/1.1.
    pub fn https_port(&self) -> u16 {
        self.ports.https
    }

    /// The port that wants a client certificate besides.
    pub fn certified_port(&self) -> u16 {
        self.ports.certified
    }

    /// The certificates it uses and those it accepts.
    pub fn tls(&self) -> &TlsFiles {
        &self.tls
    }

    /// The process, to pause or resume it.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Serves `content` as `/name`, whole or not at all.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let fresh = self.folder.path().join("temporary/fresh");
        std::fs::write(&fresh, content)?;
        std::fs::rename(fresh, self.folder.path().join("files").join(name))?;
        Ok(())
    }

    /// Kills it with its workers.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    /// Starts it again on the same ports, after a kill or a stop.
    pub fn start_again(&mut self) -> Result<()> {
        self.process.kill()?;
        let (folder, tls) = (self.folder.path(), &self.tls);
        self.process = with_retries(|| launch(folder, tls, &self.options, self.ports))?;
        Ok(())
    }

    /// Stops it politely and starts it again on the same ports.
    pub fn restart(&mut self) -> Result<()> {
        self.process.stop(Signal::TERM, READY_PATIENCE)?;
        self.start_again()
    }
}

fn launch(folder: &Path, tls: &TlsFiles, options: &NginxOptions, ports: Ports) -> Result<Process> {
    let configuration = folder.join("nginx.conf");
    std::fs::write(&configuration, configuration_text(folder, tls, options, ports))?;
    let server = program("nginx", "nginx-light")?;
    let log = folder.join("error.log");
    // The master ends its workers when it is told to terminate, and would leave them behind if killed.
    let mut process = Process::spawn(&server, &folder.join("output.log"), Signal::TERM, |command| {
        command.arg("-p").arg(folder).arg("-e").arg(&log).arg("-c").arg(&configuration).args(["-g", "daemon off;"]);
    })?;
    process
        .await_ready(READY_PATIENCE, || answers(ports.http, b"GET /ok.json HTTP/1.0\r\n\r\n", b"200 OK"))
        .map_err(|error| error.context(std::fs::read_to_string(&log).unwrap_or_default()))?;
    Ok(process)
}

fn configuration_text(folder: &Path, tls: &TlsFiles, options: &NginxOptions, ports: Ports) -> String {
    let folder = folder.display();
    let root = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let api = options.upstream_port.map_or_else(String::new, |port| {
        format!(
            "location /api/ {{ proxy_pass http://127.0.0.1:{port}/; proxy_http_version 1.1; \
             proxy_set_header Connection \"\"; proxy_set_header Host $http_host; \
             proxy_set_header X-Forwarded-Prefix /api; proxy_set_header X-Forwarded-Proto $scheme; \
             proxy_buffering off; }}"
        )
    });
    let content = format!(
        "root {folder}/files; default_type application/json; etag on; gzip on; gzip_min_length 64; \
         gzip_types application/json application/x-ndjson text/csv; {api}"
    );
    let secure = format!(
        "ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.3;",
        tls.server_certificate.display(),
        tls.server_key.display()
    );
    let authority = tls.authority.display();
    let Ports { http, https, certified } = ports;
    format!(
        "{root}
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log warn;
events {{ worker_connections 2048; }}
http {{
  access_log off;
  types {{ application/json json; application/x-ndjson ndjson; text/csv csv; }}
  client_body_temp_path {folder}/temporary/body; proxy_temp_path {folder}/temporary/proxy;
  fastcgi_temp_path {folder}/temporary/fastcgi; uwsgi_temp_path {folder}/temporary/uwsgi;
  scgi_temp_path {folder}/temporary/scgi;
  server {{ listen 127.0.0.1:{http}; {content} }}
  server {{ listen 127.0.0.1:{https} ssl http2; {secure} {content} }}
  server {{ listen 127.0.0.1:{certified} ssl http2; {secure} {content}
    ssl_client_certificate {authority}; ssl_verify_client on; }}
}}
"
    )
}
