//! `portolan verify`: proves the chain over the rounds, the files and the stored rows, whether or not a collector runs.

use std::path::{Path, PathBuf};

use comfy_table::{Table, presets};
use indicatif::HumanBytes;
use portolan_lake::{ChainHead, HeadFiles, LakeReader, Mismatch, VerifiedChain, VerifyReport, VerifyScope};
use portolan_model::{Error, ErrorKind};

use super::progress::Progress;
use crate::exit::{Exit, Stop, tell};
use crate::output::visible;

/// What is never proved, and why.
const PAYLOADS: &str = "not re-computable, payloads are not kept";
const KEYS: &str = "not compared: the lake remembers digests of item keys, and only the latest of them";

/// What `--head` without a value stands for. Not the empty text: that is what a file or a variable gives that is not there,
/// and who holds a head against the lake must not take its printing for a proof.
const PRINT: &str = "print";

/// Arguments of `portolan verify`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The chain over the rounds is computed anew, files are read byte by byte against the digests taken when they were
written, rows are counted against the receipts, and rows that are in no such file are digested. --full decodes every
row. The collector may run meanwhile. Whoever changes the lake and digests everything behind it anew is found by a
head that was kept outside, and by nothing else: keep one (docs/lake.md).

Examples:
  portolan verify
  portolan verify --head > lake.head            the head of the chain, to be kept elsewhere; nothing is verified
  portolan verify --head @lake.head             that head must be in the chain
  portolan verify --since @lake.head            only what came after it is read
  portolan verify --full --table orders --since 2026-11-22T00:00:00Z
  portolan verify --round 120
  portolan verify --json | jq '.mismatches'

Exit codes: 0 all that could be proved is proved, 8 something is damaged, 5 the lake could not be read, or it has no such
round or table."
)]
pub(crate) struct Arguments {
    /// One round alone.
    #[arg(long, value_name = "ROUND", conflicts_with = "since")]
    round: Option<i64>,
    /// Rounds from this one on, those that began at this instant (RFC 3339) or later, or what a head does not know yet.
    #[arg(long, value_name = "TIME|ROUND|HEAD|@FILE")]
    since: Option<String>,
    /// Decode every row and compute its round's digest anew, also where the bytes of a file are proved.
    #[arg(long)]
    full: bool,
    /// Print the head of the chain and verify nothing; or, with a value, hold a head that was printed before against the chain
    /// (may be repeated).
    #[arg(long, value_name = "TEXT|@FILE", num_args = 0..=1, default_missing_value = PRINT)]
    head: Vec<String>,
    /// One source's table alone.
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Folder of the lake, instead of the configuration's.
    #[arg(long, value_name = "FOLDER")]
    lake: Option<PathBuf>,
}

/// Verifies the lake and shows what was found.
pub(crate) fn run(config: &Path, arguments: Arguments) -> Result<Exit, Stop> {
    let scope = if is_print(&arguments)? { None } else { Some(scope(&arguments)?) };
    let path = super::lake_path(arguments.lake.as_deref(), config)?;
    let reader = LakeReader::open(&path)?;
    let Some(scope) = scope else {
        super::print_line(reader.head()?)?;
        tell(format_args!("this is where the chain ends; nothing was verified\n"));
        return Ok(Exit::Success);
    };
    let bar = Progress::bytes();
    let report = reader.verify(&scope, &mut |at| bar.show(at.table, at.bytes, at.bytes_total))?;
    bar.end();
    if arguments.json {
        super::print_line(to_json(&path, &report))?;
    } else {
        for line in lines(&path, &report) {
            super::print_line(line)?;
        }
    }
    Ok(if report.is_sound() { Exit::Success } else { Exit::Damaged })
}

/// Whether the head is to be printed, which is all that is done then.
fn is_print(arguments: &Arguments) -> Result<bool, Stop> {
    let Arguments { round, since, full, head, table, json, lake: _ } = arguments;
    if !head.iter().any(|text| text == PRINT) {
        return Ok(false);
    }
    if round.is_some() || since.is_some() || *full || head.len() > 1 || table.is_some() || *json {
        let message = "--head without a value prints the head of the chain, and verifies nothing";
        let hint = "leave the other options out, or give a head that was printed before: --head @lake.head";
        return Err(Error::new(ErrorKind::Configuration, "verify lake", message).with_hint(hint).into());
    }
    Ok(true)
}

