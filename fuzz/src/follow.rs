//! What an engine, or somebody in its place, can send to a client that watches a service.

use crate::Input;
use heartline::internals::clock::from_ms;
use heartline_client::internals::{Follow, Resolver, Source};
use heartline_client::{Balance, Declared, WatchOptions};
use heartline_wire::{Reply, Request};
use std::time::Instant;

/// Datagrams to a follow, with time between them, and picks from what it makes of them.
///
/// Each piece of the input is a control word of 16 bits and a datagram: its length in the low 11
/// bits, then which of its latest tags is written into it (2 bits: none, the watch's, the pull's),
/// whether the engine can be reached, whether time passes, and whether the watch begins anew. The
/// first byte chooses between a service and the list of services, and the strategy.
pub fn follow(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.number::<1>();
    let strategies = [Balance::Weighted, Balance::RoundRobin, Balance::PeakEwma, Balance::Maglev];
    let options = WatchOptions::new().balance(strategies[(kind >> 1 & 3) as usize]);
    let (mut resolver, watch) = Resolver::new("users", options, Instant::now());
    let mut follow = if kind & 1 == 0 { Follow::new("users", 7) } else { Follow::of_services(7) };
    let (mut now, mut watch_tag, mut pull_tag) = (1, 0, 0);
    while !input.is_empty() {
        let control = input.number::<2>();
        let mut frame = input.bytes((control & 0x7FF) as usize).to_vec();
        let tag: u64 = if control >> 11 & 3 == 2 { pull_tag } else { watch_tag };
        if control >> 11 & 3 != 0 && frame.len() >= 16 {
            frame[8..16].copy_from_slice(&tag.to_le_bytes());
        }
        if control & 1 << 15 != 0 {
            follow.restart(now);
        }
        if control & 1 << 14 != 0 {
            now = now.max(follow.due().min(now + from_ms(60_000)));
        }
        for sent in 0.. {
            let Some(frame) = follow.poll(now, Some(5)) else { break };
            assert!(sent < 4, "frames without end");
            match Request::decode(frame.bytes()).expect("a client speaks the engine's language") {
                Request::Watch(header, _) => watch_tag = header.tag.get(),
                Request::Received(header, _) => assert_eq!(header.tag.get(), watch_tag),
                Request::Discover(header, _) | Request::Services(header, _) => {
                    pull_tag = header.tag.get();
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(follow.due() > now, "due again at once");
        if let Ok(reply) = Reply::decode(&frame)
            && follow.owns_tag(reply.header.tag.get())
        {
            follow.receive(now, &reply);
        }
        assert!(follow.members().all(|entry| entry.state().is_some()));
        let source = Source { follow: &follow, engine: 0, is_reachable: control & 1 << 13 == 0 };
        resolver.update(now, &[source]);
        check(&watch, control);
    }
}

/// What must hold whatever came before.
fn check(watch: &heartline_client::Watch, key: u64) {
    let all = watch.all();
    for picked in [watch.pick(), watch.pick_by_key(key)].into_iter().flatten() {
        let is_out = |declared| declared != Declared::Serving;
        let shown = all.iter().find(|one| {
            (one.address, one.slot, one.generation)
                == (picked.address(), picked.slot(), picked.generation())
        });
        assert!(shown.is_none_or(|one| !is_out(one.declared)), "{picked:?} is out of service");
    }
}
