#!/usr/bin/env bash
# What building costs, against the limits that the design sets on two cores. Each measurement starts from an empty
# target folder of its own; with crates already downloaded. The whole takes about half an hour.
#   benches/build/economy.sh [lean] [edit] [demo]      default: all three
#     lean  the lean collector in release: at most 6 minutes, at most 30 MB
#     edit  change one connector and run its tests: at most 40 s (after a first build that does not count)
#     demo  README command one to its end, which is after the first row is shown: at most 12 minutes
set -euo pipefail
cd "$(dirname "$0")/../.."
results=target/bench/results
mkdir -p "$results"
folder=$(mktemp -d "${ECONOMY_FOLDER:-${TMPDIR:-/tmp}}/portolan-economy-XXXXXX")
trap 'rm -rf "$folder"' EXIT
cargo fetch --locked --quiet

report() { # NAME SECONDS LIMIT_S
  local verdict=met
  [ "$2" -le "$3" ] || verdict=missed
  printf '| %s | %s s | %s s | %s |\n' "$1" "$2" "$3" "$verdict" | tee -a "$results/build.md.new"
}

lean() {
  local start=$SECONDS size
  CARGO_TARGET_DIR=$folder/lean cargo build --locked --quiet --release -p portolan --no-default-features
  report "lean collector, release, empty target folder" $((SECONDS - start)) 360
  size=$(stat -c %s "$folder/lean/release/portolan")
  printf '| lean collector, size | %s MB | 30 MB | %s |\n' $((size / 1000000)) "$([ "$size" -le 30000000 ] && echo met || echo missed)" \
    | tee -a "$results/build.md.new"
}

edit() {
  local start copy=$folder/source
  # A copy of the tree is edited, so that nobody's work is touched.
  mkdir "$copy"
  git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents --target-directory="$copy" 2>/dev/null || true
  export CARGO_TARGET_DIR=$folder/edit
  (cd "$copy" && cargo test --locked --quiet -p portolan-connect --no-run)
  for connector in http mysql; do
    echo 'pub fn edited() -> u32 { 1 }' >> "$copy/crates/connect/src/source/$connector/mod.rs"
    start=$SECONDS
    (cd "$copy" && cargo test --locked --quiet -p portolan-connect --lib --test "$connector" >"$folder/tests" 2>&1) ||
      { cat "$folder/tests"; exit 1; }
    report "edit the $connector connector and run its tests" $((SECONDS - start)) 40
  done
  unset CARGO_TARGET_DIR
}

demo() {
  local start=$SECONDS home=$folder/home
  mkdir "$home"
  CARGO_TARGET_DIR=$folder/demo cargo run --locked --quiet -- demo --folder "$home/demo" > "$home/output"
  report "README command one, empty target folder, to its end" $((SECONDS - start)) 720
}

[ $# -gt 0 ] || set -- lean edit demo
{
  echo "What building costs; $(uname -sm), $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg), $(rustc --version), $(date '+%Y-%m-%d %H:%M')."
  echo
  echo "| step | took | at most | |"
  echo "| --- | ---: | ---: | --- |"
} | tee "$results/build.md.new"
for step in "$@"; do
  case $step in
    lean | edit | demo) "$step" ;;
    *) echo "economy.sh: unknown step $step" >&2; exit 2 ;;
  esac
done
mv "$results/build.md.new" "$results/build.md"
