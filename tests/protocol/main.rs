//! `docs/PROTOCOL.md` and `docs/vectors.json`, byte for byte: what the document says is what the
//! code speaks, and what a client in another language tests against is the same.

mod story;
mod tables;
mod vectors;

use heartline_region::{Counter, Tally};
use heartline_test_support::{Harness, peer, settings};
use heartline_wire::*;
use std::collections::BTreeMap;
use story::{never_answered, replies, requests};

const PAGE: &str = include_str!("../../docs/PROTOCOL.md");

/// The blocks of the document whose fence says `hex NAME`.
fn documented() -> BTreeMap<String, Vec<u8>> {
    let text = PAGE;
    let mut blocks = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```hex ") else { continue };
        let bytes =
            lines.by_ref().take_while(|line| *line != "```").flat_map(str::split_whitespace);
        let bytes =
            bytes.map(|byte| u8::from_str_radix(byte, 16).expect("two hex digits")).collect();
        blocks.insert(name.to_owned(), bytes);
    }
    blocks
}

/// The page quotes each datagram of the story, and of those that are never answered some.
#[test]
fn the_examples_are_what_the_code_speaks() {
    let mut documented = documented();
    let (requests, replies) = (requests(), replies());
    for (name, bytes) in requests.iter().chain(&replies) {
        assert_eq!(documented.remove(*name).as_ref(), Some(bytes), "{name}");
    }
    for (name, _, bytes) in never_answered() {
        assert!(documented.remove(name).is_none_or(|quoted| quoted == bytes), "{name}");
    }
    assert!(documented.is_empty(), "examples without a check: {:?}", documented.keys());
    for (name, bytes) in &requests {
        Request::decode(bytes).unwrap_or_else(|reason| panic!("{name}: {reason}"));
        assert!(Reply::decode(bytes).is_err(), "{name} is no reply");
    }
    for (name, bytes) in &replies {
        Reply::decode(bytes).unwrap_or_else(|reason| panic!("{name}: {reason}"));
        assert!(Request::decode(bytes).is_err(), "{name} is no request");
    }
}

#[test]
fn what_is_no_request_is_counted_and_never_answered() {
    let mut engine = Harness::new(16, settings(16), 1);
    let mut expected = Tally::default();
    for (count, (name, why, bytes)) in (1..).zip(never_answered()) {
        let reason = Request::decode(&bytes).expect_err(name);
        expected.add(Counter::of(reason), 1);
        assert_eq!(engine.send(peer(1), &bytes), None, "{name}: {why}");
        let tally = engine.dataplane.tally();
        assert_eq!(tally.rejected(), count, "{name}: {why}");
        for &reason in Counter::REJECTS {
            assert_eq!(tally.get(reason), expected.get(reason), "{name}: {reason:?}");
        }
    }
    for &reason in Counter::REJECTS {
        assert!(expected.get(reason) > 0, "no datagram of the list is refused for {reason:?}");
    }
}

/// A later engine may say more than this client knows; a datagram that says less is no reply.
#[test]
fn bytes_behind_a_reply_are_ignored() {
    for (name, bytes) in replies() {
        let known = Reply::decode(&bytes).unwrap();
        let longer = [&bytes[..], &[0xFF; 9]].concat();
        // A bare header has no body that could grow.
        if bytes.len() > size_of::<Header>() {
            let reply = Reply::decode(&longer).unwrap_or_else(|reason| panic!("{name}: {reason}"));
            assert_eq!(format!("{:?}", reply.body), format!("{:?}", known.body), "{name}");
        }
        assert!(Reply::decode(&bytes[..bytes.len() - 1]).is_err(), "{name}");
    }
}

/// A row of the page that gives a length is made of the lengths of the code.
#[test]
fn the_document_states_every_length() {
    let text = PAGE;
    let header = size_of::<Header>();
    let fixed = |body: usize| header + body;
    let rows = [
        ("hello", fixed(size_of::<Hello>()).to_string(), fixed(size_of::<Welcome>()).to_string()),
        (
            "register",
            format!("{} + attributes", fixed(size_of::<Register>())),
            fixed(size_of::<Granted>()).to_string(),
        ),
        (
            "beat",
            format!("{header} + {} × beats", size_of::<Beat>()),
            format!(
                "ack {}, if wanted; nak {} + {} × refused beats",
                fixed(size_of::<Ack>()),
                fixed(size_of::<NakHead>()),
                size_of::<Nak>()
            ),
        ),
        (
            "update",
            format!("{} + attributes", fixed(size_of::<Update>())),
            fixed(size_of::<Changed>()).to_string(),
        ),
        (
            "deregister",
            fixed(size_of::<Deregister>()).to_string(),
            fixed(size_of::<Changed>()).to_string(),
        ),
        (
            "describe",
            fixed(size_of::<Describe>()).to_string(),
            format!("{} + attributes", fixed(size_of::<Description>())),
        ),
        (
            "services",
            fixed(size_of::<Services>()).to_string(),
            format!(
                "{} + {} × services",
                fixed(size_of::<ServicesHead>()),
                size_of::<ServiceEntry>()
            ),
        ),
        (
            "discover",
            fixed(size_of::<Discover>()).to_string(),
            format!("{} + {} × endpoints", fixed(size_of::<DiscoverHead>()), size_of::<Endpoint>()),
        ),
        (
            "stats",
            fixed(size_of::<StatsRequest>()).to_string(),
            format!("{header} + 8 × numbers, now {}", fixed(8 * STATS)),
        ),
        ("watch", fixed(size_of::<Watch>()).to_string(), fixed(size_of::<Watching>()).to_string()),
        (
            "push",
            fixed(size_of::<Received>()).to_string(),
            format!(
                "none; a push is {} + {} × endpoints",
                fixed(size_of::<PushHead>()),
                size_of::<Endpoint>()
            ),
        ),
    ];
    for (number, (name, request, reply)) in (1..).zip(rows) {
        let row = text.lines().find(|line| line.starts_with(&format!("| {number} | {name} |")));
        let row = row.unwrap_or_else(|| panic!("no row for {name}"));
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!((cells[3], cells[4]), (&*request, &*reply), "{name}");
    }
}

/// What a request is padded to, section 4, and how many numbers stats has, section 5.9.
#[test]
fn the_document_states_paddings_and_numbers() {
    let text = PAGE;
    let fixed = |body: usize| size_of::<Header>() + body;
    let (description, services, discover) = (
        fixed(size_of::<Description>()),
        format!("{} + {} × limit", fixed(size_of::<ServicesHead>()), size_of::<ServiceEntry>()),
        format!("{} + {} × limit", fixed(size_of::<DiscoverHead>()), size_of::<Endpoint>()),
    );
    let padded = format!(
        "{description} + `attributes_bytes_max` for describe, {services} for services, {discover} for discover"
    );
    assert!(text.replace('\n', " ").contains(&padded), "{padded}");
    assert!(text.contains(&format!("Now count is {STATS};")));
    let table = text.split("### 5.9 ").nth(1).and_then(|rest| rest.split("\n### ").next()).unwrap();
    for stat in Stat::ALL {
        let About { label, help, .. } = stat.about();
        let row = format!("| {} | {label} | {help}", stat as u8);
        assert!(table.lines().any(|line| line.starts_with(&row)), "no row {row}");
    }
}
