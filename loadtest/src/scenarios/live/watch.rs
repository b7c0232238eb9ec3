//! Watching the engine: each dead instance is asked for, most often from its deadline on, and every
//! service is read again and again.

use crate::population::Wanted;
use crate::report::histogram;
use crate::socket::{Cookie, open_socket, post, receive};
use hdrhistogram::Histogram;
use heartline::internals::clock::{self, Nanos};
use heartline::internals::limits::FRAME_BYTES_MAX;
use heartline_wire::{
    Describe, Discover, Kind, Lease, Reply, ReplyBody, State, Status, service_id,
};
use std::net::{SocketAddr, UdpSocket};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Time between two questions for one dead instance before its deadline: a verdict that comes early
/// is to be seen.
const EARLY_POLL_NS: Nanos = 100_000_000;
/// The same from its deadline on, for the one that is open longest, and for all when another was
/// found since: verdicts come together.
const POLL_NS: Nanos = 50_000;
/// Others wait for this part of the time that they are late. Were all asked for as often as the
/// first, then after one stop of a CPU the questions would be more than the engine can answer and
/// keep it from its verdicts, and more and more be late.
const LATE_SHARE: Nanos = 2;
/// Questions sent in one turn.
const POLLS_PER_TURN: usize = 64;

/// An instance that stopped beating.
#[derive(Clone, Debug)]
pub(super) struct Dead {
    lease: Lease,
    last_beat: Nanos,
    deadline: Nanos,
    asked_at: Nanos,
    /// How many were found when it was asked for.
    asked_after: usize,
    found: bool,
}

/// The watching socket and what it has seen.
pub(super) struct Watch {
    socket: UdpSocket,
    cookie: Cookie,
    pub(super) dead: Vec<Dead>,
    /// Dead instances before this one are found.
    first_open: usize,
    pub(super) detected: usize,
    /// Nanoseconds from the last beat, and from the deadline.
    pub(super) from_beat: Histogram<u64>,
    pub(super) lateness: Histogram<u64>,
    /// Found before the deadline: never right.
    pub(super) early: u64,
    service: u32,
    services: u32,
    cursor: u32,
    next_discover: Nanos,
    discover_gap: Nanos,
    pub(super) discovers: u64,
    pub(super) endpoints: u64,
}

impl Watch {
    pub(super) fn new(
        target: SocketAddr,
        cookie: Cookie,
        services: u32,
        discover_rate: u32,
    ) -> Result<Self, String> {
        Ok(Self {
            socket: open_socket(target)?,
            cookie,
            dead: Vec::new(),
            first_open: 0,
            detected: 0,
            from_beat: histogram(),
            lateness: histogram(),
            early: 0,
            service: 0,
            services,
            cursor: 0,
            next_discover: 0,
            discover_gap: if discover_rate == 0 {
                Nanos::MAX / 2
            } else {
                1_000_000_000 / u64::from(discover_rate)
            },
            discovers: 0,
            endpoints: 0,
        })
    }

    pub(super) fn died(&mut self, lease: Lease, last_beat: Nanos, ttl: Nanos) {
        self.dead.push(Dead {
            lease,
            last_beat,
            deadline: last_beat + ttl,
            asked_at: 0,
            asked_after: 0,
            found: false,
        });
    }

    pub(super) fn all_found(&self) -> bool {
        self.detected == self.dead.len()
    }

    /// Asks what is to be asked now. Returns the time of the next question.
    pub(super) fn ask(&mut self, now: Nanos) -> Result<Nanos, String> {
        self.cookie.refresh(&self.socket)?;
        let mut next = Nanos::MAX;
        let mut asked = 0;
        let open = self.first_open..self.dead.len();
        let oldest = open
            .clone()
            .filter(|&at| !self.dead[at].found)
            .min_by_key(|&at| self.dead[at].deadline);
        for at in open {
            let dead = &mut self.dead[at];
            if dead.found {
                continue;
            }
            let is_due_often = Some(at) == oldest || dead.asked_after < self.detected;
            let gap = if is_due_often {
                POLL_NS
            } else {
                POLL_NS.max(now.saturating_sub(dead.deadline) / LATE_SHARE)
            };
            let due = (dead.deadline.saturating_sub(2 * POLL_NS))
                .min(dead.asked_at + EARLY_POLL_NS)
                .max(dead.asked_at + gap);
            if due <= now && (asked < POLLS_PER_TURN || Some(at) == oldest) {
                (dead.asked_at, dead.asked_after) = (now, self.detected);
                asked += 1;
                let mut body = Describe::new_zeroed();
                body.cookie = self.cookie.value;
                (body.slot, body.generation) = (dead.lease.slot, dead.lease.generation);
                post(&self.socket, Kind::Describe, at as u64, &[body.as_bytes()])?;
                next = next.min(now + POLL_NS);
            } else {
                next = next.min(due);
            }
        }
        if now >= self.next_discover {
            self.next_discover = now.max(self.next_discover + self.discover_gap);
            let mut body = Discover::new_zeroed();
            body.cookie = self.cookie.value;
            body.service = U64::new(service_id(&Wanted::service(self.service)));
            body.cursor = U32::new(self.cursor);
            post(&self.socket, Kind::Discover, u64::MAX, &[body.as_bytes()])?;
        }
        Ok(next.min(self.next_discover))
    }

    /// Takes the answers that have come.
    pub(super) fn listen(&mut self) -> Result<(), String> {
        let mut frame = [0; FRAME_BYTES_MAX];
        while let Some(length) = receive(&self.socket, &mut frame)? {
            let now = clock::now();
            let Ok(reply) = Reply::decode(&frame[..length]) else { continue };
            self.cookie.take(&reply);
            match (reply.kind, reply.body) {
                (Kind::Describe, body) => {
                    let down = match body {
                        ReplyBody::Description(facts, _) => {
                            facts.endpoint.state() == Some(State::Down)
                        }
                        _ => reply.status == Status::NoInstance,
                    };
                    if down {
                        self.found(reply.header.tag.get() as usize, now);
                    }
                }
                (Kind::Discover, ReplyBody::Endpoints(head, endpoints)) => {
                    self.discovers += 1;
                    self.endpoints += endpoints.len() as u64;
                    self.cursor = head.cursor.get();
                    if self.cursor == 0 {
                        self.service = (self.service + 1) % self.services;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn found(&mut self, at: usize, now: Nanos) {
        let Some(dead) = self.dead.get_mut(at) else { return };
        if std::mem::replace(&mut dead.found, true) {
            return;
        }
        self.detected += 1;
        let _ = self.from_beat.record(now - dead.last_beat);
        match now.checked_sub(dead.deadline) {
            Some(lateness) => drop(self.lateness.record(lateness)),
            None => self.early += 1,
        }
        while self.dead.get(self.first_open).is_some_and(|dead| dead.found) {
            self.first_open += 1;
        }
    }
}
