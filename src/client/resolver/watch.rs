//! What callers hold: the handle of a view, and a call under way.

use super::cells::{Cells, Entry, Outcome, nanos};
use super::changes::{Changes, MemberChange, Queue};
use super::options::{Balance, WatchOptions};
use super::picked::{PickError, Picked};
use super::publish::Board;
use super::view::{Reading, Row, Wish};
use crate::draw::{Draw, GAMMA};
use crate::query::Endpoint;
use heartline_wire::balance::mix;
use heartline_wire::fnv1a;
use heartline_wire::time::Nanos;
use std::cell::Cell;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Counters of turns; each thread uses one of them.
const TURNS: usize = 16;
/// No list was ever known to be current.
const NEVER: u64 = u64::MAX;
/// Attempts to be the one whose call is a trial, or to find an endpoint that needs none.
const ENTRIES: u32 = 4;

thread_local! {
    /// Random numbers of this thread; 0: not seeded yet.
    static RANDOM: Cell<u64> = const { Cell::new(0) };
    /// Number of this thread, from 1 on; 0: none yet.
    static THREAD: Cell<usize> = const { Cell::new(0) };
}

/// Threads that have picked.
static THREADS: AtomicUsize = AtomicUsize::new(0);

#[cold]
fn seed() -> u64 {
    let number = THREADS.fetch_add(1, Relaxed) as u64 + 1;
    THREAD.set(number as usize);
    // Threads and processes must not pick alike; nothing depends on more than that.
    let own = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
    mix(own ^ number.wrapping_mul(GAMMA)) | 1
}

/// A counter of turns on a cache line of its own. Two threads that share it may take the same turn.
#[derive(Debug)]
#[repr(align(64))]
struct Turn(AtomicU32);

/// What the writer and all handles share.
pub(super) struct Shared {
    pub(super) board: Board,
    pub(super) cells: Cells,
    pub(super) options: WatchOptions,
    service: Box<str>,
    start: Instant,
    fresh_at: AtomicU64,
    is_current: AtomicBool,
    has_calls: AtomicBool,
    turns: [Turn; TURNS],
    listeners: Mutex<Vec<Arc<Queue>>>,
    /// Whether a pick finds an endpoint.
    ready: Mutex<bool>,
    ready_changed: Condvar,
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shared").field("service", &self.service).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(service: &str, options: WatchOptions, start: Instant) -> Self {
        // Threads begin their turns at different places.
        let turn = |at: usize| Turn(AtomicU32::new(mix(at as u64 + 1) as u32));
        Self {
            board: Board::default(),
            cells: Cells::default(),
            options,
            service: service.into(),
            start,
            fresh_at: AtomicU64::new(NEVER),
            is_current: AtomicBool::new(false),
            has_calls: AtomicBool::new(false),
            turns: std::array::from_fn(turn),
            listeners: Mutex::default(),
            ready: Mutex::new(false),
            ready_changed: Condvar::new(),
        }
    }

    fn now(&self) -> Nanos {
        nanos(self.start.elapsed())
    }

    pub(super) fn set_age(&self, fresh_at: Option<Nanos>, is_current: bool) {
        self.fresh_at.store(fresh_at.unwrap_or(NEVER), Relaxed);
        self.is_current.store(is_current, Relaxed);
    }

    pub(super) fn has_outliers(&self) -> bool {
        self.options.outliers.is_some()
    }

    pub(super) fn has_calls(&self) -> bool {
        self.has_calls.load(Relaxed)
    }

    pub(super) fn tell(&self, changes: &[MemberChange]) {
        if changes.is_empty() {
            return;
        }
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|queue| Arc::strong_count(queue) > 1);
        listeners.iter().for_each(|queue| queue.push(changes));
    }

    pub(super) fn tell_ready(&self, is_ready: bool) {
        *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = is_ready;
        self.ready_changed.notify_all();
    }

    pub(super) fn end(&self) {
        self.is_current.store(false, Relaxed);
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.iter().for_each(|queue| queue.end());
        drop(listeners);
        self.tell_ready(false);
    }

    /// The next turn of this thread, below `count`.
    #[inline]
    fn turn(&self, count: u32) -> u32 {
        let next = &self.turns[THREAD.get() % TURNS].0;
        let turn = next.load(Relaxed);
        let turn = if turn < count { turn } else { turn % count.max(1) };
        next.store(turn + 1, Relaxed);
        turn
    }

    /// Reads the newest view; `None`: there is none yet.
    fn look<R>(&self, read: impl Fn(&Reading<'_>) -> R) -> Option<R> {
        self.board.read(|words| read(&Reading::new(words, &self.cells))).map(|(result, _)| result)
    }

    /// The endpoint that `choose` finds in the newest view.
    #[inline]
    fn select(
        &self,
        is_call: bool,
        choose: impl Fn(&Reading<'_>, &Wish, &mut Draw) -> Result<u32, PickError>,
    ) -> Result<Row, PickError> {
        let balance = self.options.balance;
        let now = if balance == Balance::PeakEwma { self.now() } else { 0 };
        let wish = Wish { balance, now, is_call };
        let mut row = Row::default();
        RANDOM.with(|random| {
            let state = random.get();
            let mut draw = Draw::new(if state == 0 { seed() } else { state });
            let chosen = self.board.read(|words| {
                let view = Reading::new(words, &self.cells);
                row = view.row(choose(&view, &wish, &mut draw)?);
                Ok(())
            });
            random.set(draw.state());
            chosen.map_or(Err(PickError::NotReady), |(chosen, _)| chosen)
        })?;
        Ok(row)
    }

    #[inline]
    fn pick(&self, is_call: bool) -> Result<Row, PickError> {
        self.select(is_call, |view, wish, draw| view.pick(wish, draw, |count| self.turn(count)))
    }

    fn pick_by(&self, key: u64, is_call: bool) -> Result<Row, PickError> {
        self.select(is_call, |view, wish, _| view.pick_by(wish, key))
    }
}

/// The view of one service, kept current by the agent. Clones share it.
///
/// Picks read the newest view without a lock, a system call or an allocation, from any number of
/// threads. Only [`Balance::PeakEwma`] and [`Self::call`] read the clock. The first pick of a
/// thread asks the kernel for random numbers, once.
///
/// Endpoints that may be picked declare themselves serving and are up. Without one, those that are
/// suspect are picked; without any, those that were healthy last, until `max_stale` has passed.
/// [`Picked::degraded`] tells of each such choice.
#[derive(Clone, Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    /// What keeps the view current lives as long as a handle of it.
    #[expect(dead_code, reason = "only its end matters")]
    agent: Option<Arc<dyn Keeper>>,
}

