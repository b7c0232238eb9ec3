//! heartline: a UDP heartbeat engine.
//!
//! Services register, get a lease and beat for it in 40-byte datagrams. The engine knows which
//! instances live, answers discovery, and declares no instance down for its own stalls. This crate
//! runs the engine inside a program; `heartlined` is the same engine as a daemon.
//!
//! ```
//! use heartline::{Config, Engine, Place};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config {
//!     listen: vec!["127.0.0.1:0".parse()?],
//!     state: Place::Scratch,
//!     capacity: 1024,
//!     ..Config::default()
//! };
//! let engine = Engine::start(&config)?;
//! println!("serving on {}", engine.addresses()[0]);
//! engine.join(); // stops, drains, waits
//! # Ok(())
//! # }
//! ```
//!
//! - [`Config`] has the settings of an engine, and [`settings`] their names, ranges and help texts.
//! - [`Engine`] starts, stops and tells of itself; [`EngineBuilder`] has the rare choices.
//! - [`upgrade`] replaces a running engine without losing a datagram.
//!
//! Clients use the crate `heartline-client`, frames are in `heartline-wire`, shared memory in
//! `heartline-region`. `docs/ARCHITECTURE.md` explains the rooms, `docs/PROTOCOL.md` the datagrams.

#![warn(missing_docs)]

#[cfg(not(target_os = "linux"))]
compile_error!("heartline runs on Linux only: it is built on recvmmsg, epoll, timerfd and tmpfs");

mod clock;
mod config;
mod dataplane;
mod engine;
mod exchange;
mod limits;
mod net;
mod registrar;
mod snapshot;
mod sync;
mod watchers;

use heartline_region as region;
use heartline_wire as wire;

pub use config::{Config, ConfigError};
pub use engine::{Engine, EngineBuilder, ReloadError, StartError, upgrade};
pub use heartline_region::Place;

/// The table of settings: what a daemon needs to read them from flags, variables or a file.
pub mod settings {
    pub use crate::config::{Kind, SETTINGS, Setting};
}

/// Parts of the engine for the tests, benchmarks and load generator of this repository. They change
/// without notice; nothing is promised.
#[doc(hidden)]
pub mod internals {
    pub use crate::engine::{duty, local, rendezvous};

    pub mod clock {
        pub use crate::clock::*;
    }
    pub mod dataplane {
        pub use crate::dataplane::*;
    }
    pub mod exchange {
        pub use crate::exchange::*;
    }
    pub mod limits {
        pub use crate::limits::*;
    }
    pub mod net {
        pub use crate::net::*;
    }
    pub mod registrar {
        pub use crate::registrar::*;
    }
    pub mod snapshot {
        pub use crate::snapshot::*;
    }
    pub mod watchers {
        pub use crate::watchers::*;
    }
}

/// The code in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
