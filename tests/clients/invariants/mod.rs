//! What must hold, whatever happens.

mod calm;
pub(crate) mod deadlines;
mod members;
mod proofs;
mod recovered;

pub(crate) use calm::Calm;
pub(crate) use members::{LeaseKey, Members, Owner};
pub(crate) use proofs::Proofs;

pub(crate) use heartline_test_support::must;
pub(crate) use heartline_test_support::seeds::{Verdict, Violation};

use heartline_client::Event;

/// Each with what it says.
pub(crate) const INVARIANTS: [(&str, &str); 10] = [
    ("recovered", "once faults have ended, who lives is up at each engine where it is to be"),
    ("views", "once changes and faults have ended, every view is what the engines say"),
    ("healed", "without faults a change is in every view soon"),
    ("said", "every change of a view is told"),
    ("calm", "nobody asks for more registrations than the back-off allows"),
    ("proved", "only who proved lately to receive at an address and port gets pushes there"),
    ("own fault", "an agent that was starved says so, and no other does"),
    ("no false down", "who beats and is heard is not down"),
    ("picks", "only what is listed and serving is picked, and nothing that is too old"),
    ("replaced", "of two agents with one identity at most one goes on"),
];

/// What a run has come by, so that many runs can be asked whether they have tested it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Seen {
    /// A fault of this class began.
    Fault,
    /// An agent told of this event: see [`event_number`].
    Event,
    /// An engine answered register with this status.
    Register,
    /// An engine answered watch with this status.
    Watch,
    /// A push: 0 with entries, 1 asks to pull, 2 neither.
    Push,
    /// A pick: 0 an endpoint, 1 none.
    Pick,
    /// An engine started: 0 anew, 1 with its memory, 2 from a hand-over.
    Start,
}

/// Each kind of event by a number.
pub(crate) fn event_number(event: &Event) -> u64 {
    match event {
        Event::Up { .. } => 1,
        Event::Lost { .. } => 2,
        Event::Replaced { .. } => 3,
        Event::Refused { .. } => 4,
        Event::BackOff { status, .. } => 0x100 | *status as u64,
        Event::Ended { .. } => 6,
        Event::EngineSilent { .. } => 7,
        Event::EngineBack { .. } => 8,
        Event::EngineRestarted { .. } => 9,
        Event::AddressChanged { .. } => 10,
        Event::Late { .. } => 11,
        _ => 12,
    }
}
