//! The chain over the rounds: each round's manifest and its predecessor's digest, in the order in which they were committed.
//!
//! Promise: a round's link is made in the transaction that commits it, from digests taken before; all of it stands in
//! columns of `portolan.rounds`, where any reader of the lake has it. `docs/lake.md` specifies it byte by byte.

use std::fmt::{self, Write};
use std::str::FromStr;

use portolan_model::{Error, ErrorKind, Result};
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use crate::digest::hex;
use crate::error::{internal, sqlite};
use crate::reader::{At, LakeReader};
use crate::spec::has_table;
use crate::stage::StagedRows;
use crate::system;

const OPERATION: &str = "read chain";
/// What the text of a link begins with.
const LINK: &str = "portolan-round-1\n";
/// What a head in text form begins with.
const HEAD: &str = "portolan-head-1";
/// What the digest of a lake's files begins with.
const FILES: &[u8] = b"portolan-files-1\n";

/// The end of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) round: i64,
    pub(crate) snapshot: i64,
    /// The digest of the chain up to here, lower-case hex.
    pub(crate) chain_sha256: String,
}

impl Link {
    /// The link of `round`, which made `snapshot`, behind `previous`.
    pub(crate) fn next(previous: Option<&Self>, round: i64, snapshot: i64, manifest: &str) -> Self {
        let previous = previous.map(|link| (link.round, link.chain_sha256.as_str()));
        Self { round, snapshot, chain_sha256: link_sha256(round, snapshot, previous, manifest) }
    }
}

/// The digest of a round's link: of its number, its snapshot, its predecessor's number and digest, its manifest.
pub(crate) fn link_sha256(round: i64, snapshot: i64, previous: Option<(i64, &str)>, manifest: &str) -> String {
    let mut text = format!("{LINK}round {round}\nsnapshot {snapshot}\n");
    let _ = match previous {
        Some((round, sha256)) => writeln!(text, "previous {round} {sha256}"),
        None => writeln!(text, "previous none"),
    };
    text.push_str(manifest);
    hex(&Sha256::digest(text))
}

/// The manifest of a round: one line for each of the lake's own tables that it has rows in, by name, with the canonical
/// digest of those rows. Rows of sources are in it by the digests in their receipts.
pub(crate) fn manifest(tables: &[StagedRows]) -> String {
    let own = tables.iter().filter(|table| table.target.schema == system::SCHEMA && table.rows > 0);
    let mut lines: Vec<String> = own.map(|table| manifest_line(&table.target.name, &table.rows_sha256)).collect();
    lines.sort();
    lines.concat()
}

/// The line of a manifest for one table.
pub(crate) fn manifest_line(table: &str, rows_sha256: &str) -> String {
    format!("{table} {rows_sha256}\n")
}

/// Puts what is known only inside the transaction into the row of `portolan.rounds`.
pub(crate) fn seal(tables: &mut [StagedRows], link: &Link, previous: Option<&Link>, manifest: &str) -> Result<()> {
    let is_rounds =
        |table: &&mut StagedRows| table.target.schema == system::SCHEMA && table.target.name == system::ROUNDS;
    let Some(table) = tables.iter_mut().find(is_rounds) else { return Ok(()) };
    let place = |name: &str| table.columns.iter().position(|stored| stored.column.name == name);
    let places = system::SEALED_COLUMNS.map(place);
    let wrong = || internal("commit round", "the round's own row is not one that can be sealed");
    let Some(cells) = &mut table.cells else { return Err(wrong()) };
    for (name, place) in system::SEALED_COLUMNS.into_iter().zip(places) {
        let place = place.ok_or_else(wrong)?;
        match name {
            system::SNAPSHOT_COLUMN => cells.set_integer(place, link.snapshot),
            system::PREVIOUS_COLUMN => {
                if let Some(previous) = previous {
                    cells.set_integer(place, previous.round);
                }
            }
            system::MANIFEST_COLUMN => cells.set_text(place, manifest).ok_or_else(wrong)?,
            _ => cells.set_text(place, &link.chain_sha256).ok_or_else(wrong)?,
        }
    }
    Ok(())
}

/// Makes `link` the end of the chain.
pub(crate) fn store(connection: &Connection, link: &Link) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO portolan_chain VALUES (1, ?1, ?2, ?3)";
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute(params![link.round, link.snapshot, link.chain_sha256]))
        .map_err(|error| sqlite("commit round", error))?;
    Ok(())
}

/// The end of the chain, if it has begun.
pub(crate) fn last(connection: &Connection) -> Result<Option<Link>> {
    if !has_table(connection, "portolan_chain")? {
        return Ok(None);
    }
    let sql = "SELECT round, snapshot_id, chain_sha256 FROM portolan_chain WHERE chain = 1";
    let read =
        |row: &rusqlite::Row<'_>| Ok(Link { round: row.get(0)?, snapshot: row.get(1)?, chain_sha256: row.get(2)? });
    connection.query_row(sql, [], read).optional().map_err(|error| sqlite(OPERATION, error))
}

/// The digest of the files that are current: of their ids, lengths and row-group digests, in order of their ids.
pub(crate) fn files_sha256(connection: &Connection) -> Result<String> {
    files_sha256_at(connection, i64::MAX, i64::MAX)
}

