//! The tables of statuses and limits of the page: each row has the numbers of the code.

use crate::PAGE;
use heartline::internals::clock::NANOS_PER_MS;
use heartline::internals::limits::*;
use heartline_region::Geometry;
use heartline_wire::*;

/// The rows of the first table of a section of the document, split into cells.
fn table(section: &str) -> Vec<Vec<&'static str>> {
    let inside = PAGE.split("\n## ").find(|part| part.lines().next() == Some(section));
    let inside = inside.unwrap_or_else(|| panic!("no section {section:?}"));
    let rows = inside.lines().skip_while(|line| !line.starts_with('|'));
    let rows = rows.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// The whole numbers in a text, in order; commas group digits.
fn numbers(text: &str) -> Vec<u64> {
    let grouped: String = text
        .char_indices()
        .filter(|&(at, letter)| {
            letter != ',' || !text[at + 1..].starts_with(|next: char| next.is_ascii_digit())
        })
        .map(|(_, letter)| letter)
        .collect();
    let digits = grouped.split(|letter: char| !letter.is_ascii_digit());
    digits.filter(|digits| !digits.is_empty()).map(|digits| digits.parse().unwrap()).collect()
}

/// `TooLarge` is "too large" in the document.
fn words(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

#[test]
fn the_document_states_every_status() {
    let stated: Vec<(String, String)> =
        table("6 Statuses").iter().map(|row| (row[0].to_owned(), row[1].to_owned())).collect();
    let known = Status::ALL
        .map(|status| ((status as u8).to_string(), words(&format!("{status:?}"))))
        .to_vec();
    assert_eq!(stated, known);
}

/// Each row of the table of limits, and the numbers that the code has for it.
fn limits() -> Vec<(&'static str, Vec<u64>)> {
    let bytes = |count: usize, bytes: usize| (HEADER_BYTES + 16 + count * bytes) as u64;
    let hours = |ms: u64| ms / 3_600_000;
    let interval_hours = INTERVAL_US_MAX / 3_600_000_000;
    let beats = BEATS_PER_FRAME_MAX as u64;
    let (endpoints, services) = (ENDPOINTS_PER_FRAME_MAX, SERVICES_PER_FRAME_MAX);
    let (pushed, beacon) = (ENDPOINTS_PER_PUSH_MAX, BEACON_NS / NANOS_PER_MS);
    let ttl_max = u64::from(TTL_MS_MAX);
    let cookie_s = COOKIE_PERIOD_NS / 1_000_000_000;
    let capacities = [CAPACITY_DEFAULT, CAPACITY_MIN, CAPACITY_MAX].map(u64::from);
    // A large engine has room for a part of its capacity of services, a small one for its capacity.
    let services_of = |capacity| u64::from(Geometry::new(capacity, 0).services_max);
    let (part, least) = (u64::from(1_u32 << 20) / services_of(1 << 20), services_of(1024));
    assert_eq!((services_of(16), services_of(2000)), (16, 1024));
    vec![
        ("datagram", vec![FRAME_BYTES_MAX as u64]),
        ("header", vec![size_of::<Header>() as u64]),
        (
            "beats in a frame",
            vec![1, beats, (HEADER_BYTES + BEATS_PER_FRAME_MAX * size_of::<Beat>()) as u64],
        ),
        (
            "endpoints in a discover reply",
            vec![endpoints as u64, bytes(endpoints, size_of::<Endpoint>())],
        ),
        (
            "services in a services reply",
            vec![services as u64, bytes(services, size_of::<ServiceEntry>())],
        ),
        ("service and instance names", vec![1, NAME_BYTES_MAX as u64]),
        ("zone", vec![0, LABEL_BYTES_MAX as u64]),
        ("tag to filter by", vec![1, LABEL_BYTES_MAX as u64]),
        ("attribute entry", vec![1, u64::from(u8::MAX)]),
        ("attribute tail", vec![ATTRIBUTES_BYTES_DEFAULT as u64, 0, ATTRIBUTES_BYTES_MAX as u64]),
        ("TTL", vec![u64::from(TTL_MS_MIN), ttl_max, hours(ttl_max)]),
        ("interval", vec![BEATS_PER_TTL, INTERVAL_US_MAX, interval_hours]),
        ("phase", vec![interval_hours]),
        ("timer tick", vec![NANOS_PER_MS / 1_000_000]),
        ("tombstone", vec![TOMBSTONE_MS_DEFAULT / 1000, 1, hours(TOMBSTONE_MS_MAX)]),
        ("grace after deafness", vec![GRACE_TTLS_MAX]),
        ("stall that counts as deafness", vec![STALL_NS_MIN / NANOS_PER_MS, STALL_GRACE_FACTOR, 1]),
        ("looks that notice a stall", vec![WATCH_LOOK_NS / NANOS_PER_MS]),
        ("hold", vec![u64::from(HOLD_SILENT_MIN), GRACE_TTLS_MAX]),
        ("cookie", vec![cookie_s, 2 * cookie_s]),
        ("leases of an engine", capacities.to_vec()),
        ("services of an engine", vec![part, least]),
        ("leases of one source address", vec![]),
        ("places of a list that one pass of discover looks at", vec![u64::from(SCAN_MEMBERS_MAX)]),
        ("naks of one receiving thread", vec![NAKS_PER_SECOND, NAKS_BURST]),
        ("requests that wait for the thread that changes membership", vec![COMMAND_QUEUE as u64]),
        ("endpoints in a push", vec![pushed as u64, 16 + bytes(pushed, size_of::<Endpoint>())]),
        (
            "time of a watch",
            [WATCH_MS_MIN, WATCH_MS_MAX, WATCH_UNPROVED_MS].map(u64::from).to_vec(),
        ),
        ("credit of a watch", vec![u64::from(WATCH_CREDIT_BYTES), FRAME_BYTES_MAX as u64]),
        ("watches of one source address", vec![u64::from(WATCHES_PER_ADDRESS_MAX)]),
        ("watches of an engine", vec![WATCHES_MAX as u64]),
        ("pushes of one list in one round", vec![ROUND_BODIES as u64]),
        ("time between two rounds of pushes", vec![ROUND_NS_MIN / NANOS_PER_MS]),
        ("receipts wanted", vec![RECEIPT_NS / NANOS_PER_MS]),
        ("beacons", vec![beacon, u64::from(BEACONS_IN_PACE), beacon, BEACON_NS_MAX / NANOS_PER_MS]),
        ("watch requests and receipts that wait for their thread", vec![WATCH_QUEUE as u64]),
        (
            "reads of what changes meanwhile",
            vec![u64::from(READ_RETRIES), u64::from(DISCOVER_RETRIES)],
        ),
    ]
}

#[test]
fn the_document_states_every_limit() {
    let stated: Vec<(&str, Vec<u64>)> =
        table("10 Limits").iter().map(|row| (row[0], numbers(row[1]))).collect();
    assert_eq!(stated, limits());
    let port = format!("Port **{PORT}**");
    assert!(PAGE.contains(&port), "{port}");
}
