//! One thread that does everything in turn: register, beat on schedule, kill, watch.

use super::Options;
use super::fleet::Fleet;
use super::report::{Report, Window};
use super::watch::Watch;
use crate::population::{open_socket, receive};
use hdrhistogram::Histogram;
use heartline::clock::{self, NANOS_PER_SECOND, Nanos};
use heartline::limits::FRAME_BYTES_MAX;
use heartline::wire::{Header, Hello, Kind, Reply, ReplyBody, Stat, Status};
use heartline_client::Session;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromZeros, IntoBytes};

/// Registrations under way at once.
const WINDOW: usize = 256;
/// Time after which a registration is sent again.
const RETRY_NS: Nanos = 200_000_000;
/// Frames sent in one turn before the other work gets its turn.
const FRAMES_PER_TURN: usize = 64;
/// Time after which a cookie is replaced: it is good for a minute.
const COOKIE_NS: Nanos = 20 * NANOS_PER_SECOND;
/// Longest sleep between two turns, and the time before the next thing in which it does not sleep.
const NAP_NS: Nanos = 200_000;

/// The load generator.
pub(super) struct Generator<'a> {
    options: &'a Options,
    session: Session,
    fleet: Fleet,
    watch: Watch,
    sockets: Vec<UdpSocket>,
    register: UdpSocket,
    cookie: u64,
    cookie_at: Nanos,
    /// Registrations under way: instance and when it was sent.
    pending: VecDeque<(usize, Nanos)>,
    next_register: usize,
    registered: usize,
    interval: Nanos,
    /// Batches that beat, by the time of their next frame.
    schedule: VecDeque<usize>,
    sent_beats: u64,
    sent_frames: u64,
    unsent_frames: u64,
    naks: u64,
    lag: Histogram<u64>,
    killed: usize,
    started: Nanos,
}

impl<'a> Generator<'a> {
    pub(super) fn new(
        options: &'a Options,
        target: SocketAddr,
        now: Nanos,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let mut session = Session::connect(target)?;
        let welcome = session.hello()?;
        let capacity = welcome.capacity.get();
        if capacity < options.instances {
            return Err(format!(
                "the engine has room for {capacity} leases; start it with --capacity {}",
                options.instances
            )
            .into());
        }
        let cookie = welcome.cookie.get();
        Ok(Self {
            session,
            fleet: Fleet::new(
                options.instances,
                options.services,
                options.ttl,
                options.batch.into(),
            ),
            watch: Watch::new(target, cookie, options.services, options.discover_rate)?,
            sockets: (0..options.sockets).map(|_| open_socket(target)).collect::<Result<_, _>>()?,
            register: open_socket(target)?,
            cookie,
            cookie_at: now,
            pending: VecDeque::new(),
            next_register: 0,
            registered: 0,
            interval: options.ttl.as_nanos() as Nanos / 4,
            schedule: VecDeque::new(),
            sent_beats: 0,
            sent_frames: 0,
            unsent_frames: 0,
            naks: 0,
            lag: Histogram::new(3)?,
            killed: 0,
            started: now,
            options,
        })
    }

    /// The report, and the nanoseconds from deadlines to verdicts.
    pub(super) fn run(mut self) -> Result<(Report, Histogram<u64>), String> {
        self.run_all().map(|report| (report, self.watch.lateness)).map_err(|error| {
            match error.downcast_ref::<io::Error>().map(io::Error::kind) {
                Some(io::ErrorKind::ConnectionRefused) => {
                    "the engine has gone away: its port refuses datagrams".to_owned()
                }
                _ => error.to_string(),
            }
        })
    }

    fn run_all(&mut self) -> Result<Report, Box<dyn std::error::Error>> {
        let bar = ProgressBar::new(self.fleet.len() as u64);
        bar.set_style(ProgressStyle::with_template("{msg:24} [{bar:40}] {pos}/{len} {elapsed}")?);
        bar.set_message("registering");
        while self.registered < self.fleet.len() {
            self.turn(|generator, now| generator.registrations(now))?;
            bar.set_position(self.registered as u64);
        }
        bar.finish();
        let registered_ns = clock::now() - self.started;
        self.schedule_all_known();
        let before = self.snapshot()?;
        self.lag.reset();
        let start = clock::now();
        let run_for = self.options.seconds * NANOS_PER_SECOND;
        let grace = 6 * self.options.ttl.as_nanos() as Nanos;
        let bar = ProgressBar::new(self.options.seconds);
        bar.set_style(ProgressStyle::with_template("{msg:60} [{bar:20}] {pos}/{len} s")?);
        let mut shown = 0;
        loop {
            let elapsed = clock::now() - start;
            let all_found = self.killed == self.options.kill as usize && self.watch.all_found();
            if elapsed >= run_for && (all_found || elapsed >= run_for + grace) {
                break;
            }
            self.turn(|generator, now| generator.kill_due(now, start))?;
            if elapsed / NANOS_PER_SECOND > shown {
                shown = elapsed / NANOS_PER_SECOND;
                bar.set_position(shown);
                bar.set_message(format!(
                    "{} beats, {} killed, {} found",
                    self.sent_beats, self.killed, self.watch.detected
                ));
            }
        }
        bar.finish();
        // What is under way arrives before the counters are read.
        std::thread::sleep(Duration::from_millis(50));
        let after = self.snapshot()?;
        let listed = self.count_listed()?;
        if after.engine[Stat::BeatsAccepted as usize] == before.engine[Stat::BeatsAccepted as usize]
        {
            return Err("the engine has accepted no beat of this run".into());
        }
        self.give_back()?;
        Ok(Report::new(
            self.options,
            registered_ns,
            &Window { before, after },
            &self.watch,
            &self.lag,
            listed,
        ))
    }

