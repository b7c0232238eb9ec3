//! Callers: what they see of a service, and what they pick.

use crate::agent::Agent;
use crate::invariants::{Seen, Verdict, must};
use crate::world::{Happening, World};
use heartline::internals::clock::{Nanos, from_ms};
use heartline_client::{Balance, Changes, Endpoint, MemberChange, Picked, Watch};
use heartline_wire::{Declared, State, Version};
use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// How old a view may be that is picked from.
pub(crate) const MAX_STALE: Nanos = from_ms(8_000);
/// What an agent may take to notice that a view is too old.
const NOTICE: Nanos = from_ms(100);

pub(crate) const BALANCES: [Balance; 7] = [
    Balance::RoundRobin,
    Balance::Random,
    Balance::Weighted,
    Balance::LeastInFlight,
    Balance::PeakEwma,
    Balance::Rendezvous,
    Balance::Maglev,
];

/// What of an endpoint changes are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    state: State,
    declared: Declared,
    weight: u16,
    version: Version,
    held: bool,
}

impl Facts {
    fn of(endpoint: &Endpoint) -> Self {
        let &Endpoint { state, declared, weight, version, held, .. } = endpoint;
        Self { state, declared, weight, version, held }
    }
}

/// A view of one service, and what was told of its changes.
#[derive(Debug)]
pub(crate) struct Viewer {
    pub(crate) service: String,
    pub(crate) watch: Watch,
    changes: Changes,
    /// The view that the changes make.
    told: BTreeMap<SocketAddr, Facts>,
    /// Whatever was ever in a view.
    known: BTreeSet<SocketAddr>,
}

impl Viewer {
    pub(crate) fn new(service: String, watch: Watch) -> Self {
        let changes = watch.changes();
        Self { service, watch, changes, told: BTreeMap::new(), known: BTreeSet::new() }
    }

    /// The changes that were told, made to the view before, give the view now.
    fn follows(&mut self) -> Verdict {
        let view: BTreeMap<SocketAddr, Facts> =
            self.watch.all().iter().map(|one| (one.address, Facts::of(one))).collect();
        while let Some(change) = self.changes.try_next() {
            match change {
                MemberChange::Joined(one) => {
                    self.known.insert(one.address);
                    let former = self.told.insert(one.address, Facts::of(&one));
                    must!("said", former.is_none(), "{} joins twice", one.address);
                }
                MemberChange::Altered(one) => {
                    let former = self.told.insert(one.address, Facts::of(&one));
                    must!("said", former.is_some(), "{} changes, and is not there", one.address);
                }
                MemberChange::Left(one) => {
                    let former = self.told.remove(&one.address);
                    must!("said", former.is_some(), "{} leaves, and is not there", one.address);
                }
                MemberChange::Lost(_) => self.told = view.clone(),
                _ => {}
            }
        }
        self.known.extend(view.keys());
        must!("said", self.told == view, "told {:?}, and the view is {view:?}", self.told);
        Ok(())
    }

    /// What is picked is listed and serves.
    fn picks(
        &self,
        key: u64,
        is_too_old: bool,
    ) -> Result<Option<Picked>, crate::invariants::Violation> {
        let all = self.watch.all();
        let picks = [self.watch.pick(), self.watch.pick_by_key(key)];
        for picked in picks.into_iter().flatten() {
            let address = picked.address();
            must!("picks", !is_too_old, "{address} is picked from a view that is too old");
            must!("picks", self.known.contains(&address), "{address} was never in a view");
            let listed = all.iter().find(|one| one.address == address);
            must!(
                "picks",
                listed.is_some() || picked.degraded().is_some(),
                "{address} is not listed, and picked as if it was"
            );
            let serves = listed.is_none_or(|one| one.declared == Declared::Serving);
            must!("picks", serves, "{listed:?} is picked");
            let is_up = listed.is_none_or(|one| one.state == State::Up);
            must!(
                "picks",
                is_up || picked.degraded().is_some(),
                "{listed:?} is picked before others"
            );
        }
        if let Ok(call) = self.watch.call() {
            if key.is_multiple_of(3) { call.failed() } else { call.succeeded() }
        }
        Ok(picks[0].ok())
    }
}

