//! The side of a watcher, as section 8 of `docs/PROTOCOL.md` asks for: frames out, what is known
//! in.

use heartline_wire::{
    Discover, Endpoint, Header, Kind, PushHead, Received, Reply, ReplyBody, State, Watch, Watching,
    header_flags, service_id,
};
use std::collections::BTreeMap;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Follows one list.
#[derive(Clone, Debug)]
pub struct Watcher {
    /// Names the watch, with address and port.
    pub tag: u64,
    /// Id of the service; 0: the list of services.
    pub service: u64,
    /// Number and proof of the newest reply or push.
    pub proof: (u32, u64),
    /// Version of what is known.
    pub version: u64,
    /// Who is listed, by slot.
    pub members: BTreeMap<u32, Endpoint>,
    /// How often the list was asked for.
    pub pulls: u32,
    /// Of the hold that is on.
    pub hold_percent: u8,
}

/// A push as it was received.
#[derive(Clone, Debug, PartialEq)]
pub struct Push {
    /// Number of the push.
    pub number: u32,
    /// Its proof.
    pub proof: u64,
    /// Version before.
    pub before: u64,
    /// Version after.
    pub after: u64,
    /// Flags of the header.
    pub flags: u8,
    /// Of the hold that is on.
    pub hold_percent: u8,
    /// What changed.
    pub endpoints: Vec<Endpoint>,
}

impl Push {
    /// Reads a frame, if it is a push.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let reply = Reply::decode(frame).ok()?;
        let ReplyBody::Push(
            &PushHead { proof, before, after, number, hold_percent, .. },
            endpoints,
        ) = reply.body
        else {
            return None;
        };
        Some(Self {
            number: number.get(),
            proof: proof.get(),
            before: before.get(),
            after: after.get(),
            flags: reply.header.flags,
            hold_percent,
            endpoints: endpoints.to_vec(),
        })
    }

    /// Whether the engine wants a receipt.
    pub fn wants_receipt(&self) -> bool {
        self.flags & header_flags::RECEIPT_WANTED != 0
    }
}

impl Watcher {
    /// A watcher of this service, or of the list of services if the name is empty, that has nothing
    /// yet.
    pub fn new(tag: u64, service: &str) -> Self {
        Self {
            tag,
            service: if service.is_empty() { 0 } else { service_id(service) },
            proof: (0, 0),
            version: 0,
            members: BTreeMap::new(),
            pulls: 0,
            hold_percent: 0,
        }
    }

    /// A watch request.
    pub fn request(&self, cookie: u64, ttl_ms: u32) -> Vec<u8> {
        let body = Watch {
            cookie: U64::new(cookie),
            service: U64::new(self.service),
            proof: U64::new(self.proof.1),
            version: U64::new(self.version),
            ttl_ms: U32::new(ttl_ms),
            number: U32::new(self.proof.0),
        };
        [Header::request(Kind::Watch, self.tag).as_bytes(), body.as_bytes()].concat()
    }

    /// A receipt for the newest push.
    pub fn receipt(&self, cookie: u64) -> Vec<u8> {
        let body = Received {
            cookie: U64::new(cookie),
            proof: U64::new(self.proof.1),
            number: U32::new(self.proof.0),
            reserved: [0; 4],
        };
        [Header::request(Kind::Push, self.tag).as_bytes(), body.as_bytes()].concat()
    }

    /// A discover request for a page of the list.
    pub fn page(&self, cookie: u64, cursor: u32) -> Vec<u8> {
        let mut body = Discover::new_zeroed();
        (body.cookie, body.service) = (U64::new(cookie), U64::new(self.service));
        body.cursor = U32::new(cursor);
        [Header::request(Kind::Discover, self.tag ^ 1 << 63).as_bytes(), body.as_bytes()].concat()
    }

    /// A reply to a watch request. `true`: the list must be pulled.
    pub fn replied(&mut self, watching: &Watching) -> bool {
        if watching.ttl_ms.get() > 0 {
            self.proof = (watching.number.get(), watching.proof.get());
        }
        self.hold_percent = watching.hold_percent;
        watching.version.get() > self.version
    }

    /// A push. `true`: the list must be pulled.
    pub fn pushed(&mut self, push: &Push) -> bool {
        self.hold_percent = push.hold_percent;
        let is_gap = push.number > self.proof.0 + 1;
        if push.number >= self.proof.0 {
            self.proof = (push.number, push.proof);
        }
        if push.after <= self.version {
            return false;
        }
        if is_gap || push.before > self.version || push.endpoints.is_empty() {
            return true;
        }
        self.apply(push);
        false
    }

    /// Takes over what a push says.
    pub fn apply(&mut self, push: &Push) {
        for endpoint in &push.endpoints {
            if matches!(endpoint.state(), Some(State::Up | State::Suspect)) {
                self.members.insert(endpoint.slot.get(), *endpoint);
            } else {
                self.members.remove(&endpoint.slot.get());
            }
        }
        self.version = push.after;
    }

    /// Pulls the list: `ask` sends a request and gives the reply. Pages of two versions are not
    /// kept.
    pub fn pull(&mut self, mut ask: impl FnMut(&Self, u32) -> Option<Vec<u8>>) {
        self.pulls += 1;
        'whole: for _ in 0..100 {
            let (mut members, mut cursor, mut version) = (BTreeMap::new(), 0, None);
            loop {
                let Some(frame) = ask(self, cursor) else { continue 'whole };
                let reply = Reply::decode(&frame).expect("a reply");
                let ReplyBody::Endpoints(head, endpoints) = reply.body else { return };
                if *version.get_or_insert(head.version.get()) != head.version.get() {
                    continue 'whole;
                }
                members.extend(endpoints.iter().map(|one| (one.slot.get(), *one)));
                cursor = head.cursor.get();
                if cursor == 0 {
                    (self.members, self.version) = (members, head.version.get());
                    return;
                }
            }
        }
    }

    /// What is listed: slot, generation, state and weight of each.
    pub fn view(&self) -> Vec<(u32, u32, u8, u16)> {
        let shown =
            |one: &Endpoint| (one.slot.get(), one.generation.get(), one.state, one.weight.get());
        self.members.values().map(shown).collect()
    }
}
