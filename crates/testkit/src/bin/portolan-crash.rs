//! The crash campaigns from the command line; `cargo xtask crash` builds and calls this.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use portolan_testkit::crash::{Options, Report, disk, failpoints, kill, replay};

const HELP: &str = "portolan-crash [MODE…] [OPTION…]

Modes (default: collector servers mixture full-disk replay)
  collector         SIGKILL of the collector at random moments
  servers           SIGKILL and SIGSTOP of the servers
  mixture           both, at times at once
  failpoints        death at every named point (a binary built with `--features failpoints`)
  full-disk         a small disk that fills up and is freed (root: it is mounted)
  replay            the recorded system calls cut off at each one

Options
  --binary FILE     the binary under test (default target/release/portolan)
  --failpoint-binary FILE   the one of the mode `failpoints` (default target/debug/portolan)
  --kills N         kills of `collector`, `servers` and `mixture` (default 500)
  --minutes N       the longest that each of these three may take
  --cuts N          the most operations that `replay` cuts at (default all)
  --only TEXT       failpoints whose name holds this
  --seed N          chooses the moments (default from the clock, printed)
";

struct Arguments {
    modes: Vec<String>,
    options: Options,
    failpoint_binary: PathBuf,
    kills: u64,
    longest: Option<Duration>,
    cuts: Option<usize>,
    only: Option<String>,
}

fn main() -> ExitCode {
    let result = parse().and_then(|arguments| arguments.map_or(Ok(true), |arguments| run(&arguments)));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("portolan-crash: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse() -> Result<Option<Arguments>> {
    let clock_seed = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs());
    let mut arguments = Arguments {
        modes: Vec::new(),
        options: Options { binary: "target/release/portolan".into(), seed: clock_seed },
        failpoint_binary: "target/debug/portolan".into(),
        kills: 500,
        longest: None,
        cuts: None,
        only: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value\n\n{HELP}"));
        match word.as_str() {
            "--binary" => arguments.options.binary = value()?.into(),
            "--failpoint-binary" => arguments.failpoint_binary = value()?.into(),
            "--kills" => arguments.kills = value()?.parse()?,
            "--minutes" => arguments.longest = Some(Duration::from_secs_f64(value()?.parse::<f64>()? * 60.0)),
            "--cuts" => arguments.cuts = Some(value()?.parse()?),
            "--only" => arguments.only = Some(value()?),
            "--seed" => arguments.options.seed = value()?.parse()?,
            "--help" | "-h" => {
                print!("{HELP}");
                return Ok(None);
            }
            "collector" | "servers" | "mixture" | "failpoints" | "full-disk" | "replay" => arguments.modes.push(word),
            _ => bail!("unknown word `{word}`\n\n{HELP}"),
        }
    }
    if arguments.modes.is_empty() {
        arguments.modes = ["collector", "servers", "mixture", "full-disk", "replay"].map(String::from).to_vec();
    }
    Ok(Some(arguments))
}

/// Runs every mode; whether all of them found nothing wrong.
fn run(arguments: &Arguments) -> Result<bool> {
    let mut closing = Vec::new();
    let mut is_sound = true;
    for mode in &arguments.modes {
        println!("── {mode}, seed {}", arguments.options.seed);
        let start = Instant::now();
        let line = match run_mode(mode, arguments) {
            Ok(report) => format!("ok      {mode}: {report}"),
            Err(error) => {
                is_sound = false;
                format!("FAILED  {mode}: {error:#}")
            }
        };
        let line = format!("{line} ({} s)", start.elapsed().as_secs());
        println!("{line}");
        closing.push(line);
    }
    println!("── seed {}\n{}", arguments.options.seed, closing.join("\n"));
    Ok(is_sound)
}

fn run_mode(mode: &str, arguments: &Arguments) -> Result<Report> {
    let options = &arguments.options;
    let extent = kill::Extent { blows: arguments.kills, longest: arguments.longest };
    match mode {
        "collector" => kill::collector(options, extent),
        "servers" => kill::servers(options, extent),
        "mixture" => kill::mixture(options, extent),
        "failpoints" => {
            let options = Options { binary: arguments.failpoint_binary.clone(), ..options.clone() };
            failpoints::every(&options, arguments.only.as_deref())
        }
        "full-disk" => disk::full(options, 5),
        "replay" => {
            let record_for = Duration::from_secs(12);
            replay::every(options, replay::Extent { record_for, cuts_max: arguments.cuts, continued: 12 })
        }
        _ => bail!("unknown mode `{mode}`"),
    }
}
