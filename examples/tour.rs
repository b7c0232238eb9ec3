//! A service instance that registers, beats, is found by a client, falls silent and is declared
//! down.
//!
//! Start an engine first (`cargo run --release`), then `cargo run --release --example tour`.

use heartline::wire::{Beat, State};
use heartline_client::{Beats, ClientError, Query, Registration, Session, Target};
use std::time::{Duration, Instant};
use zerocopy::byteorder::little_endian::{U16, U32};

fn main() {
    if let Err(error) = tour() {
        eprintln!("{error}; is an engine running? `cargo run --release` starts one");
        std::process::exit(1);
    }
}

fn tour() -> Result<(), ClientError> {
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
    println!(
        "lease: slot {}, generation {}; beat every {:?}",
        grant.lease.slot, grant.lease.generation, grant.interval
    );

    let mut wait = grant.phase;
    for sequence in 1..=3 {
        std::thread::sleep(wait);
        let beat = Beat {
            lease: grant.lease,
            sequence: U32::new(sequence),
            load: U16::new(40),
            flags: U16::new(0),
        };
        match session.beat(&[beat])? {
            Beats::Acked(ack) => {
                wait = Duration::from_micros(ack.phase_us.get().into());
                println!("beat {sequence}: accepted, next one wanted in {} ms", wait.as_millis());
            }
            Beats::Refused(naks) => {
                println!("beat {sequence}: refused for reason {}", naks[0].reason)
            }
        }
    }
    for endpoint in session.discover(&Query::new("payments"))?.endpoints {
        let state = endpoint.state().unwrap_or(State::Down);
        println!(
            "found {}: {state:?}, load {}, {} ms after its beat",
            endpoint.socket_addr(),
            endpoint.load,
            endpoint.age_ms
        );
    }

    println!("silence");
    let silent = Instant::now();
    let mut before = State::Up;
    while before != State::Down {
        let state = session
            .describe(Target::Names("payments", "pay-1"))?
            .facts
            .endpoint
            .state()
            .unwrap_or(State::Down);
        if state != before {
            println!("{state:?} {} ms after the last beat", silent.elapsed().as_millis());
            before = state;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("discovery says: {:?}", session.discover(&Query::new("payments"))?.status);
    Ok(())
}
