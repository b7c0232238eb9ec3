//! One thread that does everything in turn: register, beat on schedule, kill, watch.

use super::Options;
use super::watch::Watch;
use crate::bed::{Bed, Counters};
use crate::population::{Beats, Enrolment, Wanted};
use crate::report;
use crate::socket::Cookie;
use heartline::internals::clock::{self, NANOS_PER_SECOND, Nanos};
use heartline_wire::Stat;
use std::time::Duration;

/// Longest sleep between two turns, and the time before the next thing in which it does not sleep.
const NAP_NS: Nanos = 200_000;

/// The load generator.
pub(super) struct Generator<'a> {
    options: &'a Options,
    bed: &'a mut Bed,
    enrolment: Enrolment,
    pub(super) beats: Beats,
    pub(super) watch: Watch,
    ttl: Nanos,
    /// Time between two beats of an instance.
    interval: Nanos,
    answers: u64,
    killed: usize,
}

/// Counters at one moment.
#[derive(Debug)]
pub(super) struct Moment {
    pub(super) engine: Counters,
    pub(super) beats: u64,
    pub(super) frames: u64,
    pub(super) unsent: u64,
    pub(super) answers: u64,
}

/// The measured part of a run.
pub(super) struct Window {
    pub(super) before: Moment,
    pub(super) after: Moment,
    /// Time that it took to register all instances.
    pub(super) registering: Duration,
    /// Instances that discovery lists in the end.
    pub(super) listed: u64,
}

impl<'a> Generator<'a> {
    pub(super) fn new(options: &'a Options, bed: &'a mut Bed) -> Result<Self, String> {
        let services = options.services.min(options.instances);
        let wanted = Wanted::new(options.instances, services, "i").ttl(options.ttl).described();
        let ttl = options.ttl.as_nanos() as Nanos;
        let cookie = Cookie::from(bed)?;
        Ok(Self {
            enrolment: Enrolment::new(bed, &wanted)?,
            beats: Beats::none(bed.target, options.sockets, options.batch.into())?,
            watch: Watch::new(bed.target, cookie, services, options.discover_rate)?,
            ttl,
            interval: ttl / 4,
            answers: 0,
            killed: 0,
            options,
            bed,
        })
    }

    /// Registers, beats and kills; returns the counters before and after.
    pub(super) fn run(&mut self) -> Result<Window, String> {
        let start = clock::now();
        let bar =
            report::bar(self.options.instances.into(), "{msg:24} [{bar:40}] {pos}/{len} {elapsed}");
        bar.set_message("registering");
        while !self.enrolment.is_complete() {
            self.enrolment.turn(|lease| self.beats.add(lease))?;
            self.beats.keep_pace(self.interval)?;
            bar.set_position(self.enrolment.done() as u64);
        }
        bar.finish();
        let registering = Duration::from_nanos(clock::now() - start);
        let before = self.moment()?;
        self.beats.lag.reset();
        self.load()?;
        // What is under way arrives before the counters are read.
        std::thread::sleep(Duration::from_millis(50));
        let after = self.moment()?;
        let services = self.bed.session().services().map_err(|error| error.to_string())?;
        let listed = services.iter().map(|service| u64::from(service.listed)).sum();
        if after.engine.since(&before.engine, Stat::BeatsAccepted) == 0 {
            return Err("the engine has accepted no beat of this run".into());
        }
        self.beats.give_back()?;
        Ok(Window { before, after, registering, listed })
    }

    /// Beats, kills and watches for the time of the run, and longer while a death is not found.
    fn load(&mut self) -> Result<(), String> {
        let (start, mut shown) = (clock::now(), 0);
        let run_for = self.options.seconds * NANOS_PER_SECOND;
        let bar = report::bar(self.options.seconds, "{msg:60} [{bar:20}] {pos}/{len} s");
        loop {
            let now = clock::now();
            let elapsed = now - start;
            let all_found = self.killed == self.options.kill as usize && self.watch.all_found();
            if elapsed >= run_for && (all_found || elapsed >= run_for + 6 * self.ttl) {
                bar.finish();
                return Ok(());
            }
            let next_frame = self.beats.keep_pace(self.interval)?;
            let next_kill = self.kill_due(now, start);
            let next_question = self.watch.ask(clock::now())?;
            self.watch.listen()?;
            if next_frame.min(next_kill).min(next_question) > clock::now() + NAP_NS {
                std::thread::sleep(Duration::from_nanos(NAP_NS / 2));
            }
            if elapsed / NANOS_PER_SECOND > shown {
                shown = elapsed / NANOS_PER_SECOND;
                bar.set_position(shown);
                let (beats, found) = (self.beats.beats, self.watch.detected);
                bar.set_message(format!("{beats} beats, {} killed, {found} found", self.killed));
            }
        }
    }

    /// The engine's counters and ours at one moment.
    fn moment(&mut self) -> Result<Moment, String> {
        let engine = self.bed.counters()?;
        self.answers += self.beats.take_answers()?;
        let Beats { beats, sent, unsent, .. } = self.beats;
        Ok(Moment { engine, beats, frames: sent, unsent, answers: self.answers })
    }

    /// Kills the instances whose time has come: evenly over one interval, after a quarter of the
    /// run and after an interval in which all should have beaten. An instance that has not beaten
    /// yet is waited for: when a lease was granted is not known here as exactly as when a beat was
    /// sent.
    fn kill_due(&mut self, now: Nanos, start: Nanos) -> Nanos {
        let kills = self.options.kill as usize;
        let first = start + (self.options.seconds * NANOS_PER_SECOND / 4).max(self.interval);
        while self.killed < kills {
            let at = first + self.interval * self.killed as u64 / kills as u64;
            if at > now {
                return at;
            }
            let instance = self.killed * self.beats.leases().len() / kills;
            let Some(last_beat) = self.beats.kill(instance) else { return now };
            self.watch.died(self.beats.leases()[instance], last_beat, self.ttl);
            self.killed += 1;
        }
        Nanos::MAX
    }
}
