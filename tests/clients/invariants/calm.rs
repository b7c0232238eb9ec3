//! How often agents ask for registrations.

use super::{Verdict, must};
use heartline::internals::clock::{NANOS_PER_SECOND, Nanos};
use std::collections::{HashMap, VecDeque};

/// New requests of one registration in a second. After status busy the ceilings of the waits are
/// 16 ms, 32 ms and so on: fourteen waits with full jitter within a second have a chance of less
/// than 2^-30. Other refusals begin at a second.
const OF_ONE: usize = 16;
/// Requests of one agent to one engine in a second, repetitions left out: the pace and the burst of
/// its limit.
const OF_LINK: usize = 5_050;

/// Who asks: agent, its life, and the engine.
type Link = (usize, u64, usize);

/// The register requests of the last second.
#[derive(Debug, Default)]
pub(crate) struct Calm {
    of_one: HashMap<(Link, String), VecDeque<(Nanos, u64)>>,
    of_link: HashMap<Link, VecDeque<(Nanos, u64)>>,
}

impl Calm {
    /// A register request leaves an agent.
    pub(crate) fn asks(&mut self, now: Nanos, link: Link, identity: &str, tag: u64) -> Verdict {
        let of_one = self.of_one.entry((link, identity.to_owned())).or_default();
        let count = note(of_one, now, tag);
        must!("calm", count <= OF_ONE, "{count} requests of {identity} in a second by {link:?}");
        let count = note(self.of_link.entry(link).or_default(), now, tag);
        must!("calm", count <= OF_LINK, "{count} requests in a second by {link:?}");
        Ok(())
    }
}

/// Different tags in the last second.
fn note(asked: &mut VecDeque<(Nanos, u64)>, now: Nanos, tag: u64) -> usize {
    if asked.iter().all(|(_, other)| *other != tag) {
        asked.push_back((now, tag));
    }
    while asked.front().is_some_and(|(at, _)| at + NANOS_PER_SECOND <= now) {
        asked.pop_front();
    }
    asked.len()
}
