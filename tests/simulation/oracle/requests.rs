//! What changes membership: the order of checks of sections 5.2, 5.4 and 5.5, first at a loop, then
//! at the registrar.

use super::life::Doing;
use super::{Lease, Oracle, State, Verdict, Violation, must};
use crate::frames::{attributes, ip_at, is_visible, text_at, u16_at, u32_at, u64_at};
use heartline::internals::clock::{Nanos, from_ms};

/// The attribute bytes that the simulated engines keep.
pub(crate) const ATTRIBUTES_MAX: usize = 64;
/// The service that their deny list names.
pub(crate) const DENIED: &str = "denied";

/// Who sent a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct From {
    pub(crate) source: [u8; 16],
    pub(crate) tag: u64,
}

/// What a loop should do with a request: answer with this status and count, or pass it on.
type AtLoop = Result<(), (u8, u16)>;

impl Oracle {
    /// A loop has handled a request to register, update or deregister.
    pub(super) fn handed(
        &mut self,
        now: Nanos,
        source: [u8; 16],
        frame: &[u8],
        queue_full: bool,
        reply: Option<&[u8]>,
    ) -> Verdict {
        let proof = |oracle: &Self| oracle.proof(&source, u64_at(frame, 16), now);
        let expected = match frame[3] {
            2 => match proof(self) {
                Some(false) => Err((1, 0)),
                None if reply.is_some_and(|reply| reply[7] == 1) => Err((1, 0)),
                _ => check_register(frame),
            },
            4 => self.check_update(frame),
            _ => self
                .standing(u32_at(frame, 16), u32_at(frame, 20), u64_at(frame, 24))
                .map(drop)
                .map_err(|status| (status, 0)),
        };
        match (expected, reply) {
            (Ok(()), None) => Ok(()),
            (Ok(()), Some(reply)) => {
                must!(
                    "requests",
                    reply[7] == 9 && queue_full,
                    "a good request got status {} at once",
                    reply[7]
                );
                Ok(())
            }
            (Err((status, count)), Some(reply)) => {
                must!(
                    "requests",
                    reply[7] == status,
                    "kind {}: status {}, not {status}",
                    frame[3],
                    reply[7]
                );
                must!(
                    "requests",
                    u16_at(reply, 4) == count,
                    "kind {}: field {}, not {count}",
                    frame[3],
                    u16_at(reply, 4)
                );
                Ok(())
            }
            (Err(status), None) => Err(Violation {
                invariant: "requests",
                what: format!("kind {}: {status:?} was not told", frame[3]),
            }),
        }
    }

    fn check_update(&mut self, frame: &[u8]) -> AtLoop {
        let (fields, tail) = (u16_at(frame, 32), &frame[48..]);
        if fields & 8 == 0 && !tail.is_empty() {
            return Err((2, 32));
        }
        if attributes(tail).is_none() {
            return Err((2, 48));
        }
        if tail.len() > ATTRIBUTES_MAX {
            return Err((8, 0));
        }
        let key = self
            .standing(u32_at(frame, 16), u32_at(frame, 20), u64_at(frame, 24))
            .map_err(|status| (status, 0))?;
        if fields & 2 != 0 {
            self.leases.get_mut(&key).unwrap().load = u16_at(frame, 36);
        }
        Ok(())
    }

