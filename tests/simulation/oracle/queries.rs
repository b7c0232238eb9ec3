//! What a loop answers at once: hello, describe, services and discover, each reply against what
//! stands.

use super::requests::ATTRIBUTES_MAX;
use super::{Lease, Oracle, State, Verdict, must};
use crate::frames::{attributes, ip_at, request_kind, service_id, text_at, u16_at, u32_at, u64_at};
use heartline::clock::Nanos;
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
            let cookie = if matches!(kind, 2 | 6..=9) { u64_at(frame, 16) } else { 0 };
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
            (2 | 4 | 5 | 9, _) => self.handed(now, source, frame, queue_full, reply),
            (_, Some(reply)) => self.query(now, source, frame, reply),
            (_, None) => {
                must!("answers", false, "kind {kind} was not answered");
                Ok(())
            }
        }
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
    fn endpoint(&self, now: Nanos, entry: &[u8], lease: &Lease) -> Verdict {
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

    fn discover(&mut self, now: Nanos, source: [u8; 16], frame: &[u8], reply: &[u8]) -> Verdict {
        let (strategy, filter) = (frame[54], frame[55]);
        let invalid = if strategy > 5 {
            54
        } else if filter > 63 || filter & 3 == 3 || filter & 12 == 12 {
            55
        } else {
            0
        };
        if invalid != 0 {
            must!(
                "answers",
                reply[7] == 2 && u16_at(reply, 4) == invalid,
                "strategy {strategy}, filter {filter}: status {}",
                reply[7]
            );
            return Ok(());
        }
        let Some(service) = self.services.keys().find(|name| service_id(name) == u64_at(frame, 24))
        else {
            must!("answers", reply[7] == 14, "status {} for a service that never was", reply[7]);
            return Ok(());
        };
        let members: Vec<&Lease> = self.members(service).collect();
        // An empty service may have been forgotten.
        if members.is_empty() {
            let is_page = strategy == 0 && u32_at(frame, 48) != 0 && reply.len() == 32;
            must!(
                "answers",
                matches!(reply[7], 14 | 15) || is_page && reply[7] == 0,
                "status {} for an empty service",
                reply[7]
            );
            return Ok(());
        }
        let count = usize::from(u16_at(reply, 4));
        must!(
            "answers",
            reply.len() == 32 + 48 * count,
            "{} bytes for {count} endpoints",
            reply.len()
        );
        must!(
            "versions",
            u64_at(reply, 16) == self.services[service],
            "version {}",
            u64_at(reply, 16)
        );
        let percent = self
            .hold()
            .map_or(0, |(_, silent, live)| (silent * 100 / live.max(1)).clamp(1, 100) as u8);
        must!(
            "hold",
            reply[28] == percent && reply[6] == u8::from(percent != 0),
            "hold of {} %, not {percent} %",
            reply[28]
        );
        let healthy: Vec<&Lease> = members
            .into_iter()
            .filter(|lease| {
                lease.state != State::Down && !(lease.state == State::Suspect && filter & 32 != 0)
            })
            .filter(|lease| strategy == 0 || lease.declared == 0)
            .collect();
        let pass = |zone: bool| {
            healthy
                .iter()
                .copied()
                .filter(move |lease| passes(lease, frame, zone))
                .collect::<Vec<_>>()
        };
        let mut right = pass(filter & 12 != 0);
        if filter & 8 != 0 && !right.iter().any(|lease| is_pickable(lease, strategy)) {
            right = pass(false);
        }
        let mut seen = BTreeSet::new();
        for entry in reply[32..].chunks(48) {
            let lease = self.leases.get(&(u32_at(entry, 24), u32_at(entry, 28)));
            must!("answers", lease.is_some(), "an endpoint that does not stand");
            self.endpoint(now, entry, lease.unwrap())?;
            let slot = lease.unwrap().slot;
            // A preferred zone is decided once for all pages; later pages may come under another
            // decision.
            let chosen = right.iter().any(|lease| lease.slot == slot)
                || u32_at(frame, 48) != 0 && healthy.iter().any(|lease| lease.slot == slot);
            must!(
                "answers",
                chosen && seen.insert(slot),
                "an endpoint that the filters leave out, or twice: {lease:?}"
            );
        }
        complete(frame, reply, &healthy, &right)?;
        let right: BTreeSet<u32> = right.iter().map(|lease| lease.slot).collect();
        let version = self.services[service];
        if strategy == 0 {
            self.page((source, frame), reply, version, seen, &right)
        } else {
            Ok(())
        }
    }

    /// The pages of one version, each asked for with the cursor of the one before, are together the
    /// list.
    fn page(
        &mut self,
        (source, frame): ([u8; 16], &[u8]),
        reply: &[u8],
        version: u64,
        seen: BTreeSet<u32>,
        right: &BTreeSet<u32>,
    ) -> Verdict {
        let question = [&source[..], &frame[24..48], &frame[52..120]].concat();
        let (cursor, next) = (u32_at(frame, 48), u32_at(reply, 24));
        let before =
            self.pages.remove(&question).filter(|page| page.0 == cursor && page.1 == version);
        let mut all = match before {
            Some(page) => page.2,
            None if cursor == 0 => BTreeSet::new(),
            None => return Ok(()),
        };
        must!("answers", all.is_disjoint(&seen), "an endpoint on two pages: {all:?}, {seen:?}");
        all.extend(seen);
        must!(
            "answers",
            next != 0 || all == *right,
            "pages of version {version} list {all:?}, not {right:?}"
        );
        if next != 0 {
            self.pages.insert(question, (next, version, all));
        }
        Ok(())
    }
}

