//! When a loop waits for a set time instead of for the next datagram, as network cards moderate
//! their interrupts.
//!
//! Waking a thread costs more than receiving a datagram. Where beats come close together and nobody
//! waits for an answer, a loop sleeps for [`DOZE_NS`] whatever arrives, and then takes all of it at
//! once.

use crate::clock::Nanos;
use crate::limits::{
    DOZE_DROPS_NS, DOZE_MESSAGES_MIN, DOZE_NS, DOZE_QUEUE_SHARE, DOZE_QUIET_NS, DOZE_WINDOW_NS,
};

/// What a loop remembers of its traffic.
#[derive(Debug)]
pub(super) struct Doze {
    /// When messages were last counted, and how many there had been.
    since: Nanos,
    messages: u64,
    /// Messages that may be expected in a doze.
    room: u64,
    /// Answers and drops so far.
    answers: u64,
    drops: u64,
    /// No doze before this time.
    awake_until: Nanos,
    /// As many messages are to be expected as make a doze worth while, and no more than there is
    /// room for.
    dense: bool,
}

impl Doze {
    /// `queue` is how many messages can wait at the socket with the shortest queue.
    pub(super) fn new(now: Nanos, queue: u64) -> Self {
        let awake_until = now + DOZE_QUIET_NS;
        Self {
            since: now,
            messages: 0,
            room: queue / DOZE_QUEUE_SHARE,
            answers: 0,
            drops: 0,
            awake_until,
            dense: false,
        }
    }

    /// Somebody waits for an answer of the registrar.
    pub(super) fn note_asked(&mut self, now: Nanos) {
        self.awake_until = self.awake_until.max(now + DOZE_QUIET_NS);
    }

    /// Never again: this kernel does not let a thread sleep so.
    pub(super) fn give_up(&mut self) {
        self.awake_until = Nanos::MAX;
    }

    /// Decides whether a loop that has nothing to do dozes. `messages` and `answers` are all that
    /// it has received and sent so far, `drops` what the kernel has dropped at its sockets.
    pub(super) fn decide(&mut self, now: Nanos, messages: u64, answers: u64, drops: u64) -> bool {
        if answers != std::mem::replace(&mut self.answers, answers) {
            self.note_asked(now);
        }
        if drops != std::mem::replace(&mut self.drops, drops) {
            self.awake_until = self.awake_until.max(now + DOZE_DROPS_NS);
        }
        let window = now - self.since;
        if window >= DOZE_WINDOW_NS {
            let expected = (messages - self.messages) * DOZE_NS / window;
            self.dense = (DOZE_MESSAGES_MIN..=self.room).contains(&expected);
            self.since = now;
            self.messages = messages;
        }
        self.dense && now >= self.awake_until
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

        /// Messages come one by one, and the loop wants to rest after each: how many times of a
        /// thousand it dozes.
        fn dozes(&mut self, gap: Nanos) -> usize {
            self.decide(0, 0, 0);
            (0..1000).filter(|_| self.decide(gap, 0, 0)).count()
        }

        /// A while later, in which messages came as densely as they must.
        fn later(&mut self, time: Nanos, answers: u64, drops: u64) -> bool {
            self.messages += 2 * time / GAP;
            self.now += time;
            self.doze.decide(self.now, self.messages, answers, drops)
        }

        /// One message more.
        fn decide(&mut self, gap: Nanos, answers: u64, drops: u64) -> bool {
            self.messages += u64::from(gap > 0);
            self.now += gap;
            self.doze.decide(self.now, self.messages, answers, drops)
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
        assert!(traffic.later(DOZE_QUIET_NS, 0, 0));
        assert!(!traffic.later(DOZE_WINDOW_NS, 1, 0), "an answer was sent");
        assert!(!traffic.later(DOZE_QUIET_NS - 1, 1, 0));
        assert!(traffic.later(1, 1, 0), "nobody has asked for a while");
        traffic.doze.note_asked(traffic.now);
        assert!(!traffic.later(DOZE_QUIET_NS - 1, 1, 0), "the registrar was asked");
        assert!(traffic.later(1, 1, 0));
    }

    #[test]
    fn a_loop_that_lost_something_stays_awake() {
        let mut traffic = Traffic::new(1 << 16);
        assert!(traffic.later(DOZE_QUIET_NS, 0, 0));
        assert!(!traffic.later(DOZE_WINDOW_NS, 0, 1));
        assert!(!traffic.later(DOZE_DROPS_NS - 1, 0, 1));
        assert!(traffic.later(1, 0, 1));
        traffic.doze.give_up();
        assert!(!traffic.later(DOZE_DROPS_NS, 1, 2));
    }

    #[test]
    fn a_short_queue_is_not_filled() {
        let mut traffic = Traffic::new(DOZE_QUEUE_SHARE * DOZE_MESSAGES_MIN);
        assert!(traffic.dozes(GAP * 9 / 10) > 800, "as many as there is room for");
        assert!(traffic.dozes(GAP / 3) < 200);
    }

    #[test]
    fn a_burst_after_a_rest_is_not_dense() {
        let mut doze = Doze::new(0, 1 << 16);
        assert!(!doze.decide(60_000_000_000, 100, 0, 0));
        assert!(!doze.decide(60_000_000_000 + DOZE_WINDOW_NS, 101, 0, 0));
    }
}