    /// The engine's counters and ours at one moment.
    fn snapshot(&mut self) -> Result<super::report::Snapshot, Box<dyn std::error::Error>> {
        // Frames sent just now are still on their way.
        std::thread::sleep(Duration::from_millis(5));
        let asked = Instant::now();
        let engine = self.session.stats()?;
        let answered = Instant::now();
        self.take_naks()?;
        Ok(super::report::Snapshot {
            asked,
            answered,
            engine,
            beats: self.sent_beats,
            frames: self.sent_frames,
            unsent: self.unsent_frames,
            naks: self.naks,
        })
    }

    /// Ends the leases of the run, so that the next one finds the engine as this one did. Replies
    /// that are lost are not waited for.
    fn give_back(&mut self) -> io::Result<()> {
        let mut frame = [0; FRAME_BYTES_MAX];
        for instance in 0..self.fleet.len() {
            let mut frame = Header::request(Kind::Deregister, instance as u64).as_bytes().to_vec();
            frame.extend_from_slice(self.fleet.lease(instance).as_bytes());
            let _ = self.register.send(&frame);
            if instance % WINDOW == WINDOW - 1 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        std::thread::sleep(Duration::from_millis(20));
        while self.register.recv(&mut frame).is_ok() {}
        Ok(())
    }

    /// Instances that discovery lists in the end, over all services.
    fn count_listed(&mut self) -> Result<u64, Box<dyn std::error::Error>> {
        Ok(self.session.services()?.iter().map(|service| u64::from(service.listed.get())).sum())
    }

    /// One turn: frames that are due, the work of the phase, questions and answers, a nap until the
    /// next thing.
    fn turn(&mut self, work: impl FnOnce(&mut Self, Nanos) -> io::Result<Nanos>) -> io::Result<()> {
        let now = clock::now();
        if now > self.cookie_at + COOKIE_NS {
            self.ask_cookie(now)?;
        }
        let next_frame = self.beat(now)?;
        let next_work = work(self, now)?;
        let next_question = if self.registered == self.fleet.len() {
            self.watch.ask(clock::now())?
        } else {
            Nanos::MAX
        };
        self.watch.listen(clock::now)?;
        let next = next_frame.min(next_work).min(next_question);
        let now = clock::now();
        if next > now + NAP_NS {
            std::thread::sleep(Duration::from_nanos(NAP_NS / 2));
        }
        Ok(())
    }

    /// Says hello again; the answer comes among the grants.
    fn ask_cookie(&mut self, now: Nanos) -> io::Result<()> {
        self.cookie_at = now;
        let frame =
            [Header::request(Kind::Hello, 0).as_bytes(), Hello::new_zeroed().as_bytes()].concat();
        match self.register.send(&frame) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            other => other.map(drop),
        }
    }

    /// Sends the frames that are due. Returns when the next one is.
    fn beat(&mut self, now: Nanos) -> io::Result<Nanos> {
        let mut frame = [0; FRAME_BYTES_MAX];
        for _ in 0..FRAMES_PER_TURN {
            let Some(&batch) = self.schedule.front() else { return Ok(Nanos::MAX) };
            let due = self.fleet.batches[batch].due;
            if due > now {
                return Ok(due);
            }
            self.schedule.pop_front();
            let (length, beats) = self.fleet.frame(batch, &mut frame);
            if beats > 0 {
                let socket = &self.sockets[batch % self.sockets.len()];
                let sent_at = clock::now();
                match socket.send(&frame[..length]) {
                    Ok(_) => {
                        self.fleet.batches[batch].sent_at = sent_at;
                        self.sent_frames += 1;
                        self.sent_beats += beats as u64;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.unsent_frames += 1
                    }
                    Err(error) => return Err(error),
                }
                let _ = self.lag.record(clock::now() - due);
            }
            self.fleet.batches[batch].due = due + self.interval;
            self.schedule.push_back(batch);
        }
        Ok(now)
    }

