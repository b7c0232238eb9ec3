//! When a loop waits for a set time instead of for the next datagram, as network cards moderate their interrupts.
//!
//! Waking a thread costs more than receiving a datagram. Where beats come close together and nobody waits for an answer, a loop sleeps for
//! [`DOZE_NS`] whatever arrives, and then takes all of it at once.

use crate::clock::Nanos;
use crate::limits::{DOZE_MESSAGES_MIN, DOZE_NS, DOZE_QUEUE_SHARE, DOZE_QUIET_NS, DOZE_WINDOW_NS};

/// What a loop remembers of its traffic.
#[derive(Debug)]
pub(super) struct Doze {
    /// When messages were last counted, and how many there had been.
    since: Nanos,
    messages: u64,
    /// Messages that may come in a doze.
    room: u64,
    /// When somebody was last seen waiting for an answer, and how many answers there had been.
    asked: Nanos,
    answers: u64,
    /// Messages come close together, but not so close that the shortest queue could overflow.
    dense: bool,
}

impl Doze {
    /// `queue` is how many messages can wait at the socket with the shortest queue.
    pub(super) fn new(now: Nanos, queue: u64) -> Self {
        Self { since: now, messages: 0, room: queue / DOZE_QUEUE_SHARE, asked: now, answers: 0, dense: false }
    }

    /// Somebody waits for an answer of the registrar.
    pub(super) fn note_asked(&mut self, now: Nanos) {
        self.asked = now;
    }

    /// Whether a loop that has nothing to do should doze. `messages` and `answers` are all that it has received and sent so far.
    pub(super) fn is_due(&mut self, now: Nanos, messages: u64, answers: u64) -> bool {
        if answers != self.answers {
            self.asked = now;
            self.answers = answers;
        }
        let window = now - self.since;
        if window >= DOZE_WINDOW_NS {
            let expected = (messages - self.messages) * DOZE_NS / window;
            self.dense = (DOZE_MESSAGES_MIN..=self.room).contains(&expected);
            self.since = now;
            self.messages = messages;
        }
        self.dense && now - self.asked >= DOZE_QUIET_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loop whose traffic is simulated.
    struct Traffic {
        doze: Doze,
        now: Nanos,
        messages: u64,
    }

    impl Traffic {
        fn new(queue: u64) -> Self {
            Self { doze: Doze::new(0, queue), now: DOZE_QUIET_NS, messages: 0 }
        }

        /// Messages come one by one, and the loop wants to rest after each: how many times of a thousand it dozes.
        fn dozes(&mut self, gap: Nanos) -> usize {
            self.doze.is_due(self.now, self.messages, 0);
            let due = |_: &i32| {
                self.now += gap;
                self.messages += 1;
                self.doze.is_due(self.now, self.messages, 0)
            };
            (0..1000).filter(due).count()
        }
    }

    /// Just dense enough.
    const GAP: Nanos = DOZE_NS / DOZE_MESSAGES_MIN;

    #[test]
    fn dense_traffic_is_collected() {
        let mut traffic = Traffic::new(1 << 16);
        assert_eq!(traffic.dozes(GAP * 5 / 4), 0, "too sparse");
        assert!(traffic.dozes(GAP / 2) > 800);
        assert!(traffic.dozes(GAP * 5 / 4) < 200, "sparse again");
    }

    #[test]
    fn who_asks_is_not_kept_waiting() {
        let mut traffic = Traffic::new(1 << 16);
        traffic.dozes(GAP / 2);
        let Traffic { mut doze, now, messages } = traffic;
        assert!(doze.is_due(now, messages, 0));
        assert!(!doze.is_due(now, messages, 1), "an answer was sent");
        assert!(!doze.is_due(now + DOZE_WINDOW_NS - 1, messages, 1));
        assert!(doze.is_due(now + DOZE_QUIET_NS, messages + 1_000_000 / GAP * 20, 1));
        doze.note_asked(now + DOZE_QUIET_NS);
        assert!(!doze.is_due(now + DOZE_QUIET_NS, messages, 1), "the registrar was asked");
    }

    #[test]
    fn a_short_queue_is_not_left_to_overflow() {
        let mut traffic = Traffic::new(DOZE_QUEUE_SHARE * DOZE_MESSAGES_MIN);
        assert!(traffic.dozes(GAP * 9 / 10) > 800, "as many as there is room for");
        assert!(traffic.dozes(GAP / 3) < 200);
    }

    #[test]
    fn a_burst_after_a_rest_is_not_dense() {
        let mut doze = Doze::new(0, 1 << 16);
        assert!(!doze.is_due(60_000_000_000, 100, 0));
        assert!(!doze.is_due(60_000_000_000 + DOZE_WINDOW_NS, 101, 0));
    }
}
