//! One request at a time, its retries and its cookie, without a socket and without a clock: times
//! and datagrams come in, datagrams and outcomes go out. `docs/PROTOCOL.md`, sections 4 and 8, has
//! the rules that it follows.

use heartline_wire::limits::FRAME_BYTES_MAX;
use heartline_wire::time::{NANOS_PER_MS, Nanos, from_ms};
use heartline_wire::*;
use zerocopy::byteorder::little_endian::U16;
use zerocopy::{FromZeros, IntoBytes};

/// Time to the first retry unless set; doubled for each further one.
const PATIENCE: Nanos = from_ms(200);
/// Times a request is sent before it is given up, and times it is begun anew after busy or a
/// worthless cookie.
pub(super) const ATTEMPTS: u32 = 5;
/// Where the cookie is in the frames that have one.
const COOKIE_AT: usize = size_of::<Header>();

/// What a caller wants of who drives it.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Send this datagram to the engine, then ask again.
    Send(&'a [u8]),
    /// Hand in what arrives; ask again at this time at the latest.
    Wait(Nanos),
    /// The request is answered: see [`Caller::reply`].
    Answered,
    /// It is given up.
    Failed(Failure),
}

/// Why a request was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No reply came; the request may or may not have been done.
    Timeout,
    /// Every attempt was refused with this status.
    Refused(Status),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing was asked.
    Idle,
    /// The datagram in `outgoing` is to be sent.
    Send,
    /// It was sent; no longer waited for after this time.
    Wait(Nanos),
    /// The engine was busy; begun anew at this time.
    Pause(Nanos),
    Answered,
    Failed(Failure),
}

/// A request under way.
#[derive(Debug)]
pub struct Caller {
    patience: Nanos,
    tag: u64,
    cookie: u64,
    kind: Kind,
    /// The request without tag and cookie.
    request: [u8; FRAME_BYTES_MAX],
    request_len: usize,
    /// What is sent now: the request, or the hello that it needs first.
    outgoing: [u8; FRAME_BYTES_MAX],
    outgoing_len: usize,
    outgoing_kind: Kind,
    stage: Stage,
    attempt: u32,
    sends: u32,
    reply: [u8; FRAME_BYTES_MAX],
    reply_len: usize,
}

fn takes_cookie(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Register
            | Kind::Describe
            | Kind::Services
            | Kind::Discover
            | Kind::Stats
            | Kind::Watch
            | Kind::Push
    )
}

