//! heartline: a UDP heartbeat engine.
//!
//! Services register, get a lease and beat for it in 40-byte datagrams; the engine knows who is
//! alive, answers discovery and survives its own stalls without blaming its peers.
//! `docs/ARCHITECTURE.md` explains the house, `docs/PROTOCOL.md` the datagrams.
#![warn(missing_docs)]
#[cfg(not(target_os = "linux"))]
compile_error!("heartline runs on Linux only: it is built on recvmmsg, epoll, timerfd and tmpfs");

pub mod clock;
pub mod config;
pub mod dataplane;
pub mod engine;
pub mod exchange;
pub mod limits;
pub mod net;
pub mod registrar;
pub mod snapshot;
mod sync;

pub use heartline_region as region;
pub use heartline_wire as wire;

pub use config::{Config, ConfigError};
pub use engine::{Engine, EngineBuilder, ReloadError, StartError};

/// The code in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
