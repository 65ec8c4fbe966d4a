#!/usr/bin/env bash
# Installs what the comparisons need into target/bench: a Python environment, Node packages, the sling program,
# programs of Debian packages and the compiled C programs. Quick when everything is there; never starts a service; needs no root unless a system package
# is missing. Run it again after an update.  benches/setup.sh
set -euo pipefail
benches=$(cd "$(dirname "$0")" && pwd)
bench=$(dirname "$benches")/target/bench
mkdir -p "$bench/bin" "$bench/results"

missing() { ! command -v "$1" >/dev/null 2>&1 && [ ! -x "/usr/sbin/$1" ]; }
left_out=()

# System packages: a C compiler and Python are needed by every comparison, databases and Node by some.
if missing cc || missing python3; then
  echo "setup: install a C compiler and Python 3 with its venv module first (Debian: apt-get install gcc libc6-dev python3-venv)" >&2
  exit 1
fi
if missing mariadbd || missing mariadb || ! compgen -G "/usr/lib/postgresql/*/bin/postgres" >/dev/null; then
  (cd "$benches/.." && cargo xtask setup) ||
    left_out+=("MariaDB and PostgreSQL (database/, rest/): install mariadb-server-core, mariadb-client-core and postgresql-15")
fi

# Python clients, loaders and the lake's outside writer, pinned so that two people compare the same things.
packages=(requests==2.34.2 aiohttp==3.14.5 uvloop==0.23.0 connectorx==0.4.6 pyarrow==26.0.1
  duckdb==1.5.5 duckdb-extension-ducklake==1.5.5 duckdb-extension-sqlite-scanner==1.5.5 redis==7.0.1)
if [ "$(cat "$bench/venv/packages" 2>/dev/null)" != "${packages[*]}" ]; then
  python3 -m venv "$bench/venv"
  "$bench/venv/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}"
  echo "${packages[*]}" > "$bench/venv/packages"
fi

# The Python package called sling fetches its program from elsewhere at run time; this one carries it.
if [ ! -x "$bench/bin/sling" ]; then
  wheel=$(mktemp -d)
  if "$bench/venv/bin/python" -m pip --quiet --disable-pip-version-check download --no-deps --dest "$wheel" sling-linux-amd64==1.4.11; then
    "$bench/venv/bin/python" - "$wheel" "$bench/bin/sling" <<'PYTHON'
import glob, os, sys, zipfile
wheel = zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0])
name = next(name for name in wheel.namelist() if name.endswith("bin/sling-linux-amd64"))
with open(sys.argv[2], "wb") as program:
    program.write(wheel.read(name))
os.chmod(sys.argv[2], 0o755)
PYTHON
  else
    left_out+=("sling (database/): the package sling-linux-amd64 1.4.11 could not be had")
  fi
  rm -rf "$wheel"
fi

# Node clients.
if missing node || missing npm; then
  left_out+=("Node clients (http_round/): install nodejs and npm")
else
  mkdir -p "$bench/node"
  cmp -s "$benches/http_round/package.json" "$bench/node/package.json" && [ -d "$bench/node/node_modules/undici" ] || {
    cp "$benches/http_round/package.json" "$bench/node/package.json"
    (cd "$bench/node" && npm install --silent --no-audit --no-fund >/dev/null) || left_out+=("Node clients: npm install failed")
  }
fi

# System loggers, an FTP server and a client. Some of these Debian packages exclude each other, so each is unpacked into a
# folder of its own, with the libraries that the system lacks; nothing is installed and no service starts.
for package in rsyslog syslog-ng-core vsftpd lftp; do
  [ -f "$bench/$package/complete" ] && continue
  rm -rf "$bench/$package" && mkdir -p "$bench/$package/packages"
  if (cd "$bench/$package/packages" && export LC_ALL=C &&
      lacking=$(apt-get --simulate --no-install-recommends install "$package" | awk '/^Inst/ {print $2}') &&
      apt-get --quiet=2 download $(printf '%s\n' "$package" $lacking | sort -u) &&
      for file in *.deb; do dpkg-deb --extract "$file" ..; done) >"$bench/$package/log" 2>&1; then
    rm -r "$bench/$package/packages"
    touch "$bench/$package/complete"
  else
    left_out+=("$package (tcp/, ftp/): apt-get download failed: $(tail -n 1 "$bench/$package/log")")
  fi
done

for source in "$benches"/{http_round/server,http_round/epoll_client,tcp/sender}.c; do
  program=$bench/bin/$(basename "$source" .c)
  [ "$program" -nt "$source" ] || cc -O2 -Wall -Wextra -pthread -o "$program" "$source"
done

if [ ${#left_out[@]} -gt 0 ]; then
  printf 'setup: left out: %s\n' "${left_out[@]}"
fi
echo "setup: ready in target/bench"
