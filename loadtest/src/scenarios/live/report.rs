//! What a run showed: a table for people, JSON for programs.

use super::Options;
use super::watch::Watch;
use hdrhistogram::Histogram;
use heartline::wire::Stat;
use serde::Serialize;
use std::time::Instant;

/// Counters at one moment.
pub(super) struct Snapshot {
    /// When the engine was asked, and when it had answered.
    pub(super) asked: Instant,
    pub(super) answered: Instant,
    pub(super) engine: Vec<u64>,
    pub(super) beats: u64,
    pub(super) frames: u64,
    pub(super) unsent: u64,
    pub(super) naks: u64,
}

/// The measured part of the run.
pub(super) struct Window {
    pub(super) before: Snapshot,
    pub(super) after: Snapshot,
}

impl Window {
    /// Whether the engine was started again under way; then its counters began anew.
    fn restarted(&self) -> bool {
        u128::from(self.after.engine[Stat::UptimeNs as usize])
            < (self.after.asked - self.before.answered).as_nanos()
    }

    fn engine(&self, stat: Stat) -> u64 {
        let at = stat as usize;
        let before = if self.restarted() { 0 } else { self.before.engine[at] };
        self.after.engine[at].saturating_sub(before)
    }
}

#[derive(Serialize)]
struct Beats {
    sent: u64,
    accepted: u64,
    old: u64,
    refused: u64,
    /// Not known of an engine that was started again under way: what it counted begins there.
    lost: Option<u64>,
    kernel_drops: u64,
    /// Sent, and neither accepted, old, refused nor in a datagram that the kernel dropped.
    unaccounted: Option<i64>,
    frames: u64,
    unsent_frames: u64,
    naks: u64,
}

#[derive(Serialize)]
struct Percentiles {
    p50: f64,
    p99: f64,
    max: f64,
}

impl Percentiles {
    fn ms(histogram: &Histogram<u64>) -> Self {
        let ms = |ns: u64| ns as f64 / 1e6;
        Self {
            p50: ms(histogram.value_at_quantile(0.5)),
            p99: ms(histogram.value_at_quantile(0.99)),
            max: ms(histogram.max()),
        }
    }
}

#[derive(Serialize)]
struct EngineFigures {
    cpu_ns_per_beat: f64,
    cpu_ns_per_datagram: f64,
    cpu_share: f64,
    /// Memory by the leases there is room for.
    bytes_per_lease: f64,
    memory_bytes: u64,
    up: u64,
    deafness: u64,
    holds: u64,
}

#[derive(Serialize)]
pub(super) struct Report {
    machine: String,
    instances: u32,
    services: u32,
    batch: u16,
    ttl_ms: u64,
    seconds: u64,
    registrations_per_second: f64,
    beats: Beats,
    killed: usize,
    detected: usize,
    early: u64,
    false_downs: u64,
    /// Instances that discovery lists in the end.
    listed: u64,
    discovers: u64,
    endpoints: u64,
    /// From the last beat to being found down.
    detection_ms: Percentiles,
    /// From the deadline to being found down.
    lateness_ms: Percentiles,
    /// How late the generator sent its frames.
    generator_lag_ms: Percentiles,
    generator_limited: bool,
    engine: EngineFigures,
}

