//! What faults do when they begin and end.

use crate::agent::Agent;
use crate::invariants::Seen;
use crate::network::LATE_MAX;
use crate::plan::{AgentPlan, Class, InstancePlan};
use crate::world::{Happening, START, World};
use heartline::internals::clock::{Nanos, from_ms};
use heartline_client::Change;
use heartline_wire::{Declared, Version};

/// Until an agent whose address changed has a socket that works: it is opened again at most once a
/// second, and a look at a silent engine comes after five at most.
const MOVES: Nanos = from_ms(10_000);

impl World {
    pub(crate) fn fault_begins(&mut self, index: usize) {
        let fault = self.plan.faults[index];
        self.seen.insert((Seen::Fault, fault.class as u64));
        self.tell(format_args!("fault {fault} begins"));
        let (now, until) = (self.now, START + fault.until);
        let one = (fault.seed >> 8) as usize % self.plan.agents.len();
        let engine = (fault.seed >> 32) as usize % self.plan.engines;
        match fault.class {
            Class::Loss | Class::Duplication | Class::Delay | Class::Reorder | Class::Partition => {
                for number in 0..self.agents.len() {
                    let concerns = (0..self.plan.engines).any(|engine| {
                        [false, true]
                            .into_iter()
                            .any(|way| self.concerns(&fault, Some(number), engine, way))
                    });
                    if concerns {
                        self.agents[number].is_disturbed(until + LATE_MAX);
                    }
                }
            }
            Class::Address => {
                self.agents[one].is_disturbed(now + MOVES);
                self.agent_moves(one, fault.seed);
            }
            Class::Stop => {
                let agent = &mut self.agents[one];
                agent.stopped_until = agent.stopped_until.max(until);
                agent.has_starved = true;
                agent.is_disturbed(until);
            }
            Class::Starve => {
                let agent = &mut self.agents[one];
                agent.starved = (self.plan.ttl * (1 + fault.seed % 8) / 4).max(from_ms(1));
                agent.has_starved = true;
                let starved = agent.starved;
                agent.is_disturbed(until + starved * 2);
            }
            Class::Kill => self.agent_dies(one),
            Class::Twin => self.add_twin(one, fault.seed),
            Class::Pause => {
                if let Some(engine) = &mut self.places[engine].engine {
                    engine.paused_until = engine.paused_until.max(until);
                }
            }
            Class::Crash => self.crash(engine, fault.seed),
            Class::Churn => self.begin_churn(one, fault.seed, until),
            Class::Spoof => self.spoofers(&fault, until),
            Class::Replay | Class::Hostile => self.strangers(&fault, until),
        }
    }

    pub(crate) fn fault_ends(&mut self, index: usize) {
        let fault = self.plan.faults[index];
        let one = (fault.seed >> 8) as usize % self.plan.agents.len();
        let engine = (fault.seed >> 32) as usize % self.plan.engines;
        match fault.class {
            Class::Starve => self.agents[one].starved = 0,
            Class::Kill if !fault.seed.is_multiple_of(4) => self.agent_starts(one),
            Class::Twin if fault.seed.is_multiple_of(2) => {
                for number in self.plan.agents.len()..self.agents.len() {
                    self.agent_dies(number);
                }
            }
            Class::Crash if self.places[engine].engine.is_none() => self.engine_starts(engine),
            _ => {}
        }
    }

    /// An engine is killed, or hands its socket over to another one.
    fn crash(&mut self, engine: usize, seed: u64) {
        match seed >> 3 & 3 {
            0 if self.places[engine].engine.is_some() => {
                self.engine_ends(engine, true, false);
                self.engine_starts(engine);
            }
            3 => self.engine_ends(engine, false, true),
            _ => self.engine_ends(engine, false, false),
        }
    }

    /// A second agent with the identities of another one: on its host, or elsewhere.
    fn add_twin(&mut self, one: usize, seed: u64) {
        let original = self.agents[one].plan.clone();
        let host = if seed & 16 == 0 { original.host } else { 90 + (seed >> 40) as u8 % 8 };
        let plan = AgentPlan { host, starts: 0, ..original };
        let number = self.agents.len();
        let mut agent = Agent::new(plan, seed);
        agent.is_twin = true;
        agent.is_reversed = self.agents[one].is_reversed;
        self.agents.push(agent);
        self.schedule(self.now + seed % from_ms(500), Happening::Starts(number));
    }

    fn begin_churn(&mut self, one: usize, seed: u64, until: Nanos) {
        let count = 4 + seed % 30;
        for at in 0..count {
            let when = self.now + (until - self.now) / count * at;
            let number = if seed & 8 == 0 { one } else { (one + at as usize) % self.agents.len() };
            self.schedule(when, Happening::Churn(number, seed.rotate_left(at as u32 + 1)));
        }
    }

    /// A service changes something about an instance, ends one, or has a new one.
    pub(crate) fn churns(&mut self, number: usize, seed: u64) {
        let now = self.now;
        if !self.agents[number].runs(now) {
            return;
        }
        let agent = &mut self.agents[number];
        let Some(process) = &mut agent.process else { return };
        let meant: Vec<usize> = process
            .owned
            .iter()
            .enumerate()
            .filter(|(_, owned)| owned.is_meant())
            .map(|(at, _)| at)
            .collect();
        let pick = (seed >> 16) as usize;
        let Some(&at) = meant.get(pick % meant.len().max(1)) else { return };
        let owned = &mut process.owned[at];
        match seed % 8 {
            0..4 => {
                let declared = [Declared::Serving, Declared::Draining, Declared::Maintenance];
                owned.declared = declared[(seed >> 24) as usize % 3];
                process.machine.declare(now, owned.id, owned.declared);
            }
            4 | 5 => {
                let change = Change {
                    weight: Some((seed >> 24) as u16 % 300),
                    version: Some(Version::new(1, (seed >> 30) as u16 % 50, 0, 0)),
                    load: Some((seed >> 44) as u16),
                    ..Change::default()
                };
                process.machine.update(owned.id, &change).expect("it fits the format");
            }
            6 => {
                owned.has_ended = true;
                process.machine.deregister(now, owned.id);
            }
            _ => {
                let fresh = process.owned.len();
                let former = process.owned[at].plan.clone();
                let port = 3000 + (number * 100 + fresh % 100) as u16;
                let name = format!("{}-n{fresh}", former.name);
                self.agent_registers(number, InstancePlan { name, port, ..former });
            }
        }
        self.wake_agent(number, now);
    }
}
