//! What an engine survives, with real processes, files and disks: death, upgrades, reboots, power
//! loss, failing and full disks.
//!
//! How often things are done can be raised; `.ci/run` does:
//!
//! ```text
//! HEARTLINE_KILLS=40 HEARTLINE_HAND_OVERS=50 HEARTLINE_POWER_LOSSES=20 \
//!     cargo test --release --test survival -- --nocapture
//! ```

mod death;
mod disk;
mod hand_over;
mod manager;

use heartline_client::{Beats, Lease, Session, Stat};
use heartline_test_support::{Daemon, beat, stat};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// How often, unless the environment says otherwise.
fn times(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |times| {
        times.parse().unwrap_or_else(|_| panic!("{variable}: {times:?} is no number"))
    })
}

/// Whether the process is root; else says what is not tested.
fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped, takes root: {what}");
    }
    root
}

/// How many of these leases the engine still honours: each beats once more.
fn honoured(session: &mut Session, leases: &[Lease], sequence: u32) -> usize {
    let frames = leases
        .chunks(50)
        .map(|chunk| chunk.iter().map(|lease| beat(*lease, sequence)).collect::<Vec<_>>());
    let accepted = frames.map(|beats| match session.beat(&beats).unwrap() {
        Beats::Acked(ack) => usize::from(ack.accepted),
        Beats::Refused(refusals) => beats.len() - refusals.len(),
    });
    accepted.sum()
}

/// Waits for an edition that was begun after now.
fn next_edition(session: &mut Session) -> u64 {
    let now = stat(session, Stat::Snapshot);
    let start = Instant::now();
    loop {
        let number = stat(session, Stat::Snapshot);
        if number >= now + 2 || number > now && start.elapsed() > Duration::from_millis(400) {
            return number;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "no snapshot for ten seconds");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn kill(daemon: &mut Daemon) {
    daemon.signal(Signal::KILL);
    daemon.child.wait().unwrap();
}
