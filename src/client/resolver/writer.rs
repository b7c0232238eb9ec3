//! The writer of one service's view: merges the engines' lists, decides which endpoints may be
//! picked and with which share, and publishes.
//!
//! Which endpoints are candidates:
//!
//! - Only those that declare themselves serving; draining and maintenance never.
//! - Those that are up. Without one, those that are suspect. During a hold both, since the engine
//!   cannot tell then.
//! - Without any, the candidates that were healthy last and did not leave in order, for
//!   `max_stale`.
//! - While no engine can be reached, the last view, for `max_stale`.

use super::cells::nanos;
use super::changes::MemberChange;
use super::merge::{Key, Member, Merged, Source, has_left, merge};
use super::options::{Balance, WatchOptions};
use super::picked::{Degraded, PickError};
use super::places::Places;
use super::publish::Writer;
use super::view::{Placed, View};
use super::watch::{Shared, Watch};
use crate::query::Endpoint;
use heartline_wire::balance::{columns, identity, maglev, prefer_zone, turns};
use heartline_wire::endpoint_flags::DECLARED;
use heartline_wire::time::{NANOS_PER_SECOND, Nanos, from_ms};
use heartline_wire::{Declared, State};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

/// Steps of a newcomer's share from a tenth to the whole.
const RAMP_STEPS: u64 = 10;
/// Shortest time between two steps.
const RAMP_STEP_MIN: Nanos = from_ms(50);
/// Ejected endpoints are looked at this often.
const SWEEP: Nanos = NANOS_PER_SECOND;

/// The writer of one service's view. Its owner tells it of the lists that it merges.
#[derive(Debug)]
pub struct Resolver {
    shared: Arc<Shared>,
    writer: Writer,
    words: Vec<u64>,
    /// Of each source: whether its word counted, its changes and its gaps.
    seen: Vec<(bool, u64, u64)>,
    is_reached: bool,
    merged: Option<Merged>,
    places: Places,
    /// The candidates that were healthy last, and since when none is.
    good: Vec<Member>,
    none_good_since: Option<Nanos>,
    fresh_at: Option<Nanos>,
    publish_at: Nanos,
    silent_at: Nanos,
    sweep_at: Nanos,
    rates_at: Nanos,
    /// The last table of Maglev and the members that it was made of.
    keys: (Vec<(u64, u16)>, Vec<u32>),
}

impl Resolver {
    /// A resolver and the first handle of its view. Times given later count from `start`.
    pub fn new(service: &str, options: WatchOptions, start: Instant) -> (Self, Watch) {
        let shared = Arc::new(Shared::new(service, options, start));
        let resolver = Self {
            shared: Arc::clone(&shared),
            writer: Writer::default(),
            words: Vec::new(),
            seen: Vec::new(),
            is_reached: false,
            merged: None,
            places: Places::default(),
            good: Vec::new(),
            none_good_since: None,
            fresh_at: None,
            publish_at: Nanos::MAX,
            silent_at: Nanos::MAX,
            sweep_at: 0,
            rates_at: 0,
            keys: Default::default(),
        };
        (resolver, Watch::new(shared))
    }

    /// A further handle of its view.
    pub fn handle(&self) -> Watch {
        Watch::new(Arc::clone(&self.shared))
    }

    /// The options of its view.
    pub fn options(&self) -> &WatchOptions {
        &self.shared.options
    }

    /// Whether a handle or a call is left; if not, the service need not be followed any more.
    pub fn is_watched(&self) -> bool {
        Arc::strong_count(&self.shared) > 1
    }

