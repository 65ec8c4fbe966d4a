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

/// The ports of a sample server, all in one round.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'s> {
    /// Its address.
    pub host: &'s str,
    /// The first of neighbouring ports.
    pub first_port: u16,
    /// How many.
    pub ports: u16,
    /// The file with the authority of its certificate; `None` for ports without TLS.
    pub ca_file: Option<&'s str>,
    /// What the round promises.
    pub consistency: &'s str,
}

impl Sample<'_> {
    /// As a configuration of `http` sources.
    ///
    /// # Errors
    /// The product finds something wrong with it.
    pub fn configuration(&self) -> Result<Configuration> {
        let Self { host, first_port, ports, ca_file, consistency } = *self;
        let tls = match ca_file {
            Some(ca_file) => format!("ca = {ca_file:?}"),
            None => "allow_plaintext = \"sample server\"".to_owned(),
        };
        let mut text = format!("[server]\nhost = \"{host}\"\n");
        let mut names = String::new();
        for index in 0..ports {
            let port =
                first_port.checked_add(index).ok_or_else(|| anyhow!("{ports} ports from {first_port} are too many"))?;
            write!(names, "\"port_{index}\", ")?;
            write!(
                text,
                "[[source]]\nname = \"port_{index}\"\nport = {port}\nprotocol = \"http\"\npath = \"/\"\n\
                 mode = \"append\"\ntls = {{ {tls} }}\n"
            )?;
        }
        write!(
            text,
            "[[round]]\nname = \"all\"\nsources = [{names}]\nevery = \"1h\"\ndeadline = \"60s\"\n\
             consistency = \"{consistency}\"\n"
        )?;
        portolan_model::config::read(&text, &portolan_connect::Registry).map_err(|problems| {
            let messages: Vec<String> = problems.into_iter().map(|problem| problem.message).collect();
            anyhow!("configuration: {}", messages.join("; "))
        })
    }
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
        for (ca_file, consistency) in [(None, "none"), (Some("/ca.pem"), "released")] {
            let sample = Sample { host: "127.0.0.1", first_port: 20_000, ports: 3, ca_file, consistency };
            let configuration = sample.configuration().expect("it is what the comparisons run");
            assert_eq!((configuration.sources.len(), configuration.rounds.len()), (3, 1));
        }
    }
}
