//! `portolan quarantine`: what could not be stored as configured, listed, shown whole, tried again.

mod retry;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use comfy_table::{Table, presets};
use portolan_lake::{LakeReader, QuarantineFilter, Quarantined};
use portolan_model::{Error, ErrorKind};

use super::progress::{ITEMS, Progress};
use crate::exit::{Exit, Stop};
use crate::output::visible;

/// Characters of a value that the list shows.
const CONTENT_WIDTH: usize = 40;

/// Arguments of `portolan quarantine`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A value or row that cannot be stored as configured is kept whole in portolan.quarantine, with its reason.

Examples:
  portolan quarantine list --source orders
  portolan quarantine show 17
  portolan quarantine retry --source orders --reason row_not_json"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists items.
    List(ListArguments),
    /// Shows one item whole, and what to do about it.
    Show(ShowArguments),
    /// Tries whole rows again, by the sources' present settings, and stores those that fit now.
    Retry(retry::Arguments),
}

/// Which items.
#[derive(Debug, clap::Args)]
struct Choice {
    /// Items of one source alone.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Items of one reason alone, such as `value_not_exact`.
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Items of this round and later, or of rounds that began at this instant (RFC 3339) or later.
    #[arg(long, value_name = "TIME|ROUND")]
    since: Option<String>,
}

impl Choice {
    fn filter(&self) -> Result<QuarantineFilter, Stop> {
        let (since_round, since) = self.since.as_deref().map(super::since).transpose()?.unwrap_or_default();
        Ok(QuarantineFilter { source: self.source.clone(), reason: self.reason.clone(), since_round, since, id: None })
    }
}

/// Arguments of `portolan quarantine list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portolan quarantine list
  portolan quarantine list --source orders --since 2026-11-22T00:00:00Z
  portolan quarantine list --json | jq -r '.items[].content'")]
struct ListArguments {
    #[command(flatten)]
    choice: Choice,
    /// Items that the list shows; 0 shows all. JSON holds all of them.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    rows: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Folder of the lake, instead of the configuration's.
    #[arg(long, value_name = "FOLDER")]
    lake: Option<PathBuf>,
}

/// Arguments of `portolan quarantine show`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  portolan quarantine show 17")]
struct ShowArguments {
    /// The item's number, as the list has it.
    #[arg(value_name = "ID")]
    id: i64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Folder of the lake, instead of the configuration's.
    #[arg(long, value_name = "FOLDER")]
    lake: Option<PathBuf>,
}

/// Runs the command.
pub(crate) async fn run(config: &Path, arguments: Arguments) -> Result<Exit, Stop> {
    match arguments.command {
        Command::List(arguments) => list(config, &arguments),
        Command::Show(arguments) => show(config, &arguments),
        Command::Retry(arguments) => retry::run(config, arguments).await,
    }
}

fn list(config: &Path, arguments: &ListArguments) -> Result<Exit, Stop> {
    let filter = arguments.choice.filter()?;
    let path = super::lake_path(arguments.lake.as_deref(), config)?;
    let reader = LakeReader::open(&path)?;
    if arguments.json {
        return list_json(&reader, &filter);
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["ID", "ROUND", "SOURCE", "REASON", "COLUMN", "ROW", "CONTENT", "RETRIED"]);
    let (mut shown, mut total) = (0, 0_u64);
    let bar = Progress::text();
    bar.keep_moving();
    reader.quarantine(&filter, &mut |item| {
        if total.is_multiple_of(ITEMS) {
            bar.tell(format!("reading the quarantine: {total} items"));
        }
        total += 1;
        if arguments.rows == 0 || shown < arguments.rows {
            shown += 1;
            table.add_row([
                item.id.to_string(),
                item.round.to_string(),
                visible(&item.source),
                visible(&item.reason),
                item.column.as_deref().map_or_else(|| "-".to_owned(), visible),
                short(&item.row_key),
                short(&item.content),
                item.retried_in.map_or_else(|| "-".to_owned(), |round| format!("round {round}")),
            ]);
        }
        Ok(true)
    })?;
    bar.end();
    super::print_line(table)?;
    let left = total - shown as u64;
    let more = if left > 0 { format!(", {left} of them not shown (--rows 0 shows all)") } else { String::new() };
    super::print_line(format_args!("{total} items{more}"))?;
    Ok(Exit::Success)
}