impl World {
    /// A caller picks, looks at the changes, and comes again.
    pub(crate) fn caller_picks(&mut self, number: usize, life: u64) -> Verdict {
        let now = self.now;
        let agent = &mut self.agents[number];
        if agent.life != life {
            return Ok(());
        }
        let pause = agent.random.random_range(from_ms(5)..from_ms(800));
        let (key, is_too_old) = (agent.random.random(), agent.is_view_too_old(now));
        let Some(process) = &mut agent.process else { return Ok(()) };
        if agent.stopped_until <= now {
            let engines = process.machine.health(now).engines;
            for viewer in &mut process.viewers {
                viewer.follows()?;
                let picked = viewer.picks(key, is_too_old)?;
                let engine = picked.and_then(|picked| {
                    engines.get(picked.engine()).filter(|_| picked.degraded().is_none())
                });
                let is_silent = engine.is_some_and(|engine| engine.silent_for.is_some());
                must!("picks", !is_silent, "{picked:?} is of an engine that does not answer");
                self.seen.insert((Seen::Pick, u64::from(picked.is_none())));
            }
        }
        self.schedule(now + pause, Happening::Caller(number, life));
        Ok(())
    }

    /// Every view is what the engines say.
    pub(crate) fn viewed(&mut self) -> Verdict {
        (0..self.agents.len()).try_for_each(|number| self.viewed_by(number))
    }

    fn viewed_by(&mut self, number: usize) -> Verdict {
        let (now, engines) = (self.now, self.plan.engines);
        let agent = &self.agents[number];
        let Some(process) = agent.process.as_ref().filter(|_| agent.runs(now)) else {
            return Ok(());
        };
        let wanted: Vec<usize> =
            (0..agent.plan.replicas).map(|link| agent.engine_of(link, engines)).collect();
        for Viewer { service, watch, .. } in &process.viewers {
            let mut lists = Vec::new();
            for &engine in &wanted {
                let Some(engine) = &mut self.places[engine].engine else { continue };
                lists.push(engine.list(now, service).unwrap_or_default().1);
            }
            let view = watch.all();
            must!(
                "views",
                is_merged(&view, &lists),
                "agent {number} sees of {service} {view:?}, and the engines say {lists:?}"
            );
            must!("views", watch.is_current(), "agent {number}: {service} is not current");
            let Ok(picked) = watch.pick() else { continue };
            let engine = agent.engine_of(picked.engine(), engines);
            let list = wanted.iter().position(|&wanted| wanted == engine).map(|at| &lists[at]);
            let is_there = list.into_iter().flatten().any(|member| {
                member.slot.get() == picked.slot()
                    && member.generation.get() == picked.generation()
                    && member.socket_addr() == picked.address()
            });
            must!("picks", is_there, "agent {number}: {picked:?} is not there, but {lists:?}");
        }
        Ok(())
    }
}

/// Whether a view is what several engines say together: whoever any of them lists, with the facts
/// of one of them, and up if any says so.
fn is_merged(view: &[Endpoint], lists: &[Vec<heartline_wire::Endpoint>]) -> bool {
    let mut facts: BTreeMap<SocketAddr, Vec<Facts>> = BTreeMap::new();
    for member in lists.iter().flatten() {
        let (Some(state), declared) = (member.state(), member.declared()) else { return false };
        let (weight, version, held) = (member.weight.get(), member.version, member.is_held());
        let told = Facts { state, declared, weight, version, held };
        facts.entry(member.socket_addr()).or_default().push(told);
    }
    view.len() == facts.len()
        && view.iter().all(|one| {
            facts.get(&one.address).is_some_and(|told| {
                let is_up = told.iter().any(|told| told.state == State::Up);
                let own = Facts::of(one);
                (own.state == State::Up) == is_up
                    && told
                        .iter()
                        .any(|told| Facts { state: own.state, held: own.held, ..*told } == own)
            })
        })
}

impl Agent {
    /// No engine has answered for longer than views may be old.
    fn is_view_too_old(&self, now: Nanos) -> bool {
        let Some(process) = &self.process else { return false };
        let is_late = self.starved > 0 || process.is_late(now);
        let engines = process.machine.health(now).engines;
        let silent = |silent: Option<std::time::Duration>| {
            silent.is_some_and(|time| time.as_nanos() as u64 > MAX_STALE + NOTICE)
        };
        !is_late && engines.iter().all(|engine| silent(engine.silent_for))
    }
}
