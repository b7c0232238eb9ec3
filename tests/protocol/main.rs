//! The example datagrams of `docs/PROTOCOL.md`, byte for byte: what the document says is what the
//! code speaks.

use heartline::wire::*;
use std::collections::BTreeMap;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

const COOKIE: u64 = 0x1122_3344_5566_7788;
const EPOCH: u64 = 0xA1A2_A3A4_A5A6_A7A8;

/// The blocks of the document whose fence says `hex NAME`.
fn documented() -> BTreeMap<String, Vec<u8>> {
    let text = include_str!("../docs/PROTOCOL.md");
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

fn lease() -> Lease {
    Lease { slot: U32::new(5), generation: U32::new(1), secret: U64::new(0x5EC2_E75E_C2E7_5EC2) }
}

fn address() -> [u8; 16] {
    std::net::Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped().octets()
}

fn frame(header: Header, parts: &[&[u8]]) -> Vec<u8> {
    [&[header.as_bytes()], parts].concat().concat()
}

fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let request = |kind, tag, parts: &[&[u8]]| frame(Header::request(kind, tag), parts);
    let tail = b"\x06canary\x08rack=b12";
    let register = Register {
        cookie: U64::new(COOKIE),
        nonce: U64::new(0x0F0E_0D0C_0B0A_0908),
        address: address(),
        port: U16::new(8080),
        weight: U16::new(100),
        ttl_ms: U32::new(3000),
        version: Version::new(1, 2, 3, 0),
        attributes_len: U16::new(tail.len() as u16),
        declared: Declared::Serving as u8,
        reserved: [0; 5],
        zone: Label::new("eu-1a").unwrap(),
        service: Name::new("payments").unwrap(),
        instance: Name::new("pay-1").unwrap(),
    };
    let beat =
        Beat { lease: lease(), sequence: U32::new(1), load: U16::new(250), flags: U16::ZERO };
    let beats = Header {
        count: U16::new(1),
        flags: header_flags::ACK_WANTED,
        ..Header::request(Kind::Beat, 3)
    };
    let update = Update {
        lease: lease(),
        fields: U16::new(update_fields::WEIGHT | update_fields::LOAD),
        weight: U16::new(50),
        load: U16::new(10),
        attributes_len: U16::ZERO,
        version: Version::default(),
    };
    let mut describe = Describe::new_zeroed();
    (describe.service, describe.instance) = (register.service, register.instance);
    let mut services = Services::new_zeroed();
    services.cookie = U64::new(COOKIE);
    let discover = Discover {
        cookie: U64::new(COOKIE),
        service: U64::new(service_id("payments")),
        key: U64::ZERO,
        version: Version::new(1, 0, 0, 0),
        cursor: U32::ZERO,
        limit: U16::new(1),
        strategy: Strategy::Weighted as u8,
        filter: Filter::VERSION_COMPATIBLE | Filter::ZONE_PREFERRED,
        zone: register.zone,
        tag: Label::EMPTY,
    };
    vec![
        ("hello-request", request(Kind::Hello, 0x0102_0304_0506_0708, &[&[0; 48]])),
        ("register-request", request(Kind::Register, 2, &[register.as_bytes(), tail])),
        ("beat-request", frame(beats, &[beat.as_bytes()])),
        ("update-request", request(Kind::Update, 4, &[update.as_bytes()])),
        ("deregister-request", request(Kind::Deregister, 5, &[lease().as_bytes()])),
        ("describe-request", request(Kind::Describe, 6, &[describe.as_bytes()])),
        ("services-request", request(Kind::Services, 7, &[services.as_bytes()])),
        ("discover-request", request(Kind::Discover, 8, &[discover.as_bytes()])),
        ("stats-request", request(Kind::Stats, 9, &[&COOKIE.to_le_bytes(), &[0; 8]])),
    ]
}

