//! `docs/vectors.json`, made anew from the code and compared with the file.

use crate::story::{never_answered, replies, requests};
use heartline_test_support::{Harness, peer, settings};
use heartline_wire::balance::mix;
use heartline_wire::*;
use serde_json::Value;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Names with their ids; the last two have the same.
const SERVICES: [&str; 5] =
    ["a", "foobar", "payments", "8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ"];
const ZONES: [&str; 3] = ["", "eu-1a", "eu-west-1b"];
const VERSIONS: [&str; 4] = ["0.0.0", "1.2.3", "1.2.3.4", "65535.0.1"];
const ATTRIBUTES: [&[&str]; 3] = [&[], &["canary"], &["canary", "rack=b12"]];
const NUMBERS: [u64; 4] = [0, 1, 42, u64::MAX];
/// Address and weight of the endpoints in the order of their list. The first and the fifth tie; the
/// last is never picked.
const ENDPOINTS: [(&str, u16); 6] = [
    ("192.0.2.7:8080", 100),
    ("192.0.2.8:8080", 100),
    ("192.0.2.9:8080", 50),
    ("[2001:db8::7]:9000", 300),
    ("192.0.2.7:8080", 100),
    ("192.0.2.10:8080", 0),
];
const KEYS: [u64; 4] = [0, 42, 0x0123_4567_89AB_CDEF, u64::MAX];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// One entry a line.
fn list(entries: impl IntoIterator<Item = String>) -> String {
    let lines: Vec<String> = entries.into_iter().map(|entry| format!("    {{{entry}}}")).collect();
    format!("[\n{}\n  ]", lines.join(",\n"))
}

fn datagrams() -> String {
    let entry = |direction: &str, name: &str, bytes: &[u8]| {
        let (kind, status) = (bytes[3] & 0x7F, bytes[7]);
        let count = u16::from_le_bytes([bytes[4], bytes[5]]);
        let tag = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
        format!(
            r#""name": "{name}", "direction": "{direction}", "kind": {kind}, "status": {status}, "count": {count}, "tag": "{tag:#018x}", "hex": "{}""#,
            hex(bytes)
        )
    };
    let requests = requests().into_iter().map(|(name, bytes)| entry("request", name, &bytes));
    let replies = replies().into_iter().map(|(name, bytes)| entry("reply", name, &bytes));
    list(requests.chain(replies))
}

/// Section 5.8.
fn identity(address: SocketAddr) -> u64 {
    let mapped = match address.ip() {
        IpAddr::V4(four) => four.to_ipv6_mapped(),
        IpAddr::V6(six) => six,
    };
    let bits = u128::from_be_bytes(mapped.octets());
    mix(mix((bits >> 64) as u64 ^ u64::from(address.port())) ^ bits as u64)
}

