//! The shared memory of heartline: everything the engine knows, in two files on tmpfs.
//!
//! ```
//! use heartline_region::{Geometry, Place, Region, Run};
//! use std::sync::atomic::AtomicBool;
//!
//! # fn main() -> Result<(), heartline_region::RegionError> {
//! let run = Run { boot: [0; 16], epoch: 1, key: (2, 3) };
//! let (region, _right) =
//!     Region::create(&Place::Scratch, Geometry::new(1024, 128), run, &AtomicBool::new(false))?;
//! assert_eq!(region.lines().len(), region.geometry().slots as usize);
//! assert_eq!(region.feed().head(), 0);
//! # Ok(())
//! # }
//! ```
//!
//! The engine is the writer. The types of the tables are public for it and for readers on the same
//! host; their layout is of one format version, which readers check.
//!
//! The *heart* file holds the heart lines, and with them the secrets of the leases; the *public*
//! file holds everything that may be shown. Both are allocated and faulted in before anything is
//! stored. All of it is read and written through atomics only, so that readers in this process and
//! in others never lock.
//!
//! Invariant: only the holder of the [`Right`] changes anything but the loops' words of the heart
//! lines and each thread's own counters.

#![warn(missing_docs)]

mod attach;
mod counters;
mod directory;
mod endpoint;
mod feed;
mod futex;
mod heart;
mod heart_state;
mod hold;
mod identities;
mod index;
mod layout;
pub mod limits;
mod lists;
mod mapping;
#[cfg(test)]
mod models;
mod part;
mod prefetch;
mod public;
mod record;
mod redo;
mod restored_line;
mod right;
mod run;
mod seqlock;
mod service_number;
mod sync;
mod view;

pub use counters::{AllCounters, Counter, Counters, CountersFile, OwnCounters, Tally};
pub use directory::{DirectoryEntry, ServiceMeta};
pub use endpoint::EndpointLine;
pub use feed::{Cause, Event, EventKind, Feed};
pub use heart::{Applied, HeartLine, LastBeat};
pub use heart_state::HeartState;
pub use hold::Hold;
pub use index::{Disturbed, Identity, IndexFull};
pub use layout::Geometry;
pub use lists::{ListAllocator, ListRef};
pub use mapping::{Mismatch, Place, RegionError, is_tmpfs};
pub use prefetch::prefetch;
pub use public::PublicTables;
pub use record::{Record, Records};
pub use redo::{MemberAfter, PendingStep};
pub use restored_line::RestoredLine;
pub use right::Right;
pub use run::{Run, boot_id};
pub use seqlock::Sequence;
pub use service_number::ServiceNumber;
pub use view::{Choice, Events, Lost, Member, Service, View, Waited};

use crate::sync::{AtomicBool, AtomicU64};
use crate::wire::Slot;
use heartline_wire as wire;
use layout::HeartHeader;
use mapping::{Mapping, Source};
use part::Part;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// The two files, mapped, and the tables in them.
#[derive(Debug)]
pub struct Region {
    heart_header: Part<HeartHeader>,
    lines: Part<HeartLine>,
    public: PublicTables,
    /// A bit for each slot that changed since it was last asked for; of this process only.
    changed: Box<[AtomicU64]>,
    files: [Mapping; 2],
}

impl Deref for Region {
    type Target = PublicTables;

    #[inline]
    fn deref(&self) -> &PublicTables {
        &self.public
    }
}

impl Region {
    /// Makes a new region: both files allocated, faulted in, empty, published, and in their places.
    ///
    /// # Errors
    /// As for [`Self::prepare`] and [`Self::install`].
    pub fn create(
        place: &Place,
        geometry: Geometry,
        run: Run,
        cancelled: &AtomicBool,
    ) -> Result<(Self, Right), RegionError> {
        let made = Self::prepare(place, geometry, run, cancelled)?;
        made.0.install().inspect_err(|_| made.0.remove_files())?;
        Ok(made)
    }

