//! One writer of views, readers without locks.

use super::publish::{Board, Words, Writer};
use loom::thread;
use std::sync::Arc;

/// The words of a view.
fn view(number: u64) -> [u64; 2] {
    [number, number ^ 5]
}

/// The number of the newest view; its words must all be of it.
fn read(board: &Board) -> u64 {
    let both = |words: Words<'_>| [words.get(0), words.get(1)];
    let (words, number) = board.read(both).expect("a view was published before");
    assert_eq!(words, view(number), "a torn view, or another one's words");
    number
}

/// With two buffers, the second publication rewrites the one that a reader may be reading.
pub fn publication() {
    let (board, mut writer) = (Arc::new(Board::default()), Writer::default());
    writer.publish(&board, &view(1));
    let publishing = {
        let board = Arc::clone(&board);
        thread::spawn(move || (2..=3).for_each(|number| writer.publish(&board, &view(number))))
    };
    let first = read(&board);
    let second = read(&board);
    assert!(second >= first, "view {second} after {first}");
    publishing.join().unwrap();
    assert_eq!(read(&board), 3);
}

/// A view of another class is in buffers that the reader has not met.
pub fn growth() {
    let (board, mut writer) = (Arc::new(Board::default()), Writer::default());
    writer.publish(&board, &view(1));
    let publishing = {
        let board = Arc::clone(&board);
        thread::spawn(move || writer.publish_in(&board, 1, &view(2)))
    };
    let first = read(&board);
    let second = read(&board);
    assert!(second >= first, "view {second} after {first}");
    publishing.join().unwrap();
    assert_eq!(read(&board), 2);
}
