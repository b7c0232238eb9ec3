//! Instances: how they register, and how they beat at their intended times.

use crate::bed::Bed;
use crate::report::histogram;
use crate::socket::{Cookie, DEPTH, SOCKET_BYTES, open_socket, post, receive, send_all};
use hdrhistogram::Histogram;
use heartline::internals::clock::{self, Nanos};
use heartline::internals::limits::{FRAME_BYTES_MAX, RECEIVE_BATCH};
use heartline::internals::net::{Message, ReceiveBatch, Socket};
use heartline_client::Registration;
use heartline_client::proto::encode_registration;
use heartline_wire::{Beat, Header, Kind, Lease, Reply, ReplyBody, Status};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U16, U32, U64};

/// Registrations under way at once: half of the engine's command queue.
const WINDOW: usize = 1024;
/// Time after which unanswered registrations are sent again.
const PATIENCE: Duration = Duration::from_millis(200);
/// A TTL that ends within no run.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Instances that are to be registered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    instances: u32,
    services: u32,
    ttl: Duration,
    /// Names of instances start with this.
    prefix: &'static str,
    /// Number of the run, in names and nonces: no two runs register the same instances. 0: none.
    run: u32,
}

impl Wanted {
    /// Instances of one name in every run, with a TTL of an hour.
    pub(crate) fn new(instances: u32, services: u32, prefix: &'static str) -> Self {
        Self { instances, services, ttl: HOUR, prefix, run: 0 }
    }

    /// The same with another TTL.
    pub(crate) fn ttl(self, ttl: Duration) -> Self {
        Self { ttl, ..self }
    }

    /// Instances of this run only, with zone, port and attributes.
    pub(crate) fn described(self) -> Self {
        Self { run: rand::random::<u32>().max(1), ..self }
    }

    /// Name of a service.
    pub(crate) fn service(number: u32) -> String {
        format!("svc-{number}")
    }

    /// How one of them registers. Neighbours are of different services.
    fn registration(&self, number: usize) -> Registration {
        let Self { ttl, prefix, run, .. } = *self;
        let service = Self::service(number as u32 % self.services);
        if run == 0 {
            let plain = Registration::new(&service, &format!("{prefix}-{number}"), 80);
            return Registration { ttl, nonce: number as u64 + 1, ..plain };
        }
        let instance = format!("{prefix}-{run:08x}-{number}");
        Registration {
            ttl,
            nonce: u64::from(run) << 32 | (number as u64 + 1),
            attributes: vec![format!("rack=r{}", number % 40)],
            zone: format!("zone-{}", number % 3),
            ..Registration::new(&service, &instance, (number % 60_000) as u16 + 1)
        }
    }

    /// The frame that registers it.
    pub(crate) fn frame(&self, number: usize, cookie: U64) -> Result<Vec<u8>, String> {
        let (mut body, tail) =
            encode_registration(&self.registration(number)).map_err(|error| error.to_string())?;
        body.cookie = cookie;
        Ok([Header::request(Kind::Register, number as u64).as_bytes(), body.as_bytes(), &tail]
            .concat())
    }
}

/// Registrations under way.
pub(crate) struct Enrolment {
    wanted: Wanted,
    socket: Socket,
    batch: ReceiveBatch,
    cookie: Cookie,
    leases: Vec<Option<Lease>>,
    /// Registrations before `next` are sent, those before `open` are answered.
    next: usize,
    open: usize,
    done: usize,
    heard: Instant,
}

impl Enrolment {
    pub(crate) fn new(bed: &mut Bed, wanted: &Wanted) -> Result<Self, String> {
        let welcome = bed.session().hello().map_err(|error| error.to_string())?;
        let (capacity, instances) = (welcome.capacity, wanted.instances);
        if capacity < instances {
            return Err(format!(
                "the engine has room for {capacity} leases; start it with --capacity {instances}"
            ));
        }
        // The engine's own receive: many in one call, and bundles as they are. Time that this end
        // takes would hide a faster engine.
        let socket = Socket::adopt(open_socket(bed.target)?.into(), SOCKET_BYTES)
            .map_err(|error| error.to_string())?;
        Ok(Self {
            wanted: *wanted,
            socket,
            batch: ReceiveBatch::default(),
            cookie: Cookie::from(bed)?,
            leases: vec![None; instances as usize],
            next: 0,
            open: 0,
            done: 0,
            heard: Instant::now(),
        })
    }

