//! A service instance that registers, beats, is found by a client, falls silent and is declared
//! down.
//!
//! Start an engine first (`cargo run --release`), then `cargo run --release --example tour`.

use heartline_client::{Beats, ClientError, Query, Registration, Session, State, Target};
use std::time::{Duration, Instant};

fn main() {
    if let Err(error) = tour() {
        eprintln!("{error}; is an engine running? `cargo run --release` starts one");
        std::process::exit(1);
    }
}

fn tour() -> Result<(), ClientError> {
    let mut session = Session::connect(([127, 0, 0, 1], 19528).into())?;
    println!("the engine has room for {} leases", session.hello()?.capacity);

    let registration = Registration {
        ttl: Duration::from_millis(800),
        zone: "eu-1a".into(),
        attributes: vec!["canary".into(), "rack=b12".into()],
        ..Registration::new("payments", "pay-1", 8080)
    };
    let grant = session.register(&registration)?;
    let (slot, generation) = (grant.lease.slot(), grant.lease.generation());
    println!("lease: slot {slot}, generation {generation}; beat every {:?}", grant.interval);

    let mut wait = grant.phase;
    for sequence in 1..=3 {
        std::thread::sleep(wait);
        match session.beat(&[grant.lease.beat(sequence, 40)])? {
            Beats::Acked(ack) => {
                wait = ack.phase;
                println!("beat {sequence}: accepted, next one wanted in {} ms", wait.as_millis());
            }
            Beats::Refused(refusals) => println!("beat {sequence}: refused: {refusals:?}"),
        }
    }
    for endpoint in session.discover(&Query::new("payments"))?.endpoints {
        println!(
            "found {}: {:?}, load {}, {} ms after its beat",
            endpoint.address,
            endpoint.state,
            endpoint.load,
            endpoint.age.as_millis()
        );
    }

    println!("silence");
    let silent = Instant::now();
    let mut before = State::Up;
    while before != State::Down {
        let state = session.describe(Target::Names("payments", "pay-1"))?.endpoint.state;
        if state != before {
            println!("{state:?} {} ms after the last beat", silent.elapsed().as_millis());
            before = state;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("discovery says: {:?}", session.discover(&Query::new("payments"))?.status);
    Ok(())
}
