//! What engines send: welcomes, acks, naks, answers.

use super::event::Event;
use super::machine::{LinkId, Machine};
use super::post::Stage;
use heartline_wire::time::{Nanos, from_ms};
use heartline_wire::{Ack, Kind, Nak, Reply, ReplyBody, Status, Welcome};

impl Machine {
    /// Takes a datagram from an engine. One that answers nothing is dropped.
    pub fn receive(&mut self, now: Nanos, link: LinkId, frame: &[u8]) {
        let Ok(reply) = Reply::decode(frame) else { return };
        match reply.kind {
            Kind::Hello => {
                if let ReplyBody::Welcome(welcome) = reply.body
                    && self.links[link.0].read_tag(reply.header.tag.get()).is_some()
                {
                    self.welcomed(now, link.0, welcome);
                }
            }
            Kind::Beat => self.beats_judged(now, link.0, &reply),
            Kind::Register | Kind::Update => self.answered(now, link.0, &reply),
            _ => self.followed(now, link.0, &reply),
        }
    }

    fn welcomed(&mut self, now: Nanos, at: usize, welcome: &Welcome) {
        self.note_epoch(now, at, welcome.epoch.get());
        let link = &mut self.links[at];
        link.cookie = welcome.cookie.get();
        link.cookie_until = now.saturating_add(from_ms(welcome.cookie_ms.get().into()));
        link.wants_cookie = false;
        self.watch_due = 0;
        self.heard(now, at);
    }

    /// What became of the beats of a frame.
    fn beats_judged(&mut self, now: Nanos, at: usize, reply: &Reply<'_>) {
        let tag = reply.header.tag.get();
        let link = &self.links[at];
        let Some((serial, pack)) = link.read_tag(tag) else { return };
        if link.packs.told(pack).is_none() {
            return;
        }
        self.heard(now, at);
        match reply.body {
            ReplyBody::Ack(ack) => {
                if self.links[at].packs.get_mut(pack).answered(tag) {
                    self.acked(now, at, pack, serial, ack);
                }
                self.note_epoch(now, at, ack.epoch.get());
            }
            ReplyBody::Nak(head, naks) => {
                self.links[at].packs.get_mut(pack).answered(tag);
                for nak in naks {
                    self.nacked(now, at, pack, (serial, head.epoch.get()), nak);
                }
                if self.links[at].packs.get_mut(pack).repeat_farewells(now) {
                    self.arm_pack(at, pack);
                }
                self.note_epoch(now, at, head.epoch.get());
            }
            _ => {}
        }
    }

    /// The frame sent last was acknowledged: its times hold, its farewells are said.
    fn acked(&mut self, now: Nanos, at: usize, number: u32, serial: u64, ack: &Ack) {
        let nanos = |us: u32| Nanos::from(us) * 1000;
        let pack = self.links[at].packs.get(number);
        if pack.is_leaving() && pack.is_complete(ack.accepted.get()) {
            for post in pack.posts().to_vec() {
                let said = &self.posts[post as usize];
                if said.stage == Stage::Leaving && said.since < serial {
                    self.left(post);
                }
            }
        }
        let pack = self.links[at].packs.get_mut(number);
        pack.pace(now, nanos(ack.interval_us.get()), nanos(ack.phase_us.get()));
        if !self.links[at].packs.get(number).is_empty() {
            self.arm_pack(at, number);
        }
    }

    /// A beat was refused. Of two leases with the same numbers it was the one that was granted by
    /// another process.
    fn nacked(&mut self, now: Nanos, at: usize, pack: u32, (serial, epoch): (u64, u64), nak: &Nak) {
        let named = self.links[at].packs.get(pack).matching(nak.slot, nak.generation);
        let meant = named.filter(|&post| self.posts[post as usize].since < serial);
        let Some(post) = meant.min_by_key(|&post| self.posts[post as usize].epoch == epoch) else {
            return;
        };
        match Status::from_u8(nak.reason) {
            Some(Status::Replaced) => self.replaced(now, post),
            Some(status @ (Status::Unknown | Status::Removed)) => self.lost(now, post, status),
            _ => {}
        }
    }

    /// Another epoch: another engine process is there. Leases stand as long as their beats are
    /// accepted, so each pack asks; sequences go on, since the engine may remember the last ones.
    pub(super) fn note_epoch(&mut self, now: Nanos, at: usize, epoch: u64) {
        let link = &mut self.links[at];
        let former = std::mem::replace(&mut link.epoch, epoch);
        if former == 0 || former == epoch {
            return;
        }
        // Its cookies are others, unless it was handed over: a hello costs less than a refusal.
        link.cookie = 0;
        link.packs.ask_all();
        let engine = link.name.clone();
        self.tell(Event::EngineRestarted { engine }, None);
        self.ask_refused_again(at);
        self.watch_again(now, at, Some(epoch));
    }
}
