//! What a loop answers at once: hello, describe, services and discover, each reply against what
//! stands.

use super::requests::ATTRIBUTES_MAX;
use super::{Lease, Oracle, State, Verdict, must};
use crate::frames::{ip_at, request_kind, service_id, text_at, u16_at, u32_at, u64_at};
use heartline::internals::clock::Nanos;
use heartline_wire::STATS;
use std::collections::BTreeSet;

impl Oracle {
    /// A loop has handled a datagram that it received at `now`; `reply` is what it answered at
    /// once.
    pub(crate) fn answered(
        &mut self,
        now: Nanos,
        source: [u8; 16],
        frame: &[u8],
        queue_full: bool,
        reply: Option<&[u8]>,
    ) -> Verdict {
        let Some(kind) = request_kind(frame) else {
            must!(
                "no-amplification",
                reply.is_none(),
                "an answer to {} bytes that are no request",
                frame.len()
            );
            return Ok(());
        };
        if let Some(reply) = reply {
            self.note_answer(reply);
            must!(
                "answers",
                reply[3] == 0x80 | kind && reply[8..16] == frame[8..16],
                "another request was answered"
            );
            let cookie = if matches!(kind, 2 | 6..=11) { u64_at(frame, 16) } else { 0 };
            let (_, longest) = self.budget(&source, cookie, frame.len(), now);
            must!(
                "no-amplification",
                reply.len() <= longest,
                "{} bytes for {} from a stranger",
                reply.len(),
                frame.len()
            );
        }
        match (kind, reply) {
            (3, _) => self.beats(now, frame, queue_full, reply),
            (2 | 4 | 5, _) => self.handed(now, source, frame, queue_full, reply),
            (10 | 11, _) => self.watched(now, source, frame, reply),
            (_, Some(reply)) => self.query(now, source, frame, reply),
            (_, None) => {
                must!("answers", false, "kind {kind} was not answered");
                Ok(())
            }
        }
    }

    /// Watch requests with a good cookie and a right TTL are handed on. Receipts get no answer.
    fn watched(
        &mut self,
        now: Nanos,
        source: [u8; 16],
        frame: &[u8],
        reply: Option<&[u8]>,
    ) -> Verdict {
        let (least, most) = self.budget(&source, u64_at(frame, 16), frame.len(), now);
        let ttl_ms = u32_at(frame, 48);
        let (kind, right) = (frame[3], ttl_ms == 0 || (100..=60_000).contains(&ttl_ms));
        let Some(reply) = reply else {
            must!("answers", kind == 11 || most == 1232 && right, "a bad watch was not refused");
            return Ok(());
        };
        let refused = (reply[7], u16_at(reply, 4));
        let is_meant = match refused {
            (1, 0) => least < 1232,
            (2, 48) => most == 1232 && !right,
            (9, 0) => most == 1232 && right,
            _ => false,
        };
        must!("answers", kind == 10 && is_meant && reply.len() == 16, "a watch got {refused:?}");
        Ok(())
    }

    /// The registrar has answered a request.
    pub(crate) fn reply_from_registrar(&mut self, reply: &[u8]) -> Verdict {
        self.note_answer(reply);
        // The shortest request of each kind: whatever the cookie, no reply of the registrar is
        // longer.
        let request = match reply[3] & 0x7F {
            2 => 232,
            4 => 48,
            _ => 32,
        };
        must!("no-amplification", reply.len() <= request, "{} bytes for {request}", reply.len());
        Ok(())
    }