    /// Leases that were granted so far.
    pub(crate) fn done(&self) -> usize {
        self.done
    }

    /// Whether all are registered.
    pub(crate) fn is_complete(&self) -> bool {
        self.done == self.leases.len()
    }

    /// Sends what there is room for, and takes the grants that have come.
    pub(crate) fn turn(&mut self, mut granted: impl FnMut(Lease)) -> Result<(), String> {
        self.cookie.refresh(&self.socket)?;
        while self.next < self.leases.len() && self.next - self.open < WINDOW {
            let end = (self.next + DEPTH).min(self.leases.len());
            self.send(self.next..end)?;
            self.next = end;
        }
        if self.heard.elapsed() > PATIENCE {
            self.send(self.open..self.next)?;
            self.heard = Instant::now();
        }
        while self.listen(&mut granted)? == RECEIVE_BATCH {}
        while self.open < self.next && self.leases[self.open].is_some() {
            self.open += 1;
        }
        Ok(())
    }

    /// Registers those of a range that have no lease.
    fn send(&self, numbers: std::ops::Range<usize>) -> Result<(), String> {
        let missing = numbers.filter(|&number| self.leases[number].is_none());
        let frames = missing
            .map(|number| self.wanted.frame(number, self.cookie.value))
            .collect::<Result<Vec<_>, _>>()?;
        frames.chunks(DEPTH).try_for_each(|frames| send_all(&self.socket, frames).map(drop))
    }

    /// Takes what one call brings; returns how many messages that were.
    fn listen(&mut self, granted: &mut impl FnMut(Lease)) -> Result<usize, String> {
        let received = self.batch.receive(&self.socket).map_err(|error| error.to_string())?;
        if received > 0 {
            self.heard = Instant::now();
        }
        for frame in self.batch.messages(0).flat_map(Message::datagrams) {
            let Ok(reply) = Reply::decode(frame) else { continue };
            match (reply.status, &reply.body) {
                (Status::Ok, ReplyBody::Granted(grant)) => {
                    let place = &mut self.leases[reply.header.tag.get() as usize];
                    if place.replace(grant.lease).is_none() {
                        self.done += 1;
                        granted(grant.lease);
                    }
                }
                (Status::Busy, _) => {}
                _ if self.cookie.take(&reply) => {}
                (status, _) => return Err(format!("a registration was refused: {status:?}")),
            }
        }
        Ok(received)
    }
}

/// Registers all of them; returns their leases in order.
pub(crate) fn register(bed: &mut Bed, wanted: &Wanted) -> Result<Vec<Lease>, String> {
    let mut enrolment = Enrolment::new(bed, wanted)?;
    while !enrolment.is_complete() {
        enrolment.turn(|_| ())?;
    }
    Ok(enrolment.leases.into_iter().flatten().collect())
}

/// Times at which frames of a rate are due.
pub(crate) struct Pace {
    next: f64,
    gap: f64,
}

impl Pace {
    pub(crate) fn new(start: Nanos, per_second: f64) -> Self {
        let next = if per_second > 0.0 { start as f64 } else { f64::INFINITY };
        Self { next, gap: 1e9 / per_second }
    }

    /// How many are due, and when the first of them was or will be.
    pub(crate) fn due(&self, now: Nanos) -> (u64, Nanos) {
        let late = now as f64 - self.next;
        let due = if late < 0.0 { 0 } else { ((late / self.gap) as u64).saturating_add(1) };
        (due, self.next as Nanos)
    }

    pub(crate) fn done(&mut self, count: u64) {
        self.next += count as f64 * self.gap;
    }
}