    /// Puts the batches, which began to beat as they were registered, into the order of their
    /// times, evenly spread.
    fn schedule_all_known(&mut self) {
        self.schedule.make_contiguous().sort_by_key(|&batch| self.fleet.batches[batch].due);
    }

    fn registrations(&mut self, now: Nanos) -> io::Result<Nanos> {
        while let Some(&(instance, at)) = self.pending.front() {
            if self.fleet.is_granted(instance) {
                self.pending.pop_front();
            } else if now - at > RETRY_NS {
                self.pending.pop_front();
                self.send_registration(instance, now)?;
            } else {
                break;
            }
        }
        while self.next_register < self.fleet.len() && self.next_register - self.registered < WINDOW
        {
            self.send_registration(self.next_register, now)?;
            self.next_register += 1;
        }
        self.take_grants(now)?;
        Ok(now + 50_000)
    }

    fn send_registration(&mut self, instance: usize, now: Nanos) -> io::Result<()> {
        self.pending.push_back((instance, now));
        let (mut body, tail) =
            self.fleet.registration(instance).encode().map_err(io::Error::other)?;
        body.cookie = U64::new(self.cookie);
        let mut frame = Header::request(Kind::Register, instance as u64).as_bytes().to_vec();
        frame.extend_from_slice(body.as_bytes());
        frame.extend_from_slice(&tail);
        match self.register.send(&frame) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            other => other.map(drop),
        }
    }

    fn take_grants(&mut self, now: Nanos) -> io::Result<()> {
        let mut frame = [0; FRAME_BYTES_MAX];
        while let Some(length) = receive(&self.register, &mut frame)? {
            let Ok(reply) = Reply::decode(&frame[..length]) else { continue };
            match (reply.kind, reply.status, reply.body) {
                (Kind::Register, Status::Ok, ReplyBody::Granted(granted)) => {
                    let instance = reply.header.tag.get() as usize;
                    if self.fleet.is_granted(instance) {
                        continue;
                    }
                    self.registered += 1;
                    if let Some(batch) = self.fleet.grant(instance, granted.lease) {
                        self.fleet.batches[batch].due = now + self.offset(batch);
                        self.insert(batch);
                    }
                }
                (Kind::Hello, _, ReplyBody::Welcome(welcome)) => {
                    self.cookie = welcome.cookie.get();
                    self.watch.cookie = self.cookie;
                }
                (Kind::Register, Status::Busy, _) => {}
                (Kind::Register, status, _) => {
                    return Err(io::Error::other(format!(
                        "a registration was refused: {status:?}"
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Where in the interval a batch beats: evenly spread by the golden ratio.
    fn offset(&self, batch: usize) -> Nanos {
        let fraction = (batch as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        ((self.interval / 1000 * fraction) >> 32) * 1000
    }

    /// Keeps the schedule in order; the new batch is never due before the first.
    fn insert(&mut self, batch: usize) {
        let due = self.fleet.batches[batch].due;
        let at = self.schedule.partition_point(|&other| self.fleet.batches[other].due <= due);
        self.schedule.insert(at, batch);
    }

    /// Kills the instances whose time has come: evenly over one interval, after a quarter of the
    /// run and after an interval in which all should have beaten. Who has not is waited for: when a
    /// lease was granted is not known here as exactly as when a beat was sent.
    fn kill_due(&mut self, now: Nanos, start: Nanos) -> io::Result<Nanos> {
        self.take_grants(now)?;
        let kills = self.options.kill as usize;
        let first = start + (self.options.seconds * NANOS_PER_SECOND / 4).max(self.interval);
        while self.killed < kills {
            let at = first + self.interval * self.killed as u64 / kills as u64;
            if at > now {
                return Ok(at);
            }
            let instance = self.killed * self.fleet.len() / kills;
            let Some(last_beat) = self.fleet.kill(instance) else { return Ok(now) };
            self.watch.died(
                self.fleet.lease(instance),
                last_beat,
                self.options.ttl.as_nanos() as Nanos,
            );
            self.killed += 1;
        }
        Ok(Nanos::MAX)
    }

    fn take_naks(&mut self) -> io::Result<()> {
        let mut frame = [0; FRAME_BYTES_MAX];
        for socket in &self.sockets {
            loop {
                match socket.recv(&mut frame) {
                    Ok(_) => self.naks += 1,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

const _: () = assert!(Stat::Epoch as usize == 0);