    fn query(&mut self, now: Nanos, source: [u8; 16], frame: &[u8], reply: &[u8]) -> Verdict {
        if frame[3] == 1 {
            must!(
                "answers",
                reply.len() == 64 && reply[7] == 0 && u64_at(reply, 24) == self.epoch,
                "a bad welcome"
            );
            must!(
                "answers",
                u32_at(reply, 32) == self.plan.capacity && u64_at(reply, 16) != 0,
                "a bad welcome"
            );
            must!("answers", usize::from(u16_at(reply, 54)) == ATTRIBUTES_MAX, "a bad welcome");
            // The same cookie may come again: it is good from its first time on, and as long after
            // its last.
            self.cookies.insert((source, u64_at(reply, 16)), now);
            self.cookies.retain(|_, given| *given + 130_000_000_000 > now);
            return Ok(());
        }
        let (least, most) = self.budget(&source, u64_at(frame, 16), frame.len(), now);
        if reply[7] == 1 {
            // Cut down: allowed only if the whole reply may have been too long.
            must!("answers", least < 1232 && reply.len() == 16, "a good cookie was refused");
            must!(
                "answers",
                u16_at(reply, 4) == 0,
                "a header that was cut down counts {}",
                u16_at(reply, 4)
            );
            must!(
                "answers",
                self.whole_length(frame) > least,
                "a reply of {} bytes was refused with room for {least}",
                self.whole_length(frame)
            );
            return Ok(());
        }
        must!("answers", reply.len() <= most, "{} bytes, {most} allowed", reply.len());
        match frame[3] {
            6 => self.describe(now, frame, reply),
            7 => self.list_services(frame, reply),
            9 => self.stats(most, reply),
            _ => self.discover(now, source, frame, reply),
        }
    }

    /// The most bytes that the whole reply to a query can have.
    fn whole_length(&self, frame: &[u8]) -> usize {
        match frame[3] {
            6 => {
                let names = (text_at(frame, 32), text_at(frame, 96));
                let by_slot = self.leases.get(&(u32_at(frame, 24), u32_at(frame, 28)));
                let lease =
                    if names.0.is_empty() { by_slot } else { self.identity(&names.0, &names.1) };
                lease.map_or(16, |lease| 264 + lease.attributes.len())
            }
            7 => {
                let peopled: BTreeSet<&Vec<u8>> =
                    self.leases.values().map(|lease| &lease.service).collect();
                32 + 88 * peopled.len().min(13)
            }
            // Strangers are not told, however long their requests are.
            9 => 1233,
            _ => {
                let members = self
                    .leases
                    .values()
                    .filter(|lease| service_id(&lease.service) == u64_at(frame, 24))
                    .count();
                let known = self.services.keys().any(|name| service_id(name) == u64_at(frame, 24));
                if known { 32 + 48 * members.min(25) } else { 16 }
            }
        }
    }

    fn stats(&self, most: usize, reply: &[u8]) -> Verdict {
        must!("answers", reply[7] == 0 && most == 1232, "stats got status {}", reply[7]);
        must!(
            "answers",
            u16_at(reply, 4) as usize == STATS && u64_at(reply, 16) == self.epoch,
            "a bad reply to stats"
        );
        Ok(())
    }

    fn describe(&self, now: Nanos, frame: &[u8], reply: &[u8]) -> Verdict {
        let (service, instance) = (text_at(frame, 32), text_at(frame, 96));
        if service.is_empty() != instance.is_empty() {
            must!(
                "answers",
                reply[7] == 2 && u16_at(reply, 4) == 96,
                "one name was taken: status {}",
                reply[7]
            );
            return Ok(());
        }
        let lease = if service.is_empty() {
            self.leases.get(&(u32_at(frame, 24), u32_at(frame, 28)))
        } else {
            self.identity(&service, &instance)
        };
        let Some(lease) = lease else {
            must!(
                "answers",
                reply[7] == 18 && reply.len() == 16,
                "status {} for an instance that is not there",
                reply[7]
            );
            return Ok(());
        };
        must!(
            "answers",
            reply[7] == 0 && reply.len() == 264 + lease.attributes.len(),
            "status {} for {lease:?}",
            reply[7]
        );
        self.endpoint(now, &reply[16..64], lease)?;
        let names = (text_at(reply, 104), text_at(reply, 136), text_at(reply, 200));
        must!(
            "answers",
            names == (lease.zone.clone(), lease.service.clone(), lease.instance.clone()),
            "names {names:?}, not of {lease:?}"
        );
        must!(
            "answers",
            reply[264..] == lease.attributes,
            "attributes of somebody else than {lease:?}"
        );
        must!(
            "answers",
            u64_at(reply, 64) == self.services[&lease.service],
            "version {}",
            u64_at(reply, 64)
        );
        must!(
            "answers",
            u64_at(reply, 72) == lease.history,
            "history {:x}, not {:x}",
            u64_at(reply, 72),
            lease.history
        );
        must!(
            "answers",
            u64::from(u32_at(reply, 80)) * 1_000_000 == lease.ttl,
            "TTL {}",
            u32_at(reply, 80)
        );
        let hold = self.hold().map_or((0, 0, 0), |(since, silent, live)| {
            (((now.saturating_sub(since)) / 1_000_000).max(1) as u32, silent, live)
        });
        let told = (u32_at(reply, 84), u32_at(reply, 88), u32_at(reply, 92));
        must!(
            "hold",
            told == hold && u32::from(reply[6]) == u32::from(hold.0 != 0),
            "hold {told:?}, not {hold:?}"
        );
        Ok(())
    }

