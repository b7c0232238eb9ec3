//! A watched list without an engine: what an engine would say of it, said by the test.

use heartline_client::internals::{Follow, Received, Resolver, Source};
use heartline_client::{Watch, WatchOptions};
use heartline_wire::time::{Nanos, from_ms};
use heartline_wire::{
    Declared, DiscoverHead, Endpoint, Header, Kind, Label, PushHead, Reply, Request, State, Status,
    Watching,
};
use std::time::Instant;
use zerocopy::{FromZeros, IntoBytes};

/// Endpoints of a page.
const PAGE: usize = 25;

/// An endpoint that serves, up, with weight 100, at an address that follows from its number.
pub fn endpoint(number: u32) -> Endpoint {
    let mut entry = Endpoint::new_zeroed();
    entry.address[10..12].fill(0xFF);
    entry.address[12..].copy_from_slice(&(0x0A00_0000 + number).to_be_bytes());
    (entry.port, entry.weight) = (8080.into(), 100.into());
    (entry.state, entry.slot, entry.generation) = (State::Up as u8, number.into(), 1.into());
    entry
}

/// The same in a zone.
pub fn endpoint_in(zone: &str, number: u32) -> Endpoint {
    Endpoint { zone: Label::new(zone).unwrap().hash32().into(), ..endpoint(number) }
}

/// The same in another state.
pub fn endpoint_as(number: u32, state: State, declared: Declared) -> Endpoint {
    Endpoint { state: state as u8, flags: declared as u8, ..endpoint(number) }
}

/// A follow, and the engine that it believes to follow.
#[derive(Debug)]
pub struct Listed {
    /// What is fed.
    pub follow: Follow,
    tag: Option<u64>,
    version: u64,
    members: Vec<Endpoint>,
    hold_percent: u8,
}

impl Listed {
    /// A list that nobody has told of yet.
    pub fn new(seed: u64) -> Self {
        let follow = Follow::new("users", seed);
        Self { follow, tag: None, version: 0, members: Vec::new(), hold_percent: 0 }
    }

    /// Makes the follow know this list, and returns the time at which it does.
    pub fn tell(&mut self, mut now: Nanos, members: &[Endpoint], hold_percent: u8) -> Nanos {
        self.version += 1;
        (self.members, self.hold_percent) = (members.to_vec(), hold_percent);
        if let Some(tag) = self.tag {
            let mut head = PushHead::new_zeroed();
            (head.before, head.after) = ((self.version - 1).into(), self.version.into());
            (head.number, head.hold_percent) = ((self.version as u32).into(), hold_percent);
            let header = Header::reply(Kind::Push, Status::Ok, 0, tag.into());
            self.hear(now, &[header.as_bytes(), head.as_bytes()].concat());
        }
        while !(self.follow.is_current(now) && self.follow.version() == self.version) {
            now = now.max(self.follow.due());
            self.serve(now);
        }
        now
    }

    /// Pushes members that changed, each in the place of the one with its slot. The list is known.
    pub fn push(&mut self, now: Nanos, changed: &[Endpoint]) {
        for entry in changed {
            self.members.retain(|member| member.slot != entry.slot);
            self.members.push(*entry);
        }
        let mut head = PushHead::new_zeroed();
        head.before = self.version.into();
        self.version += 1;
        (head.after, head.number) = (self.version.into(), (self.version as u32).into());
        head.hold_percent = self.hold_percent;
        let tag = self.tag.expect("the list is known").into();
        let header = Header::reply(Kind::Push, Status::Ok, changed.len() as u16, tag);
        self.hear(now, &[header.as_bytes(), head.as_bytes(), changed.as_bytes()].concat());
    }

