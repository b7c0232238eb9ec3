//! Once faults have ended: who lives is up, and of two with one identity at most one goes on.

use super::{Verdict, must};
use crate::world::World;
use heartline_client::Standing;
use heartline_wire::State;
use std::collections::BTreeMap;

impl World {
    /// Every living registration of a living agent is up at each engine where it is to be.
    pub(crate) fn recovered(&mut self) -> Verdict {
        let claims = self.claims();
        for (identity, claimants) in &claims {
            for &(number, engine) in claimants {
                let state = self.state_at(engine, identity);
                let is_up = state == Some(State::Up);
                must!(
                    "recovered",
                    is_up || self.is_excused(engine, number),
                    "agent {number} lives, and {identity:?} is {state:?} at engine {engine}"
                );
            }
        }
        self.only_one_goes_on()
    }

    /// For each identity who wants it to be where.
    fn claims(&self) -> BTreeMap<(String, String), Vec<(usize, usize)>> {
        let mut claims: BTreeMap<(String, String), Vec<(usize, usize)>> = BTreeMap::new();
        for (number, agent) in self.agents.iter().enumerate() {
            let Some(process) = agent.process.as_ref().filter(|_| agent.runs(self.now)) else {
                continue;
            };
            for owned in process.owned.iter().filter(|owned| owned.is_meant()) {
                let (service, name) = owned.identity();
                let claim = claims.entry((service.to_owned(), name.to_owned())).or_default();
                let engines = (0..agent.plan.replicas)
                    .map(|link| (number, agent.engine_of(link, self.plan.engines)));
                claim.extend(engines);
            }
        }
        claims
    }

    fn state_at(&mut self, engine: usize, (service, name): &(String, String)) -> Option<State> {
        let now = self.now;
        self.places[engine].engine.as_mut()?.state_of(now, service, name)
    }

    /// The engine has no room, or not for this address.
    fn is_excused(&self, engine: usize, number: usize) -> bool {
        let Some(engine) = &self.places[engine].engine else { return false };
        engine.members() >= self.plan.capacity
            || engine.leases_of(&self.agents[number].source()) >= self.plan.quota as usize
    }

    fn only_one_goes_on(&self) -> Verdict {
        let mut going: BTreeMap<(&str, &str, [u8; 16]), Vec<usize>> = BTreeMap::new();
        for (number, agent) in self.agents.iter().enumerate() {
            let Some(process) = agent.process.as_ref().filter(|_| agent.runs(self.now)) else {
                continue;
            };
            for owned in &process.owned {
                let is_up = matches!(process.machine.standing(owned.id), Standing::Up { .. });
                if is_up && !owned.has_ended {
                    let (service, name) = owned.identity();
                    going.entry((service, name, agent.source())).or_default().push(number);
                }
            }
        }
        for (identity, agents) in going {
            must!("replaced", agents.len() < 2, "{agents:?} go on with {identity:?}");
        }
        Ok(())
    }
}
