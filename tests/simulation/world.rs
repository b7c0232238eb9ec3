//! The simulation: time, the network between clients and engine, and the faults.

use crate::client::Client;
use crate::engine::{Engine, Left, Thread};
use crate::oracle::{Oracle, Seen, State, Verdict, Violation, must};
use crate::plan::{Class, ClientPlan, Fault, Plan};
use heartline::internals::clock::{Nanos, from_ms};
use heartline::internals::exchange::{Command, Peer};
use heartline_test_support::seeds::{Report, Timeline, Trace};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;

/// When the simulations start: any time that is no multiple of anything.
const START: Nanos = 1_000_000_000_123_457;

/// What happens at a time.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    ToEngine(Peer, Vec<u8>),
    ToClient(Peer, Vec<u8>),
    /// A client wakes up, unless it was woken since.
    Client(usize, u64),
    /// A loop does its next step.
    Loop(usize),
    /// The registrar's thread does.
    Registrar,
    /// Its timer fires.
    Timer(u64),
    Begins(usize),
    Ends(usize),
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) now: Nanos,
    /// What happens, and in which life of the engine; 0: it outlives the engine.
    timeline: Timeline<(u64, Happening)>,
    life: u64,
    pub(crate) engine: Option<Engine>,
    /// What an engine that died left behind.
    pub(crate) left: Option<Left>,
    pub(crate) oracle: Oracle,
    pub(crate) clients: Vec<Client>,
    pub(crate) network: StdRng,
    /// Frames that were sent, to be sent again by somebody.
    pub(crate) tape: Vec<(Peer, Vec<u8>)>,
    pub(crate) packets: u64,
    pub(crate) trace: Trace,
    pub(crate) quiet_from: Nanos,
    seen: BTreeSet<(Seen, u64)>,
}

