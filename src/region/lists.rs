//! Where the slot lists of the services lie in their arena: a buddy allocator (Knuth, TAOCP 1,
//! section 2.5).
//!
//! A list of `n` slots owns `2^order` entries with `n <= 2^order`, at least four, and is halved
//! once it is no more than a quarter full; so it never owns more than `4n`, and an arena of four
//! entries a lease (eight where there can be as many services as leases) can hold every mix of
//! lists unless it is fragmented. The arena itself is in the region; which parts are free is the
//! registrar's and derived from the directory.

/// Lists own at least four entries.
const ORDER_MIN: u32 = 2;

/// Part of the arena: `2^order` entries from `offset` on. Order 0 owns nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListRef {
    /// First entry in the arena.
    pub offset: u32,
    /// Logarithm of the number of entries.
    pub order: u32,
}

impl ListRef {
    /// How many slots it can hold.
    pub fn capacity(&self) -> u32 {
        if self.order == 0 { 0 } else { 1 << self.order }
    }

    /// Whether a list of `listed` slots should move to half of the room.
    pub fn is_sparse(&self, listed: u32) -> bool {
        self.order != 0 && (listed == 0 || self.order > ORDER_MIN && listed <= self.capacity() / 4)
    }
}

/// Knows which parts of the arena are free.
#[derive(Debug)]
pub struct ListAllocator {
    /// For each order from [`ORDER_MIN`] on, a bit for each free block.
    free: Vec<BitTree>,
    order_max: u32,
}

impl ListAllocator {
    /// An allocator for an empty arena of `entries`, a power of two.
    pub fn new(entries: usize) -> Self {
        assert!(entries.is_power_of_two() && entries >= 1 << ORDER_MIN);
        let order_max = entries.trailing_zeros();
        let mut free: Vec<BitTree> =
            (ORDER_MIN..=order_max).map(|order| BitTree::new(entries >> order)).collect();
        free[(order_max - ORDER_MIN) as usize].set(0);
        Self { free, order_max }
    }

    fn tree(&mut self, order: u32) -> &mut BitTree {
        &mut self.free[(order - ORDER_MIN) as usize]
    }

    /// Room for `count` slots, or `None` when no part is large enough.
    pub fn allocate(&mut self, count: u32) -> Option<ListRef> {
        let order = count.max(1).next_power_of_two().trailing_zeros().max(ORDER_MIN);
        let from = (order..=self.order_max)
            .find(|&order| !self.free[(order - ORDER_MIN) as usize].is_empty())?;
        let block = self.tree(from).first()?;
        self.tree(from).clear(block);
        let offset = block << from;
        for split in (order..from).rev() {
            self.tree(split).set((offset >> split) + 1);
        }
        Some(ListRef { offset: offset as u32, order })
    }

    /// Takes a part that a former allocator gave out. `false`: it is not free, or no part of the
    /// arena.
    pub fn claim(&mut self, list: ListRef) -> bool {
        if list.order == 0 {
            return true;
        }
        let offset = list.offset as usize;
        let fits = (ORDER_MIN..=self.order_max).contains(&list.order)
            && offset.is_multiple_of(1 << list.order)
            && offset + (1 << list.order) <= 1 << self.order_max;
        let free = (list.order..=self.order_max)
            .find(|&order| fits && self.tree(order).contains(offset >> order));
        let Some(free) = free else { return false };
        self.tree(free).clear(offset >> free);
        for split in (list.order..free).rev() {
            self.tree(split).set((offset >> split) ^ 1);
        }
        true
    }

    /// Gives a part back.
    pub fn free(&mut self, list: ListRef) {
        if list.order == 0 {
            return;
        }
        let (mut block, mut order) = ((list.offset >> list.order) as usize, list.order);
        while order < self.order_max && self.tree(order).contains(block ^ 1) {
            self.tree(order).clear(block ^ 1);
            block >>= 1;
            order += 1;
        }
        self.tree(order).set(block);
    }

    /// Bytes that the allocator itself takes.
    pub fn memory_bytes(&self) -> usize {
        self.free.iter().flat_map(|tree| &tree.levels).map(|level| level.len() * 8).sum()
    }
}

/// A set of numbers whose smallest is found in a few steps: each level has a bit for every word of
/// the level below.
#[derive(Debug)]
struct BitTree {
    levels: Vec<Vec<u64>>,
}

impl BitTree {
    fn new(bits: usize) -> Self {
        let mut levels = vec![vec![0; bits.div_ceil(64)]];
        while levels.last().is_some_and(|level| level.len() > 1) {
            levels.push(vec![0; levels.last().map_or(0, Vec::len).div_ceil(64)]);
        }
        Self { levels }
    }

    fn is_empty(&self) -> bool {
        self.levels.last().is_none_or(|top| top[0] == 0)
    }

    fn contains(&self, bit: usize) -> bool {
        self.levels[0][bit / 64] & 1 << (bit % 64) != 0
    }

    fn set(&mut self, mut bit: usize) {
        for level in &mut self.levels {
            level[bit / 64] |= 1 << (bit % 64);
            bit /= 64;
        }
    }

    fn clear(&mut self, mut bit: usize) {
        for level in &mut self.levels {
            level[bit / 64] &= !(1 << (bit % 64));
            if level[bit / 64] != 0 {
                return;
            }
            bit /= 64;
        }
    }

    fn first(&self) -> Option<usize> {
        let mut word = 0;
        for level in self.levels.iter().rev() {
            if level[word] == 0 {
                return None;
            }
            word = word * 64 + level[word].trailing_zeros() as usize;
        }
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(super::super::models::kept_seeds())]

        /// Blocks that overlap would let one service overwrite the list of another.
        #[test]
        fn blocks_never_overlap_and_all_comes_back(
            steps in prop::collection::vec((any::<bool>(), 1_u32..200), 1..300),
        ) {
            let mut allocator = ListAllocator::new(4096);
            let mut held: Vec<ListRef> = Vec::new();
            let mut owner = vec![false; 4096];
            for (allocate, number) in steps {
                if allocate {
                    if let Some(list) = allocator.allocate(number) {
                        prop_assert!(list.capacity() >= number);
                        for entry in list.offset..list.offset + list.capacity() {
                            prop_assert!(!std::mem::replace(&mut owner[entry as usize], true));
                        }
                        held.push(list);
                    }
                } else if !held.is_empty() {
                    let list = held.swap_remove(number as usize % held.len());
                    let end = list.offset + list.capacity();
                    owner[list.offset as usize..end as usize].fill(false);
                    allocator.free(list);
                }
            }
            held.into_iter().for_each(|list| allocator.free(list));
            prop_assert_eq!(allocator.allocate(4096), Some(ListRef { offset: 0, order: 12 }));
        }
    }
}
