//! Going on where a former engine stopped: everything but heart lines, records and directory
//! entries is rebuilt from them.
//!
//! Nobody is blamed for the time between: the engine stood still, so each lease has one TTL from
//! now to be heard in.

use super::tables::{Happening, Survivors, Tables};
use super::{Registrar, Settings};
use crate::clock::{Moment, Nanos};
use crate::region::{Cause, EventKind, HeartState, Region, Right};
use crate::wire::{Declared, Generation, Slot};
use std::sync::Arc;

impl Registrar {
    /// A registrar over a region in which another one has worked. Leases stand as they stood,
    /// service versions and event numbers go on.
    pub fn resume(region: Arc<Region>, right: Right, settings: Settings, now: Nanos) -> Self {
        let now = Moment::from_nanos(now);
        let (tables, survivors) = Tables::resume(region, right, now);
        let mut registrar = Self::over(tables, settings, now);
        registrar.deafness.stalled(now, now - Moment::ZERO);
        registrar.go_on(survivors, now);
        registrar
    }

    /// A registrar over a region that another one has just left in order, while loops serve. What
    /// excused the silent under that one is not known here, so everybody has one TTL from now, as
    /// after a death.
    pub fn take_over(region: Arc<Region>, right: Right, settings: Settings, now: Nanos) -> Self {
        let now = Moment::from_nanos(now);
        match Tables::take_over(region, right) {
            Ok((tables, survivors)) => {
                let mut registrar = Self::over(tables, settings, now);
                registrar.deafness.stalled(now, now - Moment::ZERO);
                registrar.go_on(survivors, now);
                registrar
            }
            Err((region, right)) => Self::resume(region, right, settings, now.nanos()),
        }
    }

    fn go_on(&mut self, survivors: Survivors, now: Moment) {
        for (line, slot) in self.tables.region.lines().iter().zip(0..) {
            if line.head().0 != Generation::NONE {
                self.fresh = slot + 1;
            }
        }
        // Slots below that rest first; who is a member gets a timer instead.
        (0..self.fresh).for_each(|slot| self.wheel.set_freed(Slot::new(slot)));
        for &slot in survivors.standing.iter().chain(&survivors.superseded) {
            self.enroll(slot);
        }
        self.identities = survivors.standing.len() as u32;
        self.resume_hold(now);
        for slot in survivors.superseded {
            self.end(now, slot, HeartState::Replaced, Cause::Replaced);
        }
        for slot in survivors.standing {
            let line = self.tables.line(slot);
            let (generation, state) = line.head();
            if state.is_leased() {
                // What beats said while nobody could be told of it.
                self.look(now, slot, generation, line.last().declared == Declared::Leaving);
            }
        }
    }

    /// A hold that was on goes on while there is evidence for it.
    fn resume_hold(&mut self, now: Moment) {
        let was_on = self.tables.region.hold().is_ok_and(|hold| hold.is_some());
        self.hold.resume(was_on, now);
        if was_on && !self.hold.is_on() {
            self.tables.announce(now, Happening::new(EventKind::HoldEnded, Cause::HoldOver));
        }
        self.observe_hold(now);
    }
}
