//! Publication of views: one writer, any number of readers. Readers take no lock, allocate nothing
//! and never wait for the writer.
//!
//! A view is a row of words. The writer stores it into a buffer that no reader is led to, then
//! publishes the number of the view and its buffer in one word. [`BUFFERS`] buffers take turns.
//! Each has a sequence: twice the number of the view that it holds, odd while one is written. So a
//! reader notices that its buffer was rewritten meanwhile, drops what it has read, and takes the
//! newest view. It always finds a newer one then.
//!
//! Words are read and written relaxed; fences order them against the sequence (H.-J. Boehm, "Can
//! seqlocks get along with programming language memory models?", MSPC 2012, figure 6).
//!
//! Buffers come in classes, each twice as large as the one before. A view uses the smallest class
//! that it fits. Classes are never freed while a reader exists.

use crate::sync::{AtomicU64, BUFFERS, CLASS_0_WORDS, fence, spin_loop};
use std::sync::OnceLock;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// The largest class has 2^28 words, more than the largest list needs.
const CLASSES: usize = 21;
/// Bits of `current` below the number: two for the buffer, five for the class.
const BUFFER_BITS: u32 = 2;
const CLASS_BITS: u32 = 5;

const _: () = {
    assert!(CLASSES <= 1 << CLASS_BITS && BUFFERS <= 1 << BUFFER_BITS);
    assert!(BUFFERS >= 2);
};

/// The words of one view, perhaps half rewritten: what is made of them counts only if
/// [`Board::read`] returns it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a>(&'a [AtomicU64]);

impl Words<'_> {
    /// The word at a position; 0 beyond the end.
    #[inline]
    pub(super) fn get(&self, at: usize) -> u64 {
        self.0.get(at).map_or(0, |word| word.load(Relaxed))
    }

    /// So many words from a position on; zeros if they are not all there.
    #[inline]
    pub(super) fn row<const N: usize>(&self, at: usize) -> [u64; N] {
        let mut row = [0; N];
        // A plain loop: `array::from_fn` stays a call in builds of several units.
        if let Some(words) = self.0.get(at..at.saturating_add(N)) {
            for (value, word) in row.iter_mut().zip(words) {
                *value = word.load(Relaxed);
            }
        }
        row
    }

    /// How many words its buffer has.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[derive(Debug)]
struct Buffer {
    sequence: AtomicU64,
    words: Box<[AtomicU64]>,
}

/// What readers see.
#[derive(Debug)]
pub(super) struct Board {
    /// Number, class and buffer of the newest view; 0: none yet.
    current: AtomicU64,
    classes: [OnceLock<[Buffer; BUFFERS]>; CLASSES],
}

impl Default for Board {
    fn default() -> Self {
        Self { current: AtomicU64::new(0), classes: std::array::from_fn(|_| OnceLock::new()) }
    }
}

impl Board {
    /// Runs `read` on the newest view until it was not rewritten meanwhile, and returns its result
    /// with the number of the view. `None`: nothing was published yet.
    ///
    /// `read` may see words of two views at once, so it must accept any of them. The views that one
    /// thread reads are never older than those that it has read before.
    #[inline]
    pub(super) fn read<R>(&self, mut read: impl FnMut(Words<'_>) -> R) -> Option<(R, u64)> {
        loop {
            // Acquire: pairs with the release store that ends a publication.
            let current = self.current.load(Acquire);
            if current == 0 {
                return None;
            }
            let number = current >> (BUFFER_BITS + CLASS_BITS);
            if let Some(buffer) = self.buffer(current) {
                // Acquire: pairs with the release stores of the sequence in `write`. A reader that
                // sees a later one sees a later `current` in its next round.
                if buffer.sequence.load(Acquire) == 2 * number {
                    let result = read(Words(&buffer.words));
                    // The fence keeps the reads above it; pairs with the fence in `write`.
                    fence(Acquire);
                    if buffer.sequence.load(Acquire) == 2 * number {
                        return Some((result, number));
                    }
                }
            }
            spin_loop();
        }
    }

    #[inline]
    fn buffer(&self, current: u64) -> Option<&Buffer> {
        let class = (current >> BUFFER_BITS) as usize & ((1 << CLASS_BITS) - 1);
        let buffers = self.classes.get(class)?.get()?;
        buffers.get(current as usize & ((1 << BUFFER_BITS) - 1))
    }
}

/// The one writer of a [`Board`].
#[derive(Debug, Default)]
pub(super) struct Writer {
    number: u64,
    /// Buffer of each class that was written last.
    last: [usize; CLASSES],
}

impl Writer {
    /// Publishes a view. Each board has one writer.
    ///
    /// # Panics
    /// With more words than the largest class has.
    pub(super) fn publish(&mut self, board: &Board, words: &[u64]) {
        let classes = words.len().div_ceil(CLASS_0_WORDS).max(1).next_power_of_two();
        let class = classes.trailing_zeros() as usize;
        assert!(class < CLASSES, "a view of {} words", words.len());
        self.publish_in(board, class, words);
    }

