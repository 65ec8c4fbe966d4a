//! Two FTP servers: `readings`, lines appended to NDJSON files of pure-ftpd, and `reports`, whole JSON files of vsftpd.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Progress, Station, Writing, batch, lock};
use crate::crash::random::Random;
use crate::servers::{FtpServer, PureFtpd, VsFtpd};

const READINGS: &str = "readings";
const REPORTS: &str = "reports";
/// So many files grow at a time.
const GROWING: i64 = 3;
/// Numbers after which other files grow.
const READINGS_PER_FILES: i64 = 1_500;
/// Rows of a report.
const REPORT_ROWS: i64 = 100;

/// The server with files that grow.
#[derive(Debug)]
pub(super) struct Growing {
    server: Mutex<FtpServer>,
    folder: PathBuf,
}

/// The server with files that are written whole.
#[derive(Debug)]
pub(super) struct Whole {
    server: Mutex<FtpServer>,
    folder: PathBuf,
}

/// A line of `readings`.
pub(super) fn reading(id: i64) -> Value {
    json!({ "id": id, "gauge": format!("gauge, \"{}\" é", id % 7), "bar": id as f64 / 32.0, "is_valid": id % 9 != 0 })
}

/// The file that a reading is in.
pub(super) fn reading_file(id: i64) -> i64 {
    id / READINGS_PER_FILES * GROWING + id % GROWING
}

/// A row of `reports`.
pub(super) fn report(id: i64) -> Value {
    json!({ "id": id, "part": format!("part {}", id * 31 % 1_009), "faults": id % 4 })
}

/// The file that a report's row is in.
pub(super) fn report_file(id: i64) -> i64 {
    (id - 1) / REPORT_ROWS
}

impl Growing {
    pub(super) fn start() -> Result<Self> {
        let server = PureFtpd::start()?;
        Ok(Self { folder: server.path("out"), server: Mutex::new(server) })
    }
}

impl Station for Growing {
    fn configuration(&self) -> String {
        configuration(READINGS, &lock(&self.server), "/out/*.ndjson")
    }

    fn write(&self, progress: &Progress, writing: &mut Writing) -> Result<()> {
        while writing.goes_on(10, 150) {
            let ids = batch(&mut writing.random, progress.of(READINGS) + 1);
            let highest = ids.end - 1;
            let mut texts = vec![(0, String::new()); GROWING as usize];
            for id in ids {
                let (file, text) = &mut texts[(id % GROWING) as usize];
                if *file != reading_file(id) && !text.is_empty() {
                    self.append(*file, text, writing)?;
                    text.clear();
                }
                *file = reading_file(id);
                text.push_str(&format!("{}\n", reading(id)));
            }
            for (file, text) in texts.iter().filter(|(_, text)| !text.is_empty()) {
                self.append(*file, text, writing)?;
            }
            progress.found(READINGS, highest);
        }
        Ok(())
    }

    fn blow(&self, random: &mut Random) -> Result<&'static str> {
        blow(&self.server, random, ["pure-ftpd (frozen)", "pure-ftpd"])
    }
}

impl Growing {
    /// Adds lines, at times with a pause in the middle of one.
    fn append(&self, file: i64, text: &str, writing: &mut Writing) -> Result<()> {
        let path = self.folder.join(format!("readings-{file:06}.ndjson"));
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        let middle = writing.random.between(0, text.len() as u64) as usize;
        let (first, rest) = text.as_bytes().split_at(middle);
        file.write_all(first)?;
        if writing.random.once_in(3) {
            std::thread::sleep(writing.random.moment(0, 120));
        }
        Ok(file.write_all(rest)?)
    }
}

impl Whole {
    pub(super) fn start() -> Result<Self> {
        let server = VsFtpd::start()?;
        Ok(Self { folder: server.path("out"), server: Mutex::new(server) })
    }
}

impl Station for Whole {
    fn configuration(&self) -> String {
        configuration(REPORTS, &lock(&self.server), "/out/report-*.json")
    }

    fn write(&self, progress: &Progress, writing: &mut Writing) -> Result<()> {
        while writing.goes_on(300, 2_500) {
            let first = progress.of(REPORTS) + 1;
            let rows: Vec<Value> = (first..first + REPORT_ROWS).map(report).collect();
            let unfinished = self.folder.join("unfinished");
            std::fs::write(&unfinished, Value::from(rows).to_string())?;
            std::fs::rename(unfinished, self.folder.join(format!("report-{:06}.json", report_file(first))))?;
            progress.found(REPORTS, first + REPORT_ROWS - 1);
        }
        Ok(())
    }

    fn blow(&self, random: &mut Random) -> Result<&'static str> {
        blow(&self.server, random, ["vsftpd (frozen)", "vsftpd"])
    }
}

fn configuration(name: &str, server: &FtpServer, path: &str) -> String {
    format!(
        r#"
[[source]]
name = "{name}"
host = "{}"
port = {}
protocol = "ftp"
tls = {{ allow_plaintext = "loopback" }}
user = "{}"
password = {{ literal = "{}" }}
path = "{path}"
required = false
"#,
        server.address().ip(),
        server.address().port(),
        server.user,
        server.password
    )
}

fn blow(server: &Mutex<FtpServer>, random: &mut Random, [frozen, killed]: [&'static str; 2]) -> Result<&'static str> {
    let pause = random.moment(0, 900);
    let mut server = lock(server);
    if random.once_in(2) {
        server.pause()?;
        std::thread::sleep(pause);
        server.resume()?;
        return Ok(frozen);
    }
    server.kill()?;
    std::thread::sleep(pause);
    server.start_again()?;
    Ok(killed)
}
