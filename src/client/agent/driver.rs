//! The thread of an agent: it drives the machine with a clock and sockets.

use super::event::Event;
use super::limits::{EVENTS_MAX, SENDS_MAX, STOP_MAX};
use super::local::{Local, Said};
use super::machine::{LinkId, Machine, Output, RegistrationId};
use super::random::Random;
use super::sockets::{Sent, Socket};
use crate::lease::Lease;
use heartline_wire::limits::FRAME_BYTES_MAX;
use heartline_wire::time::Nanos;
use mio::{Events, Poll, Token};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

/// The token of the waker; those of sockets are the numbers of their links.
pub(super) const WAKE: Token = Token(usize::MAX);

pub(super) type Callback = Box<dyn Fn(&Event) + Send>;

/// What the thread and the handles share. Nobody keeps the lock for longer than one call of the
/// machine and one send.
pub(super) struct Core {
    pub(super) machine: Machine,
    /// Tasks that wait for a registration.
    pub(super) tasks: HashMap<RegistrationId, Vec<Waker>>,
    pub(super) is_stopping: bool,
    pub(super) has_ended: bool,
    subscribers: Vec<Subscriber>,
    resolved: Vec<(usize, Vec<SocketAddr>)>,
    pub(super) events_lost: u64,
}

struct Subscriber {
    sender: SyncSender<Event>,
    lost: u64,
}

pub(super) struct Shared {
    core: Mutex<Core>,
    /// Signalled when a registration changes, and at the end.
    pub(super) changed: Condvar,
    waker: mio::Waker,
    start: Instant,
}

impl Shared {
    pub(super) fn new(machine: Machine, waker: mio::Waker) -> Self {
        let core = Core {
            machine,
            tasks: HashMap::new(),
            is_stopping: false,
            has_ended: false,
            subscribers: Vec::new(),
            resolved: Vec::new(),
            events_lost: 0,
        };
        Self { core: Mutex::new(core), changed: Condvar::new(), waker, start: Instant::now() }
    }

    /// Times of the machine count from here.
    pub(super) fn start(&self) -> Instant {
        self.start
    }

    pub(super) fn now(&self) -> Nanos {
        self.start.elapsed().as_nanos() as Nanos
    }

    /// The machine is in order between any two of its steps, so a panic of another thread that had
    /// the lock leaves nothing half done that matters more than beating on.
    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the thread look what there is to do.
    pub(super) fn wake(&self) {
        // It fails only without memory; the thread looks again when its next beat is due.
        let _ = self.waker.wake();
    }

    /// Waits until something holds or the time is over; whether it holds.
    pub(super) fn wait_until(&self, longest: Duration, holds: impl Fn(&Core) -> bool) -> bool {
        let until = Instant::now() + longest;
        let mut core = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if holds(&core) {
                return true;
            }
            if left.is_zero() || core.has_ended {
                return false;
            }
            let waited = self.changed.wait_timeout(core, left);
            core = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Core {
    pub(super) fn subscribe(&mut self) -> Receiver<Event> {
        let (sender, receiver) = sync_channel(EVENTS_MAX);
        self.subscribers.push(Subscriber { sender, lost: 0 });
        receiver
    }

    fn publish(&mut self, event: &Event) {
        let mut lost = 0;
        self.subscribers.retain_mut(|subscriber| {
            // What is missing is said before anything that follows it.
            if subscriber.lost > 0 {
                let gap = Event::EventsLost { count: subscriber.lost };
                if subscriber.sender.try_send(gap).is_ok() {
                    subscriber.lost = 0;
                }
            }
            if subscriber.lost > 0 {
                (subscriber.lost, lost) = (subscriber.lost + 1, lost + 1);
                return true;
            }
            match subscriber.sender.try_send(event.clone()) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    (subscriber.lost, lost) = (1, lost + 1);
                    true
                }
                Err(TrySendError::Disconnected(_)) => false,
            }
        });
        self.events_lost += lost;
    }
}

