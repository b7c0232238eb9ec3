//! How often agents ask for registrations.

use super::{Verdict, must};
use heartline::internals::clock::{NANOS_PER_SECOND, Nanos};
use std::collections::{HashMap, VecDeque};

/// New requests of one registration in a second. After status busy the ceilings of the waits are
/// 16 ms, 32 ms and so on: fourteen waits with full jitter within a second have a chance of less
/// than 2^-30. Other refusals begin at a second.
const OF_ONE: usize = 16;
/// And in half a minute: sixteen waits of refusals that begin at a second have a chance of 2^-29;
/// as many again may follow a lease that was lost in between.
const OF_ONE_LONG: usize = 40;
/// Requests of one agent to one engine in a second, repetitions left out: the pace and the burst of
/// its limit.
const OF_LINK: usize = 5_050;

/// Who asks: agent, its life, and the engine.
type Link = (usize, u64, usize);

/// The latest register requests: when, and their tags.
#[derive(Debug, Default)]
pub(crate) struct Calm {
    of_one: HashMap<(Link, String), VecDeque<(Nanos, u64)>>,
    of_link: HashMap<Link, VecDeque<(Nanos, u64)>>,
}

impl Calm {
    /// A register request leaves an agent.
    pub(crate) fn asks(&mut self, now: Nanos, link: Link, identity: &str, tag: u64) -> Verdict {
        let of_one = self.of_one.entry((link, identity.to_owned())).or_default();
        note(of_one, now, tag, 30 * NANOS_PER_SECOND);
        let count = of_one.len();
        must!("calm", count <= OF_ONE_LONG, "{count} requests of {identity} in 30 s by {link:?}");
        let lately = of_one.iter().filter(|(at, _)| at + NANOS_PER_SECOND > now).count();
        must!("calm", lately <= OF_ONE, "{lately} requests of {identity} in 1 s by {link:?}");
        let of_link = self.of_link.entry(link).or_default();
        note(of_link, now, tag, NANOS_PER_SECOND);
        must!("calm", of_link.len() <= OF_LINK, "{} requests in 1 s by {link:?}", of_link.len());
        Ok(())
    }
}

/// Keeps different tags for so long.
fn note(asked: &mut VecDeque<(Nanos, u64)>, now: Nanos, tag: u64, window: Nanos) {
    if asked.iter().all(|(_, other)| *other != tag) {
        asked.push_back((now, tag));
    }
    while asked.front().is_some_and(|(at, _)| at + window <= now) {
        asked.pop_front();
    }
}