fn scope(arguments: &Arguments) -> Result<VerifyScope, Stop> {
    let mut scope = VerifyScope { table: arguments.table.clone(), full: arguments.full, ..VerifyScope::default() };
    if let Some(round) = arguments.round {
        (scope.first_round, scope.last_round) = (Some(round), Some(round));
    }
    match &arguments.since {
        Some(text) if text.starts_with('@') || text.parse::<ChainHead>().is_ok() => scope.verified = Some(head(text)?),
        Some(text) => (scope.first_round, scope.since) = super::since(text)?,
        None => {}
    }
    scope.heads = arguments.head.iter().map(|text| head(text)).collect::<Result<_, _>>()?;
    if arguments.table.is_some() && (!scope.heads.is_empty() || scope.verified.is_some()) {
        let error =
            Error::new(ErrorKind::Configuration, "choose rounds", "a head is of all tables, --table asks for one")
                .with_hint("leave --table out, or the head");
        return Err(error.into());
    }
    Ok(scope)
}

/// A head as it is given: its text, or `@` and a file that holds it.
fn head(text: &str) -> Result<ChainHead, Stop> {
    let wrong = |message: String| {
        Error::new(ErrorKind::Configuration, "read head", message)
            .with_hint("print one with `portolan verify --head > lake.head`, and give it as --head @lake.head")
    };
    let content = match text.strip_prefix('@') {
        Some(path) => {
            std::fs::read_to_string(path).map_err(|error| wrong(format!("{path} cannot be read: {error}")))?
        }
        None => text.to_owned(),
    };
    if content.trim().is_empty() {
        return Err(wrong("a head is empty: is the file or the variable there that it comes from?".to_owned()).into());
    }
    Ok(content.parse().map_err(wrong)?)
}

/// What is shown to people, line by line.
fn lines(path: &Path, report: &VerifyReport) -> Vec<String> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["TABLE", "ROUNDS PROVED", "ROWS PROVED", "SOUND FILES", "BYTES IN THEM"]);
    for one in &report.tables {
        table.add_row([
            visible(&one.table),
            one.rounds.to_string(),
            one.rows.to_string(),
            one.files.to_string(),
            one.bytes.to_string(),
        ]);
    }
    let mut lines = vec![format!("lake {}", path.display()), table.to_string()];
    for file in &report.damaged_files {
        lines.push(format!("DAMAGED {} of `{}`: {}", file.path, file.table, visible(&file.detail)));
        if let (Some(first), Some(last)) = (file.first_round, file.last_round) {
            let rounds = counted(file.rounds, "round");
            lines.push(format!("  not proved because of it: {rounds} of `{}` ({})", file.table, span(first, last)));
        }
    }
    let more = report.damaged_files_total - report.damaged_files.len() as u64;
    if more > 0 {
        lines.push(format!("{} more, not named", counted(more, "damaged file")));
    }
    report.mismatches.iter().for_each(|one| lines.extend(mismatch(one)));
    let more = report.mismatches_total - report.mismatches.len() as u64;
    if more > 0 {
        lines.push(format!("{} more, not named", counted(more, "mismatch")));
    }
    for one in &report.unproved {
        let (rounds, span) = (counted(one.rounds, "round"), span(one.first_round, one.last_round));
        lines.push(format!("not proved: {rounds} of `{}` ({span}): {}", one.table, visible(&one.reason)));
    }
    for one in report.tables.iter().filter(|table| table.foreign_rows > 0) {
        let rows = counted(one.foreign_rows, "row");
        lines.push(format!(
            "not proved: {rows} of `{}` that another program has added or changed: no receipt speaks for them",
            one.table
        ));
    }
    lines.extend(report.left_out.iter().map(|text| format!("not verified: {}", visible(text))));
    if let Some(chain) = &report.chain {
        lines.extend(chain_lines(chain));
    }
    let payloads = sum(report, |table| table.payload_digests);
    let have = if payloads == 1 { "has" } else { "have" };
    lines.push(format!("payload digests: {PAYLOADS} ({} {have} one)", counted(payloads, "receipt")));
    lines.push(format!("item keys: {KEYS}"));
    lines.push(format!(
        "proved: {} with {}, from {} of {} and the catalog",
        counted(sum(report, |table| table.rounds), "receipt"),
        counted(sum(report, |table| table.rows), "row"),
        counted(sum(report, |table| table.files), "sound file"),
        HumanBytes(sum(report, |table| table.bytes))
    ));
    lines.extend(verdict(report));
    lines
}

