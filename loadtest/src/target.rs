//! Which engine is loaded, and on which CPUs.

use crate::bed::Bed;
use crate::machine;
use std::net::SocketAddr;

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Target {
    /// Engine to load; without it one is started, in a process of its own
    #[arg(long = "target", value_name = "ADDR:PORT")]
    pub(crate) address: Option<SocketAddr>,
    /// CPU of the generator [default: the last one it may use]
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
    /// CPU of the engine when it is started here [default: the first one]
    #[arg(long)]
    pub(crate) engine_cpu: Option<usize>,
}

impl Target {
    /// The engine; one that is started here has room for `leases` more than is asked for, and a
    /// thousand of churn.
    pub(crate) fn bed(&self, leases: u32, more: &[&str]) -> Result<Bed, String> {
        match self.address {
            Some(address) => Bed::elsewhere(address),
            None => {
                let capacity =
                    leases.saturating_add(4096).min(heartline::internals::limits::CAPACITY_MAX);
                Bed::start(capacity, checked(self.engine_cpu, machine::two_cpus()?.0)?, more)
            }
        }
    }

    /// Where the generator runs.
    pub(crate) fn generator_cpu(&self) -> Result<usize, String> {
        checked(self.cpu, machine::cpus().last().copied().ok_or("no CPU to run on")?)
    }
}

fn checked(asked: Option<usize>, default: usize) -> Result<usize, String> {
    let cpus = machine::cpus();
    match asked {
        Some(cpu) if !cpus.contains(&cpu) => {
            Err(format!("CPU {cpu} is not among those that this process may use: {cpus:?}"))
        }
        asked => Ok(asked.unwrap_or(default)),
    }
}
