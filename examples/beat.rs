//! Registers an instance and beats for it ten times.
//!
//! Start an engine first (`cargo run --release`), then `cargo run --release --example beat`.

use heartline_client::{Beats, ClientError, Registration, Session};

fn main() -> Result<(), ClientError> {
    let mut session = Session::connect(([127, 0, 0, 1], 19528).into())?;
    let grant = session.register(&Registration::new("payments", "pay-1", 8080))?;
    println!("{:?} is good for {:?}", grant.lease, grant.ttl);
    let mut wait = grant.phase;
    for sequence in 1..=10 {
        std::thread::sleep(wait);
        match session.beat(&[grant.lease.beat(sequence, 0)])? {
            Beats::Acked(ack) => wait = ack.phase,
            Beats::Refused(refusals) => panic!("the lease has ended: {:?}", refusals[0].status),
        }
        println!("beat {sequence} counted, the next one is due in {wait:?}");
    }
    session.deregister(&grant.lease)
}
