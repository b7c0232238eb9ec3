//! What the format fixes: sizes, counts and times, and the relations between them.
//!
//! Sizes are bytes unless the name says otherwise. Times carry their unit last.

/// Largest datagram in either direction: the IPv6 minimum MTU of 1,280 bytes (RFC 8200, section 5)
/// less 40 bytes of IPv6 header and 8 bytes of UDP header, so that no path fragments it.
pub const FRAME_BYTES_MAX: usize = 1232;
/// The header that opens every frame.
pub const HEADER_BYTES: usize = 16;
/// The port heartline listens on: the magic `HL` read as a little-endian number, 0x4C48.
pub const PORT: u16 = 19528;
/// One beat on the wire.
pub const BEAT_BYTES: usize = 24;
/// Most beats in one frame.
pub const BEATS_PER_FRAME_MAX: usize = 50;
/// One endpoint in a discover reply.
pub const ENDPOINT_BYTES: usize = 48;
/// The fixed part of a discover reply after the header.
pub const DISCOVER_REPLY_BYTES: usize = 16;
/// Most endpoints in one discover reply.
pub const ENDPOINTS_PER_FRAME_MAX: usize = 25;
/// One entry of a services reply.
pub const SERVICE_BYTES: usize = 88;
/// The fixed part of a services reply after the header.
pub const SERVICES_REPLY_BYTES: usize = 16;
/// Most services in one services reply.
pub const SERVICES_PER_FRAME_MAX: usize = 13;
/// The fixed part of a push after the header.
pub const PUSH_BYTES: usize = 32;
/// Most endpoints in one push.
pub const ENDPOINTS_PER_PUSH_MAX: usize = 24;
/// Shortest time that a watch can be asked to stand.
pub const WATCH_MS_MIN: u32 = 100;
/// Longest time that a watch stands after the last proof.
pub const WATCH_MS_MAX: u32 = 60_000;
/// Longest service or instance name.
pub const NAME_BYTES_MAX: usize = 63;
/// Longest zone, and longest tag that discovery can filter by.
pub const LABEL_BYTES_MAX: usize = 31;
/// Largest attribute tail that can be configured.
pub const ATTRIBUTES_BYTES_MAX: usize = 512;
/// Shortest time to live of a lease.
pub const TTL_MS_MIN: u32 = 1;
/// Longest time to live of a lease: 24 hours.
pub const TTL_MS_MAX: u32 = 86_400_000;
/// Longest interval that the engine ever asks a client for: one hour, so that it fits a `u32` of
/// microseconds.
pub const INTERVAL_US_MAX: u64 = 3_600_000_000;
/// A client is asked to beat this many times in each TTL.
pub const BEATS_PER_TTL: u64 = 4;
/// Members that one pass over a service examines at most (a request makes one pass, or two when it
/// prefers a zone), and directory entries that one services request examines.
pub const SCAN_MEMBERS_MAX: u32 = 16_384;

const _: () = {
    assert!(PORT == 0x4C48);
    assert!(FRAME_BYTES_MAX == 1280 - 40 - 8);
    assert!(HEADER_BYTES + BEATS_PER_FRAME_MAX * BEAT_BYTES == 1216);
    assert!(
        HEADER_BYTES + DISCOVER_REPLY_BYTES + ENDPOINTS_PER_FRAME_MAX * ENDPOINT_BYTES
            == FRAME_BYTES_MAX
    );
    assert!(
        HEADER_BYTES + SERVICES_REPLY_BYTES + SERVICES_PER_FRAME_MAX * SERVICE_BYTES
            <= FRAME_BYTES_MAX
    );
    // A heartbeat is 40 bytes.
    assert!(HEADER_BYTES + BEAT_BYTES == 40);
    // A describe reply (264 bytes before its attributes) and a register request (232) hold the
    // longest tail.
    assert!(264 + ATTRIBUTES_BYTES_MAX <= FRAME_BYTES_MAX);
    assert!(232 + ATTRIBUTES_BYTES_MAX <= FRAME_BYTES_MAX);
    assert!(INTERVAL_US_MAX <= u32::MAX as u64);
};
