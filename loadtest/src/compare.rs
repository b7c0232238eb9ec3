//! The engine beside a bare sink: CPU time for each datagram, in interleaved pairs, the same sender, sockets and buffers.

use crate::machine;
use clap::Args;
use heartline::client::{Registration, Session};
use heartline::limits::FRAME_BYTES_MAX;
use heartline::net::{ReceiveBatch, Socket, bind_group};
use heartline::region::Place;
use heartline::wire::{Beat, Header, Kind, Lease, Stat};
use heartline::{Config, Engine};
use mio::unix::SourceFd;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromZeros, IntoBytes};

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Beats in a datagram
    #[arg(long, default_values_t = [1, 50], value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=50))]
    batch: Vec<u16>,
    /// Leases that beat
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    instances: u32,
    /// Pairs of runs, interleaved as engine, sink, sink, engine
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,
    /// Seconds for each run
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Datagrams a second offered; 0: as fast as the sender can
    #[arg(long, default_value_t = 0)]
    rate: u64,
}

/// What one run cost.
struct Cost {
    datagrams: u64,
    accepted: u64,
    cpu_ns: u64,
    sent: u64,
}

impl Cost {
    fn per_datagram(&self) -> f64 {
        self.cpu_ns as f64 / self.datagrams.max(1) as f64
    }
}

pub(crate) fn run(options: &Options) -> Result<(), String> {
    let cpus = machine::cpus();
    let (&first, &last) = cpus.first().zip(cpus.last()).ok_or("no CPU to run on")?;
    if first == last {
        return Err("one CPU only: sender and receiver would share it".into());
    }
    println!("{}; receiver on CPU {first}, sender on CPU {last}, {} pairs of {} s", machine::description(), options.pairs, options.seconds);
    for &batch in &options.batch {
        let mut floods = Vec::new();
        for pair in 0..options.pairs {
            let engine_first = pair % 2 == 0;
            let one = |engine: bool| if engine { engine_run(options, batch, first, last) } else { sink_run(options, batch, first, last) };
            let (a, b) = (one(engine_first)?, one(!engine_first)?);
            floods.push(if engine_first { (a, b) } else { (b, a) });
        }
        summarize(batch, &floods);
    }
    Ok(())
}

fn summarize(batch: u16, pairs: &[(Cost, Cost)]) {
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let engine = median(pairs.iter().map(|(engine, _)| engine.per_datagram()).collect());
    let sink = median(pairs.iter().map(|(_, sink)| sink.per_datagram()).collect());
    let ratios: Vec<f64> = pairs.iter().map(|(engine, sink)| engine.per_datagram() / sink.per_datagram()).collect();
    let (low, high) = ratios.iter().fold((f64::MAX, f64::MIN), |(low, high), &ratio| (low.min(ratio), high.max(ratio)));
    let beats = median(pairs.iter().map(|(engine, _)| engine.accepted as f64 / (engine.cpu_ns as f64 / 1e9)).collect());
    let unseen: u64 = pairs
        .iter()
        .map(|(engine, sink)| engine.sent - engine.datagrams.min(engine.sent) + sink.sent - sink.datagrams.min(sink.sent))
        .sum();
    println!("batch {batch}:");
    println!("  engine {engine:.0} ns a datagram, sink {sink:.0} ns, ratio {:.3} (from {low:.3} to {high:.3})", median(ratios));
    println!(
        "  engine {:.2} M beats a CPU second; sink {:.2} M datagrams a CPU second; {unseen} datagrams did not arrive",
        beats / 1e6,
        1e3 / sink
    );
}

fn engine_run(options: &Options, batch: u16, cpu: usize, sender: usize) -> Result<Cost, String> {
    let config = Config {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        state: Place::Scratch,
        capacity: options.instances.next_power_of_two().max(1024),
        cores: Some(vec![cpu]),
        ..Config::default()
    };
    let engine = Engine::start(&config).map_err(|error| error.to_string())?;
    let target = engine.addresses()[0];
    let mut session = Session::connect(target).map_err(|error| error.to_string())?;
    let mut leases = Vec::new();
    for instance in 0..options.instances {
        let registration = Registration { ttl: Duration::from_secs(3600), ..Registration::new("compare", &format!("i-{instance}"), 1) };
        leases.push(session.register(&registration).map_err(|error| error.to_string())?.lease);
    }
    let before = session.stats().map_err(|error| error.to_string())?;
    let sent = flood(options, batch, target, sender, &leases)?;
    let after = session.stats().map_err(|error| error.to_string())?;
    let delta = |stat: Stat| after[stat as usize] - before[stat as usize];
    Ok(Cost { datagrams: delta(Stat::Datagrams), accepted: delta(Stat::BeatsAccepted), cpu_ns: delta(Stat::CpuNs), sent })
}

