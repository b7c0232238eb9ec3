//! Doubly linked lists of slots, without an allocation for each: a slot is in at most one list, and
//! its links are its own.

use crate::wire::Slot;

/// No slot.
const NONE: Slot = Slot::new(u32::MAX);
/// Keys have 48 bits; the list number has the other 16.
const KEY_BITS: u32 = 48;
/// The list number of slots that are in no list.
const NO_LIST: u16 = u16::MAX;

#[derive(Clone, Copy, Debug)]
struct Node {
    next: Slot,
    previous: Slot,
    /// List number in the high 16 bits, key in the low 48.
    tag: u64,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    first: Slot,
    last: Slot,
}

/// Lists with numbers, over slots with numbers.
#[derive(Debug)]
pub(super) struct Links {
    nodes: Box<[Node]>,
    lists: Box<[Ends]>,
}

impl Links {
    pub(super) fn new(slots: usize, lists: usize) -> Self {
        assert!(lists < usize::from(NO_LIST));
        Self {
            nodes: vec![
                Node { next: NONE, previous: NONE, tag: u64::from(NO_LIST) << KEY_BITS };
                slots
            ]
            .into_boxed_slice(),
            lists: vec![Ends { first: NONE, last: NONE }; lists].into_boxed_slice(),
        }
    }

    /// Bytes that the links take.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.nodes) + size_of_val(&*self.lists)
    }

    /// The list the slot is in.
    pub(super) fn list_of(&self, slot: Slot) -> Option<usize> {
        let list = (self.nodes[slot.index()].tag >> KEY_BITS) as u16;
        (list != NO_LIST).then_some(usize::from(list))
    }

    pub(super) fn is_empty(&self, list: usize) -> bool {
        self.lists[list].first == NONE
    }

    /// The first slot of a list and its key.
    pub(super) fn first(&self, list: usize) -> Option<(Slot, u64)> {
        let slot = self.lists[list].first;
        (slot != NONE).then(|| (slot, self.nodes[slot.index()].tag & ((1 << KEY_BITS) - 1)))
    }

    /// Appends a slot that is in no list.
    pub(super) fn push(&mut self, list: usize, slot: Slot, key: u64) {
        debug_assert!(key < 1 << KEY_BITS && self.list_of(slot).is_none());
        let last = std::mem::replace(&mut self.lists[list].last, slot);
        self.nodes[slot.index()] =
            Node { next: NONE, previous: last, tag: (list as u64) << KEY_BITS | key };
        match last {
            NONE => self.lists[list].first = slot,
            last => self.nodes[last.index()].next = slot,
        }
    }

    /// Takes a slot out of the list it is in, if any. Returns that list.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<usize> {
        let list = self.list_of(slot)?;
        let Node { next, previous, .. } = self.nodes[slot.index()];
        match previous {
            NONE => self.lists[list].first = next,
            previous => self.nodes[previous.index()].next = next,
        }
        match next {
            NONE => self.lists[list].last = previous,
            next => self.nodes[next.index()].previous = previous,
        }
        self.nodes[slot.index()].tag = u64::from(NO_LIST) << KEY_BITS;
        Some(list)
    }
}
