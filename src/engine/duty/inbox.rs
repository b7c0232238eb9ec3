//! What a loop remembers of one of its sockets: how far it has been drained, and what was dropped
//! there.

use crate::clock::Nanos;

/// What a loop remembers of one of its sockets.
#[derive(Debug)]
pub(super) struct Inbox {
    /// Something may wait there.
    pub(super) ready: bool,
    /// Whatever had arrived before this time has been received.
    pub(super) drained: Nanos,
    /// Received so far.
    pub(super) messages: u64,
    /// A time, and after how many messages the socket is drained up to it even if it never runs
    /// empty.
    goal: Option<(Nanos, u64)>,
    /// The kernel's 32-bit drop count, and the drops it stands for.
    drops_raw: u32,
    pub(super) drops: u64,
}

impl Inbox {
    /// `drops_raw` is the kernel's count to start from.
    pub(super) fn new(drops_raw: u32) -> Self {
        Self { ready: true, drained: 0, messages: 0, goal: None, drops_raw, drops: 0 }
    }

    /// A drain is wanted, and at most `waiting` messages waited here at the time `counted` or
    /// later, but before now. What is counted anew waits for the goal that there is: put off for
    /// each new one, none would be reached.
    pub(super) fn aim(&mut self, (counted, waiting): (Nanos, u64)) {
        if self.goal.is_none() {
            self.goal = Some((counted, self.messages + waiting));
        }
    }

    /// Messages have been received, and the socket may not be empty: is the goal reached?
    pub(super) fn note_progress(&mut self) {
        if let Some((counted, messages)) = self.goal
            && self.messages >= messages
        {
            self.drained = self.drained.max(counted);
            self.goal = None;
        }
    }

    /// Whatever had arrived before this time has been received.
    pub(super) fn note_empty(&mut self, before: Nanos) {
        self.drained = self.drained.max(before);
        self.goal = None;
    }

    /// The kernel's count, as it came with a datagram.
    pub(super) fn note_drops(&mut self, raw: u32) {
        let more = raw.wrapping_sub(self.drops_raw);
        // The counts come in order; a huge step would be a step back.
        if more < 1 << 31 {
            self.drops += u64::from(more);
            self.drops_raw = raw;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket at which there is always more than is received.
    fn never_empty(messages: u64) -> Inbox {
        Inbox { messages, ..Inbox::new(0) }
    }

    fn receive(inbox: &mut Inbox, messages: u64) -> Nanos {
        inbox.messages += messages;
        inbox.note_progress();
        inbox.drained
    }

    #[test]
    fn a_socket_that_never_runs_empty_is_drained_all_the_same() {
        let mut inbox = never_empty(1000);
        inbox.aim((50, 96));
        assert_eq!(receive(&mut inbox, 32), 0);
        assert_eq!(receive(&mut inbox, 63), 0, "one is missing");
        assert_eq!(receive(&mut inbox, 1), 50);
        assert_eq!(receive(&mut inbox, 1000), 50, "nobody has asked for more");
    }

    #[test]
    fn a_later_wish_does_not_put_the_first_off() {
        let mut inbox = never_empty(0);
        for wish in 1..=4 {
            inbox.aim((wish * 10, 100));
            receive(&mut inbox, 25);
        }
        assert_eq!(inbox.drained, 10);
        inbox.aim((50, 100));
        assert_eq!(receive(&mut inbox, 99), 10);
        assert_eq!(receive(&mut inbox, 1), 50);
    }

    #[test]
    fn one_round_is_for_all_that_was_due_when_it_began() {
        let mut inbox = never_empty(0);
        // Drains after 10, 20 and 30 are wanted; the first brings a count made at 35.
        inbox.aim((35, 64));
        assert_eq!(receive(&mut inbox, 64), 35);
    }

    #[test]
    fn an_empty_socket_is_drained_at_once_and_never_less_than_before() {
        let mut inbox = never_empty(0);
        inbox.aim((50, 0));
        assert_eq!(receive(&mut inbox, 32), 50, "nothing waited when it was asked for");
        inbox.note_empty(40);
        assert_eq!(inbox.drained, 50);
        inbox.aim((70, 1000));
        inbox.note_empty(60);
        assert_eq!(inbox.drained, 60);
        inbox.aim((70, 32));
        assert_eq!(receive(&mut inbox, 32), 70, "what was asked for before is forgotten");
    }
}
