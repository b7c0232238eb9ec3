//! Discovery: status, endpoints and pages, against what stands.

use super::{Lease, Oracle, State, Verdict, must};
use crate::frames::{attributes, service_id, text_at, u16_at, u32_at, u64_at};
use heartline::internals::clock::Nanos;
use std::collections::BTreeSet;

impl Oracle {
    pub(super) fn discover(
        &mut self,
        now: Nanos,
        source: [u8; 16],
        frame: &[u8],
        reply: &[u8],
    ) -> Verdict {
        let (strategy, filter) = (frame[54], frame[55]);
        let invalid = invalid_field(strategy, filter);
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
        self.check_head(reply, self.services[service])?;
        let healthy: Vec<&Lease> =
            members.into_iter().filter(|lease| is_healthy(lease, strategy, filter)).collect();
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

    /// Length, version and hold of a reply with a body.
    fn check_head(&self, reply: &[u8], version: u64) -> Verdict {
        let count = usize::from(u16_at(reply, 4));
        must!(
            "answers",
            reply.len() == 32 + 48 * count,
            "{} bytes for {count} endpoints",
            reply.len()
        );
        must!(
            "versions",
            u64_at(reply, 16) == version,
            "version {}, not {version}",
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
        Ok(())
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

/// Offset of the field that is not accepted; 0: all are.
fn invalid_field(strategy: u8, filter: u8) -> u16 {
    if strategy > 5 {
        54
    } else if filter > 63 || filter & 3 == 3 || filter & 12 == 12 {
        55
    } else {
        0
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

/// Whether an instance may be answered at all.
fn is_healthy(lease: &Lease, strategy: u8, filter: u8) -> bool {
    let is_excluded = lease.state == State::Suspect && filter & 32 != 0;
    lease.state != State::Down && !is_excluded && (strategy == 0 || lease.declared == 0)
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
