//! Beats: how each is judged, what is answered, and what waits to be heard.

use super::{Key, Oracle, Verdict, Waiting, is_newer, must};
use crate::frames::{u16_at, u32_at, u64_at};
use heartline::internals::clock::Nanos;

/// Slot, generation, secret and sequence of the beats of a frame.
fn beats(frame: &[u8]) -> impl Iterator<Item = (u32, u32, u64, u32)> {
    let count = usize::from(u16_at(frame, 4));
    (0..count).map(move |beat| 16 + 24 * beat).map(|at| {
        (u32_at(frame, at), u32_at(frame, at + 4), u64_at(frame, at + 8), u32_at(frame, at + 16))
    })
}

impl Oracle {
    /// A datagram has come into a receive queue.
    pub(crate) fn arrived(&mut self, number: u64, now: Nanos, frame: &[u8]) {
        if crate::frames::request_kind(frame) == Some(3) {
            self.waiting.insert(number, Waiting { arrived: now, beats: beats(frame).collect() });
        }
    }

    /// A loop has taken a datagram out of its queue and handled it.
    pub(crate) fn heard(&mut self, number: u64) {
        self.waiting.remove(&number);
    }

    /// The earliest time from which the silence of a lease may be counted: its last beat, or one
    /// that waits and arrived before `deadline`.
    pub(super) fn last_heard(&self, key: Key, deadline: Nanos) -> Nanos {
        let lease = &self.leases[&key];
        // Of several that wait only the newest is sure to count, whatever the order in which loops
        // apply them.
        let newest = self
            .waiting
            .values()
            .flat_map(|waiting| waiting.beats.iter().map(move |beat| (waiting.arrived, beat)))
            .filter(|(arrived, (slot, generation, secret, sequence))| {
                (*slot, *generation, *secret) == (lease.slot, lease.generation, lease.secret)
                    && is_newer(*sequence, lease.sequence)
                    && *arrived < deadline
            })
            .reduce(|one, other| if is_newer(other.1.3, one.1.3) { other } else { one });
        newest.map_or(lease.last, |(arrived, _)| arrived.max(lease.last))
    }

    /// A loop has applied a frame of beats that it received at `now`.
    pub(super) fn beats(
        &mut self,
        now: Nanos,
        frame: &[u8],
        queue_full: bool,
        reply: Option<&[u8]>,
    ) -> Verdict {
        let (mut accepted, mut old, mut lost, mut refused) = (0_u16, 0_u16, 0_u16, Vec::new());
        let mut unsure = Vec::new();
        for (number, (slot, generation, secret, sequence)) in beats(frame).enumerate() {
            let at = 16 + 24 * number;
            match self.standing(slot, generation, secret) {
                Err(status) => refused.push((slot, generation, status)),
                Ok(key) => {
                    let lease = self.leases.get_mut(&key).unwrap();
                    if !is_newer(sequence, lease.sequence) {
                        old += 1;
                        continue;
                    }
                    let on_time = u64::from(now.saturating_sub(lease.last) <= lease.ttl / 2);
                    let said = u16_at(frame, at + 22) as u8;
                    if lease.said != Some(said) || lease.state != super::State::Up {
                        unsure.push(key);
                        // A farewell that nobody could be told of does not count.
                        lost += u16::from(queue_full && said == 3);
                    }
                    lease.history = lease.history << 1 | on_time;
                    // Loops are not in step: one may have received it before another received the
                    // last one.
                    (lease.last, lease.sequence, lease.load) =
                        (now.max(lease.last), sequence, u16_at(frame, at + 20));
                    lease.said = Some(said);
                    accepted += 1;
                }
            }
        }
        if queue_full {
            unsure.iter().for_each(|key| self.leases.get_mut(key).unwrap().said = None);
        }
        self.beats_answered(now, frame, reply, &refused, (accepted, lost, old))
    }

    /// Interval and phase of an ack are for the first lease of the frame. Section 8.
    fn cadence(&self, frame: &[u8], reply: &[u8]) -> Verdict {
        let lease = self.leases.get(&(u32_at(frame, 16), u32_at(frame, 20)));
        let Some(lease) = lease else { return Ok(()) };
        let interval_us = (lease.ttl / 4000).clamp(1, 3_600_000_000);
        let (interval, phase) = (u64::from(u32_at(reply, 24)), u64::from(u32_at(reply, 28)));
        must!("beats", interval == interval_us, "interval {interval} us for {lease:?}");
        let right = (interval_us / 2..=interval_us + interval_us.div_ceil(2)).contains(&phase)
            && phase <= 3_600_000_000;
        must!("beats", right, "phase {phase} us with interval {interval} us");
        Ok(())
    }

    fn beats_answered(
        &mut self,
        now: Nanos,
        frame: &[u8],
        reply: Option<&[u8]>,
        refused: &[(u32, u32, u8)],
        (accepted, lost, old): (u16, u16, u16),
    ) -> Verdict {
        let Some(reply) = reply else {
            self.naks.retain(|&at| at + 1_000_000_000 > now);
            let silent = if refused.is_empty() { frame[6] == 0 } else { self.naks.len() >= 1000 };
            must!(
                "beats",
                silent,
                "no answer to a frame with {} refused beats, flags {}",
                refused.len(),
                frame[6]
            );
            return Ok(());
        };
        must!("beats", reply[3] == 0x83, "answered with kind {}", reply[3]);
        if refused.is_empty() {
            must!("beats", frame[6] == 1, "an answer that nobody asked for: {reply:?}");
            must!(
                "beats",
                reply[7] == 0 && reply.len() == 40,
                "standing leases got status {}",
                reply[7]
            );
            let counted = u16_at(reply, 32);
            must!(
                "beats",
                (accepted - lost..=accepted).contains(&counted),
                "{counted} accepted, not {accepted} (less {lost})"
            );
            must!("beats", u16_at(reply, 4) == counted, "two counts");
            must!("beats", u16_at(reply, 34) == old, "{} old, not {old}", u16_at(reply, 34));
            must!("beats", u64_at(reply, 16) == self.epoch, "the epoch of another engine");
            return self.cadence(frame, reply);
        }
        // At once at most a thousand, and ten thousand a second, on each loop; the few that two
        // loops interleave do not matter.
        self.naks.retain(|&at| at + 1_000_000_000 > now);
        self.naks.push_back(now);
        let most = 11_001 * self.plan.loops;
        must!("beats", self.naks.len() <= most, "{} naks within a second", self.naks.len());
        must!("beats", u64_at(reply, 16) == self.epoch, "the epoch of another engine");
        let named = u16_at(reply, 4);
        must!(
            "old-leases",
            reply[7] == 13 && usize::from(named) == refused.len(),
            "{named} refused, not {}: {refused:?}",
            refused.len()
        );
        must!("beats", reply.len() == 24 + 16 * refused.len(), "a nak of {} bytes", reply.len());
        for (number, beat) in refused.iter().enumerate() {
            let at = 24 + 16 * number;
            let entry = (u32_at(reply, at), u32_at(reply, at + 4), reply[at + 8]);
            must!("old-leases", entry == *beat, "refused {entry:?}, not {beat:?}");
        }
        Ok(())
    }
}