/// Says that the thread has ended, also when it unwinds.
struct EndGuard(Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        let mut core = self.0.lock();
        core.has_ended = true;
        let tasks: Vec<Waker> = core.tasks.drain().flat_map(|(_, tasks)| tasks).collect();
        drop(core);
        tasks.into_iter().for_each(Waker::wake);
        self.0.changed.notify_all();
    }
}

pub(super) struct Driver {
    shared: Arc<Shared>,
    poll: Poll,
    sockets: Vec<Socket>,
    callback: Option<Callback>,
    /// Connections to engines of this machine, and where those may be found.
    locals: Vec<Local>,
    directories: Vec<PathBuf>,
    /// For each engine, whether its memory is looked for.
    #[cfg(feature = "view")]
    is_mirrored: Vec<bool>,
    random: Random,
    /// When a stop has taken long enough.
    stop_at: Option<Nanos>,
}

/// What is left to do once the lock is free.
enum Work {
    Nothing,
    Sent,
    Tell(Event, Vec<Waker>),
    Show(usize, Lease),
    Open(usize),
    Resolve(usize),
    Wait(Nanos),
    Stop,
}

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        poll: Poll,
        sockets: Vec<Socket>,
        callback: Option<Callback>,
        directories: Vec<PathBuf>,
        random: Random,
    ) -> Self {
        let locals = (0..sockets.len()).map(|link| Local::new(Token(sockets.len() + link)));
        Self {
            shared,
            poll,
            callback,
            locals: locals.collect(),
            #[cfg(feature = "view")]
            is_mirrored: vec![false; sockets.len()],
            sockets,
            directories,
            random,
            stop_at: None,
        }
    }

    pub(super) fn run(mut self) {
        let _end = EndGuard(self.shared.clone());
        let mut events = Events::with_capacity(2 * self.sockets.len() + 1);
        while let Some(until) = self.turn() {
            let left = Duration::from_nanos(until.saturating_sub(self.shared.now()));
            let timeout = (until != Nanos::MAX).then_some(left);
            if self.poll.poll(&mut events, timeout).is_err() {
                // A signal; anything else would come again and again.
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            for event in &events {
                let links = self.sockets.len();
                match event.token() {
                    WAKE => {}
                    Token(link) if link < links => self.receive(link),
                    Token(local) => self.local_is_ready(local - links),
                }
            }
        }
    }

    /// Does whatever is due; until when nothing is. `None`: it is over.
    fn turn(&mut self) -> Option<Nanos> {
        let mut sends = 0;
        loop {
            match self.step() {
                Work::Sent => {
                    sends += 1;
                    if sends % SENDS_MAX == 0 {
                        (0..self.sockets.len()).for_each(|link| self.receive(link));
                    }
                }
                Work::Nothing => {}
                Work::Tell(event, tasks) => self.tell(&event, tasks),
                Work::Open(link) => self.open(link),
                Work::Resolve(link) => self.resolve(link),
                Work::Show(link, lease) => self.show(link, &lease),
                Work::Wait(until) => return Some(until.min(self.connect_locals())),
                Work::Stop => return None,
            }
        }
    }

    fn step(&mut self) -> Work {
        let now = self.shared.now();
        let core = &mut *self.shared.lock();
        if core.is_stopping && self.stop_at.is_none() {
            self.stop_at = Some(now + STOP_MAX);
            core.machine.stop(now);
        }
        let stop_at = self.stop_at.unwrap_or(Nanos::MAX);
        if self.stop_at.is_some() && (core.machine.is_empty() || now >= stop_at) {
            return Work::Stop;
        }
        if let Some((link, addresses)) = core.resolved.pop() {
            let is_new = self.sockets[link].resolved(addresses);
            return if is_new { Work::Open(link) } else { Work::Nothing };
        }
        match core.machine.poll(now) {
            Output::Send { link, frame } => {
                match self.sockets[link.0].send(frame) {
                    Sent::Yes => {}
                    Sent::Refused => core.machine.refused(now, link),
                    Sent::No => core.machine.send_failed(now, link),
                }
                Work::Sent
            }
            Output::Event(event, about) => {
                let tasks = about.and_then(|about| core.tasks.remove(&about));
                core.publish(&event);
                Work::Tell(event, tasks.unwrap_or_default())
            }
            Output::Granted { link, lease } => Work::Show(link.0, lease),
            Output::Open { link } => Work::Open(link.0),
            Output::Resolve { link } => Work::Resolve(link.0),
            Output::Wait { until } => Work::Wait(until.min(stop_at)),
        }
    }

    /// A callback that panics costs its event, not the beats.
    fn tell(&self, event: &Event, tasks: Vec<Waker>) {
        self.shared.changed.notify_all();
        tasks.into_iter().for_each(Waker::wake);
        if let Some(callback) = &self.callback {
            let _ = catch_unwind(AssertUnwindSafe(|| callback(event)));
        }
    }

    fn open(&mut self, link: usize) {
        if !self.sockets[link].has_address() {
            return self.resolve(link);
        }
        let opened = self.sockets[link].open(self.poll.registry());
        let now = self.shared.now();
        let machine = &mut self.shared.lock().machine;
        match opened {
            Ok(local) => machine.opened(now, LinkId(link), local),
            Err(_) => machine.send_failed(now, LinkId(link)),
        }
    }

    /// Asks for the addresses of a name in a thread of its own: it can take seconds.
    fn resolve(&mut self, link: usize) {
        let socket = &mut self.sockets[link];
        if !socket.is_name() || socket.is_resolving {
            return;
        }
        let (shared, place) = (self.shared.clone(), socket.place.clone());
        let thread = std::thread::Builder::new().name("heartline-name".into());
        let started = thread.spawn(move || {
            let addresses = place.resolve();
            shared.lock().resolved.push((link, addresses));
            shared.wake();
        });
        socket.is_resolving = started.is_ok();
    }

    /// An engine of this machine sees the lease end with the process.
    fn show(&mut self, link: usize, lease: &Lease) {
        self.locals[link].show(lease);
    }

    /// Connects to engines of this machine that have leases of this agent; when that is to be tried
    /// again.
    fn connect_locals(&mut self) -> Nanos {
        let now = self.shared.now();
        let mut again = Nanos::MAX;
        #[cfg(feature = "view")]
        self.mirror();
        for (link, local) in self.locals.iter_mut().enumerate() {
            if local.is_connected() || !self.sockets[link].is_local() {
                continue;
            }
            if self.shared.lock().machine.leases(LinkId(link)).next().is_none() {
                continue;
            }
            if now >= local.again_at {
                local.connect(now, self.poll.registry(), &self.directories, &mut self.random);
            }
            if !local.is_connected() {
                again = again.min(local.again_at);
            }
        }
        again
    }

    /// Looks for the memory of engines of this machine where services are followed.
    #[cfg(feature = "view")]
    fn mirror(&mut self) {
        for (link, is_mirrored) in self.is_mirrored.iter_mut().enumerate() {
            if !*is_mirrored && self.sockets[link].is_local() {
                *is_mirrored = !self.shared.lock().machine.watched_at(LinkId(link)).is_empty();
                if *is_mirrored {
                    super::mirror::start(&self.shared, link, &self.directories);
                }
            }
        }
    }

    fn local_is_ready(&mut self, link: usize) {
        let now = self.shared.now();
        let epoch = self.shared.lock().machine.epoch(LinkId(link));
        match self.locals[link].is_ready(now, epoch, &mut self.random) {
            Said::Nothing => {}
            Said::Greeted => {
                let leases: Vec<Lease> = self.shared.lock().machine.leases(LinkId(link)).collect();
                leases.iter().for_each(|lease| self.show(link, lease));
            }
            Said::Unknown => self.shared.lock().machine.ask(LinkId(link)),
        }
    }

    /// Takes in whatever has arrived: readiness is told once.
    fn receive(&mut self, link: usize) {
        let mut frame = [0; FRAME_BYTES_MAX + 1];
        while let Some(received) = self.sockets[link].receive(&mut frame) {
            let now = self.shared.now();
            let machine = &mut self.shared.lock().machine;
            match received {
                Ok(bytes) => machine.receive(now, LinkId(link), &frame[..bytes]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    machine.refused(now, LinkId(link));
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return machine.send_failed(now, LinkId(link)),
            }
        }
    }
}
