//! How many members are in which state. A count moves with its member; nothing can set it.

use crate::region::{Counter, Tally};
use crate::wire::{Declared, State};

/// How many members are in which state, and what has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Instances that are up.
    pub up: u32,
    /// Suspect, held ones included.
    pub suspect: u32,
    /// Held: suspect, and kept from being declared down.
    pub held: u32,
    /// Down, with a tombstone.
    pub down: u32,
    /// Up or suspect, and serving: what a hold compares with.
    pub serving: u32,
    /// Suspect, and serving.
    pub serving_suspect: u32,
    /// Members that came since the start.
    pub registered: u64,
    /// Members that were declared down since the start.
    pub downs: u64,
    /// Members that came back from down since the start.
    pub revived: u64,
    /// Members that went since the start.
    pub ended: u64,
    /// Holds that began since the start.
    pub holds: u64,
    /// Spells of deafness since the start.
    pub deafness: u64,
}

impl Counts {
    /// Writes down what stats shows.
    pub fn tell(&self, tally: &mut Tally) {
        tally.set(Counter::Up, self.up.into());
        tally.set(Counter::Suspect, self.suspect.into());
        tally.set(Counter::Held, self.held.into());
        tally.set(Counter::Down, self.down.into());
        tally.set(Counter::Registered, self.registered);
        tally.set(Counter::Downs, self.downs);
        tally.set(Counter::Revived, self.revived);
        tally.set(Counter::Ended, self.ended);
        tally.set(Counter::Holds, self.holds);
        tally.set(Counter::Deafness, self.deafness);
    }
}

/// What the counts know of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemberState {
    pub(super) state: State,
    pub(super) held: bool,
    pub(super) declared: Declared,
}

/// The counts, and the moves that change them.
#[derive(Debug, Default)]
pub(super) struct Census {
    counts: Counts,
}

impl Census {
    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What a hold compares: silent instances that serve, and live ones.
    pub(super) fn shares(&self) -> (u32, u32) {
        (self.counts.serving_suspect, self.counts.serving)
    }

    /// A member that a former engine left.
    pub(super) fn found(&mut self, member: MemberState) {
        self.add(member, 1);
    }

    /// A member came (`from` is `None`), went (`to` is `None`), or is in another state now.
    pub(super) fn moved(&mut self, from: Option<MemberState>, to: Option<MemberState>) {
        if let Some(member) = from {
            self.add(member, -1);
        }
        if let Some(member) = to {
            self.add(member, 1);
        }
        let was_down = from.is_some_and(|member| member.state == State::Down);
        match (from, to.map(|member| member.state)) {
            (None, Some(_)) => self.counts.registered += 1,
            (_, None) => self.counts.ended += 1,
            (Some(_), Some(State::Down)) => self.counts.downs += u64::from(!was_down),
            (Some(_), Some(State::Up | State::Suspect)) => {
                self.counts.revived += u64::from(was_down);
            }
        }
    }

    /// A hold began.
    pub(super) fn note_hold(&mut self) {
        self.counts.holds += 1;
    }

    /// The engine was deaf.
    pub(super) fn note_deafness(&mut self) {
        self.counts.deafness += 1;
    }

    /// Adds a member to the counts of its state, or takes it away.
    fn add(&mut self, member: MemberState, change: i32) {
        let MemberState { state, held, declared } = member;
        let counts = &mut self.counts;
        let serves = declared == Declared::Serving;
        for (count, is_counted) in [
            (&mut counts.up, state == State::Up),
            (&mut counts.suspect, state == State::Suspect),
            (&mut counts.held, held),
            (&mut counts.down, state == State::Down),
            (&mut counts.serving, serves && state != State::Down),
            (&mut counts.serving_suspect, serves && state == State::Suspect),
        ] {
            if is_counted {
                *count = count.checked_add_signed(change).expect("a member that goes was counted");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn member() -> impl Strategy<Value = Option<MemberState>> {
        let states = prop::sample::select(vec![State::Up, State::Suspect, State::Down]);
        let declared = prop::sample::select(vec![Declared::Serving, Declared::Draining]);
        prop::option::of((states, any::<bool>(), declared).prop_map(|(state, held, declared)| {
            MemberState { state, held: held && state == State::Suspect, declared }
        }))
    }

    proptest! {
        #![proptest_config(crate::registrar::kept_seeds())]

        /// A count that drifts makes a hold of nothing, or none of a failing switch.
        #[test]
        fn counts_are_those_of_the_members(
            moves in prop::collection::vec((0_usize..8, member()), 1..100),
        ) {
            let (mut census, mut members) = (Census::default(), [None; 8]);
            for (number, to) in moves {
                let from = std::mem::replace(&mut members[number], to);
                if from.is_some() || to.is_some() {
                    census.moved(from, to);
                }
                let of = |is: fn(&MemberState) -> bool| {
                    members.iter().flatten().filter(|&member| is(member)).count() as u32
                };
                let counts = census.counts();
                prop_assert_eq!(counts.up, of(|member| member.state == State::Up));
                prop_assert_eq!(counts.suspect, of(|member| member.state == State::Suspect));
                prop_assert_eq!(counts.down, of(|member| member.state == State::Down));
                prop_assert_eq!(counts.held, of(|member| member.held));
                let serving = |member: &MemberState| {
                    member.declared == Declared::Serving && member.state != State::Down
                };
                let live = members.iter().flatten().filter(|&member| serving(member));
                let silent = live.clone().filter(|member| member.state == State::Suspect);
                let shares = (silent.count() as u32, live.count() as u32);
                prop_assert_eq!(census.shares(), shares);
                let there = members.iter().flatten().count() as u64;
                prop_assert_eq!(counts.registered - counts.ended, there);
            }
        }
    }
}
