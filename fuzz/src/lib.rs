//! What hostile bytes can do: one function for each place where bytes from outside come in. Each
//! takes any bytes and panics when something that must hold does not.
//!
//! `cargo +nightly fuzz run NAME --features libfuzzer` explores them with coverage; `cargo test -p
//! heartline-fuzz` runs the stored corpus and a bounded number of mutations of it, on any compiler.
//! A file in `corpus/NAME` is one input.

mod attach;
mod config;
mod dataplane;
mod decode;
mod follow;
mod local;
mod registrar;

pub use attach::attach;
pub use config::config;
pub use dataplane::dataplane;
pub use decode::decode;
pub use follow::follow;
pub use local::local;
pub use registrar::registrar;

/// A target: its name, which is that of its corpus, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 7] = [
    ("attach", attach),
    ("config", config),
    ("dataplane", dataplane),
    ("decode", decode),
    ("follow", follow),
    ("local", local),
    ("registrar", registrar),
];

/// Bytes that are taken from the front, piece by piece; zeros once they are used up.
#[derive(Debug)]
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn number<const BYTES: usize>(&mut self) -> u64 {
        self.bytes(BYTES).iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
    }
}