    /// Answers all that is asked until `now`.
    pub fn serve(&mut self, now: Nanos) {
        while let Some(frame) = self.follow.poll(now, Some(1)) {
            let reply = match Request::decode(frame.bytes()).unwrap() {
                Request::Watch(header, _) => {
                    self.tag = Some(header.tag.get());
                    let mut body = Watching::new_zeroed();
                    (body.version, body.epoch) = (self.version.into(), 1.into());
                    (body.ttl_ms, body.credit) = (10_000.into(), (256 << 10).into());
                    (body.number, body.hold_percent) =
                        ((self.version as u32).into(), self.hold_percent);
                    let header = Header::reply(Kind::Watch, Status::Ok, 0, header.tag);
                    [header.as_bytes(), body.as_bytes()].concat()
                }
                Request::Discover(header, body) => {
                    let from = body.cursor.get() as usize;
                    let page = &self.members[from..self.members.len().min(from + PAGE)];
                    let next = from + page.len();
                    let mut head = DiscoverHead::new_zeroed();
                    head.version = self.version.into();
                    head.cursor = if next < self.members.len() { next as u32 } else { 0 }.into();
                    let count = page.len() as u16;
                    let header = Header::reply(Kind::Discover, Status::Ok, count, header.tag);
                    [header.as_bytes(), head.as_bytes(), page.as_bytes()].concat()
                }
                _ => continue,
            };
            self.hear(now, &reply);
        }
    }

    fn hear(&mut self, now: Nanos, frame: &[u8]) {
        let received = self.follow.receive(now, &Reply::decode(frame).unwrap());
        assert_ne!(received, Received::WantsCookie);
    }
}

/// A view of lists at one or several engines.
#[derive(Debug)]
pub struct Viewed {
    /// One for each engine.
    pub lists: Vec<Listed>,
    /// Whether each engine can be reached.
    pub reachable: Vec<bool>,
    /// What decides.
    pub resolver: Resolver,
    /// What reads.
    pub watch: Watch,
    /// The time.
    pub now: Nanos,
}

impl Viewed {
    /// So many engines that have told nothing yet.
    pub fn new(engines: usize, options: WatchOptions) -> Self {
        let (resolver, watch) = Resolver::new("users", options, Instant::now());
        let lists = (0..engines as u64).map(Listed::new).collect();
        Self { lists, reachable: vec![true; engines], resolver, watch, now: from_ms(1) }
    }

    /// One engine that lists these.
    pub fn of(members: &[Endpoint], options: WatchOptions) -> Self {
        let mut viewed = Self::new(1, options);
        viewed.tell(0, members, 0);
        viewed
    }

    /// An engine tells of its list.
    pub fn tell(&mut self, engine: usize, members: &[Endpoint], hold_percent: u8) {
        self.now = self.lists[engine].tell(self.now, members, hold_percent);
        self.update();
    }

    /// An engine pushes members that changed.
    pub fn push(&mut self, engine: usize, changed: &[Endpoint]) {
        self.lists[engine].push(self.now, changed);
        self.update();
    }

    /// Time passes; engines that can be reached answer.
    pub fn pass(&mut self, time: Nanos) {
        let until = self.now + time;
        while self.now < until {
            let reached = self.lists.iter().zip(&self.reachable).filter(|(_, is)| **is);
            let due = reached.map(|(list, _)| list.follow.due()).min().unwrap_or(until);
            let next = due.min(self.resolver.due()).max(self.now + from_ms(1));
            self.now = next.min(until);
            for (list, _) in self.lists.iter_mut().zip(&self.reachable).filter(|(_, is)| **is) {
                list.serve(self.now);
            }
            self.update();
        }
    }

    /// The resolver looks at the lists.
    pub fn update(&mut self) {
        let sources: Vec<Source<'_>> = self
            .lists
            .iter()
            .zip(&self.reachable)
            .zip(0..)
            .map(|((list, &is_reachable), engine)| Source {
                follow: &list.follow,
                engine,
                is_reachable,
            })
            .collect();
        self.resolver.update(self.now, &sources);
    }

    /// Numbers of so many picks, counted.
    pub fn hits(&self, picks: u32) -> std::collections::BTreeMap<u32, u32> {
        let mut hits = std::collections::BTreeMap::new();
        for _ in 0..picks {
            *hits.entry(self.watch.pick().unwrap().slot()).or_default() += 1;
        }
        hits
    }
}
