//! An agent: registers any number of instances at one or several engines, beats for them, and
//! recovers by itself from whatever can happen to engines, networks and addresses.
//!
//! [`Machine`] decides: a state machine without I/O. [`Agent`] drives it with one thread. Floors,
//! lowest first: `limits random event`, `instance packs link`, `machine` with its parts (`post`
//! registrations, `requests`, `reception` of datagrams, `fleet` of engines, `watches`), `sockets`,
//! `driver`, `handle`.

mod driver;
mod event;
mod fleet;
mod handle;
mod instance;
mod limits;
mod link;
mod local;
mod machine;
#[cfg(feature = "view")]
mod mirror;
mod packs;
mod post;
mod random;
mod reception;
mod registered;
mod requests;
mod sockets;
#[cfg(test)]
mod tests;
mod watches;

pub use event::{EngineHealth, Event, Health, Identity, Lateness, Standing};
pub use handle::{Agent, AgentBuilder};
pub use instance::Instance;
pub use limits::{
    BACKOFF_BASE, BACKOFF_CAP, BUSY_BASE, PROBE_CAP, REGISTRATIONS_BURST, REGISTRATIONS_PER_SECOND,
    SETTLED_AFTER,
};
pub use machine::{LinkId, Machine, Output, RegistrationId};
#[cfg(feature = "view")]
pub(crate) use mirror::Mirrored;
pub use registered::{Registered, WhenUp};