    /// The same, but the files are not in their places yet: what a former engine left there is as
    /// it was until [`Self::install`].
    ///
    /// A large one takes seconds; setting `cancelled` ends that early. Whatever the error, no file
    /// stays.
    ///
    /// # Errors
    /// [`RegionError`]: no room, no permission, a file in their place that is no memory file, or
    /// cancelled.
    pub fn prepare(
        place: &Place,
        geometry: Geometry,
        run: Run,
        cancelled: &AtomicBool,
    ) -> Result<(Self, Right), RegionError> {
        let heart = Mapping::create(place, "heart", geometry.heart_bytes(), cancelled)?;
        let public = Mapping::create(place, "public", geometry.public_bytes(), cancelled)
            .inspect_err(|_| heart.remove())?;
        let region = Self::assemble([heart, public], geometry, Some(run.key));
        region.publish(&run);
        Ok((region, Right::new()))
    }

    /// Finds the tables in the files. Without a key the one that is stored there is used.
    fn assemble(files: [Mapping; 2], geometry: Geometry, key: Option<(u64, u64)>) -> Self {
        let [heart, public] = &files;
        Self {
            heart_header: heart.part(0, 1),
            lines: heart.part(geometry.lines, geometry.slots as usize),
            changed: (0..geometry.slots.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            public: PublicTables::over(public, geometry, key),
            files,
        }
    }

    /// Puts the files into their places. Whoever is killed in between leaves the second one beside
    /// its place, where [`Self::attach`] looks.
    ///
    /// # Errors
    /// [`RegionError::Io`]: the files can't be moved to their places.
    #[inline]
    pub fn install(&self) -> Result<(), RegionError> {
        self.files.iter().try_for_each(Mapping::install)
    }

    /// Whether the files are in their places, and no other engine has put its own there.
    #[inline]
    pub fn is_in_place(&self) -> bool {
        self.files.iter().all(Mapping::is_in_place)
    }

    /// The heart file and the public file, to be handed to another engine.
    #[inline]
    pub fn files(&self) -> [BorrowedFd<'_>; 2] {
        [self.files[0].file(), self.files[1].file()]
    }

    /// Removes the files from their directory, unless others have taken their places. The memory
    /// stays until the region is dropped.
    #[inline]
    pub fn remove_files(&self) {
        self.files.iter().for_each(Mapping::remove);
    }

    /// Fills in both headers; the word that says "ready" comes last, with release ordering, so that
    /// who reads it sees the rest.
    fn publish(&self, run: &Run) {
        let (header, geometry) = (&self.header[0], self.geometry());
        header.common.fill(geometry, run);
        header.key[0].store(run.key.0, Relaxed);
        header.key[1].store(run.key.1, Relaxed);
        self.heart_header[0].common.fill(geometry, run);
        self.heart_header[0].common.ready.store(1, Release);
        header.common.ready.store(1, Release);
    }

    /// The heart line of each slot.
    #[inline]
    pub fn lines(&self) -> &[HeartLine] {
        &self.lines
    }

    /// Puts a slot at a position of a list. To be called inside the sequence of its service.
    pub fn set_listed(&self, _: &Right, list: ListRef, position: u32, slot: Slot) {
        self.lists[(list.offset + position) as usize].store(slot.get(), Relaxed);
    }

    /// Notes that a member has changed; after the change.
    pub fn mark_changed(&self, _: &Right, slot: Slot) {
        // Release: pairs with the swap in `take_changed`, so that whoever finds the mark finds the
        // change.
        self.changed[slot.index() / 64].fetch_or(1 << (slot.index() % 64), Release);
    }

    /// Bytes of this process that tell what has changed.
    #[inline]
    pub fn changed_bytes(&self) -> usize {
        self.changed.len() * 8
    }

    /// The slots that have changed since the last call, 64 at a time: the first, and a bit for
    /// each. For one caller only.
    #[inline]
    pub fn take_changed(&self) -> impl Iterator<Item = (Slot, u64)> {
        let words = self.changed.iter().enumerate();
        words.map(|(index, word)| {
            (
                Slot::new(index as u32 * 64),
                if word.load(Relaxed) == 0 { 0 } else { word.swap(0, Acquire) },
            )
        })
    }

    /// Writes a step down before it is done. [`Self::end_step`] belongs to it.
    pub fn begin_step(&self, right: &Right, event: &Event, member: Option<&MemberAfter<'_>>) {
        self.heart_header[0].redo.begin(right, self.feed(), event, member);
    }

    /// Tells of the step in the feed; it is done.
    pub fn end_step(&self, right: &Right, event: &Event) {
        self.feed().push(right, event);
        self.heart_header[0].redo.end(right);
    }

    /// The step that a former engine did not live to end.
    #[inline]
    pub fn pending_step(&self) -> Option<PendingStep> {
        self.heart_header[0].redo.pending()
    }

    /// Tells of a pending step in the feed, once it is done.
    pub fn end_pending_step(&self, right: &Right, step: &PendingStep) {
        self.feed().put(right, step.number, step.event);
        self.heart_header[0].redo.end(right);
    }

    /// Forgets a pending step that makes no sense.
    pub fn forget_step(&self, right: &Right) {
        self.heart_header[0].redo.end(right);
    }

    /// Ends writes to the header that a former engine did not live to end.
    pub fn mend_header(&self, right: &Right) {
        self.header[0].sequence.mend(right);
    }

    /// Tells readers that tables are being made anew: until [`Self::end_rebuild`] what they find
    /// there means nothing.
    pub fn begin_rebuild(&self, right: &Right) {
        // Whoever began before did perhaps not live to end it.
        self.header[0].rebuilt.mend(right);
        self.header[0].rebuilt.begin(right);
    }

    /// The tables are whole again.
    pub fn end_rebuild(&self, right: &Right) {
        self.header[0].rebuilt.end(right);
    }

    /// Tells readers that no engine will come back to the public file, and wakes those that wait:
    /// another file is in its place.
    pub fn leave(&self, _: &Right) {
        // Release: whoever reads it finds the other file.
        self.header[0].left.store(1, Release);
        self.wake_waiting();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What another process that maps the public file relies on, at the offsets where it looks.
    #[test]
    fn the_public_header_is_where_readers_look() {
        let path = std::path::PathBuf::from(format!(
            "/dev/shm/heartline-region-test-{}",
            std::process::id()
        ));
        std::fs::create_dir_all(&path).unwrap();
        let (region, _right) = Region::create(
            &Place::Directory(path.clone()),
            Geometry::new(1024, 128),
            Run { key: (11, 12), epoch: 13, boot: [14; 16] },
            &AtomicBool::new(false),
        )
        .unwrap();
        let public = std::fs::read(path.join("public")).unwrap();
        let heart = std::fs::read(path.join("heart")).unwrap();
        std::fs::remove_dir_all(&path).unwrap();
        let word =
            |file: &[u8], at: usize| u64::from_ne_bytes(file[at..at + 8].try_into().unwrap());
        for file in [&public, &heart] {
            assert_eq!(&file[..8], b"HLREGION");
            assert_eq!(word(file, 8), 1 << 32 | 5, "format 5, ready");
            assert_eq!(word(file, 24) as u32, 1024);
            assert_eq!(file[40..56], [14; 16]);
            assert_eq!(word(file, 56), 13);
        }
        assert_eq!((word(&public, 120), word(&public, 128)), (11, 12));
        assert_eq!(public.len(), region.geometry().public_bytes());
        assert_eq!(heart.len(), region.geometry().heart_bytes());
    }

    #[test]
    fn only_memory_files_are_replaced_and_only_own_files_removed() {
        let path = std::path::PathBuf::from(format!(
            "/dev/shm/heartline-files-test-{}",
            std::process::id()
        ));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("heart"), "").unwrap();
        let create = |cancelled| {
            let place = Place::Directory(path.clone());
            Region::create(
                &place,
                Geometry::new(1024, 128),
                Run::default(),
                &AtomicBool::new(cancelled),
            )
            .map(|made| made.0)
        };
        std::fs::write(path.join("public"), "a letter to somebody").unwrap();
        assert!(create(false).unwrap_err().to_string().contains("move it away"));
        assert!(path.join("public").exists() && !path.join("heart.new").exists());
        std::fs::remove_file(path.join("public")).unwrap();
        assert!(matches!(create(true), Err(RegionError::Cancelled)));
        assert!(
            path.join("heart").exists() && !path.join("heart.new").exists(),
            "what was there is there"
        );
        let (first, second) = (create(false).unwrap(), create(false).unwrap());
        first.remove_files();
        assert!(path.join("heart").exists() && path.join("public").exists(), "those of the second");
        second.remove_files();
        assert!(!path.join("heart").exists() && !path.join("public").exists());
        std::fs::remove_dir_all(&path).unwrap();
    }
}