/// One line of at most [`CONTENT_WIDTH`] characters.
fn short(text: &str) -> String {
    let text = visible(text).replace('\n', "\\n");
    if text.chars().count() <= CONTENT_WIDTH {
        text
    } else {
        text.chars().take(CONTENT_WIDTH - 1).chain(['…']).collect()
    }
}

/// Items as they come: the quarantine may be longer than memory.
fn list_json(reader: &LakeReader, filter: &QuarantineFilter) -> Result<Exit, Stop> {
    let mut output = std::io::BufWriter::new(std::io::stdout().lock());
    let mut gone = None;
    let mut first = true;
    let mut write = |text: &str| match output.write_all(text.as_bytes()) {
        Ok(()) => true,
        Err(error) => {
            gone = Some(error);
            false
        }
    };
    // On a terminal the items themselves show how far it is.
    let bar = (!std::io::stdout().is_terminal()).then(Progress::text);
    let mut count = 0_u64;
    if write("{\"items\":[") {
        reader.quarantine(filter, &mut |item| {
            if let Some(bar) = bar.as_ref().filter(|_| count.is_multiple_of(ITEMS)) {
                bar.tell(format!("reading the quarantine: {count} items"));
            }
            count += 1;
            let separator = if std::mem::take(&mut first) { "\n" } else { ",\n" };
            Ok(write(separator) && write(&to_json(&item).to_string()))
        })?;
        write("\n]}\n");
    }
    let flushed = output.flush();
    match gone.map_or(flushed, Err) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Exit::Success),
    }
}

fn show(config: &Path, arguments: &ShowArguments) -> Result<Exit, Stop> {
    let path = super::lake_path(arguments.lake.as_deref(), config)?;
    let filter = QuarantineFilter { id: Some(arguments.id), ..QuarantineFilter::default() };
    let mut found = None;
    LakeReader::open(&path)?.quarantine(&filter, &mut |item| {
        found = Some(item);
        Ok(false)
    })?;
    let Some(item) = found else {
        let error =
            Error::new(ErrorKind::NotFound, "show item", format!("the quarantine has no item {}", arguments.id))
                .with_hint("portolan quarantine list shows the numbers");
        return Err(error.into());
    };
    if arguments.json {
        super::print_line(to_json(&item))?;
        return Ok(Exit::Success);
    }
    let time = item.time.map_or_else(String::new, |time| format!(" ({time})"));
    super::print_line(format_args!("item {} of `{}`, round {}{time}", item.id, visible(&item.source), item.round))?;
    super::print_line(format_args!("reason:  {}", visible(&item.reason)))?;
    super::print_line(format_args!("detail:  {}", visible(&item.detail)))?;
    if let Some(column) = &item.column {
        super::print_line(format_args!("column:  {}", visible(column)))?;
    }
    super::print_line(format_args!("row:     {}", visible(&item.row_key)))?;
    if let Some(round) = item.retried_in {
        super::print_line(format_args!("retried: its row is stored, in round {round}"))?;
    }
    super::print_line(format_args!("content ({} bytes):", item.content.len()))?;
    super::print_line(visible(&item.content))?;
    super::print_line(format_args!("next: {}", next(&item)))?;
    Ok(Exit::Success)
}

/// What to do about an item.
fn next(item: &Quarantined) -> String {
    match (&item.column, item.retried_in) {
        (_, Some(_)) => "nothing: it is stored".to_owned(),
        (Some(column), None) => format!(
            "its row is stored, with NULL in `{column}`. Give the column a type that holds the value (columns = {{ {column} = \
             \"text\" }} under the source): rows to come are stored with it. Stored rows stay as their receipts say; this value \
             is kept here"
        ),
        (None, None) => format!(
            "its row is not stored. Correct what the source's configuration says of it, then: portolan quarantine retry --source {}",
            item.source
        ),
    }
}

fn to_json(item: &Quarantined) -> serde_json::Value {
    let row_key = serde_json::from_str(&item.row_key).unwrap_or_else(|_| serde_json::Value::from(item.row_key.clone()));
    serde_json::json!({
        "id": item.id, "round": item.round, "time": item.time.map(|time| time.to_string()), "source": item.source,
        "reason": item.reason, "column": item.column, "row": row_key, "content": item.content, "detail": item.detail,
        "retried_in": item.retried_in, "next": next(item),
    })
}
