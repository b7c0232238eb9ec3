//! What this process knows of each endpoint from its own calls: how many are in flight, how long
//! they take, and whether they fail so often that the endpoint is left out for a while.
//!
//! A cell lies on a cache line of its own and outlives the views that point to it. The writer of
//! views gives cells to endpoints. It takes one back when its endpoint has been gone for a while
//! and nothing is in flight. Two threads that report a latency at the same moment may lose one of
//! the two.

use super::options::Outliers;
use heartline_wire::balance::{peak_average, peak_cost};
use heartline_wire::time::Nanos;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

/// Cells of the first chunk; each further one doubles what there is.
const CHUNK_0: u32 = 64;
/// 2^30 cells in all.
const CHUNKS: usize = 25;

/// States of a cell. Ejected, half open and trying count towards the cap.
const CLOSED: u32 = 0;
/// Left out.
const EJECTED: u32 = 1;
/// The time is over: the next call is a trial.
const HALF_OPEN: u32 = 2;
/// The trial is in flight.
const TRYING: u32 = 3;
/// No endpoint of the list; never ejected.
const UNLISTED: u32 = 4;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It did what it should.
    Succeeded,
    /// It did not.
    Failed,
    /// Nobody said.
    Unknown,
}

/// Whether an endpoint takes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// As any other.
    Open,
    /// As the trial that decides whether it comes back.
    Trial,
    /// Not now.
    Shut,
}

/// The numbers of one endpoint.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Cell {
    state: AtomicU32,
    in_flight: AtomicU32,
    /// Average latency in nanoseconds, as the bits of an `f64`, and when it was measured.
    average: AtomicU64,
    measured_at: AtomicU64,
    /// Failures since the last success.
    failures: AtomicU32,
    /// Since success rates were last compared.
    good: AtomicU32,
    bad: AtomicU32,
    /// Ejections in a row.
    ejections: AtomicU32,
    ejected_until: AtomicU64,
}

const _: () = assert!(size_of::<Cell>() == 64);

impl Default for Cell {
    fn default() -> Self {
        Self {
            state: AtomicU32::new(UNLISTED),
            in_flight: AtomicU32::new(0),
            average: AtomicU64::new(0),
            measured_at: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            good: AtomicU32::new(0),
            bad: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
        }
    }
}

/// All cells of a watch.
#[derive(Debug)]
pub(super) struct Cells {
    chunks: [OnceLock<Box<[Cell]>>; CHUNKS],
    /// Cells that count towards the cap, and the cap.
    ejected: AtomicU32,
    ejected_max: AtomicU32,
}

impl Default for Cells {
    fn default() -> Self {
        Self {
            chunks: std::array::from_fn(|_| OnceLock::new()),
            ejected: AtomicU32::new(0),
            ejected_max: AtomicU32::new(0),
        }
    }
}

/// The chunk of a cell and its place there.
#[inline]
fn place(index: u32) -> (usize, usize) {
    let chunk = (index / CHUNK_0 + 1).ilog2();
    let before = CHUNK_0 * ((1 << chunk) - 1);
    (chunk as usize, (index - before) as usize)
}

impl Cells {
    /// The cell with this number, if it was ever given out.
    #[inline]
    pub(super) fn get(&self, index: u32) -> Option<&Cell> {
        let (chunk, at) = place(index);
        self.chunks.get(chunk)?.get()?.get(at)
    }

    /// The cell with this number, as a new one. The writer's.
    pub(super) fn renew(&self, index: u32) {
        let (chunk, at) = place(index);
        let cells = self.chunks[chunk]
            .get_or_init(|| (0..CHUNK_0 << chunk).map(|_| Cell::default()).collect());
        let cell = &cells[at];
        for word in [&cell.failures, &cell.good, &cell.bad, &cell.ejections] {
            word.store(0, Relaxed);
        }
        cell.average.store(0, Relaxed);
        cell.state.store(CLOSED, Relaxed);
    }

    /// Its endpoint is listed again. The writer's.
    pub(super) fn list(&self, index: u32) {
        if let Some(cell) = self.get(index) {
            let _ = cell.state.compare_exchange(UNLISTED, CLOSED, Relaxed, Relaxed);
        }
    }

