//! A watcher that talks to a harness, and what changes what it watches.

use heartline::internals::exchange::Peer;
use heartline::internals::limits::WATCH_CREDIT_BYTES;
use heartline_region::Counter;
use heartline_test_support::{Harness, Push, Watcher, peer, settings};
use heartline_wire::*;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

pub(crate) const SERVICE: &str = "s";

/// A watcher and where it is.
pub(crate) struct Following {
    pub(crate) peer: Peer,
    pub(crate) core: Watcher,
}

impl Following {
    pub(crate) fn new(peer: Peer, tag: u64, service: &str) -> Self {
        Self { peer, core: Watcher::new(tag, service) }
    }

    fn cookie(&self, engine: &Harness) -> u64 {
        engine.cookies.make(&self.peer.ip, engine.now)
    }

    /// One watch request; what the reply says.
    pub(crate) fn ask(&mut self, engine: &mut Harness, ttl_ms: u32) -> Result<Watching, Status> {
        let frame = self.core.request(self.cookie(engine), ttl_ms);
        let reply = engine.send(self.peer, &frame).expect("an answer");
        assert!(reply.len() <= frame.len());
        let reply = Reply::decode(&reply).unwrap();
        let ReplyBody::Watching(watching) = reply.body else { return Err(reply.status) };
        self.core.replied(watching);
        Ok(*watching)
    }

    /// Begins to watch, proves the port, and pulls.
    pub(crate) fn begin(
        engine: &mut Harness,
        peer: Peer,
        tag: u64,
        service: &str,
        ttl_ms: u32,
    ) -> Self {
        let mut watcher = Self::new(peer, tag, service);
        watcher.ask(engine, ttl_ms).unwrap();
        let watching = watcher.ask(engine, ttl_ms).unwrap();
        assert_eq!(watching.ttl_ms.get(), ttl_ms);
        assert_eq!(watching.credit.get(), WATCH_CREDIT_BYTES);
        if watching.version.get() != 0 && watcher.core.service != 0 {
            watcher.pull(engine);
        }
        watcher.core.version = watching.version.get();
        watcher.core.pulls = 0;
        watcher
    }

    pub(crate) fn pull(&mut self, engine: &mut Harness) {
        let (peer, cookie) = (self.peer, self.cookie(engine));
        self.core.pull(|core, cursor| engine.send(peer, &core.page(cookie, cursor)));
    }

    /// Tells the engine that the newest push was received.
    pub(crate) fn receipt(&self, engine: &mut Harness) {
        let frame = self.core.receipt(self.cookie(engine));
        assert_eq!(engine.send(self.peer, &frame), None, "a receipt was answered");
    }

    /// The pushes to this watcher among those that were sent, taken away.
    pub(crate) fn take(&self, engine: &mut Harness) -> Vec<Push> {
        let pushed = std::mem::take(&mut engine.pushed);
        let (own, others): (Vec<_>, Vec<_>) = pushed.into_iter().partition(|sent| self.gets(sent));
        engine.pushed = others;
        own.iter().map(|(_, frame)| Push::read(frame).unwrap()).collect()
    }

    fn gets(&self, (to, frame): &(Peer, Vec<u8>)) -> bool {
        *to == self.peer && frame[8..16] == self.core.tag.to_le_bytes()
    }

    /// Receives what was pushed, but for what `lost` says, and does what a client does with it.
    pub(crate) fn follow(&mut self, engine: &mut Harness, mut lost: impl FnMut() -> bool) {
        for push in self.take(engine) {
            if lost() {
                continue;
            }
            if self.core.pushed(&push) {
                self.pull(engine);
            }
            if push.wants_receipt() && !lost() {
                self.receipt(engine);
            }
        }
    }
}

pub(crate) fn engine() -> Harness {
    Harness::new(1024, settings(1024), 7)
}

pub(crate) fn register(engine: &mut Harness, name: &str, weight: u16) -> Lease {
    register_for(engine, SERVICE, name, weight, 60_000)
}

pub(crate) fn register_for(
    engine: &mut Harness,
    service: &str,
    name: &str,
    weight: u16,
    ttl_ms: u32,
) -> Lease {
    let mut body = Register::new_zeroed();
    (body.nonce, body.ttl_ms) = (U64::new(5), U32::new(ttl_ms));
    (body.service, body.instance) = (Name::new(service).unwrap(), Name::new(name).unwrap());
    body.weight = U16::new(weight);
    let reply = engine.request(peer(1), Kind::Register, &[body.as_bytes()]).unwrap();
    let ReplyBody::Granted(granted) = Reply::decode(&reply).unwrap().body else {
        panic!("refused")
    };
    granted.lease
}

pub(crate) fn deregister(engine: &mut Harness, lease: Lease) {
    engine.request(peer(1), Kind::Deregister, &[lease.as_bytes()]).unwrap();
}

pub(crate) fn set_weight(engine: &mut Harness, lease: Lease, weight: u16) {
    let mut body = Update::new_zeroed();
    (body.lease, body.weight) = (lease, U16::new(weight));
    body.fields = U16::new(update_fields::WEIGHT);
    engine.request(peer(1), Kind::Update, &[body.as_bytes()]).unwrap();
}

pub(crate) fn version(engine: &Harness, service: &str) -> u64 {
    let number = engine.region.find_service(service_id(service)).unwrap().unwrap();
    engine.region.directory()[number.index()].meta().revision
}

pub(crate) fn counted(engine: &Harness, counter: Counter) -> u64 {
    engine.watchers.tally().get(counter)
}
