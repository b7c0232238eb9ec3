//! The simulation: time, engines, agents, and what happens to them.

use crate::agent::Agent;
use crate::engine::{Engine, Left, Said};
use crate::invariants::{Calm, LeaseKey, Members, Owner, Proofs, Seen, Verdict, Violation};
use crate::invariants::{deadlines, must};
use crate::plan::{Fault, Plan};
use heartline::internals::clock::{Nanos, from_ms};
use heartline::internals::exchange::Peer;
use heartline_test_support::seeds::{Report, Timeline, Trace};
use heartline_wire::{Reply, ReplyBody, Request};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::collections::{BTreeSet, HashMap};

/// When the simulations start: any time that is no multiple of anything.
pub(crate) const START: Nanos = 1_000_000_000_123_457;
/// How often the end is looked for.
const LOOK: Nanos = from_ms(250);

/// What happens at a time.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    ToEngine(usize, Peer, Vec<u8>),
    ToAgent(Peer, Vec<u8>),
    /// Nobody listens where a datagram of this sender went.
    Refused(Peer),
    /// An agent's thread runs, if it is still the same life and the same wake-up.
    Agent(usize, u64, u64),
    Starts(usize),
    /// An engine runs, if it is still the same step.
    Engine(usize, u64),
    /// A service changes something.
    Churn(usize, u64),
    /// A caller picks.
    Caller(usize, u64),
    Spoof {
        victim: usize,
        engine: usize,
        port: u16,
        is_own: bool,
        proof: u64,
        tag: u64,
    },
    Begins(usize),
    Ends(usize),
    /// An engine loses everything, and another one starts in its place.
    Dies(usize),
    Revives(usize),
    Look,
}

/// Where a datagram to an address goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Port {
    pub(crate) agent: usize,
    pub(crate) link: usize,
}

/// Where an engine runs, dies and is started again.
#[derive(Default)]
pub(crate) struct Place {
    pub(crate) engine: Option<Engine>,
    /// What an engine that died left behind.
    pub(crate) left: Option<Left>,
    starts: u64,
    /// Number of its memory.
    pub(crate) memory: u64,
    pub(crate) proofs: Proofs,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) now: Nanos,
    timeline: Timeline<Happening>,
    pub(crate) places: Vec<Place>,
    pub(crate) agents: Vec<Agent>,
    pub(crate) ports: HashMap<([u8; 16], u16), Port>,
    pub(crate) network: StdRng,
    /// Datagrams to engines, to be sent again by somebody.
    pub(crate) tape: Vec<(usize, Peer, Vec<u8>)>,
    trace: Trace,
    pub(crate) quiet_from: Nanos,
    /// When a list changed last.
    pub(crate) changed_at: Nanos,
    /// Changes that are made at the end, when all is well, to see them healed.
    pub(crate) last_changes: u32,
    pub(crate) calm: Calm,
    pub(crate) members: Members,
    pub(crate) seen: BTreeSet<(Seen, u64)>,
    is_over: bool,
    /// When hellos and register requests came to engines, if somebody wants to know.
    pub(crate) requests: Option<(Vec<Nanos>, Vec<Nanos>)>,
    /// What happens is told on standard output.
    tells: bool,
}

