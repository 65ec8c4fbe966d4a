//! The chain over the rounds: as another program computes it, with heads kept outside, beside an earlier format.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int32Array, RecordBatch};
use common::*;
use portolan_lake::{ChainHead, HeadFiles, LakeReader, LakeSettings, VerifyReport, VerifyScope};
use portolan_model::catalog::Catalog;
use portolan_model::round::RoundVerdict;
use portolan_model::source::QuarantineItem;

/// Computes the chain from what DuckDB reads and `docs/lake.md` says, with nothing of ours. Prints each round and its digest.
const SCRIPT: &str = r#"
import glob, hashlib, os, struct, sqlite3, sys, sysconfig
import duckdb
lake = sys.argv[1]
connection = duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False})
for name in ("sqlite_scanner", "ducklake"):
    [path] = glob.glob(os.path.join(sysconfig.get_paths()["purelib"], "duckdb_extension_" + name, "**", name + ".duckdb_extension"), recursive=True)
    connection.execute("LOAD '%s'" % path)
connection.execute("ATTACH 'ducklake:sqlite:%s/catalog.sqlite' AS lake (READ_ONLY)" % lake)
connection.execute("SET TimeZone = 'UTC'")
fields = {}
with sqlite3.connect("file:%s/catalog.sqlite?mode=ro" % lake, uri=True) as catalog:
    for table, column, number, kind in catalog.execute(
        "SELECT t.table_name, c.column_name, c.column_id, c.column_type FROM ducklake_column c JOIN ducklake_table t USING (table_id) "
        "JOIN ducklake_schema s USING (schema_id) WHERE s.schema_name = 'portolan' AND c.end_snapshot IS NULL ORDER BY 3"):
        fields.setdefault(table, []).append((column, number, kind))
def value(kind, item):
    if kind == "int64":
        return (b"i" if item < 0 else b"u") + struct.pack("<q", item)
    if kind == "varchar":
        return b"t" + struct.pack("<Q", len(item.encode())) + item.encode()
    if kind == "timestamptz":
        return b"Z" + struct.pack("<q", item)
    sys.exit("a type that this script does not know: " + kind)
sealed = ("snapshot_id", "previous_round", "manifest", "chain_sha256")
digests = {}
for table, columns in fields.items():
    columns = [column for column in columns if not (table == "rounds" and column[0] in sealed)]
    shown = ", ".join(("epoch_us(%s)" if kind == "timestamptz" else "%s") % name for name, _, kind in columns)
    for row in connection.execute("SELECT round, %s FROM lake.portolan.%s ORDER BY rowid" % (shown, table)).fetchall():
        digest = digests.setdefault((row[0], table), hashlib.sha256(b"portolan-rows-1\n"))
        for (_, number, kind), item in zip(columns, row[1:]):
            if item is not None:
                digest.update(struct.pack("<I", number) + value(kind, item))
        digest.update(b"\xff\xff\xff\xff")
previous = "none"
for number, snapshot in connection.execute("SELECT round, snapshot_id FROM lake.portolan.rounds ORDER BY snapshot_id").fetchall():
    text = "portolan-round-1\nround %d\nsnapshot %d\nprevious %s\n" % (number, snapshot, previous)
    for (of, table), digest in sorted(digests.items(), key=lambda entry: entry[0][1]):
        if of == number:
            text += "%s %s\n" % (table, digest.hexdigest())
    chain = hashlib.sha256(text.encode()).hexdigest()
    print(number, chain)
    previous = "%d %s" % (number, chain)
"#;

fn eager() -> LakeSettings {
    LakeSettings { flush_rows: 1, flush_after: Duration::ZERO, inline_rows: 20, grace: Duration::ZERO, ..settings() }
}

async fn commit(lake: &dyn Catalog, step: i32) {
    let mut staging = lake.begin().await.unwrap();
    let mut table = staging.table(spec("orders")).unwrap();
    let id: ArrayRef = Arc::new((step * 100..step * 100 + 5 + step % 3 * 20).collect::<Int32Array>());
    table.write(RecordBatch::try_from_iter_with_nullable([("id", id, true)]).unwrap()).await.unwrap();
    for line in 0..step % 4 {
        let item = QuarantineItem {
            reason: "row_not_json",
            column: (line == 1).then(|| "spät".to_owned()),
            row: serde_json::json!({ "line": line }),
            content: "{".to_owned(),
            detail: "it ends early".to_owned(),
        };
        table.quarantine(item).await.unwrap();
    }
    let mut receipt = receipt("orders");
    receipt.rows = table.finish().await.unwrap().rows;
    receipt.released_us = Some(i64::from(-step));
    let mut record = record(vec![receipt]);
    if step % 5 == 3 {
        record.verdict = RoundVerdict::Rejected;
        record.receipts[0].rows = 0;
    }
    staging.commit(record, &[]).await.unwrap();
}

fn verify(folder: &Path, scope: VerifyScope) -> VerifyReport {
    LakeReader::open(folder).unwrap().verify(&scope, &mut |_| {}).unwrap()
}

fn head(folder: &Path) -> ChainHead {
    LakeReader::open(folder).unwrap().head().unwrap()
}

