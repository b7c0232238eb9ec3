//! A registrar over memory that outlives it, and what can be read from that memory.

use heartline::internals::clock::{Moment, NANOS_PER_MS, Nanos, from_ms};
use heartline::internals::exchange::{Attributes, Command, Peer, Replies, Requester};
use heartline::internals::limits::ATTRIBUTES_BYTES_MAX;
use heartline_killpoints::region::{
    Applied, EventKind, Geometry, HeartState, Place, Region, Right, Run, ServiceNumber,
};
use heartline_killpoints::registrar::{DenyList, Observed, Registrar, Settings};
use heartline_killpoints::sync::kill_at;
use heartline_test_support::Scratch;
use heartline_wire::{
    Beat, Declared, Generation, Label, Lease, Name, Register, Slot, State, Update, Version,
    service_id, update_fields,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use zerocopy::FromZeros;
use zerocopy::byteorder::little_endian::{U16, U32, U64};

/// The nonce of those that register in maintenance.
pub(crate) const NOT_READY: u64 = 4;

/// All that can be seen of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    lease: Lease,
    state: HeartState,
    held: bool,
    declared: Declared,
    weight: u16,
    version: u64,
    attributes: Vec<u8>,
}

/// The members by service and name.
pub(crate) type View = BTreeMap<(String, String), Member>;

pub(crate) struct World {
    directory: Scratch,
    region: Arc<Region>,
    registrar: Option<Registrar>,
    now: Nanos,
    secrets: u64,
    sequence: u32,
    epoch: u64,
}

/// Where the heart file keeps the step that is on its way, and how many words of it are damaged.
const STEP_OFFSET: u64 = 64;
const STEP_WORDS: usize = 24;

fn settings(epoch: u64) -> Settings {
    Settings {
        quota: 16,
        hold: true,
        tombstone_min: from_ms(100),
        deny: DenyList::default(),
        epoch,
    }
}

fn from() -> Requester {
    Requester { peer: Peer { ip: [9; 16], ..Peer::default() }, tag: U64::ZERO, budget: 1232 }
}

impl World {
    pub(crate) fn new() -> Self {
        let now = from_ms(1_000_000);
        let directory = Scratch::new();
        let place = Place::Directory(directory.0.clone());
        let (region, writer) =
            Region::create(&place, Geometry::new(16, 64), Run::default(), &AtomicBool::new(false))
                .unwrap();
        let region = Arc::new(region);
        let registrar = Some(Registrar::new(Arc::clone(&region), writer, settings(1), now));
        Self { directory, region, registrar, now, secrets: 0, sequence: 0, epoch: 1 }
    }

    fn handle(&mut self, command: &Command) {
        let secrets = &mut self.secrets;
        let mut random = || {
            *secrets += 2;
            *secrets
        };
        let mut replies = Replies::default();
        self.registrar.as_mut().unwrap().handle(self.now, command, &mut random, &mut replies);
    }

    /// With the nonce [`NOT_READY`], in maintenance.
    pub(crate) fn register(&mut self, service: &str, instance: &str, nonce: u64) {
        let request = Register {
            nonce: U64::new(nonce),
            port: U16::new(80),
            weight: U16::new(1),
            ttl_ms: U32::new(100),
            declared: if nonce == NOT_READY { Declared::Maintenance as u8 } else { 0 },
            zone: Label::new("z").unwrap(),
            service: Name::new(service).unwrap(),
            instance: Name::new(instance).unwrap(),
            ..Register::new_zeroed()
        };
        self.handle(&Command::Register {
            from: from(),
            request,
            attributes: Attributes::new(&[nonce as u8; 20]),
        });
    }

    pub(crate) fn register_all(&mut self, service: &str, count: usize) {
        (0..count).for_each(|n| self.register(service, &format!("i{n}"), 1));
    }

    fn slot(&self, service: &str, instance: &str) -> Slot {
        let id = service_id(service);
        let number = self.region.find_service(id).unwrap().expect("the service is there");
        self.region
            .find_instance(number, id, &Name::new(instance).unwrap())
            .unwrap()
            .expect("the instance is there")
    }

    fn lease(&self, service: &str, instance: &str) -> Lease {
        let slot = self.slot(service, instance);
        self.region.lines()[slot.index()].lease(slot)
    }

    pub(crate) fn update(&mut self, service: &str, instance: &str, fields: u16, attributes: &[u8]) {
        let lease = self.lease(service, instance);
        let known = update_fields::WEIGHT | update_fields::VERSION | update_fields::ATTRIBUTES;
        let request = Update {
            lease,
            fields: U16::new(fields & known),
            weight: U16::new(500),
            version: Version::new(1, 2, 3, 4),
            ..Update::new_zeroed()
        };
        self.handle(&Command::Update {
            from: from(),
            request,
            attributes: Attributes::new(attributes),
        });
    }

