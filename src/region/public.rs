//! The tables of the public file, as its one writer and every reader find them.
//!
//! Nothing here stores: a reader of another process has the file mapped read-only. The writer's
//! methods are those of [`super::Region`], which leads here.

use super::counters::{self, Counters};
use super::directory::DirectoryEntry;
use super::endpoint::EndpointLine;
use super::feed::Feed;
use super::futex;
use super::index::HashIndex;
use super::layout::{Geometry, PublicHeader};
use super::lists::ListRef;
use super::mapping::Source;
use super::part::Part;
use super::record::Records;
use super::service_number::ServiceNumber;
use crate::sync::AtomicU32;
use crate::wire::Slot;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

/// The tables of the public file. They are of one format version, which readers check.
#[derive(Debug)]
pub struct PublicTables {
    geometry: Geometry,
    pub(super) header: Part<PublicHeader>,
    counters: Counters,
    pub(super) directory: Part<DirectoryEntry>,
    pub(super) directory_index: HashIndex<ServiceNumber>,
    endpoints: Part<EndpointLine>,
    pub(super) records: Records,
    pub(super) index: HashIndex<Slot>,
    pub(super) lists: Part<AtomicU32>,
    feed: Feed,
    pub(super) key: (u64, u64),
}

impl PublicTables {
    /// The tables in a mapped file, which outlives them. Without a key the one that is
    /// stored there is used.
    pub(super) fn over(public: &impl Source, geometry: Geometry, key: Option<(u64, u64)>) -> Self {
        let header: Part<PublicHeader> = public.part(0, 1);
        let key =
            key.unwrap_or_else(|| (header[0].key[0].load(Relaxed), header[0].key[1].load(Relaxed)));
        let slots = geometry.slots as usize;
        Self {
            header,
            counters: Counters::new(public.part(geometry.counters, counters::BLOCKS)),
            directory: public.part(geometry.directory, geometry.services_max as usize),
            directory_index: HashIndex::new(
                public.part(geometry.directory_index, geometry.directory_buckets),
                public.part(PublicHeader::DIRECTORY_MOVES, 1),
            ),
            endpoints: public.part(geometry.endpoints, slots),
            records: Records::new(
                public.part(geometry.records, slots),
                public.part(geometry.tails, slots * geometry.tail_words()),
                geometry.tail_words(),
            ),
            index: HashIndex::new(
                public.part(geometry.index, geometry.buckets),
                public.part(PublicHeader::INDEX_MOVES, 1),
            ),
            lists: public.part(geometry.lists, geometry.list_entries),
            feed: Feed::new(
                public.part(geometry.feed, geometry.events),
                public.part(PublicHeader::FEED_HEAD, 1),
            ),
            key,
            geometry,
        }
    }

    /// Sizes and offsets.
    #[inline]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// What the threads of the engine have counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The directory entry of each service.
    #[inline]
    pub fn directory(&self) -> &[DirectoryEntry] {
        &self.directory
    }

    /// The endpoint of each slot.
    #[inline]
    pub fn endpoints(&self) -> &[EndpointLine] {
        &self.endpoints
    }

    /// The record of each slot.
    #[inline]
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The slot at a position of a list; `None`: the list is being changed and leads out of the
    /// arena.
    #[inline]
    pub fn listed(&self, list: ListRef, position: u32) -> Option<Slot> {
        let entry = self.lists.get(list.offset as usize + position as usize)?;
        Some(Slot::new(entry.load(Relaxed)))
    }

    /// The membership events.
    #[inline]
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Whether no engine will come back to this file.
    #[inline]
    pub(super) fn is_left(&self) -> bool {
        // Acquire: pairs with the release store of `leave`.
        self.header[0].left.load(Acquire) != 0
    }

    /// Runs `read`, which looks at several tables, unless they are being made anew meanwhile.
    #[inline]
    pub(super) fn read_whole<R>(&self, read: impl FnOnce() -> R) -> Option<R> {
        let rebuilt = &self.header[0].rebuilt;
        let seen = rebuilt.enter()?;
        let value = read();
        rebuilt.is_unchanged(seen).then_some(value)
    }

    /// Sleeps until the feed has another event than `seen` as its newest, something wakes the
    /// waiting, or the time is over.
    pub(super) fn wait(&self, seen: u64, timeout: Duration) -> futex::Slept {
        futex::wait(&self.header[0].feed_head, seen, timeout)
    }

    /// Wakes everybody in any process who waits for an event: to be called after events were told.
    pub fn wake_waiting(&self) {
        futex::wake(&self.header[0].feed_head);
    }
}