#[tokio::test]
async fn another_program_computes_the_same_chain() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path(), eager()).await;
    for step in 0..20 {
        commit(&lake, step).await;
        if step % 6 == 5 {
            lake.maintain().await.unwrap();
        }
    }
    lake.close().await.unwrap();
    let python = portolan_testkit::folders::workspace().join("target/test-tools/python/bin/python");
    let output = Command::new(python).args(["-c", SCRIPT]).arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let computed: Vec<&str> = text.lines().collect();
    assert_eq!(computed.len(), 20);
    let head = head(folder.path());
    assert_eq!(*computed.last().unwrap(), format!("{} {}", head.round, head.chain_sha256));
    let stored =
        duck(folder.path(), &["select round || ' ' || chain_sha256 as t from portolan.rounds order by snapshot_id"]);
    let stored: Vec<&str> = stored[0].iter().map(|row| row["t"].as_str().unwrap()).collect();
    assert_eq!(stored, computed);
}

#[tokio::test]
async fn heads_kept_over_time_are_ancestors_and_say_what_is_new() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let lake = open(path, eager()).await;
    assert_eq!(LakeReader::open(path).unwrap().head().unwrap_err().kind(), portolan_model::ErrorKind::NotFound);
    let mut heads = Vec::new();
    for step in 0..12 {
        commit(&lake, step).await;
        if step % 4 == 3 {
            heads.push(head(path));
            lake.maintain().await.unwrap();
            lake.maintain().await.unwrap();
        }
    }
    let report = verify(path, VerifyScope { heads: heads.clone(), ..VerifyScope::default() });
    assert!(report.is_sound(), "{report:#?}");
    let chain = report.chain.unwrap();
    // Maintenance has moved files since the last one.
    assert_eq!((chain.rounds, chain.before, chain.heads, chain.files_by_head), (12, 0, 3, HeadFiles::Changed));
    let now = head(path);
    let report = verify(path, VerifyScope { heads: vec![now.clone()], ..VerifyScope::default() });
    assert!(report.is_sound() && report.chain.unwrap().files_by_head == HeadFiles::Held);

    // Only what a head does not know is read.
    commit(&lake, 12).await;
    commit(&lake, 14).await;
    let report = verify(path, VerifyScope { verified: Some(now.clone()), ..VerifyScope::default() });
    assert!(report.is_sound(), "{report:#?}");
    assert_eq!((report.chain.as_ref().unwrap().rounds, report.tables[0].rounds), (2, 2));
    assert!(report.tables[0].files <= 2, "{report:#?}");

    // A head of another lake, and one of a round that is not there.
    let other = ChainHead { chain_sha256: "0".repeat(64), ..now.clone() };
    let report = verify(path, VerifyScope { heads: vec![other], ..VerifyScope::default() });
    assert!(report.mismatches.iter().any(|one| one.round == now.round && one.detail.contains("another lake")));
    let later = ChainHead { round: 99, ..now };
    let report = verify(path, VerifyScope { heads: vec![later], ..VerifyScope::default() });
    assert!(report.mismatches.iter().any(|one| one.round == 99 && one.detail.contains("cut off")), "{report:#?}");
}

/// Rounds commit in another order than that of their numbers.
#[tokio::test]
async fn the_chain_has_the_order_of_the_commits() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path(), eager()).await;
    let mut early = lake.begin().await.unwrap();
    commit(&lake, 0).await;
    commit(&lake, 1).await;
    let mut table = early.table(spec("state")).unwrap();
    let id: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    table.write(RecordBatch::try_from_iter_with_nullable([("id", id, true)]).unwrap()).await.unwrap();
    let mut receipt = receipt("state");
    receipt.rows = table.finish().await.unwrap().rows;
    early.commit(record(vec![receipt]), &[]).await.unwrap();
    commit(&lake, 2).await;
    let report = verify(folder.path(), VerifyScope::default());
    assert!(report.is_sound(), "{report:#?}");
    assert_eq!(report.chain.unwrap().rounds, 4);
    let order = duck(folder.path(), &["select round, previous_round from portolan.rounds order by snapshot_id"]);
    let order: Vec<_> = order[0].iter().map(|row| (row["round"].as_i64(), row["previous_round"].as_i64())).collect();
    assert_eq!(order, [(Some(2), None), (Some(3), Some(2)), (Some(1), Some(3)), (Some(4), Some(1))]);
}

/// A lake that the version before the chain has written is read, goes on, and its chain begins with the first new round.
#[tokio::test]
async fn a_lake_of_format_1_goes_on_with_a_chain() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format_1"), path);
    let report = verify(path, VerifyScope::default());
    assert!(report.is_sound(), "{report:#?}");
    let chain = report.chain.unwrap();
    assert_eq!((chain.rounds, chain.before, chain.head), (0, 6, None));
    assert_eq!(report.tables.iter().find(|table| table.table == "orders").unwrap().rounds, 6);

    let lake = open(path, eager()).await;
    for step in 10..16 {
        commit(&lake, step).await;
        lake.maintain().await.unwrap();
        let report = verify(path, VerifyScope { full: step % 2 == 0, ..VerifyScope::default() });
        assert!(report.is_sound(), "{report:#?}");
        let chain = report.chain.unwrap();
        assert_eq!((chain.rounds, chain.before), (step as u64 - 9, 6));
    }
    lake.close().await.unwrap();
    drop(lake);
    let catalog = rusqlite::Connection::open(path.join("catalog.sqlite")).unwrap();
    let sql = "select \"value\" from portolan_meta where \"key\" = 'format_version'";
    assert_eq!(catalog.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap(), "2");
}
