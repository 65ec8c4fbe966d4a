//! What the tests need besides Rust: real servers from Debian's packages, and DuckDB as the lake's outside reader.
//! Quick when everything is there; never starts a service.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::{capture, command, is_installed, run, workspace};

/// Program → the Debian package that holds it.
const PROGRAMS: [(&str, &str); 10] = [
    ("mariadbd", "mariadb-server-core"),
    ("mariadb-install-db", "mariadb-server-core"),
    ("mariadb", "mariadb-client-core"),
    ("mariadb-dump", "mariadb-client"),
    ("/usr/lib/postgresql/15/bin/postgres", "postgresql-15"),
    ("/usr/lib/postgresql/15/bin/psql", "postgresql-client-15"),
    ("nginx", "nginx-light"),
    ("redis-server", "redis-server"),
    ("strace", "strace"),
    ("curl", "curl"),
];

/// Program → the Debian package that holds it, of packages that exclude each other: they are unpacked, each into a folder
/// of its own, and installed nowhere.
const UNPACKED: [(&str, &str); 2] = [("pure-ftpd", "pure-ftpd"), ("vsftpd", "vsftpd")];

/// DuckDB and its extensions as packages: nothing is fetched when a test runs. 2.0 has no such packages.
const PYTHON_PACKAGES: [&str; 4] = [
    "duckdb==1.5.5",
    "duckdb-extension-ducklake==1.5.5",
    "duckdb-extension-sqlite-scanner==1.5.5",
    "duckdb-extension-postgres-scanner==1.5.5",
];

/// A service manager asks this script before it starts what was installed; 101 means no.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs what is missing.
///
/// # Errors
/// Something is missing that cannot be installed here; the message says what to install by hand.
pub(crate) fn install() -> Result<()> {
    install_programs()?;
    unpack_programs()?;
    install_python()
}

fn install_programs() -> Result<()> {
    let missing: Vec<_> = PROGRAMS.iter().filter(|(program, _)| !is_installed(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    install_packages(&packages)
}

fn unpack_programs() -> Result<()> {
    let folder = workspace().join("target/test-tools/unpacked");
    for (program, package) in UNPACKED {
        let place = folder.join(package);
        let is_unpacked = ["usr/sbin", "usr/bin"].iter().any(|bin| place.join(bin).join(program).is_file());
        if is_unpacked || is_installed(program) {
            continue;
        }
        if !is_installed("apt-get") {
            bail!(
                "the tests need `{program}` (Debian package {package}) and this system has no apt-get; install it by hand"
            );
        }
        println!("xtask: unpacking {package} into {}", place.display());
        let download = folder.join(format!("{package}.part"));
        let _ = fs::remove_dir_all(&download);
        fs::create_dir_all(&download)?;
        let mut fetch = command("apt-get");
        fetch.args(["-qq", "download", package]).current_dir(&download);
        if run(&mut fetch).is_err() {
            run(apt_get().args(["-qq", "update"]))?;
            run(&mut fetch)?;
        }
        let found = fs::read_dir(&download)?.flatten().map(|entry| entry.path()).next();
        let file = found.with_context(|| format!("apt-get download {package} left no file"))?;
        // The libraries are installed as usual; what else the package depends on makes it a service, which it is not here.
        let depends = capture(command("dpkg-deb").arg("--field").arg(&file).arg("Depends"))?;
        let first = |part: &str| part.split(['|', '(']).next().unwrap_or_default().trim().to_owned();
        let libraries: Vec<String> = depends.split(',').map(first).filter(|name| name.starts_with("lib")).collect();
        let libraries: Vec<&str> = libraries.iter().map(String::as_str).collect();
        if !libraries.is_empty() {
            install_packages(&libraries)?;
        }
        let unpacked = download.join("files");
        run(command("dpkg-deb").arg("--extract").arg(&file).arg(&unpacked))?;
        // What an earlier attempt left there lacks the program.
        let _ = fs::remove_dir_all(&place);
        fs::rename(&unpacked, &place)?;
        fs::remove_dir_all(&download)?;
    }
    Ok(())
}

fn install_packages(packages: &[&str]) -> Result<()> {
    let by_hand = format!(
        "install by hand what these Debian packages hold, then try again: {}\n\
         (macOS: brew install mariadb nginx redis curl; Fedora: dnf install mariadb-server nginx redis strace curl)",
        packages.join(" ")
    );
    if !is_installed("apt-get") {
        bail!("the tests need programs that are missing, and this system has no apt-get; {by_hand}");
    }
    println!("xtask: installing {} (Debian packages; no service is started)", packages.join(" "));
    let _policy = Policy::set();
    run(apt_get().args(["-qq", "update"])).context(by_hand.clone())?;
    run(apt_get().args(["-qq", "--yes", "--no-install-recommends", "--no-upgrade", "install"]).args(packages))
        .context(by_hand)
}

fn apt_get() -> Command {
    let mut apt = if is_root() { command("apt-get") } else { command("sudo") };
    if !is_root() {
        apt.args(["--non-interactive", "--preserve-env=DEBIAN_FRONTEND", "apt-get"]);
    }
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt
}

fn is_root() -> bool {
    capture(command("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

/// While it lives, installing starts no service. Removed only if it was not there before.
struct Policy;

impl Policy {
    fn set() -> Option<Self> {
        if Path::new(POLICY).exists() {
            return None;
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n").ok()?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)).ok()?;
        Some(Self)
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        let _ = fs::remove_file(POLICY);
    }
}

fn install_python() -> Result<()> {
    let folder = workspace().join("target/test-tools/python");
    let marker = folder.join("packages");
    let wanted = PYTHON_PACKAGES.join("\n");
    if fs::read_to_string(&marker).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    println!("xtask: installing {} into {}", PYTHON_PACKAGES.join(" "), folder.display());
    let _ = fs::remove_dir_all(&folder);
    let mut venv = command("python3");
    venv.args(["-m", "venv"]).arg(&folder);
    if !is_installed("python3") || run(&mut venv).is_err() {
        install_packages(&["python3", "python3-venv"])?;
        run(&mut venv)?;
    }
    let mut pip = command(&folder.join("bin/python").to_string_lossy());
    pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check", "install"]).args(PYTHON_PACKAGES);
    run(&mut pip).with_context(|| {
        format!("the tests read the lake with DuckDB: install {} into {}", PYTHON_PACKAGES.join(" "), folder.display())
    })?;
    fs::write(&marker, wanted)?;
    Ok(())
}
