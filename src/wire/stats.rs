//! The numbers of a stats reply.

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

/// A number that an engine keeps, for whoever shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// Its name.
    pub label: &'static str,
    /// What it counts or measures.
    pub unit: &'static str,
    /// What it says.
    pub help: &'static str,
}

macro_rules! stats {
    ($($name:ident, $label:literal, $unit:literal, $help:literal;)*) => {
        /// The numbers of a stats reply: position `n` of the reply is the `n`-th of these, each a
        /// `u64`. New ones are added at the end.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum Stat {
            $(#[doc = concat!($help, ".")] $name,)*
        }

        impl Stat {
            /// All of them, in the order of a reply.
            pub const ALL: [Self; STATS] = [$(Self::$name),*];

            /// Name, unit and meaning.
            pub const fn about(self) -> About {
                match self {
                    $(Self::$name => About { label: $label, unit: $unit, help: $help },)*
                }
            }
        }
    };
}

stats! {
    Epoch, "epoch", "number", "this run of the engine";
    UptimeNs, "uptime_ns", "nanoseconds", "nanoseconds since the engine started";
    CpuNs, "cpu_ns", "nanoseconds", "CPU time of the engine's threads in nanoseconds";
    MemoryBytes, "memory_bytes", "bytes", "memory allocated for tables and buffers";
    Capacity, "capacity", "leases", "leases the engine is sized for";
    Up, "up", "instances", "instances that are up";
    Suspect, "suspect", "instances", "instances that are suspect, held ones included";
    Held, "held", "instances", "instances that are held";
    Down, "down", "instances", "instances that are down and keep their tombstone";
    Services, "services", "services", "services with at least one instance";
    Datagrams, "datagrams", "datagrams", "datagrams received";
    BytesReceived, "bytes_received", "bytes", "bytes received";
    FramesBad, "frames_bad", "datagrams",
        "datagrams dropped because they are no request, whatever the reason";
    BeatsAccepted, "beats_accepted", "beats", "beats that counted";
    BeatsOld, "beats_old", "beats", "beats with an old or repeated sequence";
    BeatsRefused, "beats_refused", "beats", "beats refused as unknown, replaced or removed";
    Replies, "replies", "replies", "replies sent";
    BytesSent, "bytes_sent", "bytes", "bytes sent";
    RepliesDropped, "replies_dropped", "replies", "replies that the kernel did not take";
    NaksSuppressed, "naks_suppressed", "replies", "naks not sent for their rate limit";
    KernelDrops, "kernel_drops", "datagrams",
        "datagrams dropped by the kernel at the engine's sockets";
    Registered, "registered", "leases", "leases granted";
    Downs, "downs", "instances", "instances declared down";
    Revived, "revived", "instances", "instances that came back from down";
    Ended, "ended", "leases",
        "leases that ended: given back, left, replaced, or past their tombstone";
    FeedSequence, "feed_sequence", "number", "number of the newest membership event";
    Holds, "holds", "holds", "holds that began";
    Deafness, "deafness", "times", "times the engine counted itself deaf";
    HoldMs, "hold_ms", "milliseconds",
        "milliseconds since the hold that is on began, at least 1; 0 with no hold";
    HoldSilent, "hold_silent", "instances",
        "instances that were silent when the hold began; 0 with no hold";
    HoldLive, "hold_live", "instances",
        "instances that were live when the hold began; 0 with no hold";
    Snapshot, "snapshot", "number", "number of the newest snapshot that is on the disk; 0: none";
    SnapshotAgeMs, "snapshot_age_ms", "milliseconds",
        "milliseconds since it was written, or since the engine started; 0 without snapshots";
    SnapshotFailures, "snapshot_failures", "snapshots", "snapshots that could not be written";
    Watches, "watches", "watches", "watches that stand";
    Pushes, "pushes", "pushes", "pushes sent";
    PushesDropped, "pushes_dropped", "pushes", "pushes that the kernel did not take";
    Beacons, "beacons", "pushes", "pushes made only to ask for a receipt";
    Pulls, "pulls", "pushes", "pushes made that ask to pull the list";
    Receipts, "receipts", "receipts", "receipts that counted";
    ReceiptsDropped, "receipts_dropped", "receipts",
        "receipts dropped because their cookie was not good or too many waited";
    WatchesExpired, "watches_expired", "watches", "watches that ended without being renewed";
    FeedMissed, "feed_missed", "times",
        "times that events were overwritten before watchers were told";
}

/// How many numbers a stats reply has.
pub const STATS: usize = Stat::FeedMissed as usize + 1;
