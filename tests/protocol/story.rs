//! The story that section 11 of `docs/PROTOCOL.md` tells: each of its datagrams, made by the code.

use heartline_wire::*;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

const COOKIE: u64 = 0x1122_3344_5566_7788;
const EPOCH: u64 = 0xA1A2_A3A4_A5A6_A7A8;
const FIRST_PROOF: u64 = 0x0F1E_2D3C_4B5A_6978;
const SECOND_PROOF: u64 = 0x1928_3746_5564_7382;

fn lease() -> Lease {
    Lease { slot: U32::new(5), generation: U32::new(1), secret: U64::new(0x5EC2_E75E_C2E7_5EC2) }
}

fn address() -> [u8; 16] {
    std::net::Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped().octets()
}

fn frame(header: Header, parts: &[&[u8]]) -> Vec<u8> {
    [&[header.as_bytes()], parts].concat().concat()
}

fn watch() -> Watch {
    Watch {
        cookie: U64::new(COOKIE),
        service: U64::new(service_id("payments")),
        proof: U64::new(FIRST_PROOF),
        version: U64::new(12),
        ttl_ms: U32::new(10_000),
        number: U32::ZERO,
    }
}

fn receipt() -> Received {
    Received {
        cookie: U64::new(COOKIE),
        proof: U64::new(SECOND_PROOF),
        number: U32::new(1),
        reserved: [0; 4],
    }
}

/// The requests by name.
pub(crate) fn requests() -> Vec<(&'static str, Vec<u8>)> {
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
        ("watch-request", request(Kind::Watch, 10, &[watch().as_bytes()])),
        ("receipt", request(Kind::Push, 10, &[receipt().as_bytes()])),
    ]
}

fn reply(kind: Kind, status: Status, count: usize, tag: u64, parts: &[&[u8]]) -> Vec<u8> {
    frame(Header::reply(kind, status, count as u16, U64::new(tag)), parts)
}

/// The replies by name.
pub(crate) fn replies() -> Vec<(&'static str, Vec<u8>)> {
    [replies_to_leases(), replies_to_queries(), replies_to_watches()].concat()
}

/// An endpoint of the story.
fn endpoint() -> Endpoint {
    Endpoint {
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
    }
}

fn replies_to_watches() -> Vec<(&'static str, Vec<u8>)> {
    let mut watching = Watching::new_zeroed();
    (watching.proof, watching.version) = (U64::new(FIRST_PROOF), U64::new(12));
    (watching.epoch, watching.ttl_ms) = (U64::new(EPOCH), U32::new(10_000));
    watching.credit = U32::new(262_144);
    let mut head = PushHead::new_zeroed();
    (head.proof, head.number) = (U64::new(SECOND_PROOF), U32::new(1));
    (head.before, head.after) = (U64::new(12), U64::new(13));
    let changed = Endpoint { weight: U16::new(50), load: U16::new(10), ..endpoint() };
    let mut push = Header::reply(Kind::Push, Status::Ok, 1, U64::new(10));
    push.flags = header_flags::RECEIPT_WANTED;
    let beacon = PushHead { before: head.after, ..head };
    let asks = Header { count: U16::ZERO, ..push };
    vec![
        ("watch-reply", reply(Kind::Watch, Status::Ok, 0, 10, &[watching.as_bytes()])),
        ("push", frame(push, &[head.as_bytes(), changed.as_bytes()])),
        ("beacon", frame(asks, &[beacon.as_bytes()])),
    ]
}

fn replies_to_leases() -> Vec<(&'static str, Vec<u8>)> {
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
    let (ok, epoch) = (Status::Ok, EPOCH.to_le_bytes());
    vec![
        ("hello-reply", reply(Kind::Hello, ok, 0, 0x0102_0304_0506_0708, &[welcome.as_bytes()])),
        ("register-reply", reply(Kind::Register, ok, 0, 2, &[granted.as_bytes()])),
        ("beat-ack", reply(Kind::Beat, ok, 1, 3, &[ack.as_bytes()])),
        ("beat-nak", reply(Kind::Beat, Status::Nak, 1, 3, &[&epoch, nak.as_bytes()])),
        ("update-reply", reply(Kind::Update, ok, 0, 4, &[&epoch])),
        ("deregister-reply", reply(Kind::Deregister, Status::Removed, 0, 5, &[])),
    ]
}

