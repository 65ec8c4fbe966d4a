//! `portolan check` and `portolan schema`.

use std::path::Path;

use comfy_table::{Table, presets};
use portolan_connect::Registry;
use portolan_model::port::{PortClass, service_name};

use crate::diagnostics;
use crate::exit::{Exit, Stop, show_error, tell};
use crate::wiring;

/// Arguments of `portolan check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portolan check
  portolan check --connect                 also connects to every port, without reading data
  portolan --config other.toml check --json")]
pub(crate) struct Arguments {
    /// Also connect to every port and show what answers.
    #[arg(long)]
    connect: bool,
    /// Print what was found as JSON.
    #[arg(long)]
    json: bool,
}

/// Checks the configuration, and the ports where asked to.
pub(crate) async fn run(config: &Path, arguments: Arguments) -> Result<Exit, Stop> {
    let loaded = wiring::load(config)?;
    let configuration = match &loaded.outcome {
        Ok(configuration) => configuration,
        Err(found) if arguments.json => {
            super::print_line(diagnostics::to_json(&loaded.text, &loaded.file, found))?;
            return Ok(Exit::Usage);
        }
        Err(found) => {
            tell(diagnostics::render(&loaded.text, &loaded.file, found, super::is_terminal_stderr()));
            return Ok(Exit::Usage);
        }
    };
    let environment = wiring::environment(&loaded.folder, None);
    // Opening reads secrets and certificates: what is missing is found before the first round.
    let mut slots = wiring::open_slots(&configuration.sources, &environment)?;
    #[cfg(feature = "sql")]
    {
        let found = planned(configuration).await?;
        if !found.is_empty() {
            match arguments.json {
                true => super::print_line(diagnostics::to_json(&loaded.text, &loaded.file, &found))?,
                false => tell(diagnostics::render(&loaded.text, &loaded.file, &found, super::is_terminal_stderr())),
            }
            return Ok(Exit::Usage);
        }
    }
    if !arguments.connect {
        if arguments.json {
            super::print_line("[]")?;
        } else {
            let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
            let sources = count(configuration.sources.len(), "source");
            let rounds = count(configuration.rounds.len(), "round");
            let checks = configuration.rounds.iter().map(|round| round.checks.len()).sum::<usize>();
            let checks = if checks == 0 { String::new() } else { format!(", {}", count(checks, "check")) };
            super::print_line(format_args!("{}: {sources} in {rounds}{checks}, nothing wrong", loaded.file))?;
        }
        return Ok(Exit::Success);
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["SOURCE", "PORT", "CLASS", "SERVICE", "ANSWER", "TLS"]);
    let mut findings = Vec::new();
    let mut failures = 0;
    for (slot, spec) in slots.iter_mut().zip(&configuration.sources) {
        let result = match tokio::time::timeout(spec.connect_timeout + spec.idle_timeout, slot.source.probe()).await {
            Ok(result) => result,
            Err(_) => Err(portolan_model::Error::new(portolan_model::ErrorKind::Timeout, "probe", "no answer in time")
                .with_source(&slot.name)
                .with_address(spec.address())),
        };
        let (answer, tls) = match &result {
            Ok(probe) => (
                probe.server.clone().unwrap_or_else(|| "ok".into()),
                probe.tls.clone().unwrap_or_else(|| "none".into()),
            ),
            Err(error) => {
                failures += 1;
                show_error(error);
                (error.kind().to_string(), String::new())
            }
        };
        findings.push(serde_json::json!({
            "source": slot.name, "address": spec.address(), "protocol": spec.protocol,
            "class": PortClass::of(spec.port).to_string(), "service": service_name(spec.port),
            "ok": result.is_ok(), "server": result.as_ref().ok().and_then(|probe| probe.server.clone()),
            "tls": result.as_ref().ok().and_then(|probe| probe.tls.clone()),
            "facts": result.as_ref().ok().map(|probe| probe.facts.iter().cloned().collect::<std::collections::BTreeMap<_, _>>()),
            "error_kind": result.as_ref().err().map(|error| error.kind().as_str()),
            "error": result.as_ref().err().map(|error| error.chain()),
            "hint": result.as_ref().err().and_then(|error| error.hint()),
        }));
        let class = PortClass::of(spec.port).to_string();
        let service = service_name(spec.port).unwrap_or("-");
        table.add_row([slot.name.as_str(), &spec.port.to_string(), &class, service, &answer, &tls]);
        slot.source.close().await;
    }
    if arguments.json {
        super::print_line(serde_json::Value::from(findings))?;
    } else {
        super::print_line(table)?;
    }
    Ok(match failures {
        0 => Exit::Success,
        all if all == configuration.sources.len() => Exit::AllFailed,
        _ => Exit::Partial,
    })
}

/// What is wrong with the queries of checks, by the columns that the lake has, where there is one.
#[cfg(feature = "sql")]
async fn planned(
    configuration: &portolan_model::config::Configuration,
) -> Result<Vec<portolan_model::config::Diagnostic>, Stop> {
    let has_checks = configuration.rounds.iter().any(|round| !round.checks.is_empty());
    if !has_checks || portolan_lake::LakeReader::open(&configuration.lake.path).is_err() {
        return Ok(Vec::new());
    }
    Ok(portolan_query::LakeChecker::plan(&configuration.lake.path, configuration).await?)
}

/// Prints the JSON Schema.
pub(crate) fn schema() -> Result<Exit, Stop> {
    let schema = portolan_model::config::json_schema(&Registry);
    super::print_line(serde_json::to_string_pretty(&schema).map_err(anyhow::Error::from)?)?;
    Ok(Exit::Success)
}