impl Report {
    pub(super) fn new(
        options: &Options,
        registered_ns: u64,
        window: &Window,
        watch: &Watch,
        lag: &Histogram<u64>,
        listed: u64,
    ) -> Self {
        let sent = window.after.beats - window.before.beats;
        let frames = window.after.frames - window.before.frames;
        let (accepted, old) = (window.engine(Stat::BeatsAccepted), window.engine(Stat::BeatsOld));
        let (refused, drops) =
            (window.engine(Stat::BeatsRefused), window.engine(Stat::KernelDrops));
        let known = !window.restarted();
        let cpu = window.engine(Stat::CpuNs) as f64;
        let uptime = window.engine(Stat::UptimeNs).max(1) as f64;
        let interval_ms = options.ttl.as_secs_f64() * 1000.0 / 4.0;
        let generator_lag_ms = Percentiles::ms(lag);
        let unsent_frames = window.after.unsent - window.before.unsent;
        let memory_bytes = window.after.engine[Stat::MemoryBytes as usize];
        Self {
            machine: String::new(),
            instances: options.instances,
            services: options.services,
            batch: options.batch,
            ttl_ms: options.ttl.as_millis() as u64,
            seconds: options.seconds,
            registrations_per_second: f64::from(options.instances) / (registered_ns as f64 / 1e9),
            beats: Beats {
                sent,
                accepted,
                old,
                refused,
                lost: known.then(|| sent.saturating_sub(accepted + old + refused)),
                kernel_drops: drops,
                unaccounted: known.then(|| {
                    sent as i64
                        - (accepted + old + refused + drops * u64::from(options.batch)) as i64
                }),
                frames,
                unsent_frames,
                naks: window.after.naks - window.before.naks,
            },
            killed: watch.dead.len(),
            detected: watch.detected,
            early: watch.early,
            false_downs: window.engine(Stat::Downs).saturating_sub(watch.detected as u64),
            listed,
            discovers: watch.discovers,
            endpoints: watch.endpoints,
            detection_ms: Percentiles::ms(&watch.from_beat),
            lateness_ms: Percentiles::ms(&watch.lateness),
            // A generator that is late by a twentieth of the interval tests its own scheduler.
            generator_limited: unsent_frames > 0 || generator_lag_ms.p99 > interval_ms / 20.0,
            generator_lag_ms,
            engine: EngineFigures {
                cpu_ns_per_beat: cpu / accepted.max(1) as f64,
                cpu_ns_per_datagram: cpu / window.engine(Stat::Datagrams).max(1) as f64,
                cpu_share: cpu / uptime,
                bytes_per_lease: memory_bytes as f64
                    / window.after.engine[Stat::Capacity as usize].max(1) as f64,
                memory_bytes,
                up: window.after.engine[Stat::Up as usize],
                deafness: window.engine(Stat::Deafness),
                holds: window.engine(Stat::Holds),
            },
        }
    }

    /// Says where it ran.
    pub(super) fn on(self, machine: String) -> Self {
        Self { machine, ..self }
    }

    /// Times that the engine counted itself deaf: it stood still or lost datagrams, and put
    /// verdicts off.
    pub(super) fn deafness(&self) -> u64 {
        self.engine.deafness
    }

    /// Refuses a run whose deaths were not all found, or in which others were.
    pub(super) fn expect_all(&self) -> Result<(), String> {
        if self.detected != self.killed || self.early + self.false_downs > 0 {
            let (detected, killed, early, false_downs) =
                (self.detected, self.killed, self.early, self.false_downs);
            return Err(format!(
                "{detected} of {killed} deaths were found, {early} early, and {false_downs} others were declared down"
            ));
        }
        Ok(())
    }

    pub(super) fn print(&self) {
        let row = |name: &str, value: String| println!("{name:<28} {value}");
        let times =
            |p: &Percentiles| format!("p50 {:.3}  p99 {:.3}  max {:.3} ms", p.p50, p.p99, p.max);
        row("machine", self.machine.clone());
        row("instances / services", format!("{} / {}", self.instances, self.services));
        row("TTL, beats a datagram", format!("{} ms, {}", self.ttl_ms, self.batch));
        row("registered", format!("{:.0} a second", self.registrations_per_second));
        row("beats sent", self.beats.sent.to_string());
        row("beats accepted", self.beats.accepted.to_string());
        row("beats old / refused", format!("{} / {}", self.beats.old, self.beats.refused));
        match (self.beats.lost, self.beats.unaccounted) {
            (Some(lost), Some(unaccounted)) => {
                row("beats lost", format!("{lost} ({unaccounted} unaccounted)"))
            }
            _ => row(
                "beats lost",
                "not known: the engine was started again under way, and counts from there".into(),
            ),
        }
        row("kernel drops", format!("{} datagrams", self.beats.kernel_drops));
        row("killed / found", format!("{} / {}", self.killed, self.detected));
        row("found early", self.early.to_string());
        row("false downs", self.false_downs.to_string());
        row("listed in the end", self.listed.to_string());
        row("from the last beat", times(&self.detection_ms));
        row("from the deadline", times(&self.lateness_ms));
        row("discover replies", format!("{} with {} endpoints", self.discovers, self.endpoints));
        row("engine CPU a beat", format!("{:.1} ns", self.engine.cpu_ns_per_beat));
        row("engine CPU a datagram", format!("{:.1} ns", self.engine.cpu_ns_per_datagram));
        row("engine CPU share", format!("{:.2} % of a core", self.engine.cpu_share * 100.0));
        row(
            "engine memory",
            format!("{:.1} bytes for each lease of its capacity", self.engine.bytes_per_lease),
        );
        row("holds / deafness", format!("{} / {}", self.engine.holds, self.engine.deafness));
        row("generator lag", times(&self.generator_lag_ms));
        if self.generator_limited {
            row(
                "limit",
                "the GENERATOR, not the engine: figures above speak of this program".into(),
            );
        }
    }
}
