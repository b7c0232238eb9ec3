//! A real engine on loopback, in scratch memory.

use heartline::{Config, Engine};
use heartline_client::{Beat, Lease, Registration, Session, Stat};
use heartline_region::Place;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// A small configuration on a port that the kernel chooses.
pub fn config() -> Config {
    Config {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        state: Place::Scratch,
        capacity: 1024,
        tombstone: Duration::from_secs(60),
        ..Config::default()
    }
}

/// An engine, and a session with it.
pub fn start(config: &Config) -> (Engine, Session) {
    let engine = Engine::start(config).expect("the engine starts");
    let session = Session::connect(engine.addresses()[0]).expect("a socket");
    (engine, session)
}

/// An instance with a TTL in milliseconds.
pub fn instance(service: &str, name: &str, ttl_ms: u64) -> Registration {
    Registration { ttl: Duration::from_millis(ttl_ms), ..Registration::new(service, name, 8080) }
}

/// Registers as many instances of service `s`, named `i0`, `i1` and so on.
pub fn register_all(session: &mut Session, count: usize, ttl_ms: u64) -> Vec<Lease> {
    let lease = |n| session.register(&instance("s", &format!("i{n}"), ttl_ms)).unwrap().lease;
    (0..count).map(lease).collect()
}

/// A number that the engine tells of itself.
pub fn stat(session: &mut Session, stat: Stat) -> u64 {
    session.stats().unwrap().get(stat)
}

/// A beat.
pub fn beat(lease: Lease, sequence: u32) -> Beat {
    lease.beat(sequence, 0)
}

/// Beats for all leases, ten in a frame, again and again, until told to stop. The frames are spread
/// over the interval, as the phases that an engine hands out ask for: sent at once they would push
/// one another out of a short receive queue, the last ones every time.
pub fn keep_beating(engine: &Engine, leases: &[Lease], interval: Duration, stop: &AtomicBool) {
    let mut session = Session::connect(engine.addresses()[0]).unwrap();
    let mut sequence = 1;
    while !stop.load(Relaxed) {
        for chunk in leases.chunks(10) {
            let beats: Vec<Beat> = chunk.iter().map(|lease| beat(*lease, sequence)).collect();
            session.send_beats(&beats).unwrap();
            std::thread::sleep(interval / leases.len().div_ceil(10) as u32);
        }
        sequence += 1;
    }
}
