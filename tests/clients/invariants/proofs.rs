//! Who may get pushes.

use super::{Seen, Verdict, must};
use heartline::internals::clock::{Nanos, from_ms};
use heartline::internals::exchange::Peer;
use heartline_wire::limits::FRAME_BYTES_MAX;
use heartline_wire::{Kind, Reply, ReplyBody, Request, Status};
use std::collections::{BTreeSet, HashMap, HashSet};

/// For how long a watch stands without a proof.
const UNPROVED: Nanos = from_ms(1_000);

/// Address, port and tag: what names a watch.
type Name = ([u8; 16], u16, u64);

/// What is known of one name.
#[derive(Debug, Default)]
struct Watch {
    /// Number and proof of every reply and push that was sent there.
    sent: HashSet<(u32, u64)>,
    /// Until when pushes may be sent, because such a pair came back.
    proved_until: Nanos,
    /// The time that was asked for last.
    ttl: Nanos,
    /// Bytes that unproved requests have earned: the longest frame for each.
    earned: usize,
    /// Until when they may be sent: an unproved watch stands for a second.
    earned_until: Nanos,
}

/// The watches of one engine process, as the network saw them.
#[derive(Debug, Default)]
pub(crate) struct Proofs {
    watches: HashMap<Name, Watch>,
}

impl Proofs {
    /// The engine took a datagram.
    pub(crate) fn heard(&mut self, now: Nanos, peer: &Peer, bytes: &[u8]) {
        let (tag, number, proof, ttl) = match Request::decode(bytes) {
            Ok(Request::Watch(header, body)) => {
                let ttl = from_ms(body.ttl_ms.get().into());
                (header.tag.get(), body.number.get(), body.proof.get(), Some(ttl))
            }
            Ok(Request::Received(header, body)) => {
                (header.tag.get(), body.number.get(), body.proof.get(), None)
            }
            _ => return,
        };
        let watch = self.watches.entry((peer.ip, peer.port, tag)).or_default();
        // A farewell may be refused as busy, and the watch stands on.
        watch.ttl = ttl.filter(|ttl| *ttl > 0).unwrap_or(watch.ttl);
        if watch.sent.contains(&(number, proof)) {
            watch.proved_until = now + watch.ttl;
            watch.earned = 0;
        } else if ttl.is_some() {
            watch.earned += FRAME_BYTES_MAX;
            watch.earned_until = now + UNPROVED;
        }
    }

    /// The engine sent a reply or a push.
    pub(crate) fn said(
        &mut self,
        now: Nanos,
        peer: &Peer,
        bytes: &[u8],
        seen: &mut BTreeSet<(Seen, u64)>,
    ) -> Verdict {
        let Ok(reply) = Reply::decode(bytes) else { return Ok(()) };
        let name = (peer.ip, peer.port, reply.header.tag.get());
        match (reply.kind, reply.body) {
            (Kind::Register, _) => drop(seen.insert((Seen::Register, reply.status as u64))),
            (Kind::Watch, ReplyBody::Watching(watching)) => {
                seen.insert((Seen::Watch, Status::Ok as u64));
                let watch = self.watches.entry(name).or_default();
                watch.sent.insert((watching.number.get(), watching.proof.get()));
            }
            (Kind::Watch, _) => drop(seen.insert((Seen::Watch, reply.status as u64))),
            (Kind::Push, ReplyBody::Push(head, entries)) => {
                let is_beacon = head.before == head.after;
                let kind = if !entries.is_empty() { 0 } else { 1 + u64::from(is_beacon) };
                seen.insert((Seen::Push, kind));
                let watch = self.watches.entry(name).or_default();
                if now > watch.proved_until {
                    must!(
                        "proved",
                        watch.earned >= bytes.len() && now <= watch.earned_until,
                        "a push of {} bytes to {name:?} that earned {}",
                        bytes.len(),
                        watch.earned
                    );
                    watch.earned -= bytes.len();
                }
                watch.sent.insert((head.number.get(), head.proof.get()));
            }
            _ => {}
        }
        Ok(())
    }
}
