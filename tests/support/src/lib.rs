//! What tests, benches and fuzz targets share: the engine in three forms.
//!
//! - [`Harness`]: region, registrar and data plane in one thread, with simulated time. [`fleet`]
//!   fills one with leases.
//! - [`start`]: an engine of this process on loopback, and a session with it.
//! - [`Daemon`]: the program `heartlined` as a process of its own.
//!
//! [`Watcher`] is the other side of a watch.
//! [`lists`] is what a client believes of an engine, without one. [`seeds`] runs simulations.

mod daemon;
pub mod fleet;
mod harness;
pub mod lists;
mod loopback;
pub mod seeds;
mod wait;
mod watcher;

pub use daemon::{Daemon, Scratch, command, lasting_address, program};
pub use harness::{Harness, START, peer, settings};
pub use loopback::{beat, config, instance, keep_beating, register_all, start, stat};
pub use wait::{StopOnDrop, beside, eventually};
pub use watcher::{Push, Watcher};
