//! A service instance that registers, beats, is found by a client, falls silent and is declared down.
//!
//! Start an engine first (`cargo run --release`), then `cargo run --release --example tour`.

use heartline::client::{Beats, ClientError, Query, Registration, Session, Target};
use heartline::wire::{Beat, State};
use std::time::{Duration, Instant};
use zerocopy::byteorder::little_endian::{U16, U32};

fn main() -> Result<(), ClientError> {
    let mut session = Session::connect(([127, 0, 0, 1], heartline::limits::PORT).into())?;
    let welcome = session.hello()?;
    println!("the engine has room for {} leases", welcome.capacity);

    let registration = Registration {
        ttl: Duration::from_millis(800),
        zone: "eu-1a".into(),
        attributes: vec!["canary".into(), "rack=b12".into()],
        ..Registration::new("payments", "pay-1", 8080)
    };
    let grant = session.register(&registration)?;
    println!("lease: slot {}, generation {}; beat every {:?}", grant.lease.slot, grant.lease.generation, grant.interval);

    for sequence in 1..=3 {
        let beat = Beat { lease: grant.lease, sequence: U32::new(sequence), load: U16::new(40), flags: U16::new(0) };
        match session.beat(&[beat])? {
            Beats::Acked(ack) => println!("beat {sequence}: accepted, next one in {} ms", ack.phase_us.get() / 1000),
            Beats::Refused(naks) => println!("beat {sequence}: refused for reason {}", naks[0].reason),
        }
        std::thread::sleep(grant.interval);
    }
    for endpoint in session.discover(&Query::new("payments"))?.endpoints {
        println!("found {} {:?}, load {}, {} ms after its beat", endpoint.socket_addr(), endpoint.state(), endpoint.load, endpoint.age_ms);
    }

    println!("silence");
    let silent = Instant::now();
    let mut before = Some(State::Up);
    while before != Some(State::Down) {
        let state = session.describe(Target::Names("payments", "pay-1"))?.facts.endpoint.state();
        if state != before {
            println!("{state:?} after {} ms more", silent.elapsed().as_millis());
            before = state;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("discovery says: {:?}", session.discover(&Query::new("payments"))?.status);
    Ok(())
}
