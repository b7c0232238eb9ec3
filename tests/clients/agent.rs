//! An agent's process: the real state machine, driven as its thread drives it, with the sockets and
//! the clock of the simulation.

use crate::caller::{BALANCES, MAX_STALE, Viewer};
use crate::invariants::{Owner, Seen, Verdict, event_number, must};
use crate::network::peer;
use crate::plan::{AgentPlan, InstancePlan};
use crate::world::{Happening, Port, World};
use heartline::internals::clock::{Nanos, from_ms};
use heartline::internals::exchange::Peer;
use heartline_client::proto::{LinkId, Machine, Output, RegistrationId};
use heartline_client::{Event, Instance, WatchOptions};
use heartline_wire::{Declared, Request, unmap_ip};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Datagrams that wait in an agent's socket at most, about as many as Linux keeps.
const INBOX: usize = 250;
/// From here on an agent must notice that it is late.
const LATE: Nanos = from_ms(20);
/// Steps in a row after which an agent has still something to do at once.
const RESTLESS_MAX: u32 = 1_000;
/// Outputs in one step: more is an endless loop.
const OUTPUTS_MAX: usize = 20_000;

/// A registration as the service that owns it knows it.
#[derive(Debug)]
pub(crate) struct Owned {
    pub(crate) plan: InstancePlan,
    pub(crate) id: RegistrationId,
    pub(crate) declared: Declared,
    pub(crate) has_ended: bool,
    pub(crate) is_replaced: bool,
    pub(crate) is_refused: bool,
}

impl Owned {
    /// It is to be found at the engines.
    pub(crate) fn is_meant(&self) -> bool {
        !self.has_ended && !self.is_replaced && !self.is_refused
    }

    pub(crate) fn identity(&self) -> (&str, &str) {
        (&self.plan.service, &self.plan.name)
    }
}

/// A socket to one engine.
#[derive(Clone, Debug)]
struct Socket {
    /// As engines see it.
    outside: Peer,
    is_open: bool,
    /// The address that it is bound to is gone.
    is_dead: bool,
    /// An ICMP message waits to be told.
    is_refused: bool,
}

/// A living process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) machine: Machine,
    sockets: Vec<Socket>,
    pub(crate) owned: Vec<Owned>,
    /// When the machine was to be asked again.
    promised: Nanos,
    /// How often it was asked late.
    pub(crate) late: u64,
    /// How often in a row it wanted to be asked again at once.
    restless: u32,
    /// When each engine was last one that others have taken the place of.
    unwanted_at: Vec<Nanos>,
    pub(crate) viewers: Vec<Viewer>,
}

impl Process {
    /// Its machine is to be asked, and was not yet.
    pub(crate) fn is_late(&self, now: Nanos) -> bool {
        now > self.promised
    }
}

/// A place where a process runs, dies and is started again.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) plan: AgentPlan,
    pub(crate) ip: [u8; 16],
    pub(crate) process: Option<Process>,
    pub(crate) life: u64,
    inbox: VecDeque<(usize, Vec<u8>)>,
    pub(crate) stopped_until: Nanos,
    /// Delay of each step, while it is starved.
    pub(crate) starved: Nanos,
    /// Number of the wake-up that counts, and its time.
    wake: u64,
    wake_at: Nanos,
    pub(crate) random: StdRng,
    /// Nothing disturbed it or its network from here on.
    pub(crate) well_from: Nanos,
    /// The second engine comes first.
    pub(crate) is_reversed: bool,
    /// Its steps came late once, if only by a little.
    pub(crate) has_starved: bool,
    /// The address that a translator gives it.
    pub(crate) translated: Option<[u8; 16]>,
    /// When its own address changed: leases from before are given back, and a farewell may be lost.
    moved_at: Nanos,
    /// It has the identities of another agent.
    pub(crate) is_twin: bool,
}

impl Agent {
    pub(crate) fn new(plan: AgentPlan, seed: u64) -> Self {
        let ip = peer(0, plan.host, 0).ip;
        let mut random = StdRng::seed_from_u64(seed);
        let is_reversed = random.random_bool(0.3);
        Self {
            plan,
            ip,
            process: None,
            life: 0,
            inbox: VecDeque::new(),
            stopped_until: 0,
            starved: 0,
            wake: 0,
            wake_at: Nanos::MAX,
            random,
            well_from: 0,
            is_reversed,
            has_starved: false,
            translated: None,
            moved_at: 0,
            is_twin: false,
        }
    }