fn sink_run(options: &Options, batch: u16, cpu: usize, sender: usize) -> Result<Cost, String> {
    let socket = bind_group(SocketAddr::from(([127, 0, 0, 1], 0)), 1, heartline::limits::RECEIVE_QUEUE_BYTES_DEFAULT, &mut Vec::new())
        .map_err(|error| error.to_string())?
        .remove(0);
    let target = socket.local_addr().map_err(|error| error.to_string())?;
    let (stop, count, tid) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let sink = scope.spawn(|| {
            machine::pin(cpu);
            tid.store(rustix::thread::gettid().as_raw_nonzero().get() as u32, Relaxed);
            drain(&socket, &stop, &count)
        });
        while tid.load(Relaxed) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let leases = vec![Lease::new_zeroed(); options.instances as usize];
        let before = machine::thread_cpu_ns(tid.load(Relaxed));
        let sent = flood(options, batch, target, sender, &leases);
        let cpu_ns = machine::thread_cpu_ns(tid.load(Relaxed)) - before;
        let datagrams = count.load(Relaxed);
        stop.store(true, Relaxed);
        // One last datagram wakes the sink, so that it sees the flag.
        let waker = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(&[0], target));
        let ended = sink.join().map_err(|_| "the sink panicked".to_owned())?;
        waker.map_err(|error| error.to_string())?;
        ended.map_err(|error| error.to_string())?;
        Ok(Cost { datagrams, accepted: 0, cpu_ns, sent: sent? })
    })
}

/// The floor: poll, recvmmsg, count, forget.
fn drain(socket: &Socket, stop: &AtomicBool, count: &AtomicU64) -> std::io::Result<()> {
    let mut poll = mio::Poll::new()?;
    let fd = socket.as_raw_fd();
    poll.registry().register(&mut SourceFd(&fd), mio::Token(0), mio::Interest::READABLE)?;
    let mut events = mio::Events::with_capacity(1);
    let mut batch = ReceiveBatch::default();
    let mut datagrams = 0;
    while !stop.load(Relaxed) {
        let received = batch.receive(socket)?;
        for message in batch.messages(0) {
            datagrams += message.bytes.len().div_ceil(message.segment.max(1)).max(1) as u64;
        }
        count.store(datagrams, Relaxed);
        if received < heartline::limits::RECEIVE_BATCH {
            let _ = poll.poll(&mut events, None);
        }
    }
    Ok(())
}

/// Sends frames of beats for the run's time from a thread of its own; returns how many datagrams.
fn flood(options: &Options, batch: u16, target: SocketAddr, cpu: usize, leases: &[Lease]) -> Result<u64, String> {
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            machine::pin(cpu);
            send_for_the_time(options, batch, target, leases)
        });
        sender.join().map_err(|_| "the sender panicked".to_owned())?
    })
}

fn send_for_the_time(options: &Options, batch: u16, target: SocketAddr, leases: &[Lease]) -> Result<u64, String> {
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    socket.connect(target).map_err(|error| error.to_string())?;
    let mut frame = [0; FRAME_BYTES_MAX];
    let header = Header { count: U16::new(batch), ..Header::request(Kind::Beat, 0) };
    frame[..size_of::<Header>()].copy_from_slice(header.as_bytes());
    let length = size_of::<Header>() + usize::from(batch) * size_of::<Beat>();
    let (start, run) = (Instant::now(), Duration::from_secs(options.seconds));
    let (mut sent, mut at, mut round) = (0_u64, 0, 1);
    while start.elapsed() < run {
        if options.rate != 0 && sent > (start.elapsed().as_secs_f64() * options.rate as f64) as u64 {
            std::hint::spin_loop();
            continue;
        }
        for position in 0..usize::from(batch) {
            let beat = Beat { lease: leases[at], sequence: U32::new(round), load: U16::ZERO, flags: U16::ZERO };
            let offset = size_of::<Header>() + position * size_of::<Beat>();
            frame[offset..offset + size_of::<Beat>()].copy_from_slice(beat.as_bytes());
            at += 1;
            if at == leases.len() {
                at = 0;
                round += 1;
            }
        }
        socket.send(&frame[..length]).map_err(|error| error.to_string())?;
        sent += 1;
    }
    std::thread::sleep(Duration::from_millis(20));
    Ok(sent)
}
