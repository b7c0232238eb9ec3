//! Every cap of the engine, and the relations between caps, proved where they are stated.
//!
//! Sizes are bytes unless the name says otherwise; times carry their unit last.

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

/// Longest service or instance name.
pub const NAME_BYTES_MAX: usize = 63;
/// Longest zone, and longest tag that discovery can filter by.
pub const LABEL_BYTES_MAX: usize = 31;
/// Attribute bytes kept for each instance unless configured otherwise.
pub const ATTRIBUTES_BYTES_DEFAULT: usize = 128;
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
/// Shortest tombstone period unless configured otherwise; a lease with a longer TTL keeps its
/// tombstone one TTL.
pub const TOMBSTONE_MS_DEFAULT: u64 = 60_000;
/// Longest configurable shortest tombstone period.
pub const TOMBSTONE_MS_MAX: u64 = 86_400_000;

/// Fewest leases an engine can be sized for.
pub const CAPACITY_MIN: u32 = 16;
/// Leases an engine is sized for unless configured otherwise.
pub const CAPACITY_DEFAULT: u32 = 65_536;
/// Most leases an engine can be sized for.
pub const CAPACITY_MAX: u32 = 1 << 24;
/// Slots beyond the capacity, so that an instance of a full table can be replaced while its old
/// slot is in quarantine.
pub const SPARE_SLOTS: u32 = 64;

/// A hold needs at least this many silent instances.
pub const HOLD_SILENT_MIN: u32 = 8;
/// A hold, and the grace after deafness, last at most this many TTLs past the ordinary deadline.
pub const GRACE_TTLS_MAX: u64 = 3;
/// A thread that ran at least this late counts as deaf for the time it was late.
pub const STALL_NS_MIN: u64 = 20_000_000;
/// A stall gives at most this many times its own length as grace (and never more than one TTL).
pub const STALL_GRACE_FACTOR: u64 = 8;

/// A member that is down is looked at at least once in this time or in its TTL, whichever is
/// longer.
pub const DOWN_LOOK_NS_MIN: u64 = 100_000_000;

/// Datagrams received in one system call.
pub const RECEIVE_BATCH: usize = 32;
/// Buffer of one received message: the kernel coalesces up to 64 KiB into one (UDP GRO).
pub const RECEIVE_BUFFER_BYTES: usize = 65_536;
/// Frames decoded and prefetched before any is applied, and replies sent in one system call.
pub const GROUP_FRAMES: usize = 64;
/// Beats prefetched before any is applied: twice this many cache lines fit the smallest level-1
/// cache in use (32 KiB).
pub const GROUP_BEATS: usize = 256;
/// Commands waiting for the registrar; a full queue answers `busy`.
pub const COMMAND_QUEUE: usize = 2048;
/// Commands the registrar takes before it looks at its timers again.
pub const COMMANDS_PER_STEP: usize = GROUP_FRAMES;
/// Timers the registrar handles before it looks at its commands again.
pub const TIMERS_PER_STEP: usize = 4096;
/// Members that one pass over a service examines at most (a request makes one pass, or two when it
/// prefers a zone), and directory entries that one services request examines.
pub const SCAN_MEMBERS_MAX: u32 = 16_384;
/// Times a reader repeats a read that a writer disturbed before it answers `busy`.
pub const READ_RETRIES: u32 = 64;
/// The same for a discovery, which may look at thousands of members in each try.
pub const DISCOVER_RETRIES: u32 = 8;
/// Longest probe sequence of an index.
pub const PROBES_MAX: usize = 512;
/// Naks a loop sends in a second.
pub const NAKS_PER_SECOND: u64 = 10_000;
/// Naks a loop sends at once.
pub const NAKS_BURST: u64 = 1_000;
/// Loops in one engine.
pub const LOOPS_MAX: usize = 256;
/// Addresses an engine listens on.
pub const LISTEN_MAX: usize = 16;
/// Entries of the deny list.
pub const DENY_MAX: usize = 4096;
/// Longest time a loop spins before it sleeps.
pub const SPIN_US_MAX: u64 = 1_000_000;
/// How long a loop that dozes lets datagrams gather.
pub const DOZE_NS: u64 = 100_000;
/// A loop dozes if at least this many messages are to be expected meanwhile.
pub const DOZE_MESSAGES_MIN: u64 = 4;
/// And at most this part of the smallest messages that its shortest receive queue can hold.
pub const DOZE_QUEUE_SHARE: u64 = 16;
/// Over this time, or a longer one, messages are counted to know what is to be expected.
pub const DOZE_WINDOW_NS: u64 = 1_000_000;
/// A loop does not doze for this time after somebody waited for an answer.
pub const DOZE_QUIET_NS: u64 = 10_000_000;
/// And not for this time after the kernel dropped a datagram at its sockets.
pub const DOZE_DROPS_NS: u64 = 1_000_000_000;
/// Receive buffer asked of the kernel for each socket.
pub const RECEIVE_QUEUE_BYTES_DEFAULT: usize = 16 << 20;
/// Largest receive buffer that can be asked for: half of the kernel's `int`, which it doubles.
pub const RECEIVE_QUEUE_BYTES_MAX: usize = 1 << 30;
/// A cookie is made from the number of the current period of this length, and accepted for the next
/// period as well.
pub const COOKIE_PERIOD_NS: u64 = 60_000_000_000;
/// Time between two snapshots unless configured otherwise.
pub const SNAPSHOT_INTERVAL_MS_DEFAULT: u64 = 1000;
/// Shortest time between two snapshots.
pub const SNAPSHOT_INTERVAL_MS_MIN: u64 = 10;
/// Longest time between two snapshots.
pub const SNAPSHOT_INTERVAL_MS_MAX: u64 = 3_600_000;
/// Longest time a stopping loop goes on emptying its sockets.
pub const STOP_DRAIN_NS_MAX: u64 = 1_000_000_000;

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
    assert!(ATTRIBUTES_BYTES_DEFAULT <= ATTRIBUTES_BYTES_MAX);
    assert!(INTERVAL_US_MAX <= u32::MAX as u64);
    // The wheel spans 2^32 ticks of one millisecond: the longest TTL, grace, hold and tombstone
    // together fit.
    assert!((TTL_MS_MAX as u64) * (2 + 2 * GRACE_TTLS_MAX) + TOMBSTONE_MS_MAX < 1 << 32);
    // Slots and their directory are u32; list positions keep one bit for the paging cursor.
    assert!((CAPACITY_MAX + SPARE_SLOTS) < 1 << 31);
    assert!(GROUP_BEATS >= BEATS_PER_FRAME_MAX);
    assert!(RECEIVE_BATCH <= GROUP_FRAMES);
    assert!(COMMANDS_PER_STEP <= GROUP_FRAMES);
    // The nanoseconds of a `timespec`; and what is expected of a doze is counted over a longer
    // time.
    assert!(
        DOZE_NS < 1_000_000_000 && DOZE_NS <= DOZE_WINDOW_NS && DOZE_WINDOW_NS <= DOZE_QUIET_NS
    );
    assert!(DOZE_NS < STALL_NS_MIN);
};
