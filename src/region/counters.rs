//! What the threads of an engine count, in the public file: a block of words for each thread, which
//! only this thread writes. Readers add the blocks up, also after the engine has died.
//!
//! The registrar has the first block, the snapshot thread the second, the watch thread the third,
//! loop `n` has number `3 + n`.
//! The word at position `n` of each block is the [`Counter`] with that number.

use super::attach::public_file;
use super::mapping::{ReadOnly, Source};
use super::part::{Part, Shared};
use super::{Region, RegionError, Right};
use crate::limits::LOOPS_MAX;
use crate::sync::AtomicU64;
use crate::wire::{About, Reject, Stat};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Words of a block: whole cache lines, and room for more counters.
const WORDS: usize = 64;
/// Block of the registrar.
const REGISTRAR: usize = 0;
/// Block of the snapshot thread.
const SNAPSHOTS: usize = 1;
/// Block of the watch thread.
const WATCHES: usize = 2;
/// Block of the first loop.
const FIRST_LOOP: usize = 3;
/// Blocks there are, for whatever number of loops.
pub(super) const BLOCKS: usize = FIRST_LOOP + LOOPS_MAX;

macro_rules! counters {
    (
        stats { $($stat:ident)* }
        rejects { $($frames:ident = $reason:ident, $frames_label:literal;)* }
        others { $($other:ident = $label:literal, $unit:literal, $help:literal;)* }
    ) => {
        /// What is counted, and what is written down for others to see. The number is the position
        /// in a block.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Counter {
            $(#[doc = concat!("[`Stat::", stringify!($stat), "`].")] $stat,)*
            $(
                #[doc = concat!("Datagrams refused for [`Reject::", stringify!($reason), "`].")]
                $frames,
            )*
            $(#[doc = concat!($help, ".")] $other,)*
        }

        impl Counter {
            /// All of them, in the order of a block.
            pub const ALL: &[Self] =
                &[$(Self::$stat,)* $(Self::$frames,)* $(Self::$other,)*];
            /// One for each reason to refuse a datagram.
            pub const REJECTS: &[Self] = &[$(Self::$frames,)*];

            /// Name, unit and meaning.
            pub const fn about(self) -> About {
                match self {
                    $(Self::$stat => Stat::$stat.about(),)*
                    $(Self::$frames => About {
                        label: $frames_label,
                        unit: Stat::FramesBad.about().unit,
                        help: Reject::$reason.reason(),
                    },)*
                    $(Self::$other => About { label: $label, unit: $unit, help: $help },)*
                }
            }

            /// The number of a stats reply that says the same.
            pub const fn stat(self) -> Option<Stat> {
                match self {
                    $(Self::$stat => Some(Stat::$stat),)*
                    _ => None,
                }
            }

            /// The one that counts datagrams refused for this reason.
            pub const fn of(reason: Reject) -> Self {
                match reason {
                    $(Reject::$reason => Self::$frames,)*
                }
            }
        }
    };
}

counters! {
    stats {
        Datagrams BytesReceived BeatsAccepted BeatsOld BeatsRefused Replies BytesSent RepliesDropped
        NaksSuppressed CpuNs Epoch MemoryBytes Up Suspect Held Down Registered Downs Revived Ended
        Holds Deafness Snapshot SnapshotFailures Watches Pushes PushesDropped Beacons Pulls Receipts
        ReceiptsDropped WatchesExpired FeedMissed
    }
    rejects {
        FramesShort = Short, "frames_short";
        FramesLong = Long, "frames_long";
        FramesMagic = Magic, "frames_magic";
        FramesVersion = Version, "frames_version";
        FramesKind = Kind, "frames_kind";
        FramesDirection = Direction, "frames_direction";
        FramesCount = Count, "frames_count";
        FramesReserved = Reserved, "frames_reserved";
        FramesText = Text, "frames_text";
    }
    others {
        DropsTold = "drops_told", "datagrams",
            "datagrams dropped by the kernel, as later ones tell";
        DropsRead = "drops_read", "datagrams",
            "datagrams dropped by the kernel, as it tells the registrar";
        Loops = "loops", "loops", "loops of the engine";
        Started = "started", "nanoseconds", "monotonic clock when the engine started; 0 until then";
        SnapshotAt = "snapshot_at", "nanoseconds",
            "monotonic clock when the newest snapshot was written; 0 without snapshots";
        LocalConnections = "local_connections", "connections", "processes at the local socket now";
        LocalRefused = "local_refused", "refusals",
            "connections and requests that were refused at the local socket";
    }
}

const COUNTERS: usize = Counter::ALL.len();

/// Counters of one thread that no other thread sees, or sums of those of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally([u64; COUNTERS]);

impl Default for Tally {
    fn default() -> Self {
        Self([0; COUNTERS])
    }
}

impl Tally {
    /// Counts so many more.
    #[inline]
    pub fn add(&mut self, counter: Counter, more: u64) {
        self.0[counter as usize] += more;
    }

    /// Counts a datagram that was refused.
    #[cold]
    pub fn add_rejected(&mut self, reason: Reject) {
        self.add(Counter::of(reason), 1);
    }

    /// Writes a number down.
    #[inline]
    pub fn set(&mut self, counter: Counter, value: u64) {
        self.0[counter as usize] = value;
    }

    /// The number as it is.
    #[inline]
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// Datagrams that were refused, whatever the reason.
    pub fn rejected(&self) -> u64 {
        Counter::REJECTS.iter().map(|&reason| self.get(reason)).fold(0, u64::wrapping_add)
    }
}

/// The words of one thread.
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct Block {
    words: [AtomicU64; WORDS],
}

// SAFETY: atomics only.
unsafe impl Shared for Block {}

// No cache line, nor the pair of lines that processors fetch together, belongs to two blocks.
const _: () = {
    assert!(size_of::<Block>() == 512 && size_of::<Block>().is_multiple_of(align_of::<Block>()));
    assert!(align_of::<Block>() == 128);
    assert!(COUNTERS <= WORDS);
};

/// The blocks of all threads.
#[derive(Debug)]
pub struct Counters(Part<Block>);

impl Counters {
    pub(super) fn new(blocks: Part<Block>) -> Self {
        Self(blocks)
    }

    /// How many loops there are.
    pub fn loops(&self) -> usize {
        self.0[REGISTRAR].read(Counter::Loops).min(LOOPS_MAX as u64) as usize
    }

    /// What a loop has counted.
    ///
    /// # Panics
    /// When there is no such loop.
    pub fn of_loop(&self, number: usize, counter: Counter) -> u64 {
        assert!(number < self.loops(), "loop {number} of {}", self.loops());
        self.0[FIRST_LOOP + number].read(counter)
    }

    /// What all threads have counted. Each word is read once: the sums are of slightly different
    /// times.
    pub fn sums(&self) -> Tally {
        let mut sums = Tally::default();
        for block in &self.0[..FIRST_LOOP + self.loops()] {
            for (sum, word) in sums.0.iter_mut().zip(&block.words) {
                *sum = sum.wrapping_add(word.load(Relaxed));
            }
        }
        sums
    }

    /// What all threads have counted of one thing.
    pub fn sum(&self, counter: Counter) -> u64 {
        let blocks = self.0[..FIRST_LOOP + self.loops()].iter();
        blocks.map(|block| block.read(counter)).fold(0, u64::wrapping_add)
    }
}

impl Block {
    fn read(&self, counter: Counter) -> u64 {
        self.words[counter as usize].load(Relaxed)
    }
}

/// The counters of one thread, which it alone writes.
#[derive(Debug)]
pub struct OwnCounters {
    region: Arc<Region>,
    block: usize,
}

impl OwnCounters {
    /// Shows others what the thread has counted.
    pub fn publish(&self, tally: &Tally) {
        let block = &self.region.counters().0[self.block];
        for (word, &value) in block.words.iter().zip(&tally.0) {
            word.store(value, Relaxed);
        }
    }
}

/// The counters of each thread of an engine.
#[derive(Debug)]
pub struct AllCounters {
    /// Of the registrar.
    pub registrar: OwnCounters,
    /// Of the snapshot thread.
    pub snapshots: OwnCounters,
    /// Of the watch thread.
    pub watches: OwnCounters,
    /// Of each loop.
    pub loops: Vec<OwnCounters>,
}

impl Region {
    /// Lets all counters begin at 0, for the threads of an engine that starts. Those of an engine
    /// before have ended.
    pub fn begin_counters(self: &Arc<Self>, _: &Right, loops: usize) -> AllCounters {
        assert!(loops <= LOOPS_MAX);
        let blocks = &self.counters().0;
        blocks.iter().flat_map(|block| &block.words).for_each(|word| word.store(0, Relaxed));
        blocks[REGISTRAR].words[Counter::Loops as usize].store(loops as u64, Relaxed);
        let own = |block| OwnCounters { region: Arc::clone(self), block };
        AllCounters {
            registrar: own(REGISTRAR),
            snapshots: own(SNAPSHOTS),
            watches: own(WATCHES),
            loops: (FIRST_LOOP..FIRST_LOOP + loops).map(own).collect(),
        }
    }
}

/// The counters in the public file of an engine that runs or has ended, for any process.
#[derive(Debug)]
pub struct CountersFile {
    counters: Counters,
    _mapping: ReadOnly,
}

impl CountersFile {
    /// Maps them, read-only. The file was made in this boot of the machine.
    ///
    /// # Errors
    /// When the file can't be read, or is none of an engine like this one.
    pub fn open(path: &Path, boot: [u8; 16]) -> Result<Self, RegionError> {
        let whole = public_file(path, boot)?;
        let (offset, length) = (whole.geometry.counters, BLOCKS * size_of::<Block>());
        let mapping = ReadOnly::map(&whole.file, offset, length)
            .map_err(|source| RegionError::Io { file: path.display().to_string(), source })?;
        // No store goes through it: `OwnCounters` are of a `Region` only.
        Ok(Self { counters: Counters(mapping.part(0, BLOCKS)), _mapping: mapping })
    }
}

impl Deref for CountersFile {
    type Target = Counters;

    fn deref(&self) -> &Counters {
        &self.counters
    }
}