    /// One endpoint against the lease it stands for: a mixture of two states would show here.
    pub(super) fn endpoint(&self, now: Nanos, entry: &[u8], lease: &Lease) -> Verdict {
        let flags = lease.declared | u8::from(lease.held_at.is_some()) << 2;
        let zone = if lease.zone.is_empty() { 0 } else { service_id(&lease.zone) as u32 };
        let age_ms = (now.saturating_sub(lease.last) / 1_000_000).min(u64::from(u32::MAX)) as u32;
        let is = (
            ip_at(entry, 0),
            u16_at(entry, 16),
            u16_at(entry, 18),
            u16_at(entry, 20),
            entry[22],
            entry[23],
            u64_at(entry, 32),
        );
        let must_be = (
            lease.address,
            lease.port,
            lease.weight,
            lease.load,
            lease.state as u8,
            flags,
            lease.version,
        );
        must!("answers", is == must_be, "endpoint {is:?}, not {must_be:?}: {lease:?}");
        let is = (u32_at(entry, 24), u32_at(entry, 28), u32_at(entry, 40), u32_at(entry, 44));
        must!(
            "answers",
            is == (lease.slot, lease.generation, zone, age_ms),
            "endpoint {is:?}, age {age_ms}: {lease:?}"
        );
        Ok(())
    }

    fn list_services(&mut self, frame: &[u8], reply: &[u8]) -> Verdict {
        let count = usize::from(u16_at(reply, 4));
        must!(
            "answers",
            reply[7] == 0 && reply.len() == 32 + 88 * count,
            "status {}, {} bytes",
            reply[7],
            reply.len()
        );
        let peopled: BTreeSet<&Vec<u8>> =
            self.leases.values().map(|lease| &lease.service).collect();
        must!(
            "answers",
            u32_at(reply, 28) as usize == peopled.len(),
            "{} services, not {}",
            u32_at(reply, 28),
            peopled.len()
        );
        // The version says whether services came or went since it was told last.
        let peopled_now: BTreeSet<Vec<u8>> = peopled.iter().map(|name| (*name).clone()).collect();
        let version = u64_at(reply, 16);
        if let Some((before, of)) = &self.directory {
            must!(
                "versions",
                *before == version || self.directory_changed && version > *before,
                "services {version} after {before}"
            );
            must!(
                "versions",
                *of == peopled_now || *before != version,
                "other services under version {version}"
            );
        }
        self.directory = Some((version, peopled_now));
        self.directory_changed = false;
        let mut listed = BTreeSet::new();
        for at in (0..count).map(|entry| 32 + 88 * entry) {
            let name = text_at(reply, at + 24);
            let up = self.members(&name).filter(|lease| lease.state != State::Down).count() as u32;
            let total = self.members(&name).count() as u32;
            must!(
                "answers",
                total > 0 && listed.insert(name.clone()),
                "service {name:?} twice or without instances"
            );
            let is = (
                u64_at(reply, at),
                u64_at(reply, at + 8),
                u32_at(reply, at + 16),
                u32_at(reply, at + 20),
            );
            let must_be = (service_id(&name), self.services[&name], up, total);
            must!("answers", is == must_be, "service {is:?}, not {must_be:?}");
        }
        let wanted = match usize::from(u16_at(frame, 28)) {
            0 => 13,
            limit => limit.min(13),
        };
        let whole = u32_at(frame, 24) == 0 && u32_at(reply, 24) == 0;
        must!(
            "answers",
            !whole || listed.len() == peopled.len(),
            "{} of {} services",
            listed.len(),
            peopled.len()
        );
        must!("answers", count <= wanted, "{count} services, {wanted} wanted");
        Ok(())
    }
}