/// Writes a request without tag into a frame and returns its length.
fn compose(
    frame: &mut [u8; FRAME_BYTES_MAX],
    kind: Kind,
    count: u16,
    flags: u8,
    parts: &[&[u8]],
) -> usize {
    let header = Header { count: U16::new(count), flags, ..Header::request(kind, 0) };
    let mut at = 0;
    for part in std::iter::once(&header.as_bytes()).chain(parts) {
        frame[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    at
}

impl Caller {
    /// A caller whose tags go on from this one, which should be random.
    pub fn new(tag: u64) -> Self {
        Self {
            patience: PATIENCE,
            tag,
            cookie: 0,
            kind: Kind::Hello,
            request: [0; FRAME_BYTES_MAX],
            request_len: 0,
            outgoing: [0; FRAME_BYTES_MAX],
            outgoing_len: 0,
            outgoing_kind: Kind::Hello,
            stage: Stage::Idle,
            attempt: 0,
            sends: 0,
            reply: [0; FRAME_BYTES_MAX],
            reply_len: 0,
        }
    }

    /// Sets the time to the first retry.
    pub fn set_patience(&mut self, patience: Nanos) {
        self.patience = patience;
    }

    /// Begins a request; one that was under way is given up. The cookie field, for kinds that have
    /// one, is filled in.
    pub fn begin(&mut self, kind: Kind, count: u16, flags: u8, parts: &[&[u8]]) {
        self.kind = kind;
        self.request_len = compose(&mut self.request, kind, count, flags, parts);
        self.attempt = 0;
        self.start(Status::Busy);
    }

    /// A request that no reply is waited for.
    pub fn datagram(&mut self, kind: Kind, count: u16, flags: u8, parts: &[&[u8]]) -> &[u8] {
        self.stage = Stage::Idle;
        self.outgoing_len = compose(&mut self.outgoing, kind, count, flags, parts);
        self.stamp();
        &self.outgoing[..self.outgoing_len]
    }

    /// What is to be done at `now`.
    pub fn step(&mut self, now: Nanos) -> Step<'_> {
        match self.stage {
            Stage::Wait(until) if now >= until => {
                self.stage = if self.sends < ATTEMPTS {
                    Stage::Send
                } else {
                    Stage::Failed(Failure::Timeout)
                };
            }
            Stage::Pause(until) if now >= until => self.start(Status::Busy),
            _ => {}
        }
        match self.stage {
            Stage::Send => {
                self.stage = Stage::Wait(now.saturating_add(self.patience << self.sends));
                self.sends += 1;
                Step::Send(&self.outgoing[..self.outgoing_len])
            }
            Stage::Wait(until) | Stage::Pause(until) => Step::Wait(until),
            Stage::Idle => Step::Wait(Nanos::MAX),
            Stage::Answered => Step::Answered,
            Stage::Failed(failure) => Step::Failed(failure),
        }
    }

    /// Takes a datagram from the engine. One that does not answer what was sent last is dropped: a
    /// late reply, or not from the engine.
    pub fn receive(&mut self, now: Nanos, datagram: &[u8]) {
        if !matches!(self.stage, Stage::Send | Stage::Wait(_)) {
            return;
        }
        let Ok(reply) = Reply::decode(datagram) else { return };
        if reply.kind != self.outgoing_kind || reply.header.tag.get() != self.tag {
            return;
        }
        if let ReplyBody::Welcome(welcome) = reply.body {
            self.cookie = welcome.cookie.get();
            if self.kind != Kind::Hello {
                return self.send_request();
            }
        }
        match reply.status {
            Status::Cookie if takes_cookie(self.kind) => {
                self.cookie = 0;
                self.start(Status::Cookie);
            }
            Status::Busy if self.attempt < ATTEMPTS => {
                self.stage = Stage::Pause(now + (NANOS_PER_MS << (self.attempt - 1)))
            }
            Status::Busy => self.stage = Stage::Failed(Failure::Refused(Status::Busy)),
            status if self.outgoing_kind != self.kind => {
                self.stage = Stage::Failed(Failure::Refused(status))
            }
            _ => {
                self.reply[..datagram.len()].copy_from_slice(datagram);
                self.reply_len = datagram.len();
                self.stage = Stage::Answered;
            }
        }
    }

    /// The reply to the request that was answered last.
    pub fn reply(&self) -> Reply<'_> {
        Reply::decode(&self.reply[..self.reply_len])
            .expect("only replies that passed the gate are kept")
    }

    /// Begins the request, or begins it anew after a refusal.
    fn start(&mut self, refused: Status) {
        if self.attempt == ATTEMPTS {
            self.stage = Stage::Failed(Failure::Refused(refused));
            return;
        }
        self.attempt += 1;
        if takes_cookie(self.kind) && self.cookie == 0 {
            self.outgoing_len =
                compose(&mut self.outgoing, Kind::Hello, 0, 0, &[Hello::new_zeroed().as_bytes()]);
            self.send(Kind::Hello);
        } else {
            self.send_request();
        }
    }

    fn send_request(&mut self) {
        self.outgoing_len = self.request_len;
        self.outgoing[..self.request_len].copy_from_slice(&self.request[..self.request_len]);
        if takes_cookie(self.kind) {
            self.outgoing[COOKIE_AT..COOKIE_AT + 8].copy_from_slice(&self.cookie.to_le_bytes());
        }
        self.send(self.kind);
    }

    fn send(&mut self, kind: Kind) {
        self.outgoing_kind = kind;
        self.stamp();
        (self.stage, self.sends) = (Stage::Send, 0);
    }

    /// Every request gets another tag; its repetitions have the same.
    fn stamp(&mut self) {
        self.tag = self.tag.wrapping_add(1);
        self.outgoing[8..16].copy_from_slice(&self.tag.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn reply(caller: &Caller, kind: Kind, status: Status, body: &[u8]) -> Vec<u8> {
        let header = Header::reply(kind, status, 0, caller.tag.into());
        [header.as_bytes(), body].concat()
    }

    #[test]
    fn repeats_with_the_same_tag_and_twice_the_wait_five_times_in_all() {
        let mut caller = Caller::new(7);
        caller.begin(Kind::Hello, 0, 0, &[Hello::new_zeroed().as_bytes()]);
        let (mut now, mut sent) = (0, Vec::new());
        let failure = loop {
            match caller.step(now) {
                Step::Send(frame) => sent.push((now, frame.to_vec())),
                Step::Wait(until) => now = until,
                Step::Answered => panic!("nobody answered"),
                Step::Failed(failure) => break failure,
            }
        };
        assert_eq!(failure, Failure::Timeout);
        assert_eq!(
            sent.iter().map(|(at, _)| at / NANOS_PER_MS).collect::<Vec<_>>(),
            [0, 200, 600, 1400, 3000]
        );
        assert_eq!(now / NANOS_PER_MS, 6200);
        assert!(sent.iter().all(|(_, frame)| *frame == sent[0].1));
    }

    #[test]
    fn proves_its_address_first_and_again_when_the_cookie_is_worthless() {
        let mut caller = Caller::new(7);
        caller.begin(Kind::Discover, 0, 0, &[Discover::new_zeroed().as_bytes()]);
        let (mut kinds, mut tags) = (Vec::new(), BTreeSet::new());
        for _ in 0..ATTEMPTS {
            for status in [Status::Ok, Status::Cookie] {
                let Step::Send(frame) = caller.step(0) else { panic!("nothing to send") };
                kinds.push(frame[3]);
                assert!(tags.insert(frame[8..16].to_vec()), "each is a new request");
                let answer = if status == Status::Ok {
                    let mut welcome = Welcome::new_zeroed();
                    welcome.cookie = 99.into();
                    reply(&caller, Kind::Hello, status, welcome.as_bytes())
                } else {
                    assert_eq!(frame[16..24], 99_u64.to_le_bytes());
                    reply(&caller, Kind::Discover, status, &[])
                };
                caller.receive(0, &answer);
            }
        }
        assert_eq!(kinds, [1, 8, 1, 8, 1, 8, 1, 8, 1, 8]);
        assert_eq!(caller.step(0), Step::Failed(Failure::Refused(Status::Cookie)));
    }

    #[test]
    fn waits_longer_each_time_the_engine_is_busy_and_drops_what_is_not_for_it() {
        let mut caller = Caller::new(7);
        caller.begin(Kind::Deregister, 0, 0, &[Deregister::new_zeroed().as_bytes()]);
        let (mut now, mut tags) = (0, BTreeSet::new());
        for pause in [1, 2, 4, 8] {
            let Step::Send(frame) = caller.step(now) else { panic!("nothing to send") };
            assert!(tags.insert(frame[8..16].to_vec()), "each is a new request");
            let mut late = reply(&caller, Kind::Deregister, Status::Ok, &[]);
            late[8] ^= 1;
            caller.receive(now, &late);
            caller.receive(now, &reply(&caller, Kind::Update, Status::Ok, &[]));
            caller.receive(now, &[1, 2, 3]);
            assert!(matches!(caller.step(now), Step::Wait(_)));
            caller.receive(now, &reply(&caller, Kind::Deregister, Status::Busy, &[]));
            assert_eq!(caller.step(now), Step::Wait(now + pause * NANOS_PER_MS));
            now += pause * NANOS_PER_MS;
        }
        assert!(matches!(caller.step(now), Step::Send(_)));
        caller.receive(now, &reply(&caller, Kind::Deregister, Status::Removed, &[]));
        assert_eq!(caller.step(now), Step::Answered);
        assert_eq!(caller.reply().status, Status::Removed);
    }
}
