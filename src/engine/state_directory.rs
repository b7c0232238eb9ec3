//! The directory with the memory files of an engine: on tmpfs, of one owner, of one engine at a
//! time.

use super::StartError;
use crate::region::{Place, is_tmpfs};
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The state directory, locked as long as the engine runs. The kernel releases the lock when the
/// process ends, however it ends. The lock file stays: removing it would let two engines lock two
/// files.
#[derive(Debug)]
pub(super) struct StateDirectory {
    pub(super) lock: File,
}

impl StateDirectory {
    pub(super) fn take(place: &Place) -> Result<Option<Self>, StartError> {
        let Place::Directory(path) = place else { return Ok(None) };
        let fail = |source| StartError::State { path: path.clone(), source };
        let made = !path.exists();
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(|error| {
            match error.kind() {
                io::ErrorKind::AlreadyExists => fail(io::ErrorKind::NotADirectory.into()),
                _ => fail(error),
            }
        })?;
        if !is_tmpfs(path).map_err(fail)? {
            if made {
                let _ = std::fs::remove_dir(path);
            }
            return Err(StartError::NotTmpfs(path.clone()));
        }
        Self::check_owner(path)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path.join("lock"))
            .map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { lock })),
            Err(TryLockError::WouldBlock) => Err(StartError::StateInUse(path.clone())),
            Err(TryLockError::Error(source)) => Err(fail(source)),
        }
    }

    /// Whoever can write to the directory can put other files into the engine's place; and /dev/shm
    /// is everybody's.
    fn check_owner(path: &Path) -> Result<(), StartError> {
        let facts = std::fs::metadata(path)
            .map_err(|source| StartError::State { path: path.to_owned(), source })?;
        let own = rustix::process::geteuid().as_raw();
        if facts.uid() != own || facts.mode() & 0o022 != 0 {
            return Err(StartError::StateNotOurs {
                path: path.to_owned(),
                owner: facts.uid(),
                mode: facts.mode() & 0o777,
                own,
            });
        }
        Ok(())
    }
}