/// Status and number of the endpoints of a first page.
fn complete(frame: &[u8], reply: &[u8], healthy: &[&Lease], right: &[&Lease]) -> Verdict {
    let (strategy, cursor) = (frame[54], u32_at(frame, 48));
    if strategy == 0 && cursor != 0 {
        must!("answers", reply[7] == 0, "status {} for a further page", reply[7]);
        return Ok(());
    }
    let limit = match (usize::from(u16_at(frame, 52)), strategy) {
        (0, 0) => 25,
        (0, _) => 1,
        (limit, _) => limit.min(25),
    };
    let pickable = right.iter().filter(|lease| is_pickable(lease, strategy)).count();
    let status = match (healthy.len(), pickable) {
        (0, _) => 16,
        (_, 0) => 17,
        _ => 0,
    };
    must!(
        "answers",
        reply[7] == status,
        "status {}, not {status}: strategy {strategy}, filter {}",
        reply[7],
        frame[55]
    );
    let count = usize::from(u16_at(reply, 4));
    must!(
        "answers",
        count == limit.min(pickable),
        "{count} endpoints, not {limit} of {pickable}: strategy {strategy}"
    );
    let ends = u32_at(reply, 24) == 0;
    // A page may end before others that do not pass.
    let right = if strategy == 0 { !ends || pickable <= limit } else { ends };
    must!("answers", right, "cursor {}: {limit} of {pickable}", u32_at(reply, 24));
    Ok(())
}

/// Weighted and rendezvous never pick weight 0.
fn is_pickable(lease: &Lease, strategy: u8) -> bool {
    !matches!(strategy, 3 | 4) || lease.weight > 0
}

/// Whether the filters of a discover request let an instance pass. Section 5.8.
fn passes(lease: &Lease, frame: &[u8], zone: bool) -> bool {
    let (version, filter) = (u64_at(frame, 40), frame[55]);
    let exact = filter & 1 == 0 || lease.version == version;
    let compatible =
        filter & 2 == 0 || lease.version >> 48 == version >> 48 && lease.version >= version;
    let in_zone = !zone || lease.zone == text_at(frame, 56);
    let tag = text_at(frame, 88);
    let tagged = filter & 16 == 0
        || !tag.is_empty()
            && attributes(&lease.attributes).is_some_and(|entries| entries.contains(&tag));
    exact && compatible && in_zone && tagged
}
