//! The state machine of an agent: times, datagrams and calls in; datagrams, times and events out.

use super::event::{EngineHealth, Event, Health, Identity, Lateness, Standing};
use super::instance::{Instance, check_tail};
use super::limits::LATE;
use super::link::{Ask, Link, Presence};
use super::post::{Member, Post, Stage};
use super::random::Random;
use super::watches::Watched;
use crate::error::ClientError;
use crate::lease::Lease;
use crate::registration::Change;
use crate::resolver::Follow;
use heartline_wire::limits::FRAME_BYTES_MAX;
use heartline_wire::time::Nanos;
use heartline_wire::{Declared, Header, Hello, Kind, encode_attributes};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use zerocopy::{FromZeros, IntoBytes};

/// Which engine: its place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub usize);

/// Which registration of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistrationId {
    pub(super) member: u32,
    pub(super) generation: u32,
}

/// What the machine wants of its driver.
#[derive(Debug)]
pub enum Output<'a> {
    /// Send this datagram to this engine. A failure is told with [`Machine::send_failed`].
    Send {
        /// Where to.
        link: LinkId,
        /// The datagram.
        frame: &'a [u8],
    },
    /// Something to tell, and the registration that it is about.
    Event(Event, Option<RegistrationId>),
    /// An engine has granted this lease. If it is on this machine, it may be shown the lease at its
    /// local socket (`docs/LOCAL.md`).
    Granted {
        /// Which engine.
        link: LinkId,
        /// The lease.
        lease: Lease,
    },
    /// Open a socket to this engine, in place of the one there is, and call [`Machine::opened`].
    Open {
        /// To which engine.
        link: LinkId,
    },
    /// The engine does not answer: if it has a name, ask again for its address.
    Resolve {
        /// Which engine.
        link: LinkId,
    },
    /// Nothing more now. Hand in what arrives; ask again at this time at the latest.
    Wait {
        /// [`Nanos::MAX`]: any time.
        until: Nanos,
    },
}

/// An output without its borrow.
#[derive(Debug)]
pub(super) enum Next {
    Pack(usize, u32),
    /// A datagram of so many bytes in the scratch frame.
    Scratch(usize, usize),
    Event(Event, Option<RegistrationId>),
    Granted(usize, Lease),
    Open(usize),
    Resolve(usize),
    Wait(Nanos),
}

/// Timers of what there are many of. One whose stamp is an old one counts no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Pack { link: usize, pack: u32, stamp: u32 },
    Post { post: u32, stamp: u32 },
}

/// An agent without sockets, threads and clock.
///
/// A driver calls [`Machine::poll`] until it says [`Output::Wait`], does what it says, and hands in
/// every datagram with [`Machine::receive`]. Times are nanoseconds of one monotonic clock.
pub struct Machine {
    pub(super) replicas: usize,
    pub(super) links: Vec<Link>,
    pub(super) members: Vec<Member>,
    pub(super) free_members: Vec<u32>,
    pub(super) live_members: usize,
    pub(super) posts: Vec<Post>,
    pub(super) free_posts: Vec<u32>,
    pub(super) timers: BinaryHeap<Reverse<(Nanos, Timer)>>,
    pub(super) outbox: VecDeque<Next>,
    pub(super) watched: Vec<Watched>,
    /// When a followed service has something to send or to publish.
    pub(super) watch_due: Nanos,
    /// Services that are followed no more, and at which engine.
    pub(super) farewells: Vec<(usize, Follow)>,
    pub(super) random: Random,
    pub(super) scratch: [u8; FRAME_BYTES_MAX],
    /// When the driver was to ask again.
    promised: Nanos,
    beats: u64,
    late_beats: Lateness,
    starvation: Lateness,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (links, members) = (self.links.len(), self.live_members);
        write!(formatter, "Machine({links} engines, {members} registrations)")
    }
}

