//! The events of a feed after a number, with loss said.

use super::super::feed::{Event, Feed};

/// Events that were overwritten before they were read, or can't be: those after `after` and before
/// `next`. The numbers of a region that lost everything begin anew, so `next` may be the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the events between {after} and {next} are lost")]
pub struct Lost {
    /// The last event before them.
    pub after: u64,
    /// The event with which reading goes on.
    pub next: u64,
}

/// Events in order, each with its number, from [`super::View::events`]. Ends at the newest; later
/// ones are found when it is asked again.
#[derive(Debug)]
pub struct Events<'a> {
    feed: &'a Feed,
    /// Number of the last one that was given.
    given: u64,
}

impl<'a> Events<'a> {
    pub(super) fn after(feed: &'a Feed, number: u64) -> Self {
        Self { feed, given: number }
    }

    /// Number of the last event that was given: what the next one is asked for with.
    pub fn number(&self) -> u64 {
        self.given
    }
}

impl Iterator for Events<'_> {
    type Item = Result<(u64, Event), Lost>;

    fn next(&mut self) -> Option<Self::Item> {
        let (after, number) = (self.given, self.given.wrapping_add(1));
        let head = self.feed.head();
        if after == head {
            return None;
        }
        if after < head
            && let Some(event) = self.feed.raw(number).and_then(|words| Event::from_raw(&words))
        {
            self.given = number;
            return Some(Ok((number, event)));
        }
        // Read again: while it was looked for, more may have been overwritten.
        let head = self.feed.head();
        let oldest = head.saturating_sub(self.feed.capacity() - 1).max(1);
        let next = if after > head { oldest } else { oldest.max(number.saturating_add(1)) };
        self.given = next - 1;
        Some(Err(Lost { after, next }))
    }
}
