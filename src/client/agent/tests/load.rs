//! Many registrations: how they are packed, and how they come back when all are lost at once.

use super::*;
use crate::agent::limits::{REGISTRATIONS_BURST, REGISTRATIONS_PER_SECOND};
use heartline_wire::Status;

const MANY: u32 = 50_000;

fn many(count: u32) -> (World, Vec<RegistrationId>) {
    let mut world = World::new(1, 1);
    let all = (0..count).map(|number| world.register(&format!("i{number}"))).collect();
    world.run_seconds(u64::from(count) / REGISTRATIONS_PER_SECOND + 5);
    (world, all)
}

/// How many registrations the busiest second had.
fn busiest(times: &[Nanos]) -> usize {
    let since = |at: usize| times.partition_point(|time| *time + NANOS_PER_SECOND <= times[at]);
    (0..times.len()).map(|at| at + 1 - since(at)).max().unwrap_or(0)
}

#[test]
fn fifty_thousand_registrations_are_a_thousand_frames() {
    let (mut world, all) = many(MANY);
    assert!(all.iter().all(|id| world.is_up(*id)));
    let (since, frames) = (world.now, world.engines[0].frames.len());
    world.run_seconds(30);
    let frames = &world.engines[0].frames[frames..];
    // A thousand frames every 750 ms, a few of them early after an ack.
    assert!((39_000..=42_000).contains(&frames.len()), "{} frames in 30 s", frames.len());
    assert!(frames.iter().all(|(_, beats, _)| *beats == 50));
    let acks = frames.iter().filter(|(_, _, wanted)| *wanted).count();
    assert!(acks * 2 < frames.len(), "{acks} acks wanted of {}", frames.len());
    // The packs have their places in the interval; they don't beat all at once.
    let sent = world.sent_since(since, 0, Kind::Beat);
    let crowded = sent.windows(100).filter(|some| some[99] - some[0] < from_ms(10)).count();
    assert_eq!(crowded, 0, "a hundred frames within 10 ms");
    assert_eq!(world.engines[0].old, 0);
}

/// Every lease is lost at once. They come back at a bounded rate, and all of them do.
#[test]
fn fifty_thousand_lost_leases_come_back_at_a_bounded_rate() {
    let (mut world, all) = many(MANY);
    let since = world.now;
    world.engines[0].registers.clear();
    world.engines[0].restart_empty();
    world.run_seconds(14);
    assert!(all.iter().all(|id| world.is_up(*id)), "all are back");
    let times = &world.engines[0].registers;
    let bound = (REGISTRATIONS_PER_SECOND + REGISTRATIONS_BURST) as usize;
    // Those that met the old cookie asked twice.
    assert!(busiest(times) <= bound, "{} in a second", busiest(times));
    assert!(times.len() < MANY as usize + 300, "{} requests", times.len());
    assert!(times[0] - since < NANOS_PER_SECOND && times.len() >= MANY as usize);
    let frames = world.engines[0].frames.len();
    world.run_seconds(3);
    let frames = &world.engines[0].frames[frames..];
    let full = frames.iter().filter(|(_, beats, _)| *beats == 50).count();
    assert!(full * 100 >= frames.len() * 95, "{full} full frames of {}", frames.len());
}

/// A hundred agents of one lease whose engine lost everything: their first requests are spread over
/// the time that it takes to notice, and a second.
#[test]
fn agents_come_back_one_after_the_other() {
    let mut delays = Vec::new();
    for seed in 0..200 {
        let mut world = World::seeded(1, 1, [seed, seed + 1]);
        world.register("a");
        world.run_seconds(5);
        world.engines[0].registers.clear();
        world.engines[0].restart_empty();
        let since = world.now;
        world.run_seconds(5);
        let lost = world
            .events_since(since)
            .iter()
            .any(|event| matches!(event, Event::Lost { status: Status::Unknown, .. }));
        assert!(lost && world.engines[0].has("a"));
        let told =
            world.events.iter().find(|(at, it)| *at >= since && matches!(it, Event::Lost { .. }));
        delays.push(world.engines[0].registers[0] - told.unwrap().0);
    }
    let quarters = [0, 1, 2, 3].map(|quarter| {
        let is_in = |delay: &&Nanos| (**delay - LATENCY) / from_ms(250) == quarter;
        delays.iter().filter(is_in).count()
    });
    assert!(quarters.iter().all(|count| *count >= 30), "{quarters:?} of 200");
}

#[test]
fn leases_of_different_ttls_beat_apart() {
    let mut world = World::new(1, 1);
    for number in 0..100_u64 {
        let ttl = std::time::Duration::from_millis(if number % 2 == 0 { 400 } else { 4000 });
        let instance = Instance::new("s", 80).name(&format!("i{number}")).ttl(ttl);
        world.machine.register(&instance).unwrap();
    }
    world.run_seconds(2);
    let frames = world.engines[0].frames.len();
    world.run_seconds(20);
    let frames = &world.engines[0].frames[frames..];
    assert!(frames.iter().all(|(_, beats, _)| *beats == 50));
    assert!((215..230).contains(&frames.len()), "{} frames in 20 s", frames.len());
}

/// Ten thousand instances leave at once: fifty with each frame.
#[test]
fn a_stop_takes_fifty_leases_with_each_frame() {
    let (mut world, _) = many(10_000);
    let since = world.now;
    world.machine.stop(world.now);
    world.run(from_ms(2));
    assert!(world.engines[0].held.is_empty() && world.machine.is_empty());
    assert_eq!(world.sent_since(since, 0, Kind::Beat).len(), 200);
}