/// Sends beats for leases frame by frame, always in the same order: in each round one beat a lease.
pub(crate) struct Beats {
    sockets: Vec<UdpSocket>,
    leases: Vec<Lease>,
    /// Leases that beat no more.
    dead: Vec<bool>,
    batch: usize,
    at: usize,
    sequence: u32,
    frames: Vec<Vec<u8>>,
    /// Beats are left out with this probability.
    loss: f64,
    random: SmallRng,
    pace: Pace,
    /// When each frame of the round was last sent, 0 before; empty where it is not recorded.
    sent_at: Vec<Nanos>,
    /// How late frames were sent, by [`Beats::keep_pace`].
    pub(crate) lag: Histogram<u64>,
    /// Datagrams and beats that the kernel took.
    pub(crate) sent: u64,
    pub(crate) beats: u64,
    /// Datagrams that it did not.
    pub(crate) unsent: u64,
}

impl Beats {
    /// Beats for leases in random order.
    pub(crate) fn new(
        target: SocketAddr,
        mut leases: Vec<Lease>,
        batch: usize,
    ) -> Result<Self, String> {
        let mut none = Self::none(target, 1, batch)?;
        leases.shuffle(&mut none.random);
        Ok(Self { dead: vec![false; leases.len()], leases, ..none })
    }

    /// Beats for leases that are still to come.
    pub(crate) fn none(target: SocketAddr, sockets: u16, batch: usize) -> Result<Self, String> {
        Ok(Self {
            sockets: (0..sockets).map(|_| open_socket(target)).collect::<Result<_, _>>()?,
            leases: Vec::new(),
            dead: Vec::new(),
            batch,
            at: 0,
            sequence: 1,
            frames: vec![Vec::new(); DEPTH],
            loss: 0.0,
            random: SmallRng::seed_from_u64(1),
            pace: Pace::new(clock::now(), f64::INFINITY),
            sent_at: Vec::new(),
            lag: histogram(),
            sent: 0,
            beats: 0,
            unsent: 0,
        })
    }

    /// Beats for one more, whose last beat is known.
    pub(crate) fn add(&mut self, lease: Lease) {
        let frame = self.leases.len() / self.batch;
        self.leases.push(lease);
        self.dead.push(false);
        self.sent_at.resize(frame + 1, 0);
        self.sent_at[frame] = 0;
    }

    /// Stops one that was added; returns when it last beat. `None`: it has not yet, and goes on.
    pub(crate) fn kill(&mut self, at: usize) -> Option<Nanos> {
        let sent_at = self.sent_at[at / self.batch];
        self.dead[at] = sent_at != 0;
        self.dead[at].then_some(sent_at)
    }

    /// Sends to another engine or floor from now on.
    pub(crate) fn aim(&mut self, target: SocketAddr) -> Result<(), String> {
        self.sockets = vec![open_socket(target)?];
        Ok(())
    }

    /// Leaves beats out from now on.
    pub(crate) fn lose(&mut self, share: f64) {
        self.loss = share;
    }

    /// Beats in a datagram from now on.
    pub(crate) fn set_batch(&mut self, batch: usize) {
        self.batch = batch;
    }

    /// Beats for the first of them only, from now on.
    pub(crate) fn keep(&mut self, leases: usize) {
        self.leases.truncate(leases);
        self.at = 0;
    }

    /// The leases that it beats for.
    pub(crate) fn leases(&self) -> &[Lease] {
        &self.leases
    }

    /// Datagrams a second that beat every lease once in an interval.
    pub(crate) fn rate(&self, interval: Duration) -> f64 {
        self.leases.len().div_ceil(self.batch) as f64 / interval.as_secs_f64()
    }

    /// Sends at most [`DEPTH`] frames in one system call.
    pub(crate) fn send(&mut self, count: usize) -> Result<(), String> {
        let (mut filled, mut beats, mut numbers) = (0, [0; DEPTH], [0; DEPTH]);
        for _ in 0..count.min(DEPTH) {
            numbers[filled] = self.at / self.batch;
            beats[filled] = self.fill(filled);
            filled += usize::from(beats[filled] > 0);
        }
        let (now, socket) = (clock::now(), self.sent as usize % self.sockets.len());
        let sent = send_all(&self.sockets[socket], &self.frames[..filled])
            .map_err(|error| format!("beats can't be sent: {error}"))?;
        for &number in &numbers[..sent] {
            self.sent_at.get_mut(number).into_iter().for_each(|at| *at = now);
        }
        self.sent += sent as u64;
        self.unsent += (filled - sent) as u64;
        self.beats += beats[..sent].iter().sum::<u64>();
        Ok(())
    }