    /// The registrar is about to register. `body` is the request from offset 16 on; the reply is
    /// known already.
    pub(crate) fn registers(
        &mut self,
        now: Nanos,
        from: From,
        body: &[u8],
        tail: &[u8],
        reply: Option<&[u8]>,
    ) -> Result<Doing, Violation> {
        let request = [&[0; 16], body].concat();
        let (nonce, service, instance) =
            (u64_at(&request, 24), text_at(&request, 104), text_at(&request, 168));
        let Some(reply) = reply else {
            return Err(Violation {
                invariant: "requests",
                what: "a registration without an answer".into(),
            });
        };
        must!(
            "requests",
            reply[3] == 0x82 && u64_at(reply, 8) == from.tag,
            "another request was answered"
        );
        let standing = self.identity(&service, &instance).cloned();
        let same = standing.as_ref().filter(|lease| lease.nonce == nonce);
        let expected = self.check_identity(&from, nonce, &service, standing.as_ref());
        // Slots rest after a lease; so few requests of one moment can find none.
        let resting = self.granted >= u64::from(self.plan.capacity) + 64;
        let busy = expected == 0 && same.is_none() && reply[7] == 9 && resting;
        let standing_count = self.leases.len();
        must!(
            "requests",
            reply[7] == expected || busy,
            "status {}, not {expected}: {standing_count} leases of {}, {standing:?} {from:?}",
            reply[7],
            self.plan.capacity
        );
        if reply[7] != 0 {
            return Ok(Doing::default());
        }
        must!(
            "requests",
            reply.len() == 56 && u64_at(reply, 32) == self.epoch,
            "a grant of {} bytes",
            reply.len()
        );
        let (slot, generation, secret) = (u32_at(reply, 16), u32_at(reply, 20), u64_at(reply, 24));
        if let Some(lease) = same {
            let right = (lease.slot, lease.generation, lease.secret) == (slot, generation, secret);
            must!(
                "requests",
                right && from_ms(u32_at(reply, 48).into()) == lease.ttl,
                "the same nonce got another lease: {lease:?}"
            );
            return Ok(Doing::default());
        }
        must!(
            "requests",
            generation != 0 && secret != 0 && u32_at(reply, 48) == u32_at(&request, 52),
            "a lease that can't be"
        );
        let replaced = standing.as_ref().map_or(0, |lease| lease.nonce);
        let lease = Lease {
            slot,
            generation,
            secret,
            replaced_nonce: replaced,
            attributes: tail.to_vec(),
            ..asked_for(&request, from.source, now)
        };
        Ok(Doing {
            granted: Some(lease),
            replaced: standing.map(|lease| (lease.slot, lease.generation)),
            ..Doing::default()
        })
    }

    /// The status of a registration that is well-formed. Section 5.2.
    fn check_identity(
        &self,
        from: &From,
        nonce: u64,
        service: &[u8],
        standing: Option<&Lease>,
    ) -> u8 {
        if service == DENIED.as_bytes() {
            return 6;
        }
        match standing {
            Some(lease) if lease.nonce == nonce => return 0,
            Some(lease) if lease.replaced_nonce == nonce => return 11,
            Some(lease) if lease.state != State::Down && lease.source != from.source => return 5,
            None if self.leases.len() >= self.plan.capacity as usize => return 3,
            _ => {}
        }
        let own = self.leases.values().filter(|lease| lease.source == from.source).count();
        let replaces_own = standing.is_some_and(|lease| lease.source == from.source);
        if own - usize::from(replaces_own) >= self.plan.quota as usize { 4 } else { 0 }
    }

    /// The registrar is about to update; `body` is the request from offset 16 on.
    pub(crate) fn updates(
        &mut self,
        body: &[u8],
        tail: &[u8],
        reply: Option<&[u8]>,
    ) -> Result<Doing, Violation> {
        let request = [&[0; 16], body].concat();
        let standing =
            self.standing(u32_at(&request, 16), u32_at(&request, 20), u64_at(&request, 24));
        confirmed(standing.map(drop), 0x84, self.epoch, reply)?;
        let (Ok(key), fields) = (standing, u16_at(&request, 32)) else {
            return Ok(Doing::default());
        };
        let mut lease = self.leases[&key].clone();
        if fields & 1 != 0 {
            lease.weight = u16_at(&request, 34);
        }
        if fields & 4 != 0 {
            lease.version = u64_at(&request, 40);
        }
        if fields & 8 != 0 {
            lease.attributes = tail.to_vec();
        }
        Ok(Doing { updated: (fields & 13 != 0).then_some(lease), ..Doing::default() })
    }

    /// The registrar is about to end a lease.
    pub(crate) fn deregisters(
        &mut self,
        slot: u32,
        generation: u32,
        secret: u64,
        reply: Option<&[u8]>,
    ) -> Result<Doing, Violation> {
        let standing = self.standing(slot, generation, secret);
        confirmed(standing.map(drop), 0x85, self.epoch, reply)?;
        Ok(Doing { ended: standing.ok(), ..Doing::default() })
    }

    /// The registrar is about to look at a slot because of a beat.
    pub(crate) fn looks(&self, slot: u32, generation: u32, leaving: bool) -> Doing {
        let lease = self.leases.get(&(slot, generation));
        let leaves = lease.filter(|lease| leaving || lease.said.is_none_or(|said| said == 3));
        Doing {
            leaves: leaves.map(|lease| (lease.slot, lease.generation)).into_iter().collect(),
            ..Doing::default()
        }
    }

    /// The kernel has told that the process of a lease is dead. Section 7.
    pub(crate) fn dies(&mut self, now: Nanos, slot: u32, generation: u32) -> Doing {
        let lease = self.leases.get_mut(&(slot, generation));
        if let Some(lease) = lease.filter(|lease| lease.state != State::Down) {
            lease.dying = Some(now);
        }
        Doing::default()
    }

