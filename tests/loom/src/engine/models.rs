//! Threads that sleep and wake one another. A wake-up that is lost shows as a deadlock, which loom
//! reports.

use super::rendezvous::Rendezvous;
use crate::sync::AtomicU64;
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// An eventfd or a socket that somebody sleeps on: a signal stays until it is taken.
#[derive(Debug, Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn sleep(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
    }
}

#[derive(Debug)]
struct Engine {
    rendezvous: Rendezvous,
    bells: Vec<Bell>,
    registrar: Bell,
    /// Commands that wait. Stands in for the queue of crossbeam with less order than that has:
    /// relaxed on both sides.
    commands: AtomicU64,
    /// Stands for the heart lines: what loops store relaxed before they publish that they have
    /// drained.
    beat: AtomicU64,
}

impl Engine {
    fn new(loops: usize) -> Arc<Self> {
        Arc::new(Self {
            rendezvous: Rendezvous::new(loops),
            bells: (0..loops).map(|_| Bell::default()).collect(),
            registrar: Bell::default(),
            commands: AtomicU64::new(0),
            beat: AtomicU64::new(0),
        })
    }

    fn wake_registrar(&self) {
        if self.rendezvous.must_wake_registrar() {
            self.registrar.ring();
        }
    }

    /// What a loop does between two batches: publish, report, sleep; until it has drained after
    /// `until`.
    fn idle(&self, number: usize, until: u64) {
        let (mut drained, mut reported) = (0, 0);
        loop {
            self.rendezvous.publish_drained(number, drained);
            self.report(&mut reported);
            if drained >= until {
                break;
            }
            if self.rendezvous.may_sleep(number) {
                self.report(&mut reported);
                self.bells[number].sleep();
                self.rendezvous.woke_up(number);
            }
            drained = drained.max(self.rendezvous.drain_wanted());
        }
        // At last it goes to sleep with nothing to do; whoever looks for it then must have been
        // told.
        if self.rendezvous.may_sleep(number) {
            self.report(&mut reported);
        }
    }

    fn report(&self, reported: &mut u64) {
        if let Some(wanted) = self.rendezvous.drain_to_report(*reported) {
            self.wake_registrar();
            *reported = wanted;
        }
    }
}

/// A loop hands a command over while the registrar goes to sleep: it is taken.
pub fn command_hand_over() {
    let engine = Engine::new(1);
    let of_loop = {
        let engine = Arc::clone(&engine);
        thread::spawn(move || {
            engine.commands.store(7, Relaxed);
            engine.wake_registrar();
        })
    };
    let command = loop {
        let command = engine.commands.load(Relaxed);
        if command != 0 {
            break command;
        }
        engine.rendezvous.registrar_sleeps();
        if engine.commands.load(Relaxed) != 0 {
            engine.rendezvous.registrar_wakes();
            continue;
        }
        engine.registrar.sleep();
        engine.rendezvous.registrar_wakes();
    };
    assert_eq!(command, 7);
    of_loop.join().unwrap();
}

/// The registrar asks loops to drain and sleeps until they have: loops that sleep are woken, and
/// the last one wakes the registrar.
fn drain(loops: usize) {
    const WANTED: u64 = 5;
    let engine = Engine::new(loops);
    let threads: Vec<_> = (0..loops)
        .map(|number| {
            let engine = Arc::clone(&engine);
            thread::spawn(move || engine.idle(number, WANTED))
        })
        .collect();
    engine.rendezvous.want_drain(WANTED, || WANTED, |_| 0, |number| engine.bells[number].ring());
    loop {
        engine.rendezvous.registrar_sleeps();
        if engine.rendezvous.drained() >= WANTED {
            engine.rendezvous.registrar_wakes();
            break;
        }
        engine.registrar.sleep();
        engine.rendezvous.registrar_wakes();
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// With one loop.
pub fn drain_of_one_loop() {
    drain(1);
}

/// With two: the drain is complete when both have drained, whichever is last.
pub fn drain_of_two_loops() {
    drain(2);
}

/// Who sees that every loop has drained sees every beat that they applied before.
pub fn drained_means_applied() {
    let engine = Engine::new(2);
    let threads: Vec<_> = (0..2)
        .map(|number| {
            let engine = Arc::clone(&engine);
            thread::spawn(move || {
                if number == 0 {
                    engine.beat.store(3, Relaxed);
                }
                engine.rendezvous.publish_drained(number, 5);
            })
        })
        .collect();
    if engine.rendezvous.drained() >= 5 {
        assert_eq!(engine.beat.load(Relaxed), 3, "judged without a beat that was applied");
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Who sees that a drain is wanted sees how much waited then, or later.
pub fn a_wish_comes_with_its_queue() {
    let engine = Engine::new(1);
    let of_loop = {
        let engine = Arc::clone(&engine);
        thread::spawn(move || {
            let wanted = engine.rendezvous.drain_wanted();
            let (counted, waiting) = engine.rendezvous.waiting(0);
            assert!(counted >= wanted, "a drain would not reach what is wanted");
            assert!(waiting >= counted, "a drain would count too few messages");
        })
    };
    for time in [5, 6] {
        engine.rendezvous.want_drain(time, || time, |_| time, |_| {});
    }
    of_loop.join().unwrap();
}

/// A stop reaches a loop that goes to sleep.
pub fn stop() {
    let engine = Engine::new(1);
    let of_loop = {
        let engine = Arc::clone(&engine);
        thread::spawn(move || {
            while engine.rendezvous.stopping().is_none() {
                if engine.rendezvous.may_sleep(0) {
                    engine.bells[0].sleep();
                    engine.rendezvous.woke_up(0);
                }
            }
        })
    };
    engine.rendezvous.stop(false, |number| engine.bells[number].ring());
    of_loop.join().unwrap();
}

/// A loop passes a request on and the registrar tells of an event while the watch thread goes to
/// sleep: it sees both.
pub fn watcher_hears_of_both() {
    let engine = Engine::new(1);
    let of_loop = {
        let engine = Arc::clone(&engine);
        thread::spawn(move || {
            engine.commands.store(7, Relaxed);
            if engine.rendezvous.must_wake_watcher() {
                engine.registrar.ring();
            }
        })
    };
    let of_registrar = {
        let engine = Arc::clone(&engine);
        thread::spawn(move || {
            engine.beat.store(3, Relaxed);
            if engine.rendezvous.must_tell_watcher() {
                engine.registrar.ring();
            }
        })
    };
    let (mut request, mut event) = (false, false);
    while !(request && event) {
        request |= engine.commands.load(Relaxed) != 0;
        event |= engine.beat.load(Relaxed) != 0;
        engine.rendezvous.watcher_sleeps(true);
        let work = !request && engine.commands.load(Relaxed) != 0
            || !event && engine.beat.load(Relaxed) != 0;
        if !(work || request && event) {
            engine.registrar.sleep();
        }
        engine.rendezvous.watcher_wakes();
    }
    of_loop.join().unwrap();
    of_registrar.join().unwrap();
}

/// While nobody watches, an event wakes nobody, and a request does.
pub fn watcher_sleeps_over_events() {
    let engine = Engine::new(1);
    engine.rendezvous.watcher_sleeps(false);
    assert!(!engine.rendezvous.must_tell_watcher());
    assert!(engine.rendezvous.must_wake_watcher() && !engine.rendezvous.must_wake_watcher());
}