fn mismatch(one: &Mismatch) -> Vec<String> {
    let place = if one.places.is_empty() { String::new() } else { format!(", {}", one.places.join(", ")) };
    let mut lines = vec![format!("MISMATCH round {} of `{}`{place}: {}", one.round, one.table, one.detail)];
    // What was not compared is not shown.
    let side = |rows: Option<u64>, sha256: Option<&String>| {
        let parts: Vec<String> = rows.map(|rows| counted(rows, "row")).into_iter().chain(sha256.cloned()).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    };
    let expected = side(one.expected_rows, one.expected_sha256.as_ref());
    let found = side(one.found_rows, one.found_sha256.as_ref());
    lines.extend(expected.map(|text| format!("  expected {text}")));
    lines.extend(found.map(|text| format!("  found    {text}")));
    lines
}

fn chain_lines(chain: &VerifiedChain) -> Vec<String> {
    let mut lines = vec![format!(
        "chain: {} proved with what is known of them, from {} of {} and the catalog",
        counted(chain.rounds, "round"),
        counted(chain.files, "sound file"),
        HumanBytes(chain.bytes)
    )];
    if chain.before > 0 {
        lines.push(format!(
            "not proved: what is known of {} that an earlier version stored, before the chain begins",
            counted(chain.before, "round")
        ));
    }
    if chain.heads > 0 {
        let (are, it, any) = match chain.heads {
            1 => ("is", "it knows", "it knows"),
            _ => ("are", "one of them knows", "any of them knows"),
        };
        let files = match chain.files_by_head {
            HeadFiles::Held => format!("; the digests of the files are those that {it}"),
            HeadFiles::NoFiles => "; the lake has no files, now as then".to_owned(),
            HeadFiles::Changed => format!(
                "; the digests of the files are not those that {any}: files were added, removed or changed, which of these \
                 cannot be told; --full proves their rows by the chain"
            ),
            // A finding says so already.
            HeadFiles::Mismatch | HeadFiles::NoHead => String::new(),
        };
        lines.push(format!("heads kept outside: {} {are} in the chain{files}", chain.heads));
    }
    lines.extend(chain.head.as_ref().map(|head| format!("head: {head}")));
    lines
}

/// What is damaged in all, and what to do next.
fn verdict(report: &VerifyReport) -> Vec<String> {
    if report.is_sound() {
        return vec!["nothing is damaged".to_owned()];
    }
    // Rows inside the catalog are named whatever else is.
    let inside = report.damaged_files.iter().filter(|file| !file.is_file()).count() as u64;
    let (files, is_catalog_damaged) = (report.damaged_files_total - inside, inside > 0);
    let mut parts = Vec::new();
    if files > 0 {
        parts.push(counted(files, "damaged file"));
    }
    if is_catalog_damaged {
        parts.push("rows inside the catalog that cannot be read".to_owned());
    }
    if report.mismatches_total > 0 {
        parts.push(counted(report.mismatches_total, "mismatch"));
    }
    let mut lines = vec![format!("DAMAGE: {}", parts.join(", "))];
    if files > 0 {
        lines.push(
            "  next: restore each DAMAGED file from a backup (its content never changes once it is written), then verify \
             again; without one its content is lost: rows of a source have to be read from the source again"
                .to_owned(),
        );
    }
    if is_catalog_damaged || report.mismatches_total > 0 {
        lines.push(
            "  next: find a backup of the lake that `portolan verify --lake FOLDER` calls sound, and compare or restore \
             what is named above"
                .to_owned(),
        );
    }
    // What is wrong inside a row group has no structure that could be looked at.
    if report.damaged_files.iter().any(|file| file.row_group.is_none()) {
        lines.push(
            "  next: portolan lake fsck tells whether the catalog agrees with the sizes and footers of the files"
                .to_owned(),
        );
    }
    lines
}

/// So many of something: `1 round`, `2 rounds`.
fn counted(number: u64, what: &str) -> String {
    let ending = match number {
        1 => "",
        _ if what.ends_with("ch") => "es",
        _ => "s",
    };
    format!("{number} {what}{ending}")
}

/// Rounds from one to another.
fn span(first: i64, last: i64) -> String {
    if first == last { first.to_string() } else { format!("{first} to {last}") }
}

fn sum(report: &VerifyReport, number: fn(&portolan_lake::VerifiedTable) -> u64) -> u64 {
    report.tables.iter().map(number).sum()
}