/// Section 5.8.
fn score(key: u64, address: SocketAddr, weight: u16) -> Option<f64> {
    let u = ((mix(mix(key) ^ identity(address)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    (weight > 0).then(|| u.ln() / f64::from(weight))
}

fn endpoints() -> impl Iterator<Item = (SocketAddr, u16)> {
    ENDPOINTS.iter().map(|&(address, weight)| (address.parse().unwrap(), weight))
}

/// Positions in [`ENDPOINTS`] in the order in which an engine picks them for a key.
fn picked(engine: &mut Harness, key: u64) -> Vec<u32> {
    let mut body = Discover::new_zeroed();
    (body.service, body.key) = (U64::new(service_id("s")), U64::new(key));
    (body.strategy, body.limit) = (Strategy::Rendezvous as u8, U16::new(25));
    let reply = engine.request(peer(1), Kind::Discover, &[body.as_bytes()]).unwrap();
    let ReplyBody::Endpoints(_, endpoints) = Reply::decode(&reply).unwrap().body else {
        panic!("no endpoints")
    };
    endpoints.iter().map(|endpoint| endpoint.slot.get()).collect()
}

fn rendezvous() -> (String, String) {
    let mut engine = Harness::new(16, settings(16), 1);
    for (number, (address, weight)) in endpoints().enumerate() {
        let mut body = Register::new_zeroed();
        (body.nonce, body.ttl_ms) = (U64::new(5), U32::new(60_000));
        body.service = Name::new("s").unwrap();
        body.instance = Name::new(&format!("i{number}")).unwrap();
        (body.address, body.port) = (map_ip(address.ip()), U16::new(address.port()));
        body.weight = U16::new(weight);
        engine.request(peer(1), Kind::Register, &[body.as_bytes()]).unwrap();
    }
    let entries = endpoints().map(|(address, weight)| {
        format!(
            r#""address": "{}", "port": {}, "weight": {weight}, "identity": "{:#018x}""#,
            address.ip(),
            address.port(),
            identity(address)
        )
    });
    let keys = KEYS.map(|key| {
        let scores: Vec<Option<f64>> =
            endpoints().map(|(address, weight)| score(key, address, weight)).collect();
        // ln may differ in its last bit from one machine to the next.
        let told: Vec<String> = scores
            .iter()
            .map(|score| score.map_or("null".into(), |score| format!("{score:.12e}")))
            .collect();
        let order = picked(&mut engine, key);
        let by_score = |&at: &u32| scores[at as usize].expect("weight 0 is never picked");
        assert!(order.is_sorted_by(|one, next| {
            by_score(one) > by_score(next) || by_score(one) == by_score(next) && one < next
        }));
        assert_eq!(order.len(), 5);
        format!(r#""key": "{key:#018x}", "scores": [{}], "order": {order:?}"#, told.join(", "))
    });
    (list(entries), list(keys))
}

/// The whole file.
fn from_code() -> String {
    let mut text = String::from("{\n  \"wire_format_version\": 1");
    let mut add = |name: &str, entries: String| {
        write!(text, ",\n  \"{name}\": {entries}").expect("a string takes all");
    };
    add("datagrams", datagrams());
    add(
        "never_answered",
        list(never_answered().into_iter().map(|(name, why, bytes)| {
            format!(r#""name": "{name}", "why": "{why}", "hex": "{}""#, hex(&bytes))
        })),
    );
    add(
        "service_ids",
        list(
            SERVICES.map(|name| format!(r#""name": "{name}", "id": "{:#018x}""#, service_id(name))),
        ),
    );
    add(
        "zone_hashes",
        list(ZONES.map(|zone| {
            format!(r#""zone": "{zone}", "hash": "{:#010x}""#, Label::new(zone).unwrap().hash32())
        })),
    );
    add(
        "versions",
        list(VERSIONS.map(|version| {
            let number = version.parse::<Version>().unwrap().as_u64();
            format!(r#""version": "{version}", "number": "{number:#018x}""#)
        })),
    );
    add(
        "attributes",
        list(ATTRIBUTES.map(|entries| {
            let tail: Vec<u8> = entries
                .iter()
                .flat_map(|entry| [&[entry.len() as u8], entry.as_bytes()].concat())
                .collect();
            assert!(
                check_attributes(&tail) && entries.iter().all(|tag| has_tag(&tail, tag.as_bytes()))
            );
            format!(r#""entries": {entries:?}, "hex": "{}""#, hex(&tail))
        })),
    );
    add("mix", list(NUMBERS.map(|x| format!(r#""x": "{x:#018x}", "mix": "{:#018x}""#, mix(x)))));
    let (endpoints, keys) = rendezvous();
    add("rendezvous_endpoints", endpoints);
    add("rendezvous_keys", keys);
    text + "\n}\n"
}

#[test]
fn the_vectors_are_what_the_code_speaks() {
    let file = include_str!("../../docs/vectors.json");
    let parse = |text: &str| serde_json::from_str::<Value>(text).expect("the vectors are JSON");
    let code = from_code();
    if parse(file) != parse(&code) {
        let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/vectors.json");
        std::fs::write(path, code).expect("the directory for tests can be written");
        panic!("docs/vectors.json is not what the code speaks; that is in {path}");
    }
}

/// The page says which tables the file has, and quotes some of their values.
#[test]
fn the_page_quotes_the_vectors() {
    let Value::Object(tables) =
        serde_json::from_str(include_str!("../../docs/vectors.json")).unwrap()
    else {
        panic!("no object")
    };
    for (table, _) in tables.iter().filter(|(_, entries)| entries.is_array()) {
        assert!(crate::PAGE.contains(&format!("| `{table}` | ")), "{table} is not explained");
    }
    for (name, quoted) in [("a", "0xAF63DC4C8601EC8C"), ("payments", "0xE17AC5686623DB26")] {
        assert!(crate::PAGE.contains(&format!("`{name}` gives {quoted}")), "{name}");
        assert_eq!(format!("{:#018X}", service_id(name)).replace("0X", "0x"), quoted);
    }
    assert!(crate::PAGE.contains("`eu-1a` gives 0x06029DBC"));
    assert_eq!(Label::new("eu-1a").unwrap().hash32(), 0x0602_9DBC);
    assert!(crate::PAGE.contains("Version 1.2.3 is 0x0001000200030000."));
    assert!(crate::PAGE.contains("06 63 61 6e 61 72 79 08 72 61 63 6b 3d 62 31 32"));
}
