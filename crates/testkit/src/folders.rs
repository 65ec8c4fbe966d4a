//! Where the harness finds the workspace and keeps what it prepares once: `target/test-tools`.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.ancestors().nth(2).unwrap_or(crate_folder).to_owned()
}

/// The folder of what is prepared once and used by many tests, such as a server's empty data folder. It stays under
/// the workspace whatever `CARGO_TARGET_DIR` says, so that several target folders share one copy.
pub fn tools() -> Result<PathBuf> {
    let folder = workspace().join("target/test-tools");
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}

/// Prepares `tools()/name` once: `prepare` fills a fresh folder, which then takes its final name. Tests that run at
/// the same time, in this process or another, wait for the first one.
pub fn prepared(name: &str, prepare: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let tools = tools()?;
    let ready = tools.join(name);
    if ready.is_dir() {
        return Ok(ready);
    }
    let lock = File::create(tools.join(format!("{name}.lock")))?;
    lock.lock().with_context(|| format!("wait for {name} to be prepared"))?;
    if ready.is_dir() {
        return Ok(ready);
    }
    let fresh = tools.join(format!("{name}.part"));
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh)?;
    }
    std::fs::create_dir_all(&fresh)?;
    prepare(&fresh)?;
    std::fs::rename(&fresh, &ready)?;
    Ok(ready)
}

/// Copies a folder with everything in it.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target).with_context(|| format!("copy to {}", target.display()))?;
        }
    }
    Ok(())
}