/// What keeps views current.
pub(crate) trait Keeper: Send + Sync + fmt::Debug {}

impl Watch {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, agent: None }
    }

    /// The same handle, which keeps an agent alive.
    pub(crate) fn kept_by(self, agent: Arc<dyn Keeper>) -> Self {
        Self { agent: Some(agent), ..self }
    }

    /// Name of the service.
    pub fn service(&self) -> &str {
        &self.shared.service
    }

    /// The options that it was made with.
    pub fn options(&self) -> &WatchOptions {
        &self.shared.options
    }

    /// One endpoint, chosen as [`WatchOptions::balance`] says.
    ///
    /// # Errors
    /// [`PickError`]: there is none, and why.
    #[inline]
    pub fn pick(&self) -> Result<Picked, PickError> {
        self.shared.pick(false).map(Row::picked)
    }

    /// The endpoint of a key: the same for the same bytes, in every process that sees the same
    /// endpoints. When endpoints come and go, few keys move.
    ///
    /// # Errors
    /// As for [`Self::pick`].
    pub fn pick_by(&self, key: &[u8]) -> Result<Picked, PickError> {
        self.pick_by_key(fnv1a(key))
    }

    /// The same for a number. With [`Balance::Rendezvous`] the engine's strategy rendezvous finds
    /// the same endpoint for the same number.
    ///
    /// # Errors
    /// As for [`Self::pick`].
    pub fn pick_by_key(&self, key: u64) -> Result<Picked, PickError> {
        self.shared.pick_by(key, false).map(Row::picked)
    }

    /// Picks an endpoint and counts a call to it as in flight until the result is dropped. Say how
    /// it ended: least in flight, peak EWMA and outlier ejection go by that.
    ///
    /// ```no_run
    /// # fn send(address: std::net::SocketAddr) -> std::io::Result<()> { Ok(()) }
    /// # fn example(users: heartline_client::Watch) -> Result<(), heartline_client::PickError> {
    /// let call = users.call()?;
    /// match send(call.address()) {
    ///     Ok(()) => call.succeeded(),
    ///     Err(_) => call.failed(),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`Self::pick`].
    pub fn call(&self) -> Result<Call, PickError> {
        self.begin(None)
    }

    /// The same for the endpoint of a key.
    ///
    /// # Errors
    /// As for [`Self::pick`].
    pub fn call_by(&self, key: &[u8]) -> Result<Call, PickError> {
        self.begin(Some(fnv1a(key)))
    }

    fn begin(&self, key: Option<u64>) -> Result<Call, PickError> {
        let shared = &self.shared;
        if !shared.has_calls.load(Relaxed) {
            shared.has_calls.store(true, Relaxed);
        }
        for attempt in 1.. {
            let row = match key {
                Some(key) => shared.pick_by(key, true)?,
                None => shared.pick(true)?,
            };
            let (picked, number) = (row.picked(), row.cell());
            let entry = match shared.cells.get(number) {
                Some(cell) => match cell.enter() {
                    Entry::Shut if attempt < ENTRIES => continue,
                    Entry::Shut => {
                        cell.enter_anyway();
                        Entry::Open
                    }
                    entry => entry,
                },
                None => Entry::Open,
            };
            let (is_trial, began) = (entry == Entry::Trial, shared.now());
            return Ok(Call { shared: Arc::clone(shared), picked, began, cell: number, is_trial });
        }
        Err(PickError::NoneHealthy)
    }

    /// Every endpoint that the engines list, those included that are not picked. Allocates.
    pub fn all(&self) -> Vec<Endpoint> {
        self.shared.look(|view| view.all()).unwrap_or_default()
    }

    /// The changes of the view from now on.
    pub fn changes(&self) -> Changes {
        let queue = Arc::new(Queue::default());
        let mut listeners = self.shared.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if self.error() == Some(PickError::Ended) {
            queue.end();
        }
        listeners.push(Arc::clone(&queue));
        drop(listeners);
        Changes(queue)
    }

    /// Time since the view was last known to be the engine's; `None`: it never was.
    pub fn age(&self) -> Option<Duration> {
        let at = self.shared.fresh_at.load(Relaxed);
        (at != NEVER).then(|| Duration::from_nanos(self.shared.now().saturating_sub(at)))
    }

    /// Whether an engine pushes changes, and none is known to be missing.
    pub fn is_current(&self) -> bool {
        self.shared.is_current.load(Relaxed)
    }

    /// Percent of live instances that were silent when the hold that is on began; `None`: none is
    /// on.
    pub fn hold(&self) -> Option<u8> {
        self.shared.look(|view| view.hold_percent()).filter(|&percent| percent > 0)
    }

    /// Why nothing can be picked at this moment.
    pub fn error(&self) -> Option<PickError> {
        self.shared.look(|view| view.error()).unwrap_or(Some(PickError::NotReady))
    }

    /// Waits until an endpoint can be picked, so long at most.
    ///
    /// # Errors
    /// [`PickError`]: there was none in that time, and why; [`PickError::Ended`] at once.
    pub fn wait_ready(&self, time: Duration) -> Result<(), PickError> {
        let until = Instant::now() + time;
        let mut ready = self.shared.ready.lock().unwrap_or_else(PoisonError::into_inner);
        while !*ready {
            let error = self.error();
            let left = until.saturating_duration_since(Instant::now());
            if let Some(error) = error.filter(|&error| left.is_zero() || error == PickError::Ended)
            {
                return Err(error);
            }
            let waited = self.shared.ready_changed.wait_timeout(ready, left);
            ready = waited.map_or_else(|error| error.into_inner().0, |waited| waited.0);
        }
        Ok(())
    }
}

/// A call under way: see [`Watch::call`]. Dropped without a word, it counts neither as success nor
/// as failure.
#[derive(Debug)]
pub struct Call {
    shared: Arc<Shared>,
    picked: Picked,
    began: Nanos,
    cell: u32,
    is_trial: bool,
}

impl Call {
    /// Where to call.
    pub fn address(&self) -> SocketAddr {
        self.picked.address()
    }

    /// The endpoint.
    pub fn picked(&self) -> Picked {
        self.picked
    }

    /// It did what it should.
    pub fn succeeded(mut self) {
        self.end(Outcome::Succeeded);
    }

    /// It did not: refused, timed out, or answered with an error of the endpoint's own.
    pub fn failed(mut self) {
        self.end(Outcome::Failed);
    }

    fn end(&mut self, outcome: Outcome) {
        let number = std::mem::replace(&mut self.cell, u32::MAX);
        let Some(cell) = self.shared.cells.get(number) else { return };
        let rules = self.shared.options.outliers.as_ref();
        let times = (self.began, self.shared.now());
        self.shared.cells.leave(cell, rules, times, self.is_trial, outcome);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Outcome::Unknown);
    }
}
