//! Finding endpoints without asking: the list of a service is followed at one or several engines,
//! and picks read the newest view of it.
//!
//! ```text
//! replies, pushes ─► follow (one engine) ─► merge ─► writer ─► publish ─► view ─► watch
//!                    list, pull, ahead               places ─► cells ◄──── calls ──┘
//! ```
//!
//! Nothing here has a socket, and nothing but [`Watch`] reads a clock.

mod ahead;
mod cells;
mod changes;
mod follow;
mod frame;
mod list;
mod merge;
#[cfg(test)]
mod models;
mod options;
mod picked;
mod places;
mod publish;
mod pull;
mod round_trip;
mod view;
mod watch;
mod writer;

pub use changes::{Changes, MemberChange};
pub use follow::{Follow, Received};
pub use frame::Frame;
pub use merge::Source;
pub use options::{Balance, Outliers, WatchOptions};
pub use picked::{Degraded, PickError, Picked};
pub(crate) use watch::Keeper;
pub use watch::{Call, Watch};
pub use writer::Resolver;
