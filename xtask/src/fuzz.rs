//! `cargo xtask fuzz`: coverage-guided fuzzing with libFuzzer on the stable toolchain, without cargo-fuzz (whose layout
//! `fuzz/` has, for those who prefer it). No memory sanitizer: the code is safe Rust, what is sought are panics, hangs
//! and growth.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::run::{capture, cargo, command, run, workspace};

/// The targets, as in `fuzz/Cargo.toml`.
const TARGETS: [&str; 11] = [
    "configuration",
    "http_paging",
    "http_body",
    "json_to_arrow",
    "mysql_rows",
    "postgres_rows",
    "redis_reply",
    "ftp_listing",
    "ftp_lines",
    "tcp_framing",
    "parquet_file",
];
/// What lets libFuzzer see which code an input reaches.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";
/// Seconds that one input may take, MiB that the process may have, bytes of an input.
const LIMITS: [&str; 3] = ["-timeout=20", "-rss_limit_mb=2048", "-max_len=65536"];

/// Fuzzes the targets named (all, where none is) for `--minutes` each (10).
///
/// # Errors
/// An input crashed a target; its file is named by libFuzzer.
pub(crate) fn run_all(arguments: &[String]) -> Result<()> {
    let mut minutes = 10.0;
    let mut targets = Vec::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--minutes" => minutes = words.next().context("--minutes needs a number")?.parse()?,
            name if TARGETS.contains(&name) => targets.push(name),
            name => bail!("unknown target `{name}`; there are {}", TARGETS.join(", ")),
        }
    }
    if targets.is_empty() {
        targets = TARGETS.to_vec();
    }
    let version = capture(command("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc does not name its host")?;
    let folder = workspace().join("target/fuzz");
    // With `--target`, the flags reach no build script.
    let mut build = cargo();
    build
        .args(["build", "--release", "--manifest-path", "fuzz/Cargo.toml", "--target", host])
        .arg("--target-dir")
        .arg(&folder);
    for target in &targets {
        build.args(["--bin", target]);
    }
    run(build.env("RUSTFLAGS", FLAGS))?;
    let mut crashed = Vec::new();
    for target in &targets {
        let corpus = folder.join("corpus").join(target);
        let artifacts = folder.join("artifacts").join(target);
        fs::create_dir_all(&corpus)?;
        fs::create_dir_all(&artifacts)?;
        println!("── {target}, {minutes} minutes");
        let start = Instant::now();
        let binary = folder.join(host).join("release").join(target);
        let mut fuzzer = command(&binary.to_string_lossy());
        fuzzer.args(LIMITS).arg(format!("-max_total_time={}", (minutes * 60.0) as u64)).arg("-print_final_stats=1");
        fuzzer.arg(format!("-artifact_prefix={}/", artifacts.display())).arg("-verbosity=0");
        fuzzer.arg(&corpus).arg(workspace().join("fuzz/seeds").join(target));
        if run(&mut fuzzer).is_err() {
            crashed.push(*target);
        }
        println!("── {target}: {} s", start.elapsed().as_secs());
    }
    ensure!(crashed.is_empty(), "crashed: {}", crashed.join(", "));
    println!("── no crash in {}", targets.join(", "));
    Ok(())
}