    /// Looks at the lists, and publishes if something changed. To be called after each reply or
    /// push that had an effect, when an engine becomes reachable or unreachable, and at
    /// [`Self::due`].
    pub fn update(&mut self, now: Nanos, sources: &[Source<'_>]) {
        let seen: Vec<_> = sources.iter().map(|source| source.seen(now)).collect();
        let speaking = || sources.iter().filter(|source| source.speaks(now));
        self.silent_at = speaking().map(Source::silent_at).min().unwrap_or(Nanos::MAX);
        let fresh_at = speaking().filter_map(|source| source.follow.fresh_at()).max();
        self.fresh_at = fresh_at.max(self.fresh_at);
        let is_current = speaking().any(|source| source.follow.is_current(now));
        self.shared.set_age(self.fresh_at, is_current);
        let mut is_new = false;
        if seen != self.seen {
            let gaps = |seen: &[(bool, u64, u64)]| seen.iter().map(|one| one.2).sum::<u64>();
            let has_gap = self.merged.is_some() && gaps(&seen) > gaps(&self.seen);
            self.seen = seen;
            self.is_reached = speaking().next().is_some();
            // Those that left in order do not stand in for others.
            self.good.retain(|member| !has_left(now, sources, &member.key));
            if let Some(merged) = merge(now, sources) {
                self.adopt(now, merged, has_gap);
            }
            is_new = true;
        }
        if now >= self.sweep_at {
            self.sweep(now);
        }
        if is_new || now >= self.publish_at {
            self.publish(now);
        }
    }

    /// When [`Self::update`] is due although nothing was received.
    pub fn due(&self) -> Nanos {
        let sweep = if self.shared.has_outliers() { self.sweep_at } else { Nanos::MAX };
        self.publish_at.min(self.silent_at).min(sweep)
    }

    /// Takes a new list over and tells of the differences.
    fn adopt(&mut self, now: Nanos, merged: Merged, has_gap: bool) {
        let changes = match &self.merged {
            Some(before) => differences(before, &merged, has_gap),
            None => differences(&Merged::default(), &merged, false),
        };
        let kept: BTreeSet<Key> = self.good.iter().map(|member| member.key).collect();
        self.places.list(now, &merged.members, &kept, &self.shared.cells);
        self.merged = Some(merged);
        self.shared.tell(&changes);
    }

    /// What the outcomes of calls say.
    fn sweep(&mut self, now: Nanos) {
        self.sweep_at = now + SWEEP;
        let Some(rules) = &self.shared.options.outliers else { return };
        if now >= self.rates_at {
            self.rates_at = now.saturating_add(nanos(rules.interval));
            self.places.compare_rates(now, rules, &self.shared.cells);
        }
        self.places.sweep(now, &self.shared.cells);
        if !self.shared.has_calls() {
            self.sweep_at = self.rates_at;
        }
    }

    fn publish(&mut self, now: Nanos) {
        self.publish_at = Nanos::MAX;
        let Some(merged) = self.merged.take() else { return };
        let mut view = View { hold_percent: merged.hold_percent, ..View::default() };
        let candidates = self.choose(now, &merged, &mut view);
        view.candidates = candidates.len();
        self.place(&merged, &candidates, &mut view);
        if view.error.is_none() {
            self.prepare(now, &merged, &candidates, &mut view);
        }
        if let Some(rules) = &self.shared.options.outliers {
            self.shared.cells.set_cap(candidates.len(), rules.ejected_percent_max);
            self.places.keep_to_cap(&self.shared.cells);
        }
        self.merged = Some(merged);
        view.encode(&mut self.words);
        self.writer.publish(&self.shared.board, &self.words);
        self.shared.tell_ready(view.error.is_none());
    }

    /// The candidates, in the order of their keys.
    fn choose(&mut self, now: Nanos, merged: &Merged, view: &mut View) -> Vec<Member> {
        let max_stale = nanos(self.shared.options.max_stale);
        if !self.is_reached {
            let stale_at = self.fresh_at.unwrap_or(0).saturating_add(max_stale);
            if now >= stale_at {
                view.error = Some(PickError::Stale);
                return Vec::new();
            }
            self.wake_at(stale_at);
            view.degraded = Some(Degraded::Unreachable);
        }
        let serving = || merged.members.iter().filter(|member| is_serving(member)).copied();
        let ups: Vec<Member> = serving().filter(is_up).collect();
        if merged.hold_percent > 0 && serving().next().is_some() {
            view.degraded.get_or_insert(Degraded::Hold);
            self.none_good_since = None;
            return serving().collect();
        }
        if !ups.is_empty() {
            self.good.clone_from(&ups);
            self.none_good_since = None;
            return ups;
        }
        let suspects: Vec<Member> = serving().collect();
        if !suspects.is_empty() {
            view.degraded.get_or_insert(Degraded::Suspect);
            self.none_good_since = None;
            return suspects;
        }
        let since = *self.none_good_since.get_or_insert(now);
        let until = since.saturating_add(max_stale);
        // Those that took themselves out are not called again.
        let unwanted: BTreeSet<Key> = merged.members.iter().map(|member| member.key).collect();
        let good = self.good.iter().filter(|member| !unwanted.contains(&member.key));
        let good: Vec<Member> = good.copied().collect();
        if good.is_empty() || now >= until {
            let is_empty = merged.members.is_empty();
            let error = if is_empty { PickError::NoInstance } else { PickError::NoneHealthy };
            view.error = Some(error);
            return Vec::new();
        }
        self.wake_at(until);
        view.degraded = Some(Degraded::LastGood);
        good
    }

    /// Candidates first, then what else is listed.
    fn place(&self, merged: &Merged, candidates: &[Member], view: &mut View) {
        let is_listed = |key: &Key| find(&merged.members, key).is_some();
        let placed = |member: &Member| Placed {
            member: *member,
            cell: self.places.cell(&member.key),
            stands_in: !is_listed(&member.key),
        };
        view.endpoints.extend(candidates.iter().map(placed));
        let others = merged.members.iter().filter(|member| find(candidates, &member.key).is_none());
        view.endpoints.extend(others.map(placed));
    }

    /// The tables that picks look into.
    fn prepare(&mut self, now: Nanos, merged: &Merged, candidates: &[Member], view: &mut View) {
        let shared = Arc::clone(&self.shared);
        let WatchOptions { balance, zone_hash, .. } = shared.options;
        let window = nanos(shared.options.slow_start);
        let mut shares: Vec<(u32, f64)> = Vec::with_capacity(candidates.len());
        let mut has_newcomer = false;
        for member in candidates {
            let weight = match balance {
                Balance::Weighted | Balance::Rendezvous | Balance::Maglev => {
                    f64::from(member.entry.weight.get())
                }
                _ => 1.0,
            };
            let ramp = self.places.ramp(now, &member.key, window);
            has_newcomer |= ramp < 1.0;
            shares.push((member.entry.zone.get(), weight * ramp));
        }
        if has_newcomer {
            self.wake_at(now.saturating_add((window / RAMP_STEPS).max(RAMP_STEP_MIN)));
        }
        if zone_hash != 0 {
            let serving = merged.members.iter().filter(|member| is_serving(member));
            let zones: BTreeSet<u32> = serving.map(|member| member.entry.zone.get()).collect();
            prefer_zone(zone_hash, zones.len(), &mut shares);
        }
        let weights: Vec<f64> = shares.into_iter().map(|(_, share)| share).collect();
        view.columns = match balance {
            Balance::RoundRobin => turns(&weights).into_iter().map(u64::from).collect(),
            _ => columns(&weights),
        };
        if balance == Balance::Maglev {
            let weighted = |member: &Member| {
                let entry = &member.entry;
                (identity(entry.address, entry.port.get()), entry.weight.get())
            };
            let members: Vec<(u64, u16)> = candidates.iter().map(weighted).collect();
            if members != self.keys.0 {
                self.keys = (members.clone(), maglev(&members));
            }
            view.keys.clone_from(&self.keys.1);
        }
    }

    fn wake_at(&mut self, at: Nanos) {
        self.publish_at = self.publish_at.min(at);
    }
}

/// No view is kept current any more, and picks say so.
impl Drop for Resolver {
    fn drop(&mut self) {
        let view = View { error: Some(PickError::Ended), ..View::default() };
        view.encode(&mut self.words);
        self.writer.publish(&self.shared.board, &self.words);
        self.shared.end();
    }
}

fn is_serving(member: &Member) -> bool {
    member.entry.declared() == Declared::Serving
}

fn is_up(member: &Member) -> bool {
    member.entry.state() == Some(State::Up)
}

/// A member among others in the order of their keys.
fn find<'a>(members: &'a [Member], key: &Key) -> Option<&'a Member> {
    members.binary_search_by(|member| member.key.cmp(key)).ok().map(|at| &members[at])
}

fn differences(before: &Merged, after: &Merged, has_gap: bool) -> Vec<MemberChange> {
    let mut changes = Vec::new();
    if has_gap {
        changes.push(MemberChange::Gap);
    }
    let seen = |member: &Member| Endpoint::from_wire(&member.entry);
    for gone in before.members.iter().filter(|member| find(&after.members, &member.key).is_none()) {
        changes.extend(seen(gone).map(MemberChange::Left));
    }
    for member in &after.members {
        match find(&before.members, &member.key) {
            None => changes.extend(seen(member).map(MemberChange::Joined)),
            Some(former) if differs(former, member) => {
                changes.extend(seen(member).map(MemberChange::Altered));
            }
            Some(_) => {}
        }
    }
    if before.hold_percent != after.hold_percent {
        changes.push(MemberChange::Hold(after.hold_percent));
    }
    changes
}

/// Whether more than load and age differ. Slots and generations compare within one engine.
fn differs(former: &Member, member: &Member) -> bool {
    let facts = |member: &Member| {
        let entry = &member.entry;
        (entry.state, entry.flags & (DECLARED | 4), entry.weight, entry.version, entry.zone)
    };
    facts(former) != facts(member) || former.is_other_registration(member)
}
