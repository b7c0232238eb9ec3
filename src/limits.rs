//! The caps of the engine, and the relations between them; those of the format are in
//! `heartline_wire`, those of the tables in `heartline_region`.
//!
//! Sizes are bytes unless the name says otherwise. Times carry their unit last.

pub use heartline_region::limits::*;

/// Attribute bytes kept for each instance unless configured otherwise.
pub const ATTRIBUTES_BYTES_DEFAULT: usize = 128;

/// Shortest tombstone period unless configured otherwise; a lease with a longer TTL keeps its
/// tombstone one TTL.
pub const TOMBSTONE_MS_DEFAULT: u64 = 60_000;
/// Longest configurable shortest tombstone period.
pub const TOMBSTONE_MS_MAX: u64 = 86_400_000;

/// Leases an engine is sized for unless configured otherwise.
pub const CAPACITY_DEFAULT: u32 = 65_536;

/// A hold needs at least this many silent instances.
pub const HOLD_SILENT_MIN: u32 = 8;
/// A hold, and the grace after deafness, last at most this many TTLs past the ordinary deadline.
pub const GRACE_TTLS_MAX: u64 = 3;
/// A thread that ran at least this late counts as deaf for the time it was late.
pub const STALL_NS_MIN: u64 = 20_000_000;
/// While an instance is suspect, the registrar looks this often in the last [`WATCH_NS`] before a
/// timer, so that it sees a stall of its process.
pub const WATCH_LOOK_NS: u64 = 10_000_000;
/// See [`WATCH_LOOK_NS`].
pub const WATCH_NS: u64 = 1_000_000_000;
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
/// The same for a discovery, which may look at thousands of members in each try.
pub const DISCOVER_RETRIES: u32 = 8;
/// Naks a loop sends in a second.
pub const NAKS_PER_SECOND: u64 = 10_000;
/// Naks a loop sends at once.
pub const NAKS_BURST: u64 = 1_000;
/// Watches that stand at once.
pub const WATCHES_MAX: usize = 16_384;
/// Watches of one source address.
pub const WATCHES_PER_ADDRESS_MAX: u32 = 4096;
/// Watch requests and receipts waiting for the watch thread; a full queue answers `busy`.
pub const WATCH_QUEUE: usize = 8192;
/// A watch whose address is not proved stands for this long at most.
pub const WATCH_UNPROVED_MS: u32 = 1000;
/// Bytes of pushes that are sent until the next proof; one frame until the first.
pub const WATCH_CREDIT_BYTES: u32 = 256 << 10;
/// Rounds of pushes begin at least this far apart.
pub const ROUND_NS_MIN: u64 = 1_000_000;
/// Events that one round of pushes takes from the feed: as many as the smallest feed holds.
pub const ROUND_EVENTS: usize = 4096;
/// Pushes that tell what changed in one list in one round; beyond, watchers are asked to pull.
pub const ROUND_BODIES: usize = 16;
/// The first push after this time without one that wants a receipt wants one.
pub const RECEIPT_NS: u64 = 20_000_000;
/// A push that no receipt came for is followed by a beacon after this time.
pub const BEACON_NS: u64 = 5_000_000;
/// So many more beacons follow in the same pace; then the time doubles with each.
pub const BEACONS_IN_PACE: u32 = 8;
/// Longest time between two beacons.
pub const BEACON_NS_MAX: u64 = 1_000_000_000;
/// Pushes sent in one system call.
pub const PUSH_BATCH: usize = 256;
/// Lists of changed endpoints that the pushes of one batch share.
pub const PUSH_BODIES: usize = 64;
/// How long the watch thread waits until a full send buffer takes more.
pub const PUSH_PATIENCE_NS: i64 = 5_000_000;
/// Connections to the local socket.
pub const LOCAL_CONNECTIONS_MAX: usize = 1024;
/// Of them, connections of one user.
pub const LOCAL_USER_CONNECTIONS_MAX: u32 = 64;
/// Leases that one connection to the local socket may show.
pub const LOCAL_LEASES_MAX: u32 = 65_536;
/// Addresses an engine listens on.
pub const LISTEN_MAX: usize = 16;
/// Entries of the deny list.
pub const DENY_MAX: usize = 4096;
/// Longest time a loop spins before it sleeps.
pub const SPIN_US_MAX: u64 = 1_000_000;
/// Shortest time between two readings of a thread's CPU time.
pub const CPU_READ_NS: u64 = 10_000_000;
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
/// Smallest receive buffer that can be asked for: room for a few datagrams.
pub const RECEIVE_QUEUE_BYTES_MIN: usize = 4096;
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
    assert!(ATTRIBUTES_BYTES_DEFAULT <= ATTRIBUTES_BYTES_MAX);
    // The wheel spans 2^48 ticks of one millisecond: the longest TTL, grace, hold and tombstone
    // together fit.
    assert!((TTL_MS_MAX as u64) * (2 + 2 * GRACE_TTLS_MAX) + TOMBSTONE_MS_MAX < 1 << 48);
    assert!(GROUP_BEATS >= BEATS_PER_FRAME_MAX);
    // The pushes of one list in one round fit a batch, and the credit of an address that goes on
    // proving itself.
    assert!(ROUND_BODIES <= PUSH_BODIES && PUSH_BATCH <= u16::MAX as usize);
    assert!((ROUND_BODIES * FRAME_BYTES_MAX) as u32 <= WATCH_CREDIT_BYTES / 2);
    assert!(WATCHES_PER_ADDRESS_MAX as usize <= WATCHES_MAX);
    assert!(WATCH_MS_MIN < WATCH_UNPROVED_MS && WATCH_UNPROVED_MS < WATCH_MS_MAX);
    assert!(RECEIVE_BATCH <= GROUP_FRAMES);
    assert!(COMMANDS_PER_STEP <= GROUP_FRAMES);
    assert!((LOCAL_USER_CONNECTIONS_MAX as usize) < LOCAL_CONNECTIONS_MAX);
    // The nanoseconds of a `timespec`; and what is expected of a doze is counted over a longer
    // time.
    assert!(
        DOZE_NS < 1_000_000_000 && DOZE_NS <= DOZE_WINDOW_NS && DOZE_WINDOW_NS <= DOZE_QUIET_NS
    );
    assert!(DOZE_NS < STALL_NS_MIN);
    // A stall that counts is longer than what a look may miss of it.
    assert!(2 * WATCH_LOOK_NS <= STALL_NS_MIN && WATCH_LOOK_NS < WATCH_NS);
};
