//! What the measuring programs share: clocks, percentiles, and a configuration of many ports.
//!
//! These programs call the product through its public API, the way `portolan run` does; they hold no second way.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use portolan_model::config::Configuration;
use rustix::time::{ClockId, clock_gettime};

/// The product's allocator: what these programs measure is what it does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// CPU time this process has used, all threads, user and system.
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A stretch of wall and CPU time.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    wall: Instant,
    cpu: Duration,
}

impl Stretch {
    /// Begins now.
    pub fn begin() -> Self {
        Self { wall: Instant::now(), cpu: cpu_time() }
    }

    /// Wall and CPU time since, in microseconds.
    pub fn end_us(self) -> (f64, f64) {
        let wall = self.wall.elapsed();
        let cpu = cpu_time().saturating_sub(self.cpu);
        (wall.as_secs_f64() * 1e6, cpu.as_secs_f64() * 1e6)
    }
}

/// The value below which `share` (0 … 1) of the values lie; sorts them. Zero if there are none.
pub fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let index = (values.len() as f64 * share) as usize;
    values.get(index.min(values.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

/// A configuration of `ports` HTTP sources on loopback ports from `first_port`, all in one round.
///
/// # Errors
/// The product finds something wrong with it.
pub fn configuration(first_port: u16, ports: u16) -> Result<Configuration> {
    let mut text = "[server]\nhost = \"127.0.0.1\"\n".to_owned();
    let mut names = String::new();
    for index in 0..ports {
        let port =
            first_port.checked_add(index).ok_or_else(|| anyhow!("{ports} ports from {first_port} are too many"))?;
        write!(names, "\"port_{index}\", ")?;
        write!(
            text,
            "[[source]]\nname = \"port_{index}\"\nport = {port}\nprotocol = \"http\"\npath = \"/\"\nmode = \"append\"\n\
             tls = {{ allow_plaintext = \"sample server on loopback\" }}\n"
        )?;
    }
    write!(text, "[[round]]\nname = \"all\"\nsources = [{names}]\nevery = \"1h\"\ndeadline = \"60s\"\n")?;
    portolan_model::config::read(&text, &portolan_connect::Registry).map_err(|problems| {
        let messages: Vec<String> = problems.into_iter().map(|problem| problem.message).collect();
        anyhow!("configuration: {}", messages.join("; "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        let mut values: Vec<f64> = (0..100).rev().map(f64::from).collect();
        assert_eq!((percentile(&mut values, 0.5), percentile(&mut values, 0.99)), (50.0, 99.0));
        assert_eq!(percentile(&mut [], 0.5), 0.0);
    }

    #[test]
    fn the_configuration_is_right() {
        let configuration = configuration(20_000, 3).expect("it is what the comparison runs");
        assert_eq!((configuration.sources.len(), configuration.rounds.len()), (3, 1));
    }
}