    /// Its endpoint is listed no more. The writer's.
    pub(super) fn unlist(&self, index: u32) {
        if let Some(cell) = self.get(index) {
            let before = cell.state.swap(UNLISTED, AcqRel);
            if counts(before) {
                self.ejected.fetch_sub(1, Relaxed);
            }
        }
    }

    /// Sets the cap for so many endpoints. The writer's.
    pub(super) fn set_cap(&self, endpoints: usize, percent: u8) {
        let part = endpoints * usize::from(percent.min(100)) / 100;
        let cap = if endpoints < 2 { 0 } else { part.clamp(1, endpoints - 1) };
        self.ejected_max.store(cap as u32, Relaxed);
    }

    /// Cells that are ejected, half open or trying.
    pub(super) fn ejected(&self) -> u32 {
        self.ejected.load(Relaxed)
    }

    /// Whether more are ejected than the cap allows: endpoints went since.
    pub(super) fn exceeds_cap(&self) -> bool {
        self.ejected() > self.ejected_max.load(Relaxed)
    }

    /// Leaves the endpoint out, unless the cap is reached.
    pub(super) fn eject(&self, cell: &Cell, rules: &Outliers, now: Nanos) {
        let cap = self.ejected_max.load(Relaxed);
        let below = |count| (count < cap).then_some(count + 1);
        if self.ejected.fetch_update(Relaxed, Relaxed, below).is_err() {
            return;
        }
        cell.eject_until(rules, now);
        // Release: whoever sees the state sees the time.
        if cell.state.compare_exchange(CLOSED, EJECTED, AcqRel, Relaxed).is_err() {
            self.ejected.fetch_sub(1, Relaxed);
        }
    }

    /// Takes an ejected or half open endpoint back in. The writer's.
    pub(super) fn pardon(&self, cell: &Cell) {
        for state in [EJECTED, HALF_OPEN] {
            if cell.state.compare_exchange(state, CLOSED, AcqRel, Relaxed).is_ok() {
                cell.failures.store(0, Relaxed);
                self.ejected.fetch_sub(1, Relaxed);
            }
        }
    }

    /// Notes how a call ended that began as [`Cell::enter`] said.
    pub(super) fn leave(
        &self,
        cell: &Cell,
        rules: Option<&Outliers>,
        (began, now): (Nanos, Nanos),
        is_trial: bool,
        outcome: Outcome,
    ) {
        cell.in_flight.fetch_sub(1, Relaxed);
        match outcome {
            Outcome::Succeeded => {
                cell.good.fetch_add(1, Relaxed);
                cell.failures.store(0, Relaxed);
                cell.measure(began, now);
            }
            Outcome::Failed => {
                cell.bad.fetch_add(1, Relaxed);
                let failures = cell.failures.fetch_add(1, Relaxed) + 1;
                // A failure that came fast says nothing good.
                if now.saturating_sub(began) as f64 > cell.average() {
                    cell.measure(began, now);
                }
                if let Some(rules) = rules.filter(|rules| rules.consecutive_failures > 0)
                    && failures >= rules.consecutive_failures
                    && !is_trial
                {
                    self.eject(cell, rules, now);
                }
            }
            Outcome::Unknown => {}
        }
        if is_trial {
            self.end_trial(cell, rules, now, outcome);
        }
    }

    fn end_trial(&self, cell: &Cell, rules: Option<&Outliers>, now: Nanos, outcome: Outcome) {
        let next = match (outcome, rules) {
            (Outcome::Succeeded, _) | (_, None) => CLOSED,
            (Outcome::Failed, Some(rules)) => {
                cell.eject_until(rules, now);
                EJECTED
            }
            (Outcome::Unknown, _) => HALF_OPEN,
        };
        if cell.state.compare_exchange(TRYING, next, AcqRel, Relaxed).is_ok() && next == CLOSED {
            self.ejected.fetch_sub(1, Relaxed);
        }
    }
}

fn counts(state: u32) -> bool {
    matches!(state, EJECTED | HALF_OPEN | TRYING)
}

