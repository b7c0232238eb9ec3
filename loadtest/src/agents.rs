//! An agent in a process of its own, so that its CPU time is known.

use crate::bed::spawn;
use crate::machine;
use heartline_client::{Agent, Instance, Registered};
use std::io::Read;
use std::net::SocketAddr;
use std::process::Child;
use std::time::Duration;

/// Services that the instances of an agent belong to.
const SERVICES: u32 = 100;
/// Time in which all instances must be up.
const LONGEST: Duration = Duration::from_secs(60);

/// What an agent registers.
#[derive(clap::Args)]
pub(crate) struct AgentOptions {
    #[arg(long)]
    target: SocketAddr,
    #[arg(long)]
    instances: u32,
    #[arg(long, value_parser = humantime::parse_duration)]
    ttl: Duration,
}

/// What `heartline-loadtest agent` is: an agent that beats for many instances until its standard
/// input ends.
pub(crate) fn serve(options: &AgentOptions) -> Result<(), String> {
    let agent = Agent::connect(&options.target.to_string()).map_err(|error| error.to_string())?;
    let register = |number: u32| {
        let service = format!("svc-{}", number % SERVICES);
        let instance = Instance::new(&service, (number % 60_000) as u16 + 1);
        let instance = instance.name(&format!("agent-{number}")).ttl(options.ttl);
        agent.register(instance).map_err(|error| error.to_string())
    };
    let all = (0..options.instances).map(register).collect::<Result<Vec<Registered>, _>>()?;
    for registered in &all {
        registered.wait_up(LONGEST).map_err(|standing| format!("not up but {standing:?}"))?;
    }
    println!("{}", options.target);
    let _ = std::io::stdin().read(&mut [0]);
    Ok(())
}

/// Such a process, whose instances are all up. It ends with this value.
pub(crate) struct AgentProcess(Child);

impl AgentProcess {
    /// Starts one on a CPU.
    pub(crate) fn start(
        cpu: usize,
        target: SocketAddr,
        instances: u32,
        ttl: Duration,
    ) -> Result<Self, String> {
        let (target, instances) = (target.to_string(), instances.to_string());
        let ttl = humantime::format_duration(ttl).to_string();
        let arguments = ["agent", "--target", &target, "--instances", &instances, "--ttl", &ttl];
        spawn::<SocketAddr>(cpu, &arguments).map(|(child, _)| Self(child))
    }

    /// CPU time that it has used, in nanoseconds.
    pub(crate) fn cpu_ns(&self) -> u64 {
        machine::process_cpu_ns(self.0.id())
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