impl World {
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut random = StdRng::seed_from_u64(plan.seed ^ 0x5EED);
        let agents: Vec<Agent> =
            plan.agents.iter().map(|one| Agent::new(one.clone(), random.next_u64())).collect();
        let quiet_from =
            plan.faults.iter().map(|fault| fault.until).max().unwrap_or(0).max(plan.length) + START;
        let mut world = Self {
            plan: plan.clone(),
            now: START,
            timeline: Timeline::default(),
            places: (0..plan.engines).map(|_| Place::default()).collect(),
            agents,
            ports: HashMap::new(),
            network: StdRng::seed_from_u64(random.next_u64()),
            tape: Vec::new(),
            trace: Trace::default(),
            quiet_from,
            changed_at: START,
            last_changes: 0,
            calm: Calm::default(),
            members: Members::default(),
            seen: BTreeSet::new(),
            is_over: false,
            requests: None,
            tells: std::env::var_os("HEARTLINE_SIM_TELL").is_some(),
        };
        (0..plan.engines).for_each(|engine| world.engine_starts(engine));
        for (number, agent) in plan.agents.iter().enumerate() {
            world.schedule(START + agent.starts, Happening::Starts(number));
        }
        for (index, fault) in plan.faults.iter().enumerate() {
            world.schedule(START + fault.from, Happening::Begins(index));
            world.schedule(START + fault.until, Happening::Ends(index));
        }
        world.schedule(quiet_from, Happening::Look);
        world
    }

    /// Runs until all is well after the faults, or must have been.
    pub(crate) fn run(mut self) -> Result<Report<(Seen, u64)>, (Nanos, Violation)> {
        let mut steps = 0;
        while !self.is_over
            && let Some((at, what)) = self.timeline.pop()
        {
            debug_assert!(at >= self.now);
            self.now = at;
            steps += 1;
            self.step(what).map_err(|violation| (self.now - START, violation))?;
        }
        let simulated = self.now - START;
        Ok(Report { trace: self.trace, simulated, steps, seen: self.seen })
    }

    /// Runs until a time, whatever state all is in then.
    pub(crate) fn run_until(&mut self, until: Nanos) -> Verdict {
        while self.timeline.next_at().is_some_and(|at| at <= until)
            && let Some((at, what)) = self.timeline.pop()
        {
            self.now = at;
            if !matches!(what, Happening::Look) {
                self.step(what)?;
            }
        }
        self.now = until;
        Ok(())
    }

    /// From here on [`Self::requests`] are noted.
    pub(crate) fn counts_requests(&mut self) {
        self.requests = Some((Vec::new(), Vec::new()));
    }

    /// Tells what happens, if somebody wants to read it.
    pub(crate) fn tell(&self, what: std::fmt::Arguments<'_>) {
        if self.tells {
            println!("{:.6} ms: {what}", (self.now - START) as f64 / 1e6);
        }
    }

    pub(crate) fn schedule(&mut self, at: Nanos, what: Happening) {
        self.timeline.push(at.max(self.now), what);
    }

    fn step(&mut self, what: Happening) -> Verdict {
        self.trace.add(self.now);
        match what {
            Happening::ToEngine(engine, peer, bytes) => {
                self.trace.add_bytes(&bytes);
                self.engine_hears(engine, peer, bytes);
            }
            Happening::ToAgent(peer, bytes) => {
                self.trace.add_bytes(&bytes);
                self.agent_hears(peer, bytes);
            }
            Happening::Refused(peer) => self.agent_refused(peer),
            Happening::Agent(number, life, wake) => {
                if self.agents[number].is_awaited(life, wake) {
                    self.agent_runs(number)?;
                }
            }
            Happening::Starts(number) => self.agent_starts(number),
            Happening::Engine(number, step) => self.engine_runs(number, step)?,
            Happening::Churn(number, seed) => self.churns(number, seed),
            Happening::Caller(number, life) => self.caller_picks(number, life)?,
            Happening::Spoof { victim, engine, port, is_own, proof, tag } => {
                self.spoof(victim, engine, (port, is_own), proof, tag);
            }
            Happening::Begins(index) => self.fault_begins(index),
            Happening::Ends(index) => self.fault_ends(index),
            Happening::Dies(number) => self.engine_ends(number, false, true),
            Happening::Revives(number) => self.engine_starts(number),
            Happening::Look => self.looks_for_the_end()?,
        }
        Ok(())
    }

    pub(crate) fn engine_starts(&mut self, number: usize) {
        let now = self.now;
        let place = &mut self.places[number];
        place.starts += 1;
        let epoch = self.plan.seed << 16 | (number as u64) << 8 | place.starts;
        let left = place.left.take();
        let kind = match &left {
            None => 0,
            Some(left) if left.is_handed_over() => 2,
            Some(_) => 1,
        };
        place.memory += u64::from(kind == 0);
        place.proofs = Proofs::default();
        place.engine = Some(Engine::new(&self.plan, epoch, now, left));
        self.seen.insert((Seen::Start, kind));
        self.tell(format_args!(
            "engine {number} starts: {}",
            ["anew", "again", "over"][kind as usize]
        ));
        self.changed_at = now;
        self.plan_engine(number, now);
    }

    /// The process ends, in order or not. Its memory stays or is lost.
    pub(crate) fn engine_ends(&mut self, number: usize, hands_over: bool, is_lost: bool) {
        self.tell(format_args!("engine {number} ends"));
        let place = &mut self.places[number];
        if let Some(engine) = place.engine.take() {
            place.left = Some(engine.end(hands_over)).filter(|_| !is_lost);
        }
    }

    /// The engine is to run at this time at the latest.
    pub(crate) fn plan_engine(&mut self, number: usize, at: Nanos) {
        let Some(engine) = &mut self.places[number].engine else { return };
        if engine.planned.is_some_and(|planned| planned <= at) {
            return;
        }
        engine.planned = Some(at);
        engine.step += 1;
        let step = engine.epoch << 32 | engine.step;
        let at = (at.max(self.now) + 20_000).max(engine.paused_until);
        self.schedule(at, Happening::Engine(number, step));
    }

    fn engine_hears(&mut self, number: usize, peer: Peer, bytes: Vec<u8>) {
        match &mut self.places[number].engine {
            Some(engine) => {
                engine.arrive(peer, bytes);
                self.plan_engine(number, self.now);
            }
            None => {
                // An ICMP message, if no host or firewall on the way swallows it.
                if self.network.random_bool(0.5) {
                    let at = self.now + self.network.random_range(20_000..300_000);
                    self.schedule(at, Happening::Refused(peer));
                }
            }
        }
    }

    fn engine_runs(&mut self, number: usize, step: u64) -> Verdict {
        let now = self.now;
        let Some(engine) = &mut self.places[number].engine else { return Ok(()) };
        if step != (engine.epoch << 32 | engine.step) {
            return Ok(());
        }
        engine.planned = None;
        if engine.paused_until > now {
            self.plan_engine(number, now);
            return Ok(());
        }
        let (said, next) = engine.run(now);
        let events = engine.events();
        for said in said {
            match said {
                Said::Heard(peer, bytes) => self.engine_heard(number, &peer, &bytes),
                Said::Reply(peer, bytes) | Said::Push(peer, bytes) => {
                    self.trace.add_bytes(&bytes);
                    self.tell_watch(number, &peer, &bytes);
                    self.places[number].proofs.said(now, &peer, &bytes, &mut self.seen)?;
                    self.send_to_agent(number, peer, bytes);
                }
            }
        }
        for event in events {
            self.happened(number, &event)?;
        }
        if let Some(next) = next {
            self.plan_engine(number, next);
        }
        Ok(())
    }

    fn tell_watch(&self, number: usize, peer: &Peer, bytes: &[u8]) {
        if self.tells
            && let Ok(reply) = Reply::decode(bytes)
            && let ReplyBody::Watching(_) | ReplyBody::Push(..) = reply.body
        {
            self.tell(format_args!("engine {number} says to {}: {reply:?}", peer.port));
        }
    }

    fn engine_heard(&mut self, number: usize, peer: &Peer, bytes: &[u8]) {
        if self.tells && matches!(bytes.get(3), Some(10 | 11)) {
            let request = Request::decode(bytes);
            self.tell(format_args!("engine {number} hears {}: {request:?}", peer.port));
        }
        let place = &mut self.places[number];
        place.proofs.heard(self.now, peer, bytes);
        let request = Request::decode(bytes);
        match (&mut self.requests, &request) {
            (Some((hellos, _)), Ok(Request::Hello(_))) => hellos.push(self.now),
            (Some((_, registers)), Ok(Request::Register(..))) => registers.push(self.now),
            _ => {}
        }
        let Ok(Request::Beat(_, beats)) = request else { return };
        let Some(port) = self.ports.get(&(peer.ip, peer.port)) else { return };
        let Some(engine) = &place.engine else { return };
        for beat in beats.iter().filter(|beat| engine.has_granted(&beat.lease)) {
            let lease = (beat.lease.slot.get(), beat.lease.generation.get());
            let life = self.agents[port.agent].life;
            let key: LeaseKey = (number, place.memory, lease.0, lease.1);
            self.members
                .beats(key, Owner { agent: port.agent, link: port.link, life, since: self.now });
        }
    }

    /// An event of an engine's feed.
    fn happened(&mut self, engine: usize, words: &[u64; 8]) -> Verdict {
        self.changed_at = self.now;
        let (kind, slot, generation) = (words[2] as u8, words[5] as u32, (words[5] >> 32) as u32);
        self.tell(format_args!("engine {engine}: event {kind} of slot {slot}, {generation}"));
        if kind != heartline_region::EventKind::Down as u8 {
            return Ok(());
        }
        let lease = (engine, self.places[engine].memory, slot, generation);
        let Some(owner) = self.members.owner(lease) else { return Ok(()) };
        let agent = &self.agents[owner.agent];
        let name = self.places[engine].engine.as_ref().and_then(|one| one.name_of(slot));
        let is_well = agent.is_well(self.now, owner, name, self.longest_ttl());
        must!("no false down", !is_well, "agent {owner:?} beat for {lease:?}, which is down");
        Ok(())
    }

    pub(crate) fn is_active(&self, fault: &Fault) -> bool {
        (fault.from..fault.until).contains(&(self.now - START))
    }

    /// Whether all is as it must be once faults have ended; until when it may be otherwise.
    fn looks_for_the_end(&mut self) -> Verdict {
        let (now, longest) = (self.now, self.longest_ttl());
        let since = now - self.quiet_from;
        let recovered = self.recovered();
        if since > deadlines::recovered(longest) {
            recovered.clone()?;
        }
        let viewed = if recovered.is_ok() { self.viewed() } else { Ok(()) };
        if now > self.changed_at.max(self.quiet_from) + deadlines::views() && recovered.is_ok() {
            viewed.clone()?;
        }
        let is_calm = recovered.is_ok() && viewed.is_ok();
        if !is_calm || since < deadlines::settling(longest) {
            self.schedule(now + LOOK, Happening::Look);
            return Ok(());
        }
        // All is well: a few more changes must be seen soon.
        if self.last_changes > 0 && now >= self.changed_at + deadlines::healed() {
            self.viewed().map_err(|one| Violation { invariant: "healed", ..one })?;
        }
        if self.last_changes < 4 {
            self.last_changes += 1;
            let number = self.network.random_range(0..self.agents.len());
            let seed = self.network.next_u64() & !7;
            self.churns(number, seed);
            self.schedule(now + LOOK, Happening::Look);
            return Ok(());
        }
        self.is_over = true;
        Ok(())
    }

    pub(crate) fn longest_ttl(&self) -> Nanos {
        let ttls = self.agents.iter().flat_map(|agent| &agent.plan.instances);
        from_ms(ttls.map(|instance| instance.ttl_ms).max().unwrap_or(0))
    }
}