fn to_json(path: &Path, report: &VerifyReport) -> serde_json::Value {
    let tables: Vec<serde_json::Value> = report
        .tables
        .iter()
        .map(|one| {
            serde_json::json!({
                "table": one.table, "rounds": one.rounds, "rows": one.rows, "files": one.files, "bytes": one.bytes,
                "foreign_rows": one.foreign_rows, "payload_digests": one.payload_digests,
            })
        })
        .collect();
    let mismatches: Vec<serde_json::Value> = report
        .mismatches
        .iter()
        .map(|one| {
            serde_json::json!({
                "round": one.round, "table": one.table, "places": one.places, "detail": one.detail,
                "expected_sha256": one.expected_sha256, "found_sha256": one.found_sha256,
                "expected_rows": one.expected_rows, "found_rows": one.found_rows,
            })
        })
        .collect();
    let damaged: Vec<serde_json::Value> = report
        .damaged_files
        .iter()
        .map(|one| {
            serde_json::json!({
                "table": one.table, "path": one.path, "row_group": one.row_group, "detail": one.detail,
                "rounds": one.rounds, "first_round": one.first_round, "last_round": one.last_round,
            })
        })
        .collect();
    let unproved: Vec<serde_json::Value> = report
        .unproved
        .iter()
        .map(|one| {
            serde_json::json!({
                "table": one.table, "rounds": one.rounds, "first_round": one.first_round,
                "last_round": one.last_round, "reason": one.reason,
            })
        })
        .collect();
    let chain = report.chain.as_ref().map(|chain| {
        serde_json::json!({
            "rounds": chain.rounds, "rounds_before": chain.before, "files": chain.files, "bytes": chain.bytes,
            "heads": chain.heads, "files_by_head": chain.files_by_head.as_str(),
            "files_held": matches!(chain.files_by_head, HeadFiles::Held | HeadFiles::NoFiles),
            "head": chain.head.as_ref().map(ToString::to_string),
        })
    });
    serde_json::json!({
        "lake": path.display().to_string(),
        "sound": report.is_sound(),
        "rounds": sum(report, |table| table.rounds),
        "rows": sum(report, |table| table.rows),
        "files": sum(report, |table| table.files),
        "bytes": sum(report, |table| table.bytes),
        "tables": tables,
        "chain": chain,
        "damaged_files": damaged,
        "damaged_files_total": report.damaged_files_total,
        "mismatches": mismatches,
        "mismatches_total": report.mismatches_total,
        "unproved": unproved,
        "left_out": report.left_out,
        "payload_digests": PAYLOADS,
        "item_keys": KEYS,
    })
}

#[cfg(test)]
mod tests {
    use portolan_lake::{DamagedFile, Unproved, VerifiedTable};

    use super::*;

    fn shown(report: &VerifyReport) -> String {
        lines(Path::new("lake"), report).join("\n") + "\n"
    }

    fn sound() -> VerifyReport {
        let table = |rounds, files| VerifiedTable {
            table: "orders".to_owned(),
            rounds,
            rows: rounds * 2,
            files,
            payload_digests: rounds,
            ..VerifiedTable::default()
        };
        let chain = VerifiedChain { rounds: 1, files: 1, ..VerifiedChain::default() };
        let mut report = VerifyReport::default();
        (report.tables, report.chain) = (vec![table(1, 1)], Some(chain));
        report
    }

    fn damaged(path: &str, row_group: Option<usize>, rounds: Option<(i64, i64)>) -> DamagedFile {
        let (first_round, last_round) = rounds.unzip();
        let rounds = rounds.map_or(0, |(first, last)| first.abs_diff(last) + 1);
        let (table, detail) = ("orders".to_owned(), "it is not as it was written".to_owned());
        DamagedFile { table, path: path.to_owned(), row_group, detail, rounds, first_round, last_round }
    }

    #[test]
    fn one_is_no_plural() {
        let mut report = sound();
        report.unproved = vec![Unproved {
            table: "orders".to_owned(),
            rounds: 1,
            first_round: 3,
            last_round: 3,
            reason: "a later round has replaced its rows".to_owned(),
        }];
        report.tables[0].foreign_rows = 1;
        let text = shown(&report);
        for part in [
            "not proved: 1 round of `orders` (3): a later",
            "not proved: 1 row of `orders`",
            "chain: 1 round proved with what is known of them, from 1 sound file of",
            "(1 receipt has one)",
            "proved: 1 receipt with 2 rows, from 1 sound file of",
            "nothing is damaged",
        ] {
            assert!(text.contains(part), "{part:?}: {text}");
        }
        assert_eq!((counted(2, "mismatch"), counted(0, "file")), ("2 mismatches".to_owned(), "0 files".to_owned()));
    }

