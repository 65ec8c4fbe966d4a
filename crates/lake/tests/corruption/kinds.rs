//! What can befall a lake: one corruption at a time, chosen by a seed, with what a report must name of it.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "part of a test")]

use std::path::{Path, PathBuf};

use portolan_lake::{LakeReader, VerifyReport, VerifyScope};
use rand::Rng;
use rand::rngs::StdRng;
use rusqlite::types::Value;
use rusqlite::{Connection, params};
use sha2::{Digest, Sha256};

use crate::lake::TAIL;

/// The kinds, by name.
pub const KINDS: [&str; 17] = [
    "flipped byte in a file",
    "value inside the catalog",
    "deleted file",
    "file taken out of the catalog",
    "row of a round dropped",
    "receipts of a round dropped",
    "rows of a round dropped",
    "round dropped wholly",
    "swapped files",
    "edited receipt",
    "edited round",
    "edited quarantine",
    "added row",
    "added file",
    "edited row-group digest",
    "edited position",
    "file and its digest changed",
];
/// Those that only a head kept outside reveals.
pub const TAILS: [&str; 2] = ["tail digested anew", "tail cut off"];

/// What a report must name: all of these, in the findings that it has.
#[derive(Debug, Default)]
pub struct Expected {
    pub words: Vec<String>,
    pub round: Option<i64>,
    /// Whether it is found only by the head that was kept outside.
    pub by_head: bool,
}

/// The lake being corrupted.
pub struct Victim<'a> {
    pub folder: &'a Path,
    pub catalog: Connection,
    pub random: &'a mut StdRng,
    /// Files of the lake that were changed, to be put back.
    pub touched: Vec<PathBuf>,
}

/// A file that the catalog names.
struct Named {
    id: i64,
    table: String,
    path: PathBuf,
    is_current: bool,
}

