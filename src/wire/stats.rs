//! Counters of the engine.

use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The body of a stats request.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct StatsRequest {
    /// From a hello reply, or 0.
    pub cookie: U64,
    /// Zeros in this version of the format.
    pub reserved: [u8; 8],
}

const _: () = assert!(size_of::<StatsRequest>() == 16);

/// The numbers of a stats reply: position `n` of the reply is the `n`-th of these, each a `u64`.
/// New ones are added at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stat {
    /// Random number of this run of the engine.
    Epoch,
    /// Nanoseconds since the engine started.
    UptimeNs,
    /// CPU time of the engine's threads, user and system, in nanoseconds.
    CpuNs,
    /// Memory that the engine allocated for its tables and buffers, in bytes.
    MemoryBytes,
    /// Leases the engine is sized for.
    Capacity,
    /// Instances that are up.
    Up,
    /// Instances that are suspect, held ones included.
    Suspect,
    /// Instances that are held.
    Held,
    /// Instances that are down and keep their tombstone.
    Down,
    /// Services with at least one instance.
    Services,
    /// Datagrams received.
    Datagrams,
    /// Bytes received.
    BytesReceived,
    /// Datagrams dropped by the decode gate.
    FramesBad,
    /// Beats that counted.
    BeatsAccepted,
    /// Beats with an old or repeated sequence number.
    BeatsOld,
    /// Beats for unknown, replaced or removed leases.
    BeatsRefused,
    /// Replies sent.
    Replies,
    /// Bytes sent.
    BytesSent,
    /// Replies that the kernel did not take.
    RepliesDropped,
    /// Naks not sent for their rate limit.
    NaksSuppressed,
    /// Datagrams dropped by the kernel at the engine's sockets.
    KernelDrops,
    /// Registrations granted.
    Registered,
    /// Instances declared down.
    Downs,
    /// Instances that came back from down.
    Revived,
    /// Leases that ended: given back, replaced, or past their tombstone.
    Ended,
    /// Number of the newest event of the feed.
    FeedSequence,
    /// Holds that began.
    Holds,
    /// Times the engine counted itself deaf: drops and stalls.
    Deafness,
    /// Milliseconds since the hold that is on began; 0 with no hold.
    HoldMs,
    /// Instances silent when the hold began.
    HoldSilent,
    /// Instances live when the hold began.
    HoldLive,
    /// Number of the newest snapshot that is on the disk; 0: none.
    Snapshot,
    /// Milliseconds since it was written, or since the engine started; 0 without snapshots.
    SnapshotAgeMs,
    /// Snapshots that could not be written.
    SnapshotFailures,
}

/// How many numbers a stats reply has.
pub const STATS: usize = Stat::SnapshotFailures as usize + 1;
