//! Why an engine did not start or did not take over a configuration, and what state is left.

use crate::config::ConfigError;
use crate::net::BindError;
use crate::region::RegionError;
use crate::snapshot::SnapshotError;
use std::path::PathBuf;

/// Why an engine did not take over a configuration. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// A setting is not accepted.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// These settings differ from those of the engine.
    #[error("{} can't change while the engine runs; start it anew", .0.join(", "))]
    Fixed(Vec<&'static str>),
}

/// Why an engine did not start. Nothing is left running, bound or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is not accepted.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address can't be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The memory files can't be made.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// Another engine has the state directory.
    #[error("{0} belongs to a running engine; stop it or choose another `state` directory")]
    StateInUse(PathBuf),
    /// The engine that runs did not hand over. It goes on.
    #[error("the engine of {path} did not hand over and goes on: {source}")]
    HandOver {
        /// Its state directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another engine writes the snapshot file.
    #[error(
        "the snapshot {0} belongs to a running engine; stop it or choose another `snapshot` file"
    )]
    SnapshotInUse(PathBuf),
    /// The snapshot can't be read, or there is no place for it.
    #[error("the snapshot {path} {source}")]
    Snapshot {
        /// Which.
        path: PathBuf,
        /// Why.
        source: SnapshotError,
    },
    /// The memory of the engine before has members for which the configured sizes have no room. It
    /// was left as it is.
    #[error(
        "the engine before left a lease in slot {slot} and {attributes} attribute bytes; run with \
         `capacity` and `attributes` no smaller than before"
    )]
    LessRoom {
        /// The highest slot that is leased.
        slot: u32,
        /// Longest attributes.
        attributes: usize,
    },
    /// There is no room for the snapshot file.
    #[error(
        "the snapshot {path}: {bytes} bytes do not fit: {source}; free some, choose another \
         `snapshot` file, or lower `capacity`"
    )]
    SnapshotSpace {
        /// Which.
        path: PathBuf,
        /// How many it needs.
        bytes: u64,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The state directory is not on tmpfs.
    #[error(
        "{0} is not on tmpfs: a page that a disk backs would stall the loops; choose a `state` \
         directory under /dev/shm or /run"
    )]
    NotTmpfs(PathBuf),
    /// Others can write to the state directory.
    #[error(
        "state directory {path} belongs to user {owner} with mode {mode:o}; it must be user \
         {own}'s and writable for no one else: chown {own} {path}, chmod go-w {path}"
    )]
    StateNotOurs {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Its permissions.
        mode: u32,
        /// Who we are.
        own: u32,
    },
    /// The state directory can't be made or locked.
    #[error("state directory {path}: {source}")]
    State {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The machine lacks what the engine needs: threads, descriptors, randomness.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

impl StartError {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
