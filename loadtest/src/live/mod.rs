//! The `live` scenario: a population that registers, beats and partly dies.

mod fleet;
mod generator;
mod report;
mod watch;

use crate::machine;
use clap::Args;
use generator::Generator;
use heartline::clock;
use heartline::region::Place;
use heartline::{Config, Engine};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Engine to load; without it one is started in this process
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) target: Option<SocketAddr>,
    /// Instances to register
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub(crate) instances: u32,
    /// Services to spread them over
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) services: u32,
    /// Time to live of their leases; they beat four times in it
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    pub(crate) ttl: Duration,
    /// Beats in a datagram
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub(crate) batch: u16,
    /// Instances that stop beating
    #[arg(long, default_value_t = 100)]
    pub(crate) kill: u32,
    /// Seconds to run after all are registered
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: u64,
    /// Sockets to beat through
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) sockets: u16,
    /// Discover requests a second while the load runs
    #[arg(long, default_value_t = 500)]
    pub(crate) discover_rate: u32,
    /// CPU of the generator [default: the last one it may use]
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
    /// CPU of the engine when it is started here [default: the first one]
    #[arg(long)]
    pub(crate) engine_cpu: Option<usize>,
    /// Write the report to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<(), String> {
    let mut options = options.clone();
    options.services = options.services.min(options.instances);
    let options = &options;
    let cpus = machine::cpus();
    check(options, &cpus)?;
    // Before the run: a report that can't be written is no surprise to come at its end.
    let json = match &options.json {
        Some(path) => Some((path, std::fs::File::create(path).map_err(|error| format!("{}: {error}", path.display()))?)),
        None => None,
    };
    let machine = machine::description();
    let engine = match options.target {
        Some(_) => None,
        None => Some(start_engine(options, *cpus.first().ok_or("no CPU to run on")?)?),
    };
    let target = options.target.or_else(|| engine.as_ref().map(|engine| engine.addresses()[0])).ok_or("no target")?;
    machine::pin(options.cpu.unwrap_or(*cpus.last().ok_or("no CPU to run on")?));
    let report = Generator::new(options, machine, target, clock::now()).map_err(|error| error.to_string())?.run()?;
    drop(engine);
    report.print();
    if let Some((path, file)) = json {
        serde_json::to_writer_pretty(file, &report).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn check(options: &Options, cpus: &[usize]) -> Result<(), String> {
    if options.kill > options.instances {
        return Err(format!("--kill {} is more than --instances {}", options.kill, options.instances));
    }
    if options.ttl < Duration::from_millis(4) {
        return Err("--ttl is at least 4ms here: the generator can't beat more often than once a millisecond".into());
    }
    match [options.cpu, options.engine_cpu].into_iter().flatten().find(|cpu| !cpus.contains(cpu)) {
        Some(cpu) => Err(format!("CPU {cpu} is not among those that this process may use: {cpus:?}")),
        None => Ok(()),
    }
}

fn start_engine(options: &Options, first_cpu: usize) -> Result<Engine, String> {
    let config = Config {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        state: Place::Scratch,
        capacity: options.instances.next_power_of_two().clamp(1024, heartline::limits::CAPACITY_MAX),
        cores: Some(vec![options.engine_cpu.unwrap_or(first_cpu)]),
        ..Config::default()
    };
    Engine::start(&config).map_err(|error| error.to_string())
}