    /// The engine that a link leads to, and the other way round.
    pub(crate) fn engine_of(&self, link: usize, engines: usize) -> usize {
        if self.is_reversed { engines - 1 - link } else { link }
    }

    /// Its address as an engine sees it.
    pub(crate) fn outside(&self, link: usize) -> Peer {
        let socket = self.process.as_ref().and_then(|process| process.sockets.get(link));
        socket.map_or(peer(0, self.plan.host, 1), |socket| socket.outside)
    }

    /// The process lives and is not stopped.
    pub(crate) fn runs(&self, now: Nanos) -> bool {
        self.process.is_some() && self.stopped_until <= now
    }

    /// The address at which engines see it.
    pub(crate) fn source(&self) -> [u8; 16] {
        self.translated.unwrap_or(self.ip)
    }

    pub(crate) fn is_awaited(&self, life: u64, wake: u64) -> bool {
        self.life == life && self.wake == wake && self.process.is_some()
    }

    /// Whether nothing excuses that a lease of this owner is down.
    pub(crate) fn is_well(
        &self,
        now: Nanos,
        owner: &Owner,
        name: Option<String>,
        ttl: Nanos,
    ) -> bool {
        let Some(process) = self.process.as_ref().filter(|_| self.life == owner.life) else {
            return false;
        };
        let from = self.well_from.max(process.unwanted_at[owner.link]).max(owner.since);
        let was_left = owner.since <= self.moved_at;
        let is_meant = |owned: &&Owned| Some(&owned.plan.name) == name.as_ref() && owned.is_meant();
        now > from + 2 * ttl
            && !self.is_twin
            && !was_left
            && process.owned.iter().any(|one| is_meant(&one))
    }

    pub(crate) fn is_disturbed(&mut self, until: Nanos) {
        self.well_from = self.well_from.max(until);
    }
}

/// What a machine wants, without its borrow.
enum Wanted {
    Send(usize, Vec<u8>),
    Event(Event, Option<RegistrationId>),
    Open(usize),
    Nothing,
    Wait(Nanos),
}

impl World {
    /// A process starts, registers and watches.
    pub(crate) fn agent_starts(&mut self, number: usize) {
        let (now, engines) = (self.now, self.plan.engines);
        let agent = &mut self.agents[number];
        if agent.process.is_some() {
            return;
        }
        agent.life += 1;
        agent.inbox.clear();
        (agent.stopped_until, agent.wake_at) = (0, Nanos::MAX);
        let names: Vec<Arc<str>> = (0..engines)
            .map(|link| format!("e{}", agent.engine_of(link, engines)).into())
            .collect();
        let seed = [agent.random.next_u64(), agent.random.next_u64()];
        let machine = Machine::new(&names, agent.plan.replicas, seed);
        let socket = Socket {
            outside: Peer { ip: agent.ip, ..Peer::default() },
            is_open: false,
            is_dead: false,
            is_refused: false,
        };
        agent.process = Some(Process {
            machine,
            sockets: vec![socket; engines],
            owned: Vec::new(),
            promised: Nanos::MAX,
            late: 0,
            restless: 0,
            unwanted_at: vec![now; engines],
            viewers: Vec::new(),
        });
        agent.is_disturbed(now);
        self.tell(format_args!("agent {number} starts"));
        for instance in self.agents[number].plan.instances.clone() {
            self.agent_registers(number, instance);
        }
        for service in self.agents[number].plan.watched.clone() {
            self.agent_watches(number, service);
        }
        let life = self.agents[number].life;
        self.schedule(now, Happening::Caller(number, life));
        self.wake_agent(number, now);
    }

    /// A service lets its agent register an instance.
    pub(crate) fn agent_registers(&mut self, number: usize, plan: InstancePlan) {
        let now = self.now;
        let Some(process) = &mut self.agents[number].process else { return };
        let instance = Instance::new(&plan.service, plan.port)
            .name(&plan.name)
            .weight(plan.weight)
            .ttl(Duration::from_millis(plan.ttl_ms));
        let id = process.machine.register(&instance).expect("the instance is well-formed");
        process.owned.push(Owned {
            plan,
            id,
            declared: Declared::Serving,
            has_ended: false,
            is_replaced: false,
            is_refused: false,
        });
        self.wake_agent(number, now);
    }

    /// A caller lets its agent follow a service.
    fn agent_watches(&mut self, number: usize, service: String) {
        let agent = &mut self.agents[number];
        let balance = BALANCES[agent.random.random_range(0..BALANCES.len())];
        let max_stale = Duration::from_nanos(MAX_STALE);
        let options = WatchOptions::new().balance(balance).max_stale(max_stale);
        let Some(process) = &mut agent.process else { return };
        let watch = process.machine.watch(&service, options, Instant::now());
        process.viewers.push(Viewer::new(service, watch.expect("it is a name")));
    }

