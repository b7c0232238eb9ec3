//! A sequence of datagrams through the data plane and the registrar.

use crate::Input;
use heartline::internals::clock::from_ms;
use heartline::internals::registrar::Settings;
use heartline_region::HeartState;
use heartline_test_support::{Harness, peer, settings};
use heartline_wire::{Declared, Lease, Reply, ReplyBody};
use zerocopy::IntoBytes;

/// Datagrams from four addresses, with time between them.
///
/// Each piece of the input is a control word of 16 bits and a datagram: its length in the low 11
/// bits, then who sends it (2 bits), whether its cookie is made good, whether the last lease is
/// written into it, and whether time passes before it.
pub fn dataplane(data: &[u8]) {
    let mut input = Input::new(data);
    let mut engine = Harness::new(16, Settings { quota: 5, ..settings(16) }, 1);
    let mut lease: Option<Lease> = None;
    while !input.is_empty() {
        let control = input.number::<2>();
        let from = peer((control >> 11 & 3) as u8 + 1);
        let mut frame = input.bytes((control & 0x7FF) as usize).to_vec();
        let proved = control & 1 << 13 != 0 && frame.len() >= 24;
        if proved {
            frame[16..24].copy_from_slice(&engine.cookies.make(&from.ip, engine.now).to_le_bytes());
        }
        if let Some(lease) = lease.filter(|_| control & 1 << 14 != 0 && frame.len() >= 32) {
            frame[16..32].copy_from_slice(lease.as_bytes());
        }
        if control & 1 << 15 != 0 {
            engine.now += from_ms(1 + (control & 0x7F));
            engine.tick();
            engine.tick();
            engine.push();
        }
        let Some(reply) = engine.send(from, &frame) else { continue };
        assert!(
            proved || reply.len() <= frame.len(),
            "{} bytes for {} from a stranger",
            reply.len(),
            frame.len()
        );
        let decoded = Reply::decode(&reply).expect("the engine speaks its own language");
        assert_eq!(decoded.header.tag.as_bytes(), &frame[8..16]);
        if let ReplyBody::Granted(granted) = decoded.body {
            lease = Some(granted.lease);
        }
    }
    for (_, frame) in &engine.pushed {
        let push = Reply::decode(frame).expect("the engine speaks its own language");
        assert!(matches!(push.body, ReplyBody::Push(..)), "{push:?}");
    }
    check(&engine);
}

/// What must hold whatever came before.
pub(crate) fn check(engine: &Harness) {
    let counts = engine.registrar.counts();
    let leased =
        engine.region.lines().iter().filter(|line| line.head().1.is_leased()).count() as u32;
    assert_eq!(counts.up + counts.suspect + counts.down, leased);
    assert!(leased <= engine.region.geometry().capacity);
    let lines = engine.region.lines().iter().zip(engine.region.endpoints());
    let serving = lines.filter(|(line, endpoint)| {
        let lives = matches!(line.head().1, HeartState::Up | HeartState::Suspect);
        lives && endpoint.entry().declared() == Declared::Serving
    });
    assert_eq!(counts.serving as usize, serving.count());
    let totals: u32 = engine
        .region
        .directory()
        .iter()
        .filter(|entry| entry.is_used())
        .map(|entry| entry.meta().total)
        .sum();
    assert_eq!(totals, leased);
    assert!(engine.feed().iter().enumerate().all(|(at, words)| words[0] == at as u64 + 1));
}