    /// Makes the next frame of the round; returns how many beats are in it.
    fn fill(&mut self, frame: usize) -> u64 {
        let (frame, mut beats) = (&mut self.frames[frame], 0);
        frame.clear();
        frame.extend_from_slice(Header::request(Kind::Beat, 0).as_bytes());
        for _ in 0..self.batch.min(self.leases.len()) {
            let is_lost = self.loss > 0.0 && self.random.random_bool(self.loss);
            if !is_lost && !self.dead[self.at] {
                let beat = Beat {
                    lease: self.leases[self.at],
                    sequence: U32::new(self.sequence),
                    // Where beats are followed one by one, loads change from beat to beat.
                    load: U16::new(if self.sent_at.is_empty() {
                        0
                    } else {
                        self.sequence as u16 & 0xFF
                    }),
                    flags: U16::ZERO,
                };
                frame.extend_from_slice(beat.as_bytes());
                beats += 1;
            }
            self.at += 1;
            if self.at == self.leases.len() {
                // A frame ends with its round: no two beats for one lease in it.
                (self.at, self.sequence) = (0, self.sequence + 1);
                break;
            }
        }
        let header = Header { count: U16::new(beats), ..Header::request(Kind::Beat, 0) };
        frame[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        beats.into()
    }

    /// Sends for a time at a rate of datagrams a second, or as fast as it goes, and waits until all
    /// have arrived. Returns how many were sent.
    pub(crate) fn run(&mut self, time: Duration, rate: Option<f64>) -> Result<u64, String> {
        let sent = self.send_for(time, rate);
        // What is under way arrives before it is counted.
        std::thread::sleep(Duration::from_millis(20));
        sent
    }

    /// The same without waiting.
    pub(crate) fn send_for(&mut self, time: Duration, rate: Option<f64>) -> Result<u64, String> {
        let (start, first) = (clock::now(), self.sent);
        let mut pace = Pace::new(start, rate.unwrap_or(f64::INFINITY));
        loop {
            let now = clock::now();
            if now >= start + time.as_nanos() as Nanos {
                return Ok(self.sent - first);
            }
            let before = self.sent;
            match pace.due(now).0 {
                0 => std::hint::spin_loop(),
                due => self.send(due.min(DEPTH as u64) as usize)?,
            }
            pace.done(self.sent - before);
        }
    }

    /// Sends the frames that are due when each lease beats once in an interval. Returns when the
    /// next is due.
    pub(crate) fn keep_pace(&mut self, interval: Nanos) -> Result<Nanos, String> {
        if self.leases.is_empty() {
            self.pace = Pace::new(clock::now(), f64::INFINITY);
            return Ok(Nanos::MAX);
        }
        self.pace.gap = interval as f64 / self.leases.len().div_ceil(self.batch) as f64;
        let due = self.pace.due(clock::now()).0.min(DEPTH as u64);
        if due > 0 {
            self.send(due as usize)?;
            let now = clock::now();
            for _ in 0..due {
                let _ = self.lag.record(now.saturating_sub(self.pace.next as Nanos));
                self.pace.done(1);
            }
        }
        Ok(self.pace.next as Nanos)
    }

    /// How many datagrams have come back: the engine answers beats that it refuses.
    pub(crate) fn take_answers(&self) -> Result<u64, String> {
        let (mut frame, mut answers) = ([0; FRAME_BYTES_MAX], 0);
        for socket in &self.sockets {
            while receive(socket, &mut frame)?.is_some() {
                answers += 1;
            }
        }
        Ok(answers)
    }

    /// Ends all leases, so that the next run finds the engine as this one did. Lost replies are not
    /// waited for.
    pub(crate) fn give_back(&self) -> Result<(), String> {
        for (number, lease) in self.leases.iter().enumerate() {
            post(&self.sockets[0], Kind::Deregister, number as u64, &[lease.as_bytes()])?;
            if number % 256 == 255 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        std::thread::sleep(Duration::from_millis(20));
        self.take_answers().map(drop)
    }
}