    /// The same in buffers of a class that is large enough.
    pub(super) fn publish_in(&mut self, board: &Board, class: usize, words: &[u64]) {
        self.number += 1;
        // The buffer that is read now is the one that was written last in its class.
        self.last[class] = (self.last[class] + 1) % BUFFERS;
        let at = self.last[class];
        let buffers = board.classes[class].get_or_init(|| {
            std::array::from_fn(|_| Buffer {
                sequence: AtomicU64::new(0),
                words: (0..CLASS_0_WORDS << class).map(|_| AtomicU64::new(0)).collect(),
            })
        });
        buffers[at].write(self.number, words);
        let place = (class as u64) << BUFFER_BITS | at as u64;
        let current = self.number << (BUFFER_BITS + CLASS_BITS) | place;
        // Release: pairs with the acquire load in `read`.
        board.current.store(current, Release);
    }
}

impl Buffer {
    fn write(&self, number: u64, words: &[u64]) {
        // Release: whoever sees it sees the `current` of the publications before.
        self.sequence.store(2 * number - 1, Release);
        // The fence keeps the writes below it; pairs with the fence in `read`.
        fence(Release);
        self.words.iter().zip(words).for_each(|(word, &value)| word.store(value, Relaxed));
        // Release: pairs with the acquire load in `read`.
        self.sequence.store(2 * number, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    /// A view whose words all follow from its round, and whose length changes from class to class.
    fn pattern(round: u64) -> Vec<u64> {
        let length = [40, 300, 700][round as usize % 3];
        (0..length).map(|at| round.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ at).collect()
    }

    #[test]
    fn the_newest_view_is_read_whole() {
        let (board, mut writer) = (Board::default(), Writer::default());
        assert!(board.read(|_| ()).is_none());
        for round in 1..40 {
            let words = pattern(round);
            writer.publish(&board, &words);
            let read = |view: Words<'_>| (0..words.len()).all(|at| view.get(at) == words[at]);
            assert_eq!(board.read(read), Some((true, round)));
        }
        assert_eq!(board.read(|view| view.get(usize::MAX)), Some((0, 39)));
    }

    /// Eight readers under a thousand publications a second and, in between, as many as there can
    /// be: no view is torn, and none is older than one that the reader has seen.
    #[test]
    fn eight_readers_see_whole_views_in_order() {
        let (board, stop) = (Board::default(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let (mut seen, mut reads) = (0, 0_u64);
                        while !stop.load(Relaxed) {
                            let whole = |view: Words<'_>| {
                                let first = view.get(0);
                                (first, (0..40).all(|at| view.get(at as usize) == first ^ at))
                            };
                            let Some(((first, is_whole), number)) = board.read(whole) else {
                                continue;
                            };
                            assert!(is_whole, "a torn view");
                            assert_eq!(first, pattern(number)[0], "another view's words");
                            assert!(number >= seen, "view {number} after {seen}");
                            (seen, reads) = (number, reads + 1);
                        }
                        reads
                    })
                })
                .collect();
            let (mut writer, mut round) = (Writer::default(), 0);
            // About two seconds; more on a busy machine.
            for turn in 0..2000 {
                for _ in 0..if turn % 200 == 0 { 400 } else { 1 } {
                    round += 1;
                    writer.publish(&board, &pattern(round));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            stop.store(true, Relaxed);
            let reads: u64 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
            assert!(reads > 10_000, "{reads} reads of {round} views");
        });
    }
}