impl Cell {
    /// Whether picks whose calls are not reported may go there.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state.load(Relaxed), CLOSED | UNLISTED)
    }

    /// Whether a call that is reported may go there.
    #[inline]
    pub(super) fn takes_call(&self) -> bool {
        !matches!(self.state.load(Relaxed), EJECTED | TRYING)
    }

    /// Begins a call. Shut: nothing began.
    pub(super) fn enter(&self) -> Entry {
        let entry = match self.state.load(Acquire) {
            CLOSED | UNLISTED => Entry::Open,
            HALF_OPEN
                if self.state.compare_exchange(HALF_OPEN, TRYING, AcqRel, Relaxed).is_ok() =>
            {
                Entry::Trial
            }
            _ => return Entry::Shut,
        };
        self.in_flight.fetch_add(1, Relaxed);
        entry
    }

    /// Begins a call to an endpoint although it is shut: there is no other.
    pub(super) fn enter_anyway(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// Calls that have begun and not ended.
    #[inline]
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// The cost of one more call, in peak-sensitive latency.
    #[inline]
    pub(super) fn cost(&self, now: Nanos) -> f64 {
        let idle = now.saturating_sub(self.measured_at.load(Relaxed));
        peak_cost(self.average(), idle, self.in_flight())
    }

    /// The time of an ejection is over: the next call is a trial. The writer's.
    pub(super) fn half_open(&self, now: Nanos) {
        // Acquire: pairs with the release that ejected.
        if self.state.load(Acquire) == EJECTED && now >= self.ejected_until.load(Relaxed) {
            let _ = self.state.compare_exchange(EJECTED, HALF_OPEN, AcqRel, Relaxed);
        }
    }

    /// Calls that succeeded and failed since the last time; one ejection is forgotten if the cell
    /// is closed. The writer's.
    pub(super) fn take_counts(&self) -> (u32, u32) {
        if self.state.load(Relaxed) == CLOSED {
            let less = |ejections: u32| ejections.checked_sub(1);
            let _ = self.ejections.fetch_update(Relaxed, Relaxed, less);
        }
        (self.good.swap(0, Relaxed), self.bad.swap(0, Relaxed))
    }

    #[inline]
    fn average(&self) -> f64 {
        f64::from_bits(self.average.load(Relaxed))
    }

    fn measure(&self, began: Nanos, now: Nanos) {
        let idle = now.saturating_sub(self.measured_at.load(Relaxed));
        let average = peak_average(self.average(), idle, now.saturating_sub(began));
        self.average.store(average.to_bits(), Relaxed);
        self.measured_at.store(now, Relaxed);
    }

    fn eject_until(&self, rules: &Outliers, now: Nanos) {
        let times = self.ejections.fetch_add(1, Relaxed).saturating_add(1);
        let longest = nanos(rules.ejection_max.max(rules.ejection));
        let length = nanos(rules.ejection).saturating_mul(times.into()).min(longest);
        self.ejected_until.store(now.saturating_add(length), Relaxed);
    }
}

/// Nanoseconds of a duration, as many as there can be at most.
pub(super) fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}