fn replies() -> Vec<(&'static str, Vec<u8>)> {
    let reply = |kind, status, count, tag, parts: &[&[u8]]| {
        frame(Header::reply(kind, status, count, U64::new(tag)), parts)
    };
    let mut welcome = Welcome::new_zeroed();
    (welcome.cookie, welcome.epoch) = (U64::new(COOKIE), U64::new(EPOCH));
    (welcome.capacity, welcome.cookie_ms) = (U32::new(65_536), U32::new(60_000));
    (welcome.ttl_ms_min, welcome.ttl_ms_max) = (U32::new(1), U32::new(86_400_000));
    (welcome.beats_max, welcome.endpoints_max) = (U16::new(50), U16::new(25));
    (welcome.frame_bytes_max, welcome.attributes_bytes_max) = (U16::new(1232), U16::new(128));
    let mut granted = Granted::new_zeroed();
    (granted.lease, granted.epoch, granted.ttl_ms) = (lease(), U64::new(EPOCH), U32::new(3000));
    (granted.interval_us, granted.phase_us) = (U32::new(750_000), U32::new(600_000));
    let mut ack = Ack::new_zeroed();
    (ack.epoch, ack.accepted) = (U64::new(EPOCH), U16::new(1));
    (ack.interval_us, ack.phase_us) = (U32::new(750_000), U32::new(750_000));
    let nak = Nak {
        slot: U32::new(5),
        generation: U32::new(1),
        reason: Status::Replaced as u8,
        reserved: [0; 7],
    };
    let head = ServicesHead { version: U64::new(9), cursor: U32::ZERO, services: U32::new(1) };
    let entry = ServiceEntry {
        id: U64::new(service_id("payments")),
        version: U64::new(12),
        listed: U32::new(2),
        total: U32::new(3),
        name: Name::new("payments").unwrap(),
    };
    let found = DiscoverHead {
        version: U64::new(12),
        cursor: U32::ZERO,
        hold_percent: 0,
        reserved: [0; 3],
    };
    let endpoint = Endpoint {
        address: address(),
        port: U16::new(8080),
        weight: U16::new(100),
        load: U16::new(250),
        state: State::Up as u8,
        flags: 0,
        slot: U32::new(5),
        generation: U32::new(1),
        version: Version::new(1, 2, 3, 0),
        zone: U32::new(Label::new("eu-1a").unwrap().hash32()),
        age_ms: U32::new(120),
    };
    let epoch = EPOCH.to_le_bytes();
    vec![
        (
            "hello-reply",
            reply(Kind::Hello, Status::Ok, 0, 0x0102_0304_0506_0708, &[welcome.as_bytes()]),
        ),
        ("register-reply", reply(Kind::Register, Status::Ok, 0, 2, &[granted.as_bytes()])),
        ("beat-ack", reply(Kind::Beat, Status::Ok, 1, 3, &[ack.as_bytes()])),
        ("beat-nak", reply(Kind::Beat, Status::Nak, 1, 3, &[&epoch, nak.as_bytes()])),
        ("update-reply", reply(Kind::Update, Status::Ok, 0, 4, &[&epoch])),
        ("deregister-reply", reply(Kind::Deregister, Status::Removed, 0, 5, &[])),
        (
            "services-reply",
            reply(Kind::Services, Status::Ok, 1, 7, &[head.as_bytes(), entry.as_bytes()]),
        ),
        (
            "discover-reply",
            reply(Kind::Discover, Status::Ok, 1, 8, &[found.as_bytes(), endpoint.as_bytes()]),
        ),
    ]
}

#[test]
fn the_examples_are_what_the_code_speaks() {
    let documented = documented();
    let (requests, replies) = (requests(), replies());
    assert_eq!(
        documented.len(),
        requests.len() + replies.len(),
        "an example without a check, or the other way round"
    );
    for (name, bytes) in requests.iter().chain(&replies) {
        assert_eq!(documented.get(*name), Some(bytes), "{name}");
    }
    for (name, bytes) in &requests {
        Request::decode(bytes).unwrap_or_else(|reason| panic!("{name}: {reason}"));
        assert!(Reply::decode(bytes).is_err(), "{name} is no reply");
    }
    for (name, bytes) in &replies {
        Reply::decode(bytes).unwrap_or_else(|reason| panic!("{name}: {reason}"));
        assert!(Request::decode(bytes).is_err(), "{name} is no request");
    }
}

/// The numbers in the document's tables are those of the code.
#[test]
fn the_document_states_every_status_and_limit() {
    let text = include_str!("../docs/PROTOCOL.md");
    for status in Status::ALL {
        let row = format!("| {} |", status as u8);
        assert!(text.contains(&row), "no row for {status:?}");
    }
    for limit in ["1,232", "19528", "86,400,000", "16,384"] {
        assert!(text.contains(limit), "{limit} is not stated");
    }
}

/// A row of the page that gives a length is made of the lengths of the code.
#[test]
fn the_document_states_every_length() {
    let text = include_str!("../docs/PROTOCOL.md");
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
    ];
    for (number, (name, request, reply)) in (1..).zip(rows) {
        let row = text.lines().find(|line| line.starts_with(&format!("| {number} | {name} |")));
        let row = row.unwrap_or_else(|| panic!("no row for {name}"));
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!((cells[3], cells[4]), (&*request, &*reply), "{name}");
    }
    // What a request is padded to, section 4, and how many numbers stats has, section 5.9.
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
    let last = text.lines().filter(|line| line.starts_with(&format!("| {} | ", STATS - 1)));
    assert_eq!(last.count(), 1, "a row for the last number of stats, and one only");
}
