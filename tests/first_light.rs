//! The shortest story: register, beat, be found, fall silent, be gone.

mod common;

use common::*;
use heartline::client::{Beats, Query, Target};
use heartline::wire::{State, Status};

#[test]
fn register_beat_discover_expire() {
    let (_engine, mut session) = start(&config());
    let grant = session.register(&instance("payments", "a", 200)).unwrap();
    let Beats::Acked(ack) = session.beat(&[beat(grant.lease, 1)]).unwrap() else { panic!("refused") };
    assert_eq!((ack.accepted.get(), ack.interval_us.get()), (1, 50_000));
    let page = session.discover(&Query::new("payments")).unwrap();
    assert_eq!((page.status, page.endpoints.len()), (Status::Ok, 1));
    assert_eq!(page.endpoints[0].socket_addr().to_string(), "127.0.0.1:8080");
    eventually("the silent instance is down", || session.discover(&Query::new("payments")).unwrap().status == Status::NoneHealthy);
    let described = session.describe(Target::Names("payments", "a")).unwrap();
    assert_eq!(described.facts.endpoint.state(), Some(State::Down));
}