/// The success rate below which an endpoint is an outlier: the mean less so many standard
/// deviations. `None`: too few endpoints to compare.
pub(super) fn rate_bound(rates: &[f64], rules: &Outliers) -> Option<f64> {
    if rates.len() < rules.rate_endpoints_min.max(1) as usize || rules.rate_deviations <= 0.0 {
        return None;
    }
    let count = rates.len() as f64;
    let mean = rates.iter().sum::<f64>() / count;
    let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
    Some(mean - rules.rate_deviations * variance.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{Failed, Succeeded, Unknown};

    fn cells(count: u32) -> Cells {
        let cells = Cells::default();
        (0..count).for_each(|index| cells.renew(index));
        cells.set_cap(count as usize, Outliers::default().ejected_percent_max);
        cells
    }

    fn call(cells: &Cells, index: u32, now: Nanos, outcome: Outcome) -> Entry {
        let (cell, rules) = (cells.get(index).unwrap(), Outliers::default());
        let entry = cell.enter();
        if entry != Entry::Shut {
            cells.leave(cell, Some(&rules), (now, now), entry == Entry::Trial, outcome);
        }
        entry
    }

    /// Failures of the first endpoint.
    fn fail(cells: &Cells, times: u32, now: Nanos) {
        for _ in 0..times {
            call(cells, 0, now, Failed);
        }
    }

    #[test]
    fn chunks_cover_every_number_once() {
        let mut next = (0, 0);
        for index in 0..10_000 {
            let (chunk, at) = place(index);
            assert_eq!((chunk, at), next, "{index}");
            next = if at + 1 == (64 << chunk) { (chunk + 1, 0) } else { (chunk, at + 1) };
        }
        assert!(place(u32::MAX).0 >= CHUNKS && Cells::default().get(u32::MAX).is_none());
    }

    /// The cap keeps a fault of the caller's own from leaving it with nobody to call.
    #[test]
    fn failures_in_a_row_eject_as_far_as_the_cap_allows() {
        let cells = cells(10);
        for index in 0..10 {
            for _ in 0..4 {
                assert_eq!(call(&cells, index, 5, Failed), Entry::Open);
            }
            call(&cells, index, 5, Succeeded);
            for _ in 0..5 {
                call(&cells, index, 5, Failed);
            }
        }
        let shut = (0..10).filter(|&index| call(&cells, index, 5, Unknown) == Entry::Shut);
        assert_eq!((shut.count(), cells.ejected()), (3, 3));
        for (endpoints, cap) in [(0, 0), (1, 0), (2, 1), (3, 1), (10, 3), (100, 30)] {
            cells.set_cap(endpoints, 30);
            assert_eq!(cells.ejected_max.load(Relaxed), cap, "{endpoints}");
        }
    }

    #[test]
    fn one_trial_decides_and_each_ejection_is_longer() {
        let cells = cells(3);
        let second = 1_000_000_000;
        fail(&cells, 5, 0);
        let cell = cells.get(0).unwrap();
        cell.half_open(10 * second - 1);
        assert_eq!(cell.enter(), Entry::Shut, "its time is not over");
        cell.half_open(10 * second);
        assert!(!cell.is_open(), "picks that nobody reports are no trial");
        assert_eq!(cell.enter(), Entry::Trial);
        assert_eq!(cell.enter(), Entry::Shut, "one trial at a time");
        let rules = Outliers::default();
        cells.leave(cell, Some(&rules), (0, 10 * second), true, Failed);
        cell.half_open(29 * second);
        assert_eq!(cell.enter(), Entry::Shut, "the second one lasts twice as long");
        cell.half_open(30 * second);
        assert_eq!(call(&cells, 0, 30 * second, Unknown), Entry::Trial, "nobody said");
        assert_eq!(call(&cells, 0, 30 * second, Succeeded), Entry::Trial);
        assert_eq!((call(&cells, 0, 30 * second, Succeeded), cells.ejected()), (Entry::Open, 0));
        assert_eq!(cell.in_flight(), 0);
    }

    #[test]
    fn an_endpoint_that_goes_gives_its_part_of_the_cap_back() {
        let cells = cells(3);
        fail(&cells, 5, 0);
        assert_eq!(cells.ejected(), 1);
        cells.unlist(0);
        assert_eq!(cells.ejected(), 0);
        fail(&cells, 9, 0);
        assert_eq!((cells.ejected(), call(&cells, 0, 0, Unknown)), (0, Entry::Open));
        cells.list(0);
        fail(&cells, 5, 0);
        cells.pardon(cells.get(0).unwrap());
        assert_eq!(cells.ejected(), 0);
    }

    #[test]
    fn rates_far_below_the_others_are_outliers() {
        let rules = Outliers::default();
        assert_eq!(rate_bound(&[0.1; 4], &rules), None, "too few to compare");
        let mut rates = [0.99; 10];
        rates[3] = 0.5;
        let bound = rate_bound(&rates, &rules).unwrap();
        assert!((0.5..0.99).contains(&bound), "{bound}");
        let none = Outliers { rate_deviations: 0.0, ..rules };
        assert_eq!(rate_bound(&rates, &none), None);
    }

    #[test]
    fn a_fast_failure_makes_nothing_cheaper() {
        let cells = cells(2);
        let cell = cells.get(0).unwrap();
        cell.enter();
        cells.leave(cell, None, (0, 5_000_000), false, Succeeded);
        cell.enter();
        cells.leave(cell, None, (5_000_000, 5_000_001), false, Failed);
        assert!(cell.cost(5_000_001) > 4.9e6);
        cell.enter();
        assert!(cell.cost(5_000_001) > 9.9e6, "a call in flight costs as much again");
    }
}
