//! Pushes that came before those in front of them.

use heartline_wire::Endpoint;
use std::collections::VecDeque;

/// Pushes that are kept at most; the oldest make room, and a pull makes good for them.
const PUSHES_MAX: usize = 16;

#[derive(Debug)]
struct Push {
    before: u64,
    after: u64,
    entries: Vec<Endpoint>,
}

/// Pushes that begin later than the list ends.
#[derive(Debug, Default)]
pub(super) struct Ahead(VecDeque<Push>);

impl Ahead {
    pub(super) fn keep(&mut self, before: u64, after: u64, entries: &[Endpoint]) {
        if self.0.len() == PUSHES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Push { before, after, entries: entries.to_vec() });
    }

    /// A push that can be applied to a list of this version: the version after it, and its entries.
    /// Those that the list has overtaken are dropped.
    pub(super) fn next_at(&mut self, version: u64) -> Option<(u64, Vec<Endpoint>)> {
        self.0.retain(|push| push.after > version);
        let at = self.0.iter().position(|push| push.before <= version)?;
        self.0.remove(at).map(|push| (push.after, push.entries))
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