impl World {
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut random = StdRng::seed_from_u64(plan.seed ^ 0x5EED);
        let clients: Vec<Client> =
            plan.clients.iter().map(|one| Client::new(one.clone(), random.next_u64())).collect();
        let quiet_from =
            plan.faults.iter().map(|fault| fault.until).max().unwrap_or(0).max(plan.length) + START;
        let mut world = Self {
            plan: plan.clone(),
            now: START,
            timeline: Timeline::default(),
            life: 0,
            engine: None,
            left: None,
            oracle: Oracle::new(plan, 0),
            clients,
            network: StdRng::seed_from_u64(random.next_u64()),
            tape: Vec::new(),
            packets: 0,
            trace: Trace::default(),
            quiet_from,
            seen: BTreeSet::new(),
        };
        world.start_engine().expect("an empty engine starts");
        for number in 0..world.clients.len() {
            let at = START + world.clients[number].plan.starts;
            world.schedule(at, Happening::Client(number, 0));
        }
        for (index, fault) in plan.faults.iter().enumerate() {
            world.schedule(START + fault.from, Happening::Begins(index));
            world.schedule(START + fault.until, Happening::Ends(index));
        }
        world
    }

    /// Runs to the quiet end and beyond, and looks at what is left.
    pub(crate) fn run(mut self) -> Result<Report<(Seen, u64)>, (Nanos, Violation)> {
        let end = self.quiet_from + self.plan.scale * 60;
        let mut steps = 0;
        while let Some((at, (life, what))) = self.timeline.pop()
            && at <= end
        {
            debug_assert!(at >= self.now);
            self.now = at;
            steps += 1;
            if life != 0 && life != self.life {
                continue;
            }
            self.step(what).map_err(|violation| (self.now - START, violation))?;
        }
        self.recovered().map_err(|violation| (self.now - START, violation))?;
        self.seen.append(&mut self.oracle.seen);
        let simulated = self.now - START;
        Ok(Report { trace: self.trace, simulated, steps, seen: self.seen })
    }

    pub(crate) fn schedule(&mut self, at: Nanos, what: Happening) {
        let is_engines =
            matches!(what, Happening::Loop(_) | Happening::Registrar | Happening::Timer(_));
        let life = if is_engines { self.life } else { 0 };
        self.timeline.push(at.max(self.now), (life, what));
    }

    fn step(&mut self, what: Happening) -> Verdict {
        let thread = match what {
            Happening::Loop(which) => Some(Thread::Loop(which)),
            Happening::Registrar | Happening::Timer(_) => Some(Thread::Registrar),
            _ => None,
        };
        if let Some(thread) = thread
            && let Some(until) = self.held_up(thread)
        {
            self.schedule(until, what);
            return Ok(());
        }
        self.trace.add(self.now);
        match what {
            Happening::ToEngine(peer, bytes) => {
                self.trace.add_bytes(&bytes);
                self.arrive(peer, bytes);
            }
            Happening::ToClient(peer, bytes) => {
                self.trace.add_bytes(&bytes);
                self.client_receives(peer, &bytes);
            }
            Happening::Client(number, wake) => {
                if self.clients[number].wake == wake {
                    self.client_acts(number);
                }
            }
            Happening::Loop(which) => self.loop_runs(which)?,
            Happening::Registrar => self.registrar_runs()?,
            Happening::Timer(number) => self.registrar_timer(number),
            Happening::Begins(index) => self.fault_begins(index),
            Happening::Ends(index) => self.fault_ends(index)?,
        }
        Ok(())
    }

    fn start_engine(&mut self) -> Verdict {
        self.life += 1;
        let epoch = self.plan.seed << 8 | self.life;
        let seed = self.plan.seed ^ self.life << 32;
        let before = self.left.as_ref().map(|left| left.region.feed().head());
        let handed = self.left.as_ref().is_some_and(|left| left.handed.is_some());
        if before.is_some() {
            self.oracle.resumes(self.now, epoch, handed);
        } else {
            self.seen.append(&mut self.oracle.seen);
            self.oracle = Oracle::new(&self.plan, epoch);
        }
        self.engine = Some(Engine::new(&self.plan, seed, epoch, self.now, self.left.take()));
        if let Some(before) = before {
            let doing = self.oracle.resuming();
            self.check_events(self.now, before, &doing)?;
            self.oracle.resumed()?;
            if let Some(engine) = &self.engine {
                let told = crate::tables::check(&engine.region, &engine.registrar, &self.oracle);
                told.map_err(|violation| Violation { invariant: "restart", ..violation })?;
            }
        }
        let slow = self.active(Class::Slow).map(|fault| from_ms(1) * (1 + fault.seed % 40)).max();
        if let Some(engine) = &mut self.engine {
            engine.slow = slow.unwrap_or(0);
        }
        let loops = self.engine.as_ref().map_or(0, |engine| engine.loops.len());
        (0..loops).for_each(|which| self.schedule(self.now, Happening::Loop(which)));
        self.schedule(self.now, Happening::Registrar);
        Ok(())
    }

    /// The engine has ended in order: a successor goes on at once with its sockets, or another one
    /// starts when the fault is over.
    pub(crate) fn next_engine(&mut self) -> Verdict {
        let handed = self.left.as_ref().is_some_and(|left| left.handed.is_some());
        self.oracle.disturbed = self.oracle.disturbed.max(self.now);
        self.seen.insert((Seen::Stop, u64::from(handed)));
        if handed || self.active(Class::Crash).next().is_none() {
            self.start_engine()?;
        }
        Ok(())
    }

    pub(crate) fn seen_doze(&mut self) {
        self.seen.insert((Seen::Doze, 0));
    }

    pub(crate) fn active(&self, class: Class) -> impl Iterator<Item = Fault> + '_ {
        let now = self.now - START;
        self.plan
            .faults
            .iter()
            .filter(move |fault| fault.class == class && (fault.from..fault.until).contains(&now))
            .copied()
    }

    fn fault_begins(&mut self, index: usize) {
        let fault = self.plan.faults[index];
        let (now, until) = (self.now, START + fault.until);
        let one = (fault.seed >> 8) as usize % self.plan.clients.len();
        match fault.class {
            Class::Rebind => {
                self.clients[one].rebind(fault.seed.is_multiple_of(3));
            }
            Class::Pause => {
                if let Some(engine) = &mut self.engine {
                    engine.paused_until = engine.paused_until.max(until);
                }
            }
            Class::Stall => {
                if let Some(engine) = &mut self.engine {
                    engine.stall(fault.seed, until);
                }
            }
            Class::Slow => {
                if let Some(engine) = &mut self.engine {
                    engine.slow = from_ms(1) * (1 + fault.seed % 40);
                }
            }
            Class::Crash => {
                self.oracle.disturbed = self.oracle.disturbed.max(now);
                match fault.seed >> 3 & 3 {
                    0 => self.stop_engine(false),
                    1 => self.stop_engine(true),
                    _ => self.engine_dies(fault.seed & 7 == 0),
                }
            }
            Class::Death => self.death(one, fault.seed & 4 != 0),
            Class::Massacre => {
                let spared = 2 + fault.seed % 5;
                for (number, client) in self.clients.iter_mut().enumerate() {
                    if !(number as u64).is_multiple_of(spared) || fault.seed & 64 != 0 {
                        client.die();
                    }
                }
            }
            Class::Twin => {
                let plan = ClientPlan {
                    host: 220 + (fault.seed % 20) as u8,
                    ..self.clients[one].plan.clone()
                };
                self.add_client(plan, fault.seed, true);
            }
            Class::Crowd => {
                for number in 0..40 {
                    let service =
                        format!("c{}-{}", index, if fault.seed & 1 == 0 { 0 } else { number });
                    let (service, host) = if number == 0 {
                        ("denied".into(), 240)
                    } else {
                        (service, 240 + number % 8)
                    };
                    let plan = ClientPlan {
                        service,
                        instance: format!("x{number}"),
                        host,
                        ..self.clients[one].plan.clone()
                    };
                    self.add_client(plan, fault.seed ^ u64::from(number) << 17, false);
                }
            }
            Class::Replay | Class::Flood | Class::Dense | Class::Hostile => {
                self.strangers(&fault, now, until)
            }
            Class::Loss | Class::Duplication | Class::Delay | Class::Reorder | Class::Partition => {
            }
        }
    }

    /// The process is killed; now and then the memory files are lost with it.
    fn engine_dies(&mut self, lost: bool) {
        if let Some(engine) = self.engine.take() {
            self.left = Some(Left { handed: None, ..engine.end() }).filter(|_| !lost);
        }
    }

    fn fault_ends(&mut self, index: usize) -> Verdict {
        let fault = self.plan.faults[index];
        let one = (fault.seed >> 8) as usize % self.plan.clients.len();
        match fault.class {
            Class::Slow => {
                if let Some(engine) = &mut self.engine {
                    engine.slow = 0;
                }
            }
            Class::Crash if self.engine.is_none() && self.active(Class::Crash).next().is_none() => {
                self.start_engine()?
            }
            Class::Death if !fault.seed.is_multiple_of(3) => self.revive(one),
            Class::Massacre => (0..self.plan.clients.len()).for_each(|number| self.revive(number)),
            Class::Twin | Class::Crowd => {
                for client in &mut self.clients[self.plan.clients.len()..] {
                    client.die();
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A client dies; if it had shown its lease at the local socket, the kernel tells. What it sent
    /// may still be on its way.
    fn death(&mut self, number: usize, told: bool) {
        self.clients[number].die();
        let (Some(engine), Some(lease), true) = (&self.engine, &self.clients[number].lease, told)
        else {
            return;
        };
        let stands = engine.region.lines().get(lease.slot().index());
        // The thread that tells ends before all others.
        let serves = engine.signals.rendezvous.stopping().is_none();
        if serves && stands.is_some_and(|line| line.verify(lease).is_ok()) {
            let (slot, generation) = (lease.slot(), lease.generation());
            if engine.commands.push(Command::Died { slot, generation }).is_ok() {
                self.signal_registrar();
            }
        }
    }

    fn revive(&mut self, number: usize) {
        if !self.clients[number].alive {
            self.clients[number].restart(self.now);
            self.client_acts(number);
        }
    }

    fn add_client(&mut self, plan: ClientPlan, seed: u64, yields: bool) {
        let mut client = Client::new(plan, seed);
        client.yields = yields;
        self.clients.push(client);
        let at = self.now + seed % self.plan.scale;
        self.schedule(at, Happening::Client(self.clients.len() - 1, 0));
    }

    /// Once faults have ended and time has passed: who lives is up, and nobody else.
    fn recovered(&self) -> Verdict {
        let full = self.oracle.leases.len() >= self.plan.capacity as usize;
        for client in self.clients.iter().filter(|client| client.alive) {
            let (service, instance) =
                (client.plan.service.as_bytes(), client.plan.instance.as_bytes());
            let lease = self
                .oracle
                .leases
                .values()
                .find(|lease| lease.service == service && lease.instance == instance);
            let of_source =
                self.oracle.leases.values().filter(|lease| lease.source == client.peer.ip).count();
            let excused = full || of_source >= self.plan.quota as usize;
            must!("recovery", lease.is_some() || excused, "it lives and is not there: {client:?}");
            must!(
                "recovery",
                client.lease.is_some() || excused,
                "it lives and has no lease: {client:?}"
            );
            let Some((lease, own)) = lease.zip(client.lease) else { continue };
            must!(
                "recovery",
                own.secret.get() == lease.secret,
                "it lives, and another has its lease: {lease:?}"
            );
            must!("recovery", lease.state == State::Up, "it lives and is not up: {lease:?}");
        }
        for lease in self.oracle.leases.values().filter(|lease| lease.state != State::Down) {
            let alive = self.clients.iter().any(|client| {
                client.alive && client.lease.is_some_and(|own| own.secret.get() == lease.secret)
            });
            let left = self.now < lease.last + lease.ttl * 2;
            must!("recovery", alive || left, "nobody lives there: {lease:?}");
        }
        Ok(())
    }
}