/// The digest of the files that were current at `snapshot`, when `next_file` was the next id, as far as the catalog still
/// names them.
pub(crate) fn files_sha256_at(connection: &Connection, snapshot: i64, next_file: i64) -> Result<String> {
    let error = |error| sqlite(OPERATION, error);
    let sql = "SELECT g.data_file_id, g.part, g.bytes, g.sha256 FROM portolan_row_group g \
               JOIN ducklake_data_file f USING (data_file_id) WHERE f.data_file_id < ?2 \
               AND (f.end_snapshot IS NULL OR f.end_snapshot > ?1) ORDER BY g.data_file_id, g.part";
    let mut hash = Sha256::new_with_prefix(FILES);
    let mut statement = connection.prepare(sql).map_err(error)?;
    let mut rows = statement.query([snapshot, next_file]).map_err(error)?;
    while let Some(row) = rows.next().map_err(error)? {
        for place in 0..3 {
            hash.update(row.get::<_, i64>(place).map_err(error)?.to_le_bytes());
        }
        hash.update(row.get_ref(3).and_then(|value| value.as_bytes().map_err(Into::into)).map_err(error)?);
    }
    Ok(hex(&hash.finalize()))
}

/// The digest of no files.
pub(crate) fn no_files_sha256() -> String {
    hex(&Sha256::digest(FILES))
}

/// Where a lake stands: what to keep outside of it, and to hold against it later.
///
/// Its text is one line: `portolan-head-1`, then the round, the snapshot, the next file id and the two digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainHead {
    /// The round that was committed last.
    pub round: i64,
    /// The catalog's snapshot, which maintenance moves too.
    pub snapshot: i64,
    /// The id that the next file gets: files with lesser ones are those that the head knows.
    pub next_file: i64,
    /// The digest of the chain over the rounds up to `round`, lower-case hex.
    pub chain_sha256: String,
    /// The digest of the current files' row-group digests at `snapshot`, lower-case hex.
    pub files_sha256: String,
}

impl fmt::Display for ChainHead {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, snapshot, next_file, chain_sha256, files_sha256 } = self;
        write!(formatter, "{HEAD} {round} {snapshot} {next_file} {chain_sha256} {files_sha256}")
    }
}

impl FromStr for ChainHead {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [HEAD, round, snapshot, next_file, chain, files] = words[..] else {
            return Err(format!(
                "a head is one line of six words, the first of which is {HEAD}, as `portolan verify --head` prints it"
            ));
        };
        let number = |what: &str, text: &str| {
            let number = text.parse::<i64>().ok().filter(|number| *number >= 0);
            number.ok_or_else(|| format!("the head's {what} {text:?} is not a number"))
        };
        let digest = |what: &str, text: &str| {
            let is_hex = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            is_hex.then(|| text.to_owned()).ok_or_else(|| format!("the head's {what} {text:?} is not a SHA-256 in hex"))
        };
        Ok(Self {
            round: number("round", round)?,
            snapshot: number("snapshot", snapshot)?,
            next_file: number("file id", next_file)?,
            chain_sha256: digest("digest of the chain", chain)?,
            files_sha256: digest("digest of the files", files)?,
        })
    }
}

impl LakeReader {
    /// Where the lake stands now. Nothing is verified: what it says is worth as much as the lake is at this moment.
    ///
    /// # Errors
    /// `NotFound` if no round has been committed since the lake has a chain.
    pub fn head(&self) -> Result<ChainHead> {
        let snapshot = self.snapshot(At::Head)?;
        snapshot.with(|connection| head(connection, snapshot.id()))?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, OPERATION, "the lake has no chain yet")
                .with_hint("the first round that this version of Portolan commits begins it")
        })
    }
}

/// Where the lake stands at `snapshot`, the latest.
pub(crate) fn head(connection: &Connection, snapshot: i64) -> Result<Option<ChainHead>> {
    let Some(link) = last(connection)? else { return Ok(None) };
    let sql = "SELECT next_file_id FROM ducklake_snapshot WHERE snapshot_id = ?1";
    let next_file =
        connection.query_row(sql, [snapshot], |row| row.get(0)).map_err(|error| sqlite(OPERATION, error))?;
    Ok(Some(ChainHead {
        round: link.round,
        snapshot,
        next_file,
        chain_sha256: link.chain_sha256,
        files_sha256: files_sha256(connection)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_its_text() {
        let head = ChainHead {
            round: 120,
            snapshot: 345,
            next_file: 17,
            chain_sha256: "ab".repeat(32),
            files_sha256: "0f".repeat(32),
        };
        assert_eq!(format!(" {head}\n").parse(), Ok(head.clone()));
        let text = head.to_string();
        for wrong in [String::new(), text.replace("-1 ", "-2 "), text.replace("120", "x"), text.replace("abab", "ABab")]
        {
            assert!(wrong.parse::<ChainHead>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn each_part_of_a_link_counts() {
        let digest = link_sha256(2, 5, Some((1, "aa")), "rounds bb\n");
        let others = [
            link_sha256(3, 5, Some((1, "aa")), "rounds bb\n"),
            link_sha256(2, 6, Some((1, "aa")), "rounds bb\n"),
            link_sha256(2, 5, Some((0, "aa")), "rounds bb\n"),
            link_sha256(2, 5, Some((1, "ab")), "rounds bb\n"),
            link_sha256(2, 5, None, "rounds bb\n"),
            link_sha256(2, 5, Some((1, "aa")), "rounds bc\n"),
        ];
        assert!(others.iter().all(|other| *other != digest));
        // As docs/lake.md has it.
        let text = "portolan-round-1\nround 2\nsnapshot 5\nprevious 1 aa\nrounds bb\n";
        assert_eq!(digest, hex(&Sha256::digest(text)));
    }
}
