//! What the threads of one engine share beside the region: signals, sockets and queues.

use super::SocketTable;
use super::duty::Signals;
use crate::clock::{self, Nanos};
use crate::exchange::{Command, WatchCommand};
use crate::net::Socket;
use crate::registrar::DenyList;
use crossbeam::queue::ArrayQueue;
use rustix::net::{SendFlags, send};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};

/// What loops ask of the registrar, and of the watch thread.
pub(super) type Queues = (Arc<ArrayQueue<Command>>, Arc<ArrayQueue<WatchCommand>>);

/// Shared by the loops, the registrar thread, the watch thread and the engine's owner.
#[derive(Debug)]
pub(super) struct Shared {
    /// Kernel thread id of each loop.
    pub(super) loop_tids: Box<[AtomicU32]>,
    /// For each loop, a socket for each listening address.
    pub(super) sockets: Arc<SocketTable>,
    pub(super) commands: Arc<ArrayQueue<Command>>,
    pub(super) watch_commands: Arc<ArrayQueue<WatchCommand>>,
    pub(super) wakers: Box<[mio::Waker]>,
    pub(super) signals: Signals,
    registrar_wake: UnixDatagram,
    watcher_wake: UnixDatagram,
    /// Times that the registrar woke the watch thread.
    watcher_told: AtomicU64,
    /// Nothing happens any more: the watch thread tells the rest and ends.
    watching_ends: AtomicBool,
    /// Settings that the registrar takes over at its next look.
    settings: Mutex<Option<(u32, DenyList)>>,
    settings_changed: AtomicBool,
    /// Set by the registrar with each look.
    alive: AtomicBool,
    /// Connections to the local socket, and what was refused there.
    local: [AtomicU64; 2],
}

impl Shared {
    pub(super) fn new(
        sockets: Arc<SocketTable>,
        (commands, watch_commands): Queues,
        wakers: Box<[mio::Waker]>,
        [registrar_wake, watcher_wake]: [UnixDatagram; 2],
    ) -> Self {
        Self {
            signals: Signals::new(sockets.len()),
            loop_tids: sockets.iter().map(|_| AtomicU32::new(0)).collect(),
            sockets,
            commands,
            watch_commands,
            wakers,
            registrar_wake,
            watcher_wake,
            watcher_told: AtomicU64::new(0),
            watching_ends: AtomicBool::new(false),
            settings: Mutex::new(None),
            settings_changed: AtomicBool::new(false),
            alive: AtomicBool::new(true),
            local: [const { AtomicU64::new(0) }; 2],
        }
    }

    /// Asks every loop to drain after `time`, and wakes those that sleep.
    pub(super) fn want_drain(&self, time: Nanos) {
        let counted = || {
            // Slots that were freed just now rest until up to two microseconds from now.
            loop {
                match clock::now() {
                    now if now > time => return now,
                    _ => std::hint::spin_loop(),
                }
            }
        };
        let waiting = |number: usize| {
            self.sockets[number].iter().map(Socket::waiting_messages_max).max().unwrap_or(0)
        };
        self.signals.rendezvous.want_drain(time, counted, waiting, |number| self.wake_loop(number));
    }

    fn wake_loop(&self, number: usize) {
        // A waker that can't be signalled is one that already is.
        let _ = self.wakers[number].wake();
    }

    /// Wakes the registrar if it sleeps.
    pub(super) fn wake_registrar(&self) {
        if self.signals.rendezvous.must_wake_registrar() {
            self.signal_registrar();
        }
    }

    /// Ends the registrar's sleep. One `send` on a local socket: on a loop, nothing but receive,
    /// send and poll calls happen.
    pub(super) fn signal_registrar(&self) {
        let _ = send(&self.registrar_wake, &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Wakes the watch thread, if it sleeps, for a request that a loop has passed on. One `send` on
    /// a local socket, as for the registrar.
    pub(super) fn wake_watcher(&self) {
        if self.signals.rendezvous.must_wake_watcher() {
            self.signal_watcher();
        }
    }

    /// Wakes the watch thread, if it sleeps and anything is watched, for events.
    pub(super) fn tell_watcher(&self) {
        if self.signals.rendezvous.must_tell_watcher() {
            self.watcher_told.fetch_add(1, Relaxed);
            self.signal_watcher();
        }
    }

    /// How often that was done.
    pub(super) fn watcher_told(&self) -> u64 {
        self.watcher_told.load(Relaxed)
    }

    fn signal_watcher(&self) {
        let _ = send(&self.watcher_wake, &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Lets the watch thread end, once all others have.
    pub(super) fn end_watching(&self) {
        // Release: pairs with the acquire load in `watching_ends`; all events are in the feed.
        self.watching_ends.store(true, Release);
        self.signal_watcher();
    }

    /// Whether the watch thread is to end.
    pub(super) fn watching_ends(&self) -> bool {
        // Acquire: pairs with the release store in `end_watching`.
        self.watching_ends.load(Acquire)
    }

    /// Lets the registrar take other settings over.
    pub(super) fn reconfigure(&self, quota: u32, deny: DenyList) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = Some((quota, deny));
        self.settings_changed.store(true, Release);
        self.wake_registrar();
    }

    /// The settings to take over, if there are others.
    pub(super) fn take_settings(&self) -> Option<(u32, DenyList)> {
        // Acquire: pairs with the store of `reconfigure`; the lock is not touched at most looks.
        let changed =
            self.settings_changed.load(Acquire) && self.settings_changed.swap(false, Acquire);
        if changed {
            self.settings.lock().unwrap_or_else(PoisonError::into_inner).take()
        } else {
            None
        }
    }

    /// The registrar has looked.
    pub(super) fn registrar_lives(&self) {
        self.alive.store(true, Relaxed);
    }

    /// Whether the registrar has looked since the last call; it is woken to look again.
    pub(super) fn check_registrar(&self) -> bool {
        let alive = self.alive.swap(false, Relaxed);
        self.wake_registrar();
        alive
    }

    /// The thread of the local socket has counted; the registrar shows it to others.
    pub(super) fn note_local(&self, connections: u64, refused: u64) {
        self.local[0].store(connections, Relaxed);
        self.local[1].store(refused, Relaxed);
        self.wake_registrar();
    }

    /// Connections to the local socket, and what was refused there.
    pub(super) fn local(&self) -> [u64; 2] {
        [self.local[0].load(Relaxed), self.local[1].load(Relaxed)]
    }

    /// Tells every thread to end. `leave`: what waits at the sockets is left to a successor.
    pub(super) fn stop(&self, leave: bool) {
        self.signals.rendezvous.stop(leave, |number| self.wake_loop(number));
        self.wake_registrar();
    }
}