impl Victim<'_> {
    fn pick<T>(&mut self, from: Vec<T>) -> T {
        let place = self.random.random_range(0..from.len());
        from.into_iter().nth(place).unwrap()
    }

    fn files(&self) -> Vec<Named> {
        let sql = "select f.data_file_id, s.schema_name, t.table_name, f.path, f.end_snapshot is null from ducklake_data_file f \
                   join ducklake_table t using (table_id) join ducklake_schema s using (schema_id) order by 1";
        let mut statement = self.catalog.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| {
            let (schema, table, name): (String, String, String) = (row.get(1)?, row.get(2)?, row.get(3)?);
            let path = self.folder.join("data").join(&schema).join(&table).join(name);
            let table = if schema == "main" { table } else { format!("{schema}.{table}") };
            Ok(Named { id: row.get(0)?, table, path, is_current: row.get(4)? })
        });
        rows.unwrap().map(Result::unwrap).collect()
    }

    /// The tables of rows inside the catalog that hold some, with the names of their tables.
    fn inlined(&self) -> Vec<(String, String)> {
        let sql = "select i.table_name, s.schema_name, t.table_name from ducklake_inlined_data_tables i \
                   join ducklake_table t using (table_id) join ducklake_schema s using (schema_id) order by 1";
        let mut statement = self.catalog.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| {
            let (name, schema, table): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok((name, if schema == "main" { table } else { format!("{schema}.{table}") }))
        });
        let all: Vec<(String, String)> = rows.unwrap().map(Result::unwrap).collect();
        let holds = |name: &str| {
            let sql = format!("select exists(select 1 from {name} where end_snapshot is null)");
            self.catalog.query_row(&sql, [], |row| row.get::<_, bool>(0)).unwrap()
        };
        all.into_iter().filter(|(name, _)| holds(name)).collect()
    }

    fn inlined_of(&mut self, table: &str) -> String {
        let of: Vec<_> = self.inlined().into_iter().filter(|(_, name)| name == table).collect();
        self.pick(of).0
    }

    /// A current row of an inlined table: its number and its round.
    fn row(&mut self, name: &str) -> (i64, i64) {
        let mark = if self.columns(name).contains(&"_round".to_owned()) { "_round" } else { "round" };
        let rows = {
            let sql = format!("select rowid, {mark} from {name} where end_snapshot is null order by 1");
            let mut statement = self.catalog.prepare(&sql).unwrap();
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
            rows.unwrap().map(Result::unwrap).collect::<Vec<(i64, i64)>>()
        };
        self.pick(rows)
    }

    fn columns(&self, name: &str) -> Vec<String> {
        let mut statement = self.catalog.prepare("select name from pragma_table_info(?1) where cid >= 3").unwrap();
        let rows = statement.query_map([name], |row| row.get(0));
        rows.unwrap().map(Result::unwrap).collect()
    }

    fn execute(&self, sql: &str) -> usize {
        self.catalog.execute(sql, []).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// A round of the tail, neither its first nor its last: all of it is inside the catalog, and of those beside it.
    fn tail_round(&mut self) -> i64 {
        let last: i64 = self.catalog.query_row("select max(round) from portolan_round", [], |row| row.get(0)).unwrap();
        last - i64::from(self.random.random_range(1..TAIL - 1))
    }

    /// Changes a value in a row inside the catalog.
    fn edit(&mut self, name: &str, title: &str) -> Expected {
        let (row, round) = self.row(name);
        let column = {
            let columns = self.columns(name);
            self.pick(columns)
        };
        let value: Value = {
            let sql = format!("select \"{column}\" from {name} where rowid = ?1");
            self.catalog.query_row(&sql, [row], |row| row.get(0)).unwrap()
        };
        let changed = match value {
            Value::Integer(number) => Value::Integer(number ^ 1 << self.random.random_range(0..16)),
            Value::Text(text) if self.random.random_bool(0.5) => Value::Text(text + "1"),
            Value::Null => Value::Text("1".to_owned()),
            _ => Value::Null,
        };
        let sql = format!("update {name} set \"{column}\" = ?1 where rowid = ?2");
        assert_eq!(self.catalog.execute(&sql, params![changed, row]).unwrap(), 1);
        // A value that cannot be read as its type any more is named by its table, and so is the number of a round.
        let is_number = matches!(changed, Value::Integer(_)) && !column.ends_with("round");
        let round = Some(round).filter(|_| is_number);
        Expected { words: vec![title.to_owned()], round, by_head: false }
    }

    fn file_name(path: &Path) -> String {
        path.file_name().unwrap().to_string_lossy().into_owned()
    }

    /// Does one corruption of `kind`.
    pub fn corrupt(&mut self, kind: &str) -> Expected {
        let named = |words: &[&str]| Expected {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            ..Expected::default()
        };
        match kind {
            "flipped byte in a file" | "file and its digest changed" => {
                let mut files = self.files();
                // A head knows the current files; what only older snapshots see may expire under it.
                files.retain(|file| kind == "flipped byte in a file" || file.is_current);
                let file = self.pick(files);
                let mut bytes = std::fs::read(&file.path).unwrap();
                let place = self.random.random_range(0..bytes.len());
                bytes[place] ^= self.random.random_range(1..=255u8);
                std::fs::write(&file.path, &bytes).unwrap();
                self.touched.push(file.path.clone());
                if kind == "flipped byte in a file" {
                    return named(&[&Self::file_name(&file.path), "is not as it was written"]);
                }
                let mut start = 0;
                let sql = "select part, bytes from portolan_row_group where data_file_id = ?1 order by part";
                let parts: Vec<(i64, usize)> = {
                    let mut statement = self.catalog.prepare(sql).unwrap();
                    let rows = statement.query_map([file.id], |row| Ok((row.get(0)?, row.get(1)?)));
                    rows.unwrap().map(Result::unwrap).collect()
                };
                for (part, length) in parts {
                    let digest: [u8; 32] = Sha256::digest(&bytes[start..start + length]).into();
                    start += length;
                    let sql = "update portolan_row_group set sha256 = ?1 where data_file_id = ?2 and part = ?3";
                    self.catalog.execute(sql, params![digest, file.id, part]).unwrap();
                }
                named(&["the digests of the files are not those of the head"])
            }
            "value inside the catalog" => {
                let tables = self.inlined();
                let (name, title) = self.pick(tables);
                self.edit(&name, &title)
            }
            "edited receipt" => {
                let name = self.inlined_of("portolan.receipts");
                self.edit(&name, "portolan.receipts")
            }
            "edited round" => {
                let name = self.inlined_of("portolan.rounds");
                self.edit(&name, "portolan.rounds")
            }
            "edited quarantine" => {
                let name = self.inlined_of("portolan.quarantine");
                self.edit(&name, "portolan.quarantine")
            }
            "deleted file" => {
                let files = self.files();
                let file = self.pick(files);
                std::fs::remove_file(&file.path).unwrap();
                self.touched.push(file.path.clone());
                named(&[&Self::file_name(&file.path)])
            }
            "file taken out of the catalog" => {
                // What each round replaces, maintenance takes out as well.
                let files: Vec<Named> = self.files().into_iter().filter(|file| file.table != "state").collect();
                let file = self.pick(files);
                for table in ["ducklake_data_file", "ducklake_file_column_stats", "portolan_row_group"] {
                    self.execute(&format!("delete from {table} where data_file_id = {}", file.id));
                }
                named(&[&file.table])
            }
            "row of a round dropped"
            | "receipts of a round dropped"
            | "rows of a round dropped"
            | "round dropped wholly" => {
                let round = self.tail_round();
                let is_hit = |title: &str| match kind {
                    "row of a round dropped" => title == "portolan.rounds",
                    "receipts of a round dropped" => title == "portolan.receipts",
                    "rows of a round dropped" => title == "orders",
                    _ => true,
                };
                let mut dropped = 0;
                for (name, title) in self.inlined().into_iter().filter(|(_, title)| is_hit(title)) {
                    let mark = if title.starts_with("portolan.") { "round" } else { "_round" };
                    dropped += self.execute(&format!("delete from {name} where {mark} = {round}"));
                }
                assert!(dropped > 0, "{kind}: round {round} has nothing inside the catalog");
                if kind == "round dropped wholly" {
                    self.execute(&format!("delete from portolan_round where round = {round}"));
                }
                Expected { round: Some(round), ..Expected::default() }
            }
            "swapped files" => {
                let files = self.files();
                let left = self.pick(files);
                let others = self.files().into_iter().filter(|file| file.id != left.id).collect();
                let right: Named = self.pick(others);
                let aside = left.path.with_extension("aside");
                std::fs::rename(&left.path, &aside).unwrap();
                std::fs::rename(&right.path, &left.path).unwrap();
                std::fs::rename(&aside, &right.path).unwrap();
                let words = named(&[&Self::file_name(&left.path), &Self::file_name(&right.path)]);
                self.touched.extend([left.path, right.path]);
                words
            }
            "added row" => {
                let tables = self.inlined();
                let (name, title) = self.pick(tables);
                let (row, round) = self.row(&name);
                let columns =
                    self.columns(&name).iter().map(|column| format!("\"{column}\"")).collect::<Vec<_>>().join(", ");
                let sql = format!(
                    "insert into {name} select row_id + 100000, begin_snapshot, end_snapshot, {columns} from {name} where rowid = {row}"
                );
                assert_eq!(self.execute(&sql), 1);
                Expected { words: vec![title], round: Some(round), by_head: false }
            }
            "added file" => {
                let files = self.files();
                let file = self.pick(files);
                let ours = self.random.random_bool(0.5);
                let name = if ours { "portolan-added.parquet" } else { "added.parquet" };
                let path = file.path.with_file_name(name);
                std::fs::copy(&file.path, &path).unwrap();
                self.touched.push(path);
                let sql = format!(
                    "insert into ducklake_data_file select 900000, table_id, begin_snapshot, end_snapshot, file_order, '{name}', \
                     path_is_relative, file_format, record_count, file_size_bytes, footer_size, row_id_start, partition_id, \
                     encryption_key, mapping_id, partial_max from ducklake_data_file where data_file_id = {}",
                    file.id
                );
                assert_eq!(self.execute(&sql), 1);
                if ours {
                    self.execute(&format!(
                        "insert into portolan_row_group select 900000, part, bytes, sha256 from portolan_row_group \
                         where data_file_id = {}",
                        file.id
                    ));
                }
                named(&[&file.table])
            }
            "edited row-group digest" => {
                let files = self.files();
                let file = self.pick(files);
                let condition = format!("where data_file_id = {} and part = 0", file.id);
                let sql = match self.random.random_range(0..4) {
                    0 => format!("update portolan_row_group set sha256 = randomblob(32) {condition}"),
                    1 => format!("update portolan_row_group set bytes = bytes + 1 {condition}"),
                    2 => format!("delete from portolan_row_group {condition}"),
                    _ => format!("delete from portolan_row_group where data_file_id = {}", file.id),
                };
                assert!(self.execute(&sql) > 0);
                named(&[&Self::file_name(&file.path)])
            }
            "edited position" => {
                let sql = match self.random.random_range(0..3) {
                    0 => "update portolan_position set position = replace(position, '1', '2') where source = 'orders'",
                    1 => "update portolan_position set round = round - 1 where source = 'events'",
                    _ => {
                        "update portolan_position set position = (select p.position from portolan_position p) || ' ' \
                          where source = 'state'"
                    }
                };
                assert_eq!(self.execute(sql), 1);
                named(&["portolan_position"])
            }
            "tail digested anew" => self.digest_anew(),
            "tail cut off" => self.cut_off(),
            unknown => panic!("no corruption is called {unknown}"),
        }
    }

    /// Changes a receipt and makes everything behind it fit.
    fn digest_anew(&mut self) -> Expected {
        let round = self.tail_round();
        let receipts = self.inlined_of("portolan.receipts");
        let rounds = self.inlined_of("portolan.rounds");
        assert!(self.execute(&format!("update {receipts} set bytes = bytes + 1 where round = {round}")) > 0);
        let report = verify(self.folder, VerifyScope::default());
        let found = report.mismatches.iter().find(|one| one.table == "portolan.receipts").unwrap();
        let (old, new) = (found.expected_sha256.clone().unwrap(), found.found_sha256.clone().unwrap());
        self.execute(&format!(
            "update {rounds} set manifest = replace(manifest, '{old}', '{new}') where round = {round}"
        ));
        let chain: Vec<(i64, i64, i64, String)> = {
            let sql = format!(
                "select round, snapshot_id, previous_round, manifest from {rounds} where round >= {round} order by row_id"
            );
            let mut statement = self.catalog.prepare(&sql).unwrap();
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)));
            rows.unwrap().map(Result::unwrap).collect()
        };
        let sql = format!("select chain_sha256 from {rounds} where round = {}", chain[0].2);
        let mut previous: String = self.catalog.query_row(&sql, [], |row| row.get(0)).unwrap();
        for (round, snapshot, before, manifest) in chain {
            let text = format!(
                "portolan-round-1\nround {round}\nsnapshot {snapshot}\nprevious {before} {previous}\n{manifest}"
            );
            previous = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
            self.execute(&format!("update {rounds} set chain_sha256 = '{previous}' where round = {round}"));
        }
        self.execute(&format!("update portolan_chain set chain_sha256 = '{previous}'"));
        Expected { words: vec!["head that was kept outside".to_owned()], round: None, by_head: true }
    }

    /// Takes the last rounds away as if they had never been.
    fn cut_off(&mut self) -> Expected {
        let round = self.tail_round();
        let sql = "select snapshot_id from portolan_round where round = ?1";
        let snapshot: i64 = self.catalog.query_row(sql, [round], |row| row.get(0)).unwrap();
        let names: Vec<String> = self.inlined().into_iter().map(|(name, _)| name).collect();
        for name in names {
            self.execute(&format!("delete from {name} where begin_snapshot > {snapshot}"));
            self.execute(&format!("update {name} set end_snapshot = null where end_snapshot > {snapshot}"));
        }
        for table in ["ducklake_snapshot", "ducklake_snapshot_changes", "portolan_round"] {
            self.execute(&format!("delete from {table} where snapshot_id > {snapshot}"));
        }
        let (rounds, receipts) = (self.inlined_of("portolan.rounds"), self.inlined_of("portolan.receipts"));
        self.execute(&format!(
            "update portolan_chain set round = {round}, snapshot_id = {snapshot}, \
             chain_sha256 = (select chain_sha256 from {rounds} r where r.round = {round})"
        ));
        self.execute(&format!(
            "update portolan_position set round = {round}, position = (select position_after from {receipts} r \
             where r.round = {round} and r.source = portolan_position.source)"
        ));
        Expected { words: vec!["was cut off".to_owned()], round: None, by_head: true }
    }
}

/// What `verify` says of a lake.
pub fn verify(folder: &Path, scope: VerifyScope) -> VerifyReport {
    LakeReader::open(folder).unwrap().verify(&scope, &mut |_| {}).unwrap()
}
