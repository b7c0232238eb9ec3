//! What changes in a view, one after the other, for those who ask.

use crate::query::Endpoint;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Changes that wait for a reader at most; later ones are counted and lost.
const WAITING_MAX: usize = 1024;

/// One change of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemberChange {
    /// An instance is listed now that was not.
    Joined(Endpoint),
    /// A listed instance has another state, weight, version or declaration, or is another
    /// registration at the same address.
    Altered(Endpoint),
    /// An instance is listed no more: down or gone.
    Left(Endpoint),
    /// A hold began, ended, or changed: percent of live instances that were silent; 0: none is on.
    Hold(u8),
    /// Pushes were missed, and the whole list was asked for. The differences follow; a change that
    /// was undone in between is not among them.
    Gap,
    /// So many changes were lost here, because nobody read them in time. Read the whole view.
    Lost(u64),
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<MemberChange>,
    lost: u64,
    waker: Option<Waker>,
    has_ended: bool,
}

impl State {
    fn next(&mut self) -> Option<MemberChange> {
        self.waiting.pop_front().or_else(|| {
            // What was lost is later than what waited.
            let lost = std::mem::take(&mut self.lost);
            (lost > 0).then_some(MemberChange::Lost(lost))
        })
    }
}

/// One reader's queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let waker = {
            let mut state = self.state();
            change(&mut state);
            state.waker.take()
        };
        self.arrived.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn push(&self, changes: &[MemberChange]) {
        self.change(|state| {
            for &change in changes {
                // Once something is lost, what follows would hide the gap.
                if state.lost > 0 || state.waiting.len() == WAITING_MAX {
                    state.lost += 1;
                } else {
                    state.waiting.push_back(change);
                }
            }
        });
    }

    pub(super) fn end(&self) {
        self.change(|state| state.has_ended = true);
    }
}

/// The changes of a view from the moment of [`Watch::changes`](crate::Watch::changes) on.
///
/// As an iterator it waits for the next change, and ends when the agent ends. At most 1,024 changes
/// wait; if there were more, [`MemberChange::Lost`] says how many are missing at its place.
#[derive(Debug)]
pub struct Changes(pub(super) Arc<Queue>);

impl Changes {
    /// The next change, if there is one already.
    pub fn try_next(&mut self) -> Option<MemberChange> {
        self.0.state().next()
    }

    /// Waits for the next change, so long at most. `None`: none came, or the agent has ended.
    pub fn next_within(&mut self, time: Duration) -> Option<MemberChange> {
        let until = Instant::now() + time;
        let mut state = self.0.state();
        loop {
            if let Some(change) = state.next() {
                return Some(change);
            }
            let left = until.saturating_duration_since(Instant::now());
            if state.has_ended || left.is_zero() {
                return None;
            }
            let waited = self.0.arrived.wait_timeout(state, left);
            state = waited.map_or_else(|error| error.into_inner().0, |waited| waited.0);
        }
    }

    /// The next change for any runtime: `Pending` registers the waker. `Ready(None)`: the agent has
    /// ended.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<MemberChange>> {
        let mut state = self.0.state();
        match state.next() {
            Some(change) => Poll::Ready(Some(change)),
            None if state.has_ended => Poll::Ready(None),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The next change, to be awaited. `None`: the agent has ended.
    pub async fn next_change(&mut self) -> Option<MemberChange> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }
}

impl Iterator for Changes {
    type Item = MemberChange;

    fn next(&mut self) -> Option<MemberChange> {
        let mut state = self.0.state();
        loop {
            if let Some(change) = state.next() {
                return Some(change);
            }
            if state.has_ended {
                return None;
            }
            state = self.0.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_said_at_its_place() {
        let queue = Arc::new(Queue::default());
        let mut changes = Changes(Arc::clone(&queue));
        assert_eq!(changes.try_next(), None);
        let all: Vec<_> = (0..1030_u32).map(|number| MemberChange::Hold(number as u8)).collect();
        queue.push(&all);
        assert!(changes.by_ref().take(1024).eq(all[..1024].iter().copied()));
        queue.push(&all[..1]);
        assert_eq!(changes.try_next(), Some(MemberChange::Lost(7)), "the gap goes on until read");
        queue.push(&all[..1]);
        assert_eq!(changes.next(), Some(MemberChange::Hold(0)));
        queue.end();
        assert_eq!((changes.next(), changes.next_within(Duration::from_secs(9))), (None, None));
    }

    #[test]
    fn a_waker_is_woken_once_something_is_there() {
        let queue = Arc::new(Queue::default());
        let mut changes = Changes(Arc::clone(&queue));
        let mut context = Context::from_waker(Waker::noop());
        assert!(changes.poll_next(&mut context).is_pending());
        queue.push(&[MemberChange::Hold(1)]);
        assert_eq!(changes.poll_next(&mut context), Poll::Ready(Some(MemberChange::Hold(1))));
        queue.end();
        assert_eq!(changes.poll_next(&mut context), Poll::Ready(None));
    }
}
