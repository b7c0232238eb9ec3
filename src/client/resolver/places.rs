//! Which endpoint has which cell, and since when it is known.

use super::cells::{Cells, rate_bound};
use super::merge::{Key, Member};
use super::options::Outliers;
use heartline_wire::time::{NANOS_PER_SECOND, Nanos};
use std::collections::{BTreeSet, HashMap};

/// An endpoint that is gone keeps its cell so long at least: until then it may come back, and a
/// reader may still hold a view that names the cell.
const REST: Nanos = 60 * NANOS_PER_SECOND;
/// Share of a newcomer at first.
const RAMP_START: f64 = 0.1;

#[derive(Debug)]
struct Place {
    cell: u32,
    member: Member,
    /// Since when it is known; `None`: from the first list on.
    since: Option<Nanos>,
    /// Since when it is not listed.
    gone_at: Option<Nanos>,
}

#[derive(Debug, Default)]
pub(super) struct Places {
    places: HashMap<Key, Place>,
    free: Vec<u32>,
    cells: u32,
    has_list: bool,
}

impl Places {
    /// The cell of an endpoint that is or was listed.
    pub(super) fn cell(&self, key: &Key) -> u32 {
        self.places.get(key).map_or(u32::MAX, |place| place.cell)
    }

    /// The members of a new list get their places; those of endpoints that are long gone, and not
    /// `kept`, are taken back.
    pub(super) fn list(
        &mut self,
        now: Nanos,
        members: &[Member],
        kept: &BTreeSet<Key>,
        cells: &Cells,
    ) {
        let listed: BTreeSet<Key> = members.iter().map(|member| member.key).collect();
        for (key, place) in &mut self.places {
            if !listed.contains(key) && place.gone_at.is_none() {
                place.gone_at = Some(now);
                cells.unlist(place.cell);
            }
        }
        let free = &mut self.free;
        self.places.retain(|key, place| {
            let has_rested = place.gone_at.is_some_and(|at| now.saturating_sub(at) >= REST);
            let is_idle = || cells.get(place.cell).is_none_or(|cell| cell.in_flight() == 0);
            let is_over = has_rested && !kept.contains(key) && is_idle();
            if is_over {
                free.push(place.cell);
            }
            !is_over
        });
        for member in members {
            self.list_one(now, member, cells);
        }
        self.has_list = true;
    }

    fn list_one(&mut self, now: Nanos, member: &Member, cells: &Cells) {
        let Some(place) = self.places.get_mut(&member.key) else {
            let cell = self.free.pop().unwrap_or_else(|| {
                self.cells += 1;
                self.cells - 1
            });
            cells.renew(cell);
            let since = self.has_list.then_some(now);
            let place = Place { cell, member: *member, since, gone_at: None };
            self.places.insert(member.key, place);
            return;
        };
        let is_back = place.gone_at.take().is_some();
        if is_back {
            cells.list(place.cell);
        }
        if is_back || place.member.is_other_registration(member) {
            place.since = Some(now);
        }
        place.member = *member;
    }

    /// The part of its share that an endpoint has: it grows from a tenth to the whole in `window`.
    pub(super) fn ramp(&self, now: Nanos, key: &Key, window: Nanos) -> f64 {
        let since = self.places.get(key).and_then(|place| place.since);
        let Some(since) = since.filter(|_| window > 0) else { return 1.0 };
        let part = now.saturating_sub(since) as f64 / window as f64;
        part.clamp(RAMP_START, 1.0)
    }

    /// Ejections whose time is over.
    pub(super) fn sweep(&self, now: Nanos, cells: &Cells) {
        if cells.ejected() > 0 {
            self.listed(cells).for_each(|cell| cell.half_open(now));
        }
    }

    /// Ejects endpoints whose success rate lies far below that of the others.
    pub(super) fn compare_rates(&self, now: Nanos, rules: &Outliers, cells: &Cells) {
        let mut rates = Vec::new();
        for cell in self.listed(cells) {
            let (good, bad) = cell.take_counts();
            let calls = good.saturating_add(bad);
            if calls > 0 && calls >= rules.rate_calls_min {
                rates.push((f64::from(good) / f64::from(calls), cell));
            }
        }
        let all: Vec<f64> = rates.iter().map(|(rate, _)| *rate).collect();
        let Some(bound) = rate_bound(&all, rules) else { return };
        for (_, cell) in rates.into_iter().filter(|(rate, _)| *rate < bound) {
            cells.eject(cell, rules, now);
        }
    }

    /// Takes endpoints back in until no more are ejected than the cap allows.
    pub(super) fn keep_to_cap(&self, cells: &Cells) {
        let mut listed = self.listed(cells);
        while cells.exceeds_cap() {
            let Some(cell) = listed.next() else { return };
            cells.pardon(cell);
        }
    }

    fn listed<'a>(&self, cells: &'a Cells) -> impl Iterator<Item = &'a super::cells::Cell> {
        let listed = self.places.values().filter(|place| place.gone_at.is_none());
        listed.filter_map(|place| cells.get(place.cell))
    }
}