impl Machine {
    /// An agent of these engines, in the order in which they are preferred, that registers each
    /// instance at `replicas` of them. The seed is to be random: nonces are drawn from it.
    pub fn new(engines: &[Arc<str>], replicas: usize, seed: [u64; 2]) -> Self {
        let mut random = Random::new(seed);
        let links = engines.iter().map(|name| Link::new(name.clone(), &mut random)).collect();
        let mut machine = Self {
            replicas: replicas.clamp(1, engines.len().max(1)),
            links,
            members: Vec::new(),
            free_members: Vec::new(),
            live_members: 0,
            posts: Vec::new(),
            free_posts: Vec::new(),
            timers: BinaryHeap::new(),
            outbox: VecDeque::new(),
            watched: Vec::new(),
            watch_due: Nanos::MAX,
            farewells: Vec::new(),
            random,
            scratch: [0; FRAME_BYTES_MAX],
            promised: Nanos::MAX,
            beats: 0,
            late_beats: Lateness::default(),
            starvation: Lateness::default(),
        };
        machine.choose(0);
        machine
    }

    /// What is to be done now. Ask again until it is to wait.
    pub fn poll(&mut self, now: Nanos) -> Output<'_> {
        self.notice_lateness(now);
        match self.next(now) {
            Next::Pack(link, pack) => {
                let frame = self.links[link].packs.get(pack).bytes();
                Output::Send { link: LinkId(link), frame }
            }
            Next::Scratch(link, bytes) => {
                Output::Send { link: LinkId(link), frame: &self.scratch[..bytes] }
            }
            Next::Event(event, about) => Output::Event(event, about),
            Next::Granted(link, lease) => Output::Granted { link: LinkId(link), lease },
            Next::Open(link) => Output::Open { link: LinkId(link) },
            Next::Resolve(link) => Output::Resolve { link: LinkId(link) },
            Next::Wait(until) => {
                self.promised = until;
                Output::Wait { until }
            }
        }
    }

    fn next(&mut self, now: Nanos) -> Next {
        loop {
            // Beats first: they don't wait for whoever takes in events.
            if let Some(next) = self.fire(now) {
                return next;
            }
            if let Some(next) = self.outbox.pop_front() {
                return next;
            }
            let settled = |link: &Link| link.is_coming_back() && now >= link.settled_at;
            if self.links.iter().any(settled) {
                self.choose(now);
            }
            for link in 0..self.links.len() {
                if let Some(next) = self.attend(now, link) {
                    return next;
                }
            }
            if let Some(next) = self.follow_services(now) {
                return next;
            }
            if self.outbox.is_empty() {
                return Next::Wait(self.until(now));
            }
        }
    }

    /// When something is due.
    fn until(&self, now: Nanos) -> Nanos {
        let timer = self.timers.peek().map_or(Nanos::MAX, |Reverse((at, _))| *at);
        let timer = timer.min(self.watch_due);
        self.links.iter().map(|link| link.due(now)).fold(timer, Nanos::min)
    }

    /// The first timer whose time has come and that has something to send.
    fn fire(&mut self, now: Nanos) -> Option<Next> {
        while let Some(Reverse((at, timer))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            match timer {
                Timer::Pack { link, pack, stamp } => {
                    if self.beat(now, link, pack, stamp) {
                        return Some(Next::Pack(link, pack));
                    }
                }
                Timer::Post { post, stamp } => self.wait_is_over(post, stamp),
            }
        }
        None
    }

    /// The beats of a pack. `false`: its time is another, or its leases have left for good.
    fn beat(&mut self, now: Nanos, at: usize, pack: u32, stamp: u32) -> bool {
        if self.links[at].packs.get(pack).stamp != stamp || self.give_up_farewells(at, pack) {
            return false;
        }
        let link = &mut self.links[at];
        let tag = link.tag(pack);
        let beaten = link.packs.get_mut(pack).beat(now, tag);
        if beaten.wants_ack && !link.is_silent() {
            link.waits(now);
        }
        self.beats += beaten.beats;
        if let Some(late) = beaten.late {
            self.late_beats.note(Duration::from_nanos(late), beaten.beats);
        }
        self.arm_pack(at, pack);
        true
    }

    /// Sets the timer of a pack to the time at which it is due.
    pub(super) fn arm_pack(&mut self, link: usize, number: u32) {
        let pack = self.links[link].packs.get_mut(number);
        pack.stamp = pack.stamp.wrapping_add(1);
        let (due, stamp) = (pack.due, pack.stamp);
        self.timers.push(Reverse((due, Timer::Pack { link, pack: number, stamp })));
    }

    /// What an engine is to be sent now for its presence and for registrations, other than beats.
    fn attend(&mut self, now: Nanos, at: usize) -> Option<Next> {
        let link = &mut self.links[at];
        match link.ask(now, &mut self.random) {
            Ask::Nothing => {}
            Ask::Hello => {
                let header = Header::request(Kind::Hello, link.tag(0));
                let bytes = self.compose(&[header.as_bytes(), Hello::new_zeroed().as_bytes()]);
                return Some(Next::Scratch(at, bytes));
            }
            Ask::Open => self.outbox.push_back(Next::Open(at)),
            Ask::Probe => {
                self.outbox.extend([Next::Resolve(at), Next::Open(at)]);
            }
            Ask::IsSilent => self.falls_silent(now, at),
        }
        self.request(now, at)
    }

    /// Puts a datagram together in the scratch frame; its length.
    pub(super) fn compose(&mut self, parts: &[&[u8]]) -> usize {
        let mut at = 0;
        for part in parts {
            self.scratch[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        at
    }

    /// A wake-up that comes long after the time that was asked for is the fault of this side.
    fn notice_lateness(&mut self, now: Nanos) {
        let by = now.saturating_sub(std::mem::replace(&mut self.promised, Nanos::MAX));
        if by >= LATE {
            let by = Duration::from_nanos(by);
            self.starvation.note(by, 1);
            self.tell(Event::Late { by }, None);
        }
    }

    pub(super) fn tell(&mut self, event: Event, about: Option<RegistrationId>) {
        self.outbox.push_back(Next::Event(event, about));
    }

    /// The socket to an engine is open, with this address on this side. Called whenever it was
    /// opened, and whenever the address has changed.
    pub fn opened(&mut self, now: Nanos, link: LinkId, local: IpAddr) {
        if self.links[link.0].local.is_some() {
            self.watch_again(now, link.0, None);
        }
        self.watch_due = 0;
        self.links[link.0].opened(now);
        let former = self.links[link.0].local.replace(local);
        if former.is_some_and(|former| former != local) {
            self.address_changed(now, link.0, local);
        }
    }

    /// The kernel did not take the datagram that was to be sent last, or no socket could be opened.
    pub fn send_failed(&mut self, now: Nanos, link: LinkId) {
        let failed = &mut self.links[link.0];
        failed.send_failures += 1;
        if failed.needed && !failed.is_silent() && failed.wants_open(now) {
            self.outbox.push_back(Next::Open(link.0));
        }
    }

    /// Nobody listens at the address of an engine: an ICMP message said so (ECONNREFUSED). An
    /// engine that never answered counts as silent at once. One that did may be restarting.
    pub fn refused(&mut self, now: Nanos, link: LinkId) {
        if self.links[link.0].presence == Presence::Unknown {
            self.falls_silent(now, link.0);
        }
    }

    /// Registers an instance, from now on and for as long as it is not deregistered.
    ///
    /// # Errors
    /// [`ClientError::Text`], [`ClientError::Attributes`], [`ClientError::Value`]: something does
    /// not fit the format.
    pub fn register(&mut self, instance: &Instance) -> Result<RegistrationId, ClientError> {
        let (body, tail) = instance.encode()?;
        let (service, name) = instance.identity();
        let identity = Identity::new(service, name);
        let load = instance.first_load();
        Ok(self.add_member(Member::new(identity, body, tail, load, self.links.len())))
    }

    /// Changes an instance: at its engines soon, and whenever it is registered again.
    ///
    /// # Errors
    /// [`ClientError::Attributes`], [`ClientError::Value`]: the attributes do not fit the format.
    pub fn update(
        &mut self,
        registration: RegistrationId,
        change: &Change,
    ) -> Result<(), ClientError> {
        let tail = change.attributes.as_ref().map(encode_attributes).transpose()?;
        tail.as_deref().map_or(Ok(()), check_tail)?;
        if let Some(load) = change.load {
            self.set_load(registration, load);
        }
        let is_more = change.weight.is_some() || change.version.is_some() || tail.is_some();
        let Some(member) = self.member_mut(registration).filter(|_| is_more) else { return Ok(()) };
        if let Some(weight) = change.weight {
            member.body.weight = weight.into();
        }
        if let Some(version) = change.version {
            member.body.version = version;
        }
        if let Some(tail) = tail {
            member.body.attributes_len = (tail.len() as u16).into();
            member.tail = tail;
        }
        member.revision = member.revision.wrapping_add(1);
        self.spread_update(registration.member);
        Ok(())
    }

    /// How busy the instance is. The next beat says it.
    pub fn set_load(&mut self, registration: RegistrationId, load: u16) {
        let Some(member) = self.member_mut(registration) else { return };
        member.load = load;
        for post in self.posts_of(registration.member) {
            let Post { stage: Stage::Up | Stage::Leaving, link, pack, place, .. } =
                self.posts[post as usize]
            else {
                continue;
            };
            self.links[link].packs.get_mut(pack).set_load(place, load);
        }
    }

    /// What the instance says of itself. A beat says it at once.
    /// [`Declared::Leaving`] deregisters.
    pub fn declare(&mut self, now: Nanos, registration: RegistrationId, declared: Declared) {
        if declared == Declared::Leaving {
            return self.deregister(now, registration);
        }
        let Some(member) = self.member_mut(registration) else { return };
        member.body.declared = declared as u8;
        for post in self.posts_of(registration.member) {
            if self.posts[post as usize].stage == Stage::Up {
                self.declare_at(now, post, declared);
            }
        }
    }

    /// Ends a registration: a beat says so to each engine, until it is acknowledged or has been
    /// repeated often enough.
    pub fn deregister(&mut self, now: Nanos, registration: RegistrationId) {
        if self.member(registration).is_some() {
            let member = &mut self.members[registration.member as usize];
            (member.is_ending, member.is_released) = (true, true);
            self.leave_all(now, registration.member);
        }
    }

    /// Ends all registrations and watches.
    pub fn stop(&mut self, now: Nanos) {
        self.forget_all();
        for number in 0..self.members.len() as u32 {
            let generation = self.members[number as usize].generation;
            self.deregister(now, RegistrationId { member: number, generation });
        }
    }

    /// Whether every registration has ended, and no farewell of a watch is left to send.
    pub fn is_empty(&self) -> bool {
        self.live_members == 0 && self.farewells.is_empty()
    }

    /// Whether a registration has ended at every engine.
    pub fn has_ended(&self, registration: RegistrationId) -> bool {
        self.member(registration).is_none()
    }

    /// Another process may be in the place of an engine: it is asked at once, and not with the next
    /// ack.
    pub fn ask(&mut self, link: LinkId) {
        let link = &mut self.links[link.0];
        (link.wants_cookie, link.cookie_until) = (true, 0);
    }

    /// The leases that stand at an engine.
    pub fn leases(&self, link: LinkId) -> impl Iterator<Item = Lease> {
        let posts = self.posts.iter().filter(move |post| post.link == link.0);
        posts.filter(|post| post.stage == Stage::Up).map(|post| post.lease.into())
    }

    /// The run of an engine; 0: it has not answered.
    pub fn epoch(&self, link: LinkId) -> u64 {
        self.links[link.0].epoch
    }

    /// How a registration stands.
    pub fn standing(&self, registration: RegistrationId) -> Standing {
        self.member(registration).map_or(Standing::Ended, |member| self.stands(member))
    }

    /// How the agent and its engines do.
    pub fn health(&self, now: Nanos) -> Health {
        let engine = |link: &Link| EngineHealth {
            name: link.name.clone(),
            is_wanted: link.wanted,
            silent_for: match link.presence {
                Presence::Silent { since } => Some(Duration::from_nanos(now.saturating_sub(since))),
                _ => None,
            },
            epoch: link.epoch,
            beating: link.packs.beating(),
            send_failures: link.send_failures,
        };
        Health {
            beats: self.beats,
            late_beats: self.late_beats,
            starvation: self.starvation,
            send_failures: self.links.iter().map(|link| link.send_failures).sum(),
            events_lost: 0,
            engines: self.links.iter().map(engine).collect(),
        }
    }
}
