//! One thread that beats, asks and registers at intended times, and counts every answer's time from
//! when it was to be asked.

use crate::population::{Beats, Pace, Wanted};
use crate::report::histogram;
use crate::socket::{Cookie, DEPTH, open_socket, receive, send_all};
use hdrhistogram::Histogram;
use heartline::internals::clock::{self, Nanos};
use heartline::internals::limits::FRAME_BYTES_MAX;
use heartline_wire::{Discover, Header, Kind, Lease, Reply, ReplyBody, Status, service_id};
use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use zerocopy::byteorder::little_endian::{U16, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Requests whose intended times are remembered.
const REMEMBERED: usize = 1 << 16;
/// Time that answers have after the last request.
const LAST_ANSWERS_NS: Nanos = 100_000_000;
/// Instances of the churn that live at once.
const CHURN_ALIVE: usize = 1000;
/// Frames of beats sent in one turn while questions wait for their turn, too.
const BEATS_PER_TURN: u64 = 4;

/// What is done in a second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rates {
    /// Datagrams of beats.
    pub(crate) beats: f64,
    /// Discover requests.
    pub(crate) discovers: f64,
    /// Registrations; as many leases are given back.
    pub(crate) churn: f64,
}

/// The questions and what came of them.
pub(crate) struct Drive {
    socket: UdpSocket,
    request: Vec<u8>,
    intended: Vec<Nanos>,
    cookie: Cookie,
    churn: Wanted,
    next_churn: usize,
    alive: VecDeque<Lease>,
    /// Nanoseconds from the intended time of a discover request to its answer.
    pub(crate) discovers: Histogram<u64>,
    /// The same for registrations and leases given back.
    pub(crate) changes: Histogram<u64>,
    /// Questions asked, and answered.
    pub(crate) asked: u64,
    pub(crate) answered: u64,
    /// Answers that were refusals.
    pub(crate) refused: u64,
}

impl Drive {
    /// Asks `target` for `endpoints` endpoints of the first service.
    pub(crate) fn new(target: SocketAddr, cookie: Cookie, endpoints: u16) -> Result<Self, String> {
        let body = Discover {
            cookie: cookie.value,
            service: U64::new(service_id(&Wanted::service(0))),
            limit: U16::new(endpoints),
            ..Discover::new_zeroed()
        };
        Ok(Self {
            socket: open_socket(target)?,
            request: [Header::request(Kind::Discover, 0).as_bytes(), body.as_bytes()].concat(),
            intended: vec![0; REMEMBERED],
            cookie,
            churn: Wanted::new(0, 100, "churn"),
            next_churn: 0,
            alive: VecDeque::new(),
            discovers: histogram(),
            changes: histogram(),
            asked: 0,
            answered: 0,
            refused: 0,
        })
    }

    /// Asks another engine or floor from now on.
    pub(crate) fn aim(&mut self, target: SocketAddr) -> Result<(), String> {
        self.socket = open_socket(target)?;
        Ok(())
    }

    /// Takes the times of discovery out, for the next run to begin anew.
    pub(crate) fn take_discovers(&mut self) -> Histogram<u64> {
        std::mem::replace(&mut self.discovers, histogram())
    }

    /// Goes on for a time.
    pub(crate) fn run(
        &mut self,
        time: Duration,
        rates: Rates,
        mut beats: Option<&mut Beats>,
    ) -> Result<(), String> {
        let start = clock::now();
        let end = start + time.as_nanos() as Nanos;
        let pace = |per_second| Pace::new(start, per_second);
        let (mut beating, mut asking, mut changing) =
            (pace(rates.beats), pace(rates.discovers), pace(rates.churn));
        loop {
            let now = clock::now();
            if now >= end {
                break;
            }
            if let Some(beats) = &mut beats
                && let (due, _) = beating.due(now)
                && due > 0
            {
                let before = beats.sent;
                let most = if rates.discovers > 0.0 { BEATS_PER_TURN } else { DEPTH as u64 };
                beats.send(due.min(most) as usize)?;
                beating.done(beats.sent - before);
            }
            if let (1.., at) = asking.due(now) {
                asking.done(1);
                self.ask(at)?;
            }
            if let (1.., at) = changing.due(now) {
                changing.done(1);
                self.change(at)?;
            }
            self.cookie.refresh(&self.socket)?;
            self.listen()?;
        }
        while self.answered < self.asked && clock::now() < end + LAST_ANSWERS_NS {
            self.listen()?;
        }
        Ok(())
    }

    fn tag(&mut self, at: Nanos) -> U64 {
        self.intended[self.asked as usize % REMEMBERED] = at;
        self.asked += 1;
        U64::new(self.asked - 1)
    }

    fn post(&self, frame: &[u8]) -> Result<(), String> {
        send_all(&self.socket, &[frame]).map(drop)
    }

    fn ask(&mut self, at: Nanos) -> Result<(), String> {
        let tag = self.tag(at);
        let header = Header { tag, ..Header::request(Kind::Discover, 0) };
        self.request[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        self.post(&self.request)
    }

    /// Registers one more, and gives the oldest back when enough of them live.
    fn change(&mut self, at: Nanos) -> Result<(), String> {
        let mut frame = self.churn.frame(self.next_churn, self.cookie.value)?;
        self.next_churn += 1;
        let header = Header { tag: self.tag(at), ..Header::request(Kind::Register, 0) };
        frame[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        self.post(&frame)?;
        if self.alive.len() > CHURN_ALIVE
            && let Some(lease) = self.alive.pop_front()
        {
            let header = Header { tag: self.tag(at), ..Header::request(Kind::Deregister, 0) };
            self.post(&[header.as_bytes(), lease.as_bytes()].concat())?;
        }
        Ok(())
    }

    /// Takes the answers that have come.
    fn listen(&mut self) -> Result<(), String> {
        let mut frame = [0; FRAME_BYTES_MAX];
        while let Some(length) = receive(&self.socket, &mut frame)? {
            let now = clock::now();
            let Ok((header, _)) = Header::read_from_prefix(&frame[..length]) else { continue };
            if header.kind & 0x7F == Kind::Hello as u8 {
                if let Ok(reply) = Reply::decode(&frame[..length]) {
                    self.cookie.take(&reply);
                    let at = size_of::<Header>() + std::mem::offset_of!(Discover, cookie);
                    self.request[at..at + 8].copy_from_slice(self.cookie.value.as_bytes());
                }
                continue;
            }
            self.answered += 1;
            self.refused += u64::from(header.status != Status::Ok as u8);
            let took = now.saturating_sub(self.intended[header.tag.get() as usize % REMEMBERED]);
            if header.kind & 0x7F == Kind::Discover as u8 {
                let _ = self.discovers.record(took);
            } else {
                let _ = self.changes.record(took);
                if let Ok(Reply { body: ReplyBody::Granted(granted), .. }) =
                    Reply::decode(&frame[..length])
                {
                    self.alive.push_back(granted.lease);
                }
            }
        }
        Ok(())
    }
}