    /// The process ends without a word.
    pub(crate) fn agent_dies(&mut self, number: usize) {
        if let Some(process) = self.agents[number].process.take() {
            self.tell(format_args!("agent {number} is killed"));
            for socket in process.sockets {
                self.ports.remove(&(socket.outside.ip, socket.outside.port));
            }
        }
    }

    /// Its thread is to run at this time at the latest; a starved one runs later.
    pub(crate) fn wake_agent(&mut self, number: usize, at: Nanos) {
        let now = self.now;
        let agent = &mut self.agents[number];
        if at >= agent.wake_at || agent.process.is_none() {
            return;
        }
        let starved =
            if agent.starved > 0 { agent.random.random_range(0..agent.starved) } else { 0 };
        let latency = agent.random.random_range(2_000..60_000) + starved;
        agent.wake += 1;
        agent.wake_at = at;
        let (wake, life) = (agent.wake, agent.life);
        let at = (at.max(now) + latency).max(agent.stopped_until);
        self.schedule(at, Happening::Agent(number, life, wake));
    }

    /// A datagram has come to an address.
    pub(crate) fn agent_hears(&mut self, to: Peer, bytes: Vec<u8>) {
        let Some(&Port { agent: number, link }) = self.ports.get(&(to.ip, to.port)) else { return };
        if self.agents[number].inbox.len() < INBOX {
            self.agents[number].inbox.push_back((link, bytes));
            self.wake_agent(number, self.now);
        }
    }

    /// Nobody listens where a datagram of an agent went.
    pub(crate) fn agent_refused(&mut self, from: Peer) {
        let Some(&Port { agent: number, link }) = self.ports.get(&(from.ip, from.port)) else {
            return;
        };
        if let Some(process) = &mut self.agents[number].process {
            process.sockets[link].is_refused = true;
            self.wake_agent(number, self.now);
        }
    }

    /// Its thread runs: takes what waits, then does what the machine says.
    pub(crate) fn agent_runs(&mut self, number: usize) -> Verdict {
        let now = self.now;
        let agent = &mut self.agents[number];
        agent.wake_at = Nanos::MAX;
        if agent.stopped_until > now {
            self.wake_agent(number, now);
            return Ok(());
        }
        let Some(process) = &mut agent.process else { return Ok(()) };
        for (link, socket) in process.sockets.iter_mut().enumerate() {
            if std::mem::take(&mut socket.is_refused) {
                process.machine.refused(now, LinkId(link));
            }
        }
        while let Some((link, bytes)) = agent.inbox.pop_front() {
            process.machine.receive(now, LinkId(link), &bytes);
        }
        process.late += u64::from(now.saturating_sub(process.promised) >= LATE);
        process.promised = Nanos::MAX;
        for _ in 0..OUTPUTS_MAX {
            match self.agent_wants(number) {
                Wanted::Send(link, frame) => self.agent_sends(number, link, frame)?,
                Wanted::Event(event, about) => self.agent_tells(number, &event, about),
                Wanted::Open(link) => self.agent_opens(number, link),
                Wanted::Nothing => {}
                Wanted::Wait(until) => {
                    if let Some(process) = &mut self.agents[number].process {
                        process.promised = until;
                        process.restless = if until > now { 0 } else { process.restless + 1 };
                        let rests = process.restless < RESTLESS_MAX;
                        must!("calm", rests, "agent {number} wants to be asked again and again");
                    }
                    if until < Nanos::MAX {
                        self.wake_agent(number, until);
                    }
                    return self.owns_its_faults(number);
                }
            }
        }
        must!("calm", false, "agent {number} never comes to rest");
        Ok(())
    }

    fn agent_wants(&mut self, number: usize) -> Wanted {
        let now = self.now;
        let Some(process) = &mut self.agents[number].process else {
            return Wanted::Wait(Nanos::MAX);
        };
        match process.machine.poll(now) {
            Output::Send { link, frame } => Wanted::Send(link.0, frame.to_vec()),
            Output::Event(event, about) => Wanted::Event(event, about),
            Output::Open { link } => Wanted::Open(link.0),
            Output::Resolve { .. } | Output::Granted { .. } => Wanted::Nothing,
            Output::Wait { until } => Wanted::Wait(until),
        }
    }

