//! The lists of an engine on this machine, read from its memory: a thread waits for events there
//! and tells the agent what has changed. Pushes say the same, a little later.

use super::driver::Shared;
use super::machine::LinkId;
use heartline_region::{EventKind, View, Waited};
use heartline_wire::time::Nanos;
use heartline_wire::{Endpoint, service_id};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long the thread sleeps while there is nothing to read. It also looks then whether the agent
/// has ended.
const PAUSE: Duration = Duration::from_millis(250);

/// A list as it stands in the engine's memory.
#[derive(Debug)]
pub(crate) struct Mirrored<'a> {
    /// The run of the engine that wrote it.
    pub(crate) epoch: u64,
    pub(crate) version: u64,
    /// Percent of live instances that were silent when the hold that is on began; 0: none is on.
    pub(crate) hold_percent: u8,
    pub(crate) members: &'a [Endpoint],
    /// Slots whose lease has ended since the list before.
    pub(crate) left: &'a [u32],
}

/// Starts the thread for one engine. It ends with the agent.
pub(super) fn start(shared: &Arc<Shared>, link: usize, directories: &[PathBuf]) {
    let (shared, directories) = (Arc::downgrade(shared), directories.to_vec());
    let thread = std::thread::Builder::new().name("heartline-view".into());
    // Without it, pushes are what there is.
    let _ = thread.spawn(move || {
        let link = LinkId(link);
        let mut mirror = Mirror { shared, link, directories, seen: 0, told: BTreeSet::new() };
        let mut view = None;
        while mirror.turn(&mut view) {}
    });
}

struct Mirror {
    shared: Weak<Shared>,
    link: LinkId,
    directories: Vec<PathBuf>,
    /// The newest event that was read.
    seen: u64,
    /// Services that were told since the file was mapped.
    told: BTreeSet<String>,
}

impl Mirror {
    /// Looks once and waits for the next event. `false`: the agent has ended.
    fn turn(&mut self, view: &mut Option<View>) -> bool {
        let Some((epoch, services)) = self.wanted() else { return false };
        let is_its = |view: &View| epoch != 0 && view.epoch() == Some(epoch);
        if view.as_ref().is_none_or(|view| !is_its(view)) {
            // A run that has not answered yet, or another engine.
            self.told.clear();
            let places = self.directories.iter();
            *view = places.filter_map(|place| View::open(place).ok()).find(is_its);
        }
        let Some(view) = view else {
            std::thread::sleep(PAUSE);
            return true;
        };
        self.tell(view, epoch, services);
        if view.wait(self.seen, PAUSE) == Waited::Moved {
            self.told.clear();
        }
        true
    }

    /// The run of the engine as the agent knows it, and what is watched there.
    fn wanted(&self) -> Option<(u64, Vec<String>)> {
        let shared = self.shared.upgrade()?;
        let core = shared.lock();
        if core.is_stopping || core.has_ended {
            return None;
        }
        Some((core.machine.epoch(self.link), core.machine.watched_at(self.link)))
    }

    /// Tells the agent the lists that have changed, and those that it does not have yet.
    fn tell(&mut self, view: &View, epoch: u64, services: Vec<String>) {
        let (mut changed, mut left, mut all) = (BTreeSet::new(), Vec::new(), false);
        let mut events = view.events(self.seen);
        for event in events.by_ref() {
            match event {
                Ok((_, event)) => {
                    all |= matches!(event.kind, EventKind::HoldBegan | EventKind::HoldEnded);
                    changed.insert(event.service);
                    if event.kind == EventKind::Gone {
                        left.push(event.slot.get());
                    }
                }
                Err(_) => all = true,
            }
        }
        let seen = events.number();
        self.told.retain(|service| services.contains(service));
        for service in services {
            let is_new = !self.told.contains(&service);
            if !(all || is_new || changed.contains(&service_id(&service))) {
                continue;
            }
            if self.tell_one(view, epoch, &service, &left) {
                self.told.insert(service);
            } else {
                // Disturbed: once more at the next look.
                self.told.remove(&service);
            }
        }
        self.seen = seen;
    }

    fn tell_one(&self, view: &View, epoch: u64, service: &str, left: &[u32]) -> bool {
        let Ok(found) = view.service(service) else { return false };
        let (mut read, mut version) = (Vec::new(), 0);
        if let Some(found) = found {
            let Ok(revision) = found.fill(&mut read) else { return false };
            version = revision;
        }
        let Ok(hold) = view.hold() else { return false };
        let percent =
            |silent: u32, live: u32| (100 * u64::from(silent) / u64::from(live.max(1))).max(1);
        let hold_percent = hold.map_or(0, |hold| percent(hold.silent, hold.live) as u8);
        let members: Vec<Endpoint> = read.iter().map(|member| *member.entry()).collect();
        let Some(shared) = self.shared.upgrade() else { return true };
        let list = Mirrored { epoch, version, hold_percent, members: &members, left };
        let now: Nanos = shared.now();
        shared.lock().machine.mirror(now, self.link, service, &list);
        shared.wake();
        true
    }
}