    /// After a command and its events: what it asked for is so.
    pub(crate) fn done(
        &self,
        now: Nanos,
        doing: &Doing,
        looked_at: Option<(u32, u32, bool)>,
    ) -> Verdict {
        if let Some(lease) = &doing.granted {
            must!(
                "requests",
                self.leases.contains_key(&(lease.slot, lease.generation)),
                "granted, and no event: {lease:?}"
            );
        }
        for key in doing.replaced.iter().chain(&doing.ended) {
            must!("requests", !self.leases.contains_key(key), "ended, and no event: {key:?}");
        }
        if let Some(lease) = &doing.updated {
            let now = &self.leases[&(lease.slot, lease.generation)];
            must!(
                "requests",
                (now.weight, now.version) == (lease.weight, lease.version),
                "updated, and no event"
            );
        }
        let Some((slot, generation, leaving)) = looked_at else { return Ok(()) };
        let Some(lease) = self.leases.get(&(slot, generation)) else { return Ok(()) };
        must!("transitions", !leaving && lease.said != Some(3), "it left, and is there: {lease:?}");
        must!(
            "transitions",
            lease.said.is_none_or(|said| said == lease.declared),
            "not declared: {lease:?}"
        );
        let back = match lease.state {
            // What it is told of does not wait for beats, and they do not stop it.
            _ if lease.dying.is_some() => true,
            State::Up => true,
            State::Suspect => now >= lease.last + lease.ttl - lease.ttl / 3,
            State::Down => lease.last == 0 || now >= lease.last + lease.ttl,
        };
        must!("transitions", back, "it beat, and is not up: {lease:?}");
        Ok(())
    }
}

fn confirmed(standing: Result<(), u8>, kind: u8, epoch: u64, reply: Option<&[u8]>) -> Verdict {
    let Some(reply) = reply else {
        return Err(Violation {
            invariant: "requests",
            what: format!("kind {kind:#x} without an answer"),
        });
    };
    let expected = standing.err().unwrap_or(0);
    must!(
        "requests",
        reply[3] == kind && reply[7] == expected,
        "kind {:#x}, status {}, not {expected}",
        reply[3],
        reply[7]
    );
    must!(
        "requests",
        expected != 0 || reply.len() == 24 && u64_at(reply, 16) == epoch,
        "a confirmation of {} bytes",
        reply.len()
    );
    Ok(())
}

/// The checks of a registration that need nothing but the request. Section 5.2.
fn check_register(frame: &[u8]) -> AtLoop {
    let ttl_ms = u32_at(frame, 52);
    let (zone, service, instance) = (text_at(frame, 72), text_at(frame, 104), text_at(frame, 168));
    if u64_at(frame, 24) == 0 {
        return Err((2, 24));
    }
    if ttl_ms == 0 || ttl_ms > 86_400_000 {
        return Err((2, 52));
    }
    if frame[66] > 2 {
        return Err((2, 66));
    }
    if !is_visible(&zone) {
        return Err((2, 72));
    }
    if service.is_empty() || !is_visible(&service) {
        return Err((2, 104));
    }
    if instance.is_empty() || !is_visible(&instance) {
        return Err((2, 168));
    }
    if attributes(&frame[232..]).is_none() {
        return Err((2, 232));
    }
    if frame.len() - 232 > ATTRIBUTES_MAX { Err((8, 0)) } else { Ok(()) }
}

/// A lease as a register request asks for it. The engine adds slot, generation and secret.
fn asked_for(request: &[u8], source: [u8; 16], now: Nanos) -> Lease {
    let address = ip_at(request, 32);
    Lease {
        slot: 0,
        generation: 0,
        secret: 0,
        nonce: u64_at(request, 24),
        replaced_nonce: 0,
        service: text_at(request, 104),
        instance: text_at(request, 168),
        source,
        ttl: from_ms(u32_at(request, 52).into()),
        address: if address == [0; 16] { source } else { address },
        port: u16_at(request, 48),
        weight: u16_at(request, 50),
        version: u64_at(request, 56),
        zone: text_at(request, 72),
        attributes: Vec::new(),
        last: now,
        sequence: 0,
        load: 0,
        history: 0,
        said: Some(request[66]),
        declared: request[66],
        state: State::Up,
        held_at: None,
        down_at: 0,
        dying: None,
        due: None,
    }
}