    pub(crate) fn deregister(&mut self, service: &str, instance: &str) {
        let lease = self.lease(service, instance);
        self.handle(&Command::Deregister { from: from(), lease });
    }

    /// A beat with these flags, and the look that it asks for.
    pub(crate) fn beat(&mut self, service: &str, instance: &str, flags: u16) {
        let slot = self.slot(service, instance);
        let line = &self.region.lines()[slot.index()];
        self.sequence += 1;
        let beat = Beat {
            lease: line.lease(slot),
            sequence: U32::new(self.sequence),
            load: U16::ZERO,
            flags: U16::new(flags),
        };
        if line.apply(&beat, Moment::from_nanos(self.now)) == Applied::Attention {
            let generation = line.head().0;
            self.handle(&Command::Look { slot, generation, leaving: flags == 3 });
        }
    }

    /// Lets milliseconds pass; loops drain at once.
    pub(crate) fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now += NANOS_PER_MS;
            for _ in 0..2 {
                self.look(0, 0);
            }
        }
    }

    /// One look of the registrar, which is told of so many drops and of a stall of so many
    /// nanoseconds.
    pub(crate) fn look(&mut self, drops: u64, stall: u64) {
        let observed = Observed { now: self.now, drained: self.now, drops, stall };
        self.registrar.as_mut().unwrap().tick(&observed);
    }

    /// The process ends; what it left, and the right to go on with it.
    fn kill(&mut self) -> Right {
        self.epoch += 1;
        // A successor needs some time.
        self.now += NANOS_PER_MS;
        self.registrar = None;
        let (region, writer) = Region::attach(&self.directory.0, Run::default().boot).unwrap();
        self.region = Arc::new(region);
        writer
    }

    pub(crate) fn killed_and_resumed(&mut self) -> &mut Self {
        let writer = self.kill();
        self.registrar = Some(Registrar::resume(
            Arc::clone(&self.region),
            writer,
            settings(self.epoch),
            self.now,
        ));
        self
    }

    /// Goes on, and is killed again at a store of that; `true`: there are fewer, so that it goes
    /// on.
    pub(crate) fn killed_in_resumption(&mut self, store: u64) -> bool {
        let writer = self.kill();
        let (region, settings) = (Arc::clone(&self.region), settings(self.epoch));
        kill_at(store, || drop(Registrar::resume(region, writer, settings, self.now))).0
    }

    /// Writes nonsense where the step is kept that is on its way.
    pub(crate) fn damage_step(&mut self, seed: u64) {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut words = [0_u64; STEP_WORDS];
        for word in &mut words {
            // Marsaglia's xorshift; small numbers often, since those come closest to what is meant.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *word = if state & 1 == 0 { state >> 8 & 15 } else { state >> (state & 63) };
        }
        words[0] = self.region.feed().head() + (seed & 1);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        File::options()
            .write(true)
            .open(self.directory.0.join("heart"))
            .unwrap()
            .write_all_at(&bytes, STEP_OFFSET)
            .unwrap();
    }

    /// What is there; all tables must tell the same.
    pub(crate) fn check(&mut self, what: &str) -> View {
        let region = &self.region;
        assert!(region.pending_step().is_none(), "{what}: a step is still on its way");
        let (mut view, mut slots) = (View::new(), BTreeMap::new());
        let mut buffer = [0; ATTRIBUTES_BYTES_MAX];
        for slot in (0..region.geometry().slots).map(Slot::new) {
            let (line, endpoint) =
                (&region.lines()[slot.index()], &region.endpoints()[slot.index()]);
            let (generation, state) = line.head();
            if !state.is_leased() {
                continue;
            }
            let entry = endpoint.entry();
            let service = &region.directory()[endpoint.service().index()];
            assert!(service.is_used(), "{what}: slot {slot} is of no service");
            let record = region
                .records()
                .read(slot)
                .unwrap_or_else(|| panic!("{what}: the record of slot {slot} stays locked"));
            let id = service.meta().id;
            assert_eq!((entry.slot(), entry.generation()), (slot, generation), "{what}");
            assert_eq!(region.find_service(id), Ok(Some(endpoint.service())), "{what}");
            assert_eq!(
                region.find_instance(endpoint.service(), id, &record.instance),
                Ok(Some(slot)),
                "{what}"
            );
            let listed = match state {
                HeartState::Up => State::Up,
                HeartState::Suspect => State::Suspect,
                _ => State::Down,
            };
            assert_eq!(entry.state(), Some(listed), "{what}");
            let held = line.is_held();
            assert_eq!(entry.is_held(), held, "{what}: slot {slot}");
            let member = Member {
                lease: line.lease(slot),
                state,
                held,
                declared: entry.declared(),
                weight: entry.weight.get(),
                version: entry.version.as_u64(),
                attributes: region.records().attributes(slot, &mut buffer).unwrap().to_vec(),
            };
            let text = |name: &Name| name.as_str().to_owned();
            slots.insert(slot, (endpoint.service(), state));
            assert!(
                view.insert((text(&service.name()), text(&record.instance)), member).is_none(),
                "{what}: two of one identity"
            );
        }
        self.check_services(what, &slots);
        self.check_feed(what, &slots);
        view
    }

    fn check_services(&self, what: &str, slots: &BTreeMap<Slot, (ServiceNumber, HeartState)>) {
        let region = &self.region;
        let mut peopled = 0;
        for (number, entry) in region.directory().iter().enumerate() {
            assert!(
                entry.sequence().read(|| ()).is_some(),
                "{what}: service {number} stays locked"
            );
            let meta = entry.meta();
            let own = || slots.iter().filter(|(_, member)| member.0.index() == number);
            if !entry.is_used() {
                continue;
            }
            assert_eq!(meta.total as usize, own().count(), "{what}: members of service {number}");
            let mut listed: Vec<Slot> =
                (0..meta.listed).map(|at| region.listed(meta.list, at).unwrap()).collect();
            for (position, &slot) in listed.iter().enumerate() {
                assert_eq!(
                    region.endpoints()[slot.index()].position() as usize,
                    position,
                    "{what}"
                );
            }
            listed.sort_unstable();
            let expected: Vec<Slot> = own()
                .filter(|(_, member)| member.1 != HeartState::Down)
                .map(|(&slot, _)| slot)
                .collect();
            assert_eq!(listed, expected, "{what}: list of service {number}");
            peopled += u32::from(meta.total > 0);
        }
        assert_eq!(region.service_count().map(|count| count.1), Ok(peopled), "{what}");
        let counts = self.registrar.as_ref().unwrap().counts();
        let of = |state| slots.values().filter(|member| member.1 == state).count() as u32;
        assert_eq!(
            (counts.up, counts.suspect, counts.down),
            (of(HeartState::Up), of(HeartState::Suspect), of(HeartState::Down)),
            "{what}: counts"
        );
    }

    /// Every step of a revision is told, and who is told to be in a state is in it.
    fn check_feed(&self, what: &str, slots: &BTreeMap<Slot, (ServiceNumber, HeartState)>) {
        let region = &self.region;
        let (mut revisions, mut last) = (BTreeMap::new(), BTreeMap::new());
        let mut hold = false;
        for number in 1..=region.feed().head() {
            let [_, _, kind, service, revision, member, ..] =
                region.feed().raw(number).unwrap_or_else(|| {
                    panic!("{what}: event {number} of {} is missing", region.feed().head())
                });
            let kind = kind as u8;
            if service == 0 {
                hold = if kind == EventKind::Deaf as u8 {
                    hold
                } else {
                    kind == EventKind::HoldBegan as u8
                };
                continue;
            }
            let before = revisions.insert(service, revision);
            let follows = before.is_none_or(|before| {
                revision == before + 1 || (revision > before && revision <= number)
            });
            assert!(follows, "{what}: event {number} has revision {revision} after {before:?}");
            last.insert((Slot::new(member as u32), Generation::new((member >> 32) as u32)), kind);
        }
        assert_eq!(region.hold().unwrap().is_some(), hold, "{what}: hold and events");
        for (&id, &revision) in &revisions {
            if let Ok(Some(number)) = region.find_service(id) {
                assert_eq!(
                    region.directory()[number.index()].meta().revision,
                    revision,
                    "{what}: revision without an event"
                );
            }
        }
        for ((slot, generation), kind) in last {
            let is = slots
                .get(&slot)
                .filter(|_| region.lines()[slot.index()].head().0 == generation)
                .map(|member| member.1);
            let told = match kind {
                kind if kind == EventKind::Gone as u8 => None,
                kind if kind == EventKind::Down as u8 => Some(HeartState::Down),
                kind if kind == EventKind::Suspect as u8 || kind == EventKind::Held as u8 => {
                    Some(HeartState::Suspect)
                }
                kind if kind == EventKind::Declared as u8 || kind == EventKind::Updated as u8 => is,
                _ => Some(HeartState::Up),
            };
            assert_eq!(is, told, "{what}: slot {slot}, last event {kind}");
        }
    }
}
