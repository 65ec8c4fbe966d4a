//! A disk that fills up and is freed: the collector refuses, says so, recovers, and nothing is lost.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::audit::{self, compare_all, compare_prefix};
use super::collector::Collector;
use super::world::World;
use super::{Options, Report};
use crate::process::run;

/// The disk.
const DISK_MIB: u64 = 48;
/// How long the collector may take to notice.
const NOTICE_PATIENCE: Duration = Duration::from_secs(60);
/// How long it is left on a full disk.
const FULL_FOR: Duration = Duration::from_secs(3);

/// A small disk in memory, unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// Mounts one over `folder`, making it.
    ///
    /// # Errors
    /// We are not root and cannot become it.
    pub fn mount(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut command = as_root("mount");
        command.args(["-t", "tmpfs", "-o"]).arg(format!("size={DISK_MIB}m,mode=0777")).arg("tmpfs").arg(folder);
        run(&mut command).context("a full disk is made of a small tmpfs, which only root may mount")?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Fills every free block.
    pub fn fill(&self) -> Result<()> {
        let mut ballast = std::fs::File::options().create(true).append(true).open(self.folder.join("ballast"))?;
        for size in [1 << 20, 1 << 12, 1] {
            while ballast.write_all(&vec![0; size]).is_ok() {}
        }
        Ok(())
    }

    /// Frees what was filled.
    pub fn free(&self) -> Result<()> {
        std::fs::remove_file(self.folder.join("ballast")).context("remove the ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = run(as_root("umount").arg("--lazy").arg(&self.folder));
    }
}

fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["--non-interactive", program]);
    command
}

/// Fills the disk `times` times while the collector runs, and once before it starts.
pub fn full(options: &Options, times: u64) -> Result<Report> {
    let place = tempfile::Builder::new().prefix("portolan-disk-").tempdir()?;
    let disk = SmallDisk::mount(&place.path().join("disk"))?;
    let mut world = World::start(Some(&disk.folder.join("lake")))?;
    world.start_writers(options.seed);
    let mut collector = Collector::start(&options.binary, &world, &[])?;
    for time in 1..=times {
        std::thread::sleep(Duration::from_secs(3));
        let logged = collector.log()?.len();
        disk.fill()?;
        await_notice(&mut collector, logged).with_context(|| format!("the disk was filled for time {time}"))?;
        std::thread::sleep(FULL_FOR);
        if let Some(status) = collector.process().ended()? {
            bail!("the collector ended with {status} on a full disk; its log ends:\n{}", collector.log_tail());
        }
        disk.free()?;
    }
    std::thread::sleep(Duration::from_secs(2));
    collector.kill()?;
    compare_prefix(world.lake())?;
    // Started on a full disk it may refuse or wait, and must do no harm.
    disk.fill()?;
    let logged = std::fs::read_to_string(world.folder().join("collector.log"))?.len();
    let mut collector = Collector::start(&options.binary, &world, &[])?;
    std::thread::sleep(FULL_FOR);
    let said = collector.log()?.split_off(logged);
    ensure!(names_full_disk(&said), "started on a full disk, the collector does not say so: {said}");
    let ended = collector.process().ended()?;
    disk.free()?;
    let mut collector = if ended.is_some() {
        collector.process().kill()?;
        Collector::start(&options.binary, &world, &[])?
    } else {
        collector
    };
    world.stop_writers()?;
    audit::drain(&world, world.lake(), &mut collector)?;
    std::thread::sleep(Duration::from_millis(500));
    collector.stop()?;
    let audited = compare_all(&world, world.lake())?;
    audit::prove(&options.binary, world.lake())?;
    Ok(Report {
        blows: times + 1,
        blow_name: "fillings of the disk",
        rows: audited.rows,
        rounds: audited.rounds,
        notes: vec![format!("a start on a full disk {}", if ended.is_some() { "is refused" } else { "waits" })],
    })
}

fn names_full_disk(text: &str) -> bool {
    text.contains("storage_full")
}

fn await_notice(collector: &mut Collector, logged: usize) -> Result<()> {
    let start = Instant::now();
    while !names_full_disk(&collector.log()?[logged..]) {
        if let Some(status) = collector.process().ended()? {
            bail!("the collector ended with {status} on a full disk; its log ends:\n{}", collector.log_tail());
        }
        if start.elapsed() > NOTICE_PATIENCE {
            bail!("the collector says nothing of the full disk; its log ends:\n{}", collector.log_tail());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