    #[test]
    fn a_damaged_file_is_counted_as_one_with_the_rounds_that_it_held() {
        let mut report = sound();
        (report.damaged_files, report.damaged_files_total) = (vec![damaged("/a.parquet", Some(0), Some((1, 19)))], 1);
        let text = shown(&report);
        assert!(text.contains("\n  not proved because of it: 19 rounds of `orders` (1 to 19)\n"), "{text}");
        assert!(text.contains("DAMAGE: 1 damaged file\n  next: restore each DAMAGED file from a backup"), "{text}");
        assert!(!text.contains("fsck"), "a flipped byte is nothing that it sees: {text}");
        // Rows inside the catalog are no file.
        report.damaged_files.push(damaged("inside the catalog", None, Some((20, 20))));
        report.damaged_files_total = 2;
        report.left_out = vec!["the positions".to_owned()];
        report.mismatches_total = 1;
        report.mismatches = vec![Mismatch { round: 4, ..Mismatch::default() }];
        let text = shown(&report);
        assert!(text.contains("(20)\n") && text.contains("not verified: the positions\n"), "{text}");
        assert!(
            text.contains("DAMAGE: 1 damaged file, rows inside the catalog that cannot be read, 1 mismatch\n"),
            "{text}"
        );
        assert!(text.contains("verify --lake FOLDER") && text.contains("lake fsck"), "{text}");
        let json = to_json(Path::new("lake"), &report);
        assert_eq!(json["damaged_files"][0]["rounds"], 19);
        assert_eq!(json["left_out"][0], "the positions");
        assert_eq!(json["mismatches"][0]["expected_rows"], serde_json::Value::Null);
    }

    #[test]
    fn damaged_files_that_are_not_named_are_counted() {
        let mut report = sound();
        report.damaged_files = vec![damaged("/a.parquet", None, None), damaged("inside the catalog", None, None)];
        report.damaged_files_total = 7;
        let text = shown(&report);
        assert!(text.contains("\n5 damaged files more, not named\n"), "{text}");
        assert!(text.contains("DAMAGE: 6 damaged files, rows inside the catalog that cannot be read\n"), "{text}");
        assert_eq!(to_json(Path::new("lake"), &report)["damaged_files_total"], 7);
    }

    #[test]
    fn a_finding_shows_what_was_compared_and_nothing_else() {
        let digest = |text: &str| Some(text.to_owned());
        let mut one =
            Mismatch { round: 4, table: "orders".to_owned(), detail: "wrong".to_owned(), ..Mismatch::default() };
        assert_eq!(mismatch(&one), ["MISMATCH round 4 of `orders`: wrong"]);
        (one.expected_sha256, one.found_sha256, one.places) = (digest("aa"), digest("bb"), vec!["inside".to_owned()]);
        let lines = ["MISMATCH round 4 of `orders`, inside: wrong", "  expected aa", "  found    bb"];
        assert_eq!(mismatch(&one), lines);
        (one.expected_rows, one.found_rows, one.found_sha256) = (Some(1), Some(2), None);
        assert_eq!(mismatch(&one)[1..], ["  expected 1 row, aa", "  found    2 rows"]);
    }

    #[test]
    fn a_head_is_said_to_know_the_files_only_where_it_does() {
        let with = |heads, files_by_head| {
            let chain = VerifiedChain { heads, files_by_head, ..VerifiedChain::default() };
            chain_lines(&chain).into_iter().find(|line| line.starts_with("heads")).unwrap_or_default()
        };
        assert_eq!(with(0, HeadFiles::NoHead), "");
        assert_eq!(with(1, HeadFiles::Mismatch), "heads kept outside: 1 is in the chain");
        assert_eq!(
            with(1, HeadFiles::NoFiles),
            "heads kept outside: 1 is in the chain; the lake has no files, now as then"
        );
        assert!(with(2, HeadFiles::Held).contains("2 are in the chain; the digests of the files are those that one"));
        // That files were added or removed is not known: one may have been changed.
        assert!(with(1, HeadFiles::Changed).contains("not those that it knows: files were added, removed or changed"));
        assert!(with(2, HeadFiles::Changed).contains("not those that any of them knows"));
        let of = |files_by_head| {
            let mut report = VerifyReport::default();
            report.chain = Some(VerifiedChain { files_by_head, ..VerifiedChain::default() });
            to_json(Path::new("lake"), &report)["chain"]["files_held"].clone()
        };
        assert_eq!((of(HeadFiles::NoFiles), of(HeadFiles::Mismatch)), (true.into(), false.into()));
    }
}
