//! The lake as an outside reader sees it: DuckDB with its DuckLake extension, a program we did not write.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::folders;
use crate::process::INSTALL;

/// Reads statements from standard input, one JSON text, and prints the rows of each as JSON. Values that JSON has no
/// type for (decimals, timestamps, blobs, numbers beyond 2^53) are printed as DuckDB's own text.
const SCRIPT: &str = r#"
import base64, datetime, decimal, glob, json, math, os, sys, sysconfig, uuid
import duckdb
task = json.load(sys.stdin)
# A statement that takes long draws its progress on standard output: the answers have that to themselves.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
connection = duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False})
packages = sysconfig.get_paths()["purelib"]
for name in ("sqlite_scanner", "ducklake"):
    found = glob.glob(os.path.join(packages, "duckdb_extension_" + name, "**", name + ".duckdb_extension"), recursive=True)
    if not found:
        sys.exit("the extension " + name + " is not among the packages")
    connection.execute("LOAD '" + found[0].replace("'", "''") + "'")
connection.execute("SET TimeZone = 'UTC'")
quoted = os.path.join(task["lake"], "catalog.sqlite").replace("'", "''")
options = ["META_BUSY_TIMEOUT 5000"]
if not task["write"]:
    options.append("READ_ONLY")
elif not os.path.exists(os.path.join(task["lake"], "catalog.sqlite")):
    options.append("DATA_PATH '%s'" % os.path.join(task["lake"], "data", "").replace("'", "''"))
if task["snapshot"] is not None:
    options.append("SNAPSHOT_VERSION %d" % task["snapshot"])
connection.execute("ATTACH 'ducklake:sqlite:%s' AS lake (%s)" % (quoted, ", ".join(options)))
connection.execute("USE lake")
def plain(value):
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value if abs(value) <= 2**53 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    return str(value)
if not task["write"]:
    connection.execute("BEGIN TRANSACTION")
for statement in task["statements"]:
    cursor = connection.execute(statement)
    names = [column[0] for column in cursor.description or []]
    rows = [dict(zip(names, map(plain, row))) for row in cursor.fetchall()] if names else []
    print(json.dumps(rows), file=answers)
answers.flush()
"#;

/// Rows of `sql` over the lake in `folder`, at its newest snapshot: one object a row. The lake is the default
/// catalog; a table of a source is `main.NAME`, Portolan's own are in the schema `portolan`.
pub fn query(folder: &Path, sql: &str) -> Result<Vec<Value>> {
    let mut answers = Session { folder, snapshot: None, write: false }.run(&[sql])?;
    answers.pop().context("no answer")
}

/// The same at an older snapshot.
pub fn query_at(folder: &Path, snapshot: i64, sql: &str) -> Result<Vec<Value>> {
    let mut answers = Session { folder, snapshot: Some(snapshot), write: false }.run(&[sql])?;
    answers.pop().context("no answer")
}

/// How DuckDB attaches the lake.
#[derive(Clone, Copy, Debug)]
pub struct Session<'a> {
    /// The lake's folder, which holds `catalog.sqlite`.
    pub folder: &'a Path,
    /// The snapshot to read; the newest where `None`.
    pub snapshot: Option<i64>,
    /// Whether statements may change the lake; a lake that does not exist is then made.
    pub write: bool,
}

impl Session<'_> {
    /// Runs statements one after the other; the rows of each. Where nothing may be changed they all see one snapshot,
    /// whatever is committed meanwhile.
    pub fn run(&self, statements: &[&str]) -> Result<Vec<Vec<Value>>> {
        let python = folders::workspace().join("target/test-tools/python/bin/python");
        if !python.exists() {
            bail!("DuckDB's Python packages are not in {}: {INSTALL}", python.display());
        }
        let mut child = Command::new(&python)
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", python.display()))?;
        let task = serde_json::json!({
            "lake": std::path::absolute(self.folder)?, "snapshot": self.snapshot, "write": self.write,
            "statements": statements,
        });
        child.stdin.take().context("python without input")?.write_all(task.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!(
                "duckdb on {}: {}",
                self.folder.display(),
                errors.trim_end().rsplit("Error: ").next().unwrap_or("failed")
            );
        }
        let text = String::from_utf8(output.stdout)?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}