    fn agent_sends(&mut self, number: usize, link: usize, frame: Vec<u8>) -> Verdict {
        let (now, engines) = (self.now, self.plan.engines);
        let agent = &mut self.agents[number];
        let (engine, life) = (agent.engine_of(link, engines), agent.life);
        if let Ok(Request::Register(header, body, _)) = Request::decode(&frame) {
            let identity = format!("{:?}/{:?}", body.service, body.instance);
            self.calm.asks(now, (number, life, engine), &identity, header.tag.get())?;
        }
        let Some(process) = &mut agent.process else { return Ok(()) };
        let socket = &process.sockets[link];
        must!("calm", socket.is_open, "agent {number} sends on a socket that is not open");
        if socket.is_dead {
            process.machine.send_failed(now, LinkId(link));
            return Ok(());
        }
        let outside = socket.outside;
        self.send_to_engine(Some(number), engine, outside, frame);
        Ok(())
    }

    fn agent_opens(&mut self, number: usize, link: usize) {
        let now = self.now;
        let agent = &mut self.agents[number];
        let source = agent.source();
        let mut port = agent.random.random_range(20_000..60_000);
        while self.ports.contains_key(&(source, port)) {
            port = agent.random.random_range(20_000..60_000);
        }
        let Some(process) = &mut agent.process else { return };
        let old = process.sockets[link].outside;
        let outside = Peer { ip: source, port, ..Peer::default() };
        process.sockets[link] =
            Socket { outside, is_open: true, is_dead: false, is_refused: false };
        process.machine.opened(now, LinkId(link), unmap_ip(agent.ip));
        self.ports.remove(&(old.ip, old.port));
        self.ports.insert((outside.ip, outside.port), Port { agent: number, link });
    }

    fn agent_tells(&mut self, number: usize, event: &Event, about: Option<RegistrationId>) {
        self.seen.insert((Seen::Event, event_number(event)));
        self.tell(format_args!("agent {number}: {event:?}"));
        let Some(process) = &mut self.agents[number].process else { return };
        let Some(owned) = process.owned.iter_mut().find(|owned| Some(owned.id) == about) else {
            return;
        };
        match event {
            Event::Replaced { .. } => owned.is_replaced = true,
            Event::Refused { .. } => owned.is_refused = true,
            Event::Ended { .. } => owned.has_ended = true,
            _ => {}
        }
    }

    /// The agent's own trouble is told as such, and only its own.
    fn owns_its_faults(&mut self, number: usize) -> Verdict {
        let (now, agent) = (self.now, &mut self.agents[number]);
        let Some(process) = &mut agent.process else { return Ok(()) };
        let health = process.machine.health(now);
        // Only when others have taken its place are leases of an engine given back.
        let wanted = health.engines.iter().filter(|engine| engine.is_wanted).count();
        for (at, engine) in process.unwanted_at.iter_mut().zip(&health.engines) {
            let is_left = !engine.is_wanted && wanted >= agent.plan.replicas;
            *at = if is_left { now } else { *at };
        }
        let (told, was) = (health.starvation.count, process.late);
        must!("own fault", told == was, "agent {number} was late {was} times, and told of {told}");
        let late_beats = health.late_beats.count;
        must!(
            "own fault",
            was > 0 || agent.has_starved || late_beats == 0,
            "agent {number} was in time, and tells of {late_beats} late beats"
        );
        Ok(())
    }

    /// The address of an agent changes: what engines see, or its own.
    pub(crate) fn agent_moves(&mut self, number: usize, seed: u64) {
        let now = self.now;
        let agent = &mut self.agents[number];
        let host = agent.plan.host + 100 + (seed >> 12) as u8 % 100;
        let ip = peer(0, host, 0).ip;
        let is_own = seed % 3 == 2;
        match seed % 3 {
            0 => {}
            1 => agent.translated = Some(ip),
            _ => (agent.ip, agent.translated, agent.moved_at) = (ip, None, now),
        }
        let Some(process) = &mut agent.process else { return };
        for (link, socket) in process.sockets.iter_mut().enumerate() {
            let old = socket.outside;
            if is_own {
                socket.is_dead = socket.is_open;
                self.ports.remove(&(old.ip, old.port));
                continue;
            }
            if !socket.is_open || self.ports.remove(&(old.ip, old.port)).is_none() {
                continue;
            }
            socket.outside.port = agent.random.random_range(20_000..60_000);
            if seed % 3 == 1 {
                socket.outside.ip = ip;
            }
            let outside = (socket.outside.ip, socket.outside.port);
            self.ports.insert(outside, Port { agent: number, link });
        }
    }
}