fn replies_to_queries() -> Vec<(&'static str, Vec<u8>)> {
    let endpoint = endpoint();
    let tail = b"\x06canary\x08rack=b12";
    let mut facts = Description::new_zeroed();
    (facts.endpoint, facts.service_version) = (endpoint, U64::new(12));
    (facts.history, facts.ttl_ms) = (U64::new(7), U32::new(3000));
    (facts.zone, facts.attributes_len) = (Label::new("eu-1a").unwrap(), U16::new(16));
    facts.service = Name::new("payments").unwrap();
    facts.instance = Name::new("pay-1").unwrap();
    let head = ServicesHead { version: U64::new(9), cursor: U32::ZERO, services: U32::new(1) };
    let entry = ServiceEntry {
        id: U64::new(service_id("payments")),
        version: U64::new(12),
        listed: U32::new(2),
        total: U32::new(3),
        name: facts.service,
    };
    let found = DiscoverHead { version: U64::new(12), ..DiscoverHead::new_zeroed() };
    let nobody = DiscoverHead { version: U64::new(13), ..found };
    let mut numbers: [U64; STATS] = std::array::from_fn(|number| U64::new(number as u64));
    numbers[Stat::Epoch as usize] = U64::new(EPOCH);
    let (ok, none) = (Status::Ok, Status::NoneRegistered);
    let services = [head.as_bytes(), entry.as_bytes()];
    let endpoints = [found.as_bytes(), endpoint.as_bytes()];
    vec![
        ("describe-reply", reply(Kind::Describe, ok, 1, 6, &[facts.as_bytes(), tail])),
        ("services-reply", reply(Kind::Services, ok, 1, 7, &services)),
        ("discover-reply", reply(Kind::Discover, ok, 1, 8, &endpoints)),
        ("discover-cut-down", reply(Kind::Discover, Status::Cookie, 0, 8, &[])),
        ("discover-none-registered", reply(Kind::Discover, none, 0, 8, &[nobody.as_bytes()])),
        ("stats-reply", reply(Kind::Stats, ok, STATS, 9, &[numbers.as_bytes()])),
    ]
}

/// A request of the story with some bytes changed.
fn changed(name: &str, bytes: &[(usize, u8)]) -> Vec<u8> {
    let (_, mut frame) = requests().into_iter().find(|(own, _)| *own == name).expect("a request");
    bytes.iter().for_each(|&(at, byte)| frame[at] = byte);
    frame
}

/// A request of the story, cut short or filled up with zeros.
fn resized(name: &str, length: usize) -> Vec<u8> {
    let mut frame = changed(name, &[]);
    frame.resize(length, 0);
    frame
}

/// Datagrams that are no requests, with the reason: section 9.
pub(crate) fn never_answered() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let beat = changed("beat-request", &[(4, 2)]);
    let two_beats = [&beat[..], &beat[16..38], &[4, 0]].concat();
    let padded = [&changed("describe-request", &[])[..], &[1]].concat();
    vec![
        ("empty", "shorter than a header", Vec::new()),
        ("header-cut-short", "shorter than a header", resized("hello-request", 15)),
        ("too-long", "longer than 1,232 bytes", resized("hello-request", 1233)),
        ("magic", "the magic is not HL", changed("hello-request", &[(0, b'h')])),
        ("format-version-2", "another format version", changed("hello-request", &[(2, 2)])),
        ("reply-bit", "a reply", changed("hello-request", &[(3, 0x81)])),
        ("kind-0", "no such kind", changed("hello-request", &[(3, 0)])),
        ("kind-12", "no such kind", changed("hello-request", &[(3, 12)])),
        ("flags", "flags other than 0", changed("discover-request", &[(6, 1)])),
        (
            "beat-flags",
            "flags of a beat frame other than 0 or 1",
            changed("beat-request", &[(6, 2)]),
        ),
        ("status", "a status in a request", changed("beat-request", &[(7, 13)])),
        ("count", "a count in another request than beat", changed("stats-request", &[(4, 1)])),
        ("no-beats", "count 0", {
            let mut frame = changed("beat-request", &[(4, 0)]);
            frame.truncate(16);
            frame
        }),
        ("beats-missing", "fewer beats than the count says", beat),
        ("beats-padded", "more bytes than beats", resized("beat-request", 64)),
        ("beat-cut-short", "part of a beat", resized("beat-request", 39)),
        ("second-beat-bad", "flags of one of its beats above 3", two_beats),
        ("body-cut-short", "body shorter than its kind needs", resized("register-request", 231)),
        ("attributes-missing", "less than attributes_len", resized("register-request", 247)),
        ("attributes-padded", "more than attributes_len", resized("register-request", 256)),
        (
            "deregister-padded",
            "longer, where padding is not allowed",
            resized("deregister-request", 40),
        ),
        ("watch-padded", "longer, where padding is not allowed", resized("watch-request", 57)),
        ("receipt-cut-short", "body shorter than its kind needs", resized("receipt", 39)),
        ("reserved-receipt", "a reserved byte", changed("receipt", &[(39, 1)])),
        ("reserved-hello", "a reserved byte", changed("hello-request", &[(63, 1)])),
        ("reserved-register", "a reserved byte", changed("register-request", &[(71, 1)])),
        ("reserved-services", "a reserved byte", changed("services-request", &[(31, 1)])),
        ("reserved-stats", "a reserved byte", changed("stats-request", &[(24, 1)])),
        ("padding", "padding other than zero", padded),
        ("update-fields", "update fields above 15", changed("update-request", &[(32, 16)])),
        (
            "text-length",
            "a length beyond the longest text",
            changed("describe-request", &[(32, 64)]),
        ),
        ("text-tail", "a byte behind a text", changed("register-request", &[(103, 1)])),
    ]
}
