//! Client of heartline: register an instance, beat for it, find others.
//!
//! ```no_run
//! use heartline_client::{Agent, Instance};
//!
//! # fn main() -> Result<(), heartline_client::ClientError> {
//! let agent = Agent::connect("10.0.0.1,10.0.0.2")?; // "": HEARTLINE_ENGINE, or this machine
//! let web = agent.register(Instance::new("web", 8080).zone("eu-1a").tag("canary"))?;
//! // It beats from here on, and is deregistered when `web` is dropped.
//! # Ok(())
//! # }
//! ```
//!
//! [`Agent`] has one background thread for any number of registrations. It registers, beats, fails
//! over from engine to engine, and comes back by itself from whatever happens to engines, networks
//! and addresses. [`Session`] is the plain alternative, one request at a time:
//!
//! ```no_run
//! use heartline_client::{Query, Registration, Session};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut session = Session::connect("127.0.0.1:19528".parse()?)?;
//! let grant = session.register(&Registration::new("payments", "pay-1", 8080))?;
//! for sequence in 1..=10 {
//!     std::thread::sleep(grant.interval);
//!     session.beat(&[grant.lease.beat(sequence, 0)])?;
//! }
//! for endpoint in session.discover(&Query::new("payments"))?.endpoints {
//!     println!("{} {:?} {}", endpoint.address, endpoint.state, endpoint.version);
//! }
//! session.deregister(&grant.lease)?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Session`] is a blocking session with one engine: one socket, one request at a time, with the
//! time-outs and retries of `docs/PROTOCOL.md`, section 8. Drivers with an I/O model of their own
//! use [`proto`]: the same requests, and the agent, without a socket and without a clock.

#![warn(missing_docs)]

mod agent;
mod call;
mod draw;
mod error;
mod facts;
mod lease;
mod local;
mod query;
mod registration;
mod resolver;
mod session;
mod sync;

pub use agent::{
    Agent, AgentBuilder, EngineHealth, Event, Health, Identity, Instance, Lateness, Registered,
    Standing, WhenUp,
};
pub use error::ClientError;
pub use facts::{Description, Hold, Service, Services, Stats, Target, Welcome};
pub use heartline_wire::{Declared, LocalKind, Stat, State, Status, Strategy, Version};
pub use lease::{Ack, Beat, Beats, Grant, Lease, Refusal};
pub use local::{Local, LocalEvent, LocalReader};
pub use query::{Discovered, Endpoint, Page, Query, VersionFilter, ZoneFilter};
pub use registration::{Change, Registration};
pub use resolver::{
    Balance, Call, Changes, Degraded, MemberChange, Outliers, PickError, Picked, Watch,
    WatchOptions,
};
pub use session::Session;

/// What benches and tests drive without an agent. May change without notice; nothing is promised.
#[doc(hidden)]
pub mod internals {
    pub use crate::resolver::{Follow, Frame, Received, Resolver, Source};
}

/// What an engine of this machine knows, read from its memory without a system call.
#[cfg(feature = "view")]
pub mod view {
    pub use heartline_region::{
        Cause, Choice, Disturbed, Event, EventKind, Events, Hold, Lost, Member, RegionError,
        Service, View, Waited,
    };
}

/// Requests without I/O: frames and times in, frames and times out.
///
/// A driver hands a request to [`Caller`](proto::Caller), sends what it says, hands in what
/// arrives, and reads the reply. [`Machine`](proto::Machine) is a whole agent in the same manner.
/// Frames are those of `heartline_wire`.
pub mod proto {
    pub use crate::agent::{
        BACKOFF_BASE, BACKOFF_CAP, BUSY_BASE, LinkId, Machine, Output, PROBE_CAP,
        REGISTRATIONS_BURST, REGISTRATIONS_PER_SECOND, RegistrationId, SETTLED_AFTER,
    };
    pub use crate::call::{Caller, Failure, Step};
    pub use crate::registration::encode as encode_registration;
}
