//! The snapshot file of an engine: opened and locked, loaded from, made, and replaced by one of
//! other sizes.

use super::StartError;
use crate::clock::Nanos;
use crate::region::{self, Region};
use crate::snapshot::{Loaded, Reader, Sizes, SnapshotError, Writer};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The snapshot file, locked, before it is written.
pub(super) struct SnapshotFile {
    path: PathBuf,
    /// What is there already.
    file: Option<File>,
}

impl SnapshotFile {
    pub(super) fn open(path: &Path) -> Result<Self, StartError> {
        let fail = |source: io::Error| StartError::Snapshot {
            path: path.to_owned(),
            source: source.into(),
        };
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty())
        {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(fail)?;
        }
        match OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
        {
            Ok(file) => {
                if !file.metadata().map_err(fail)?.is_file() {
                    return Err(StartError::Snapshot {
                        path: path.to_owned(),
                        source: SnapshotError::Foreign,
                    });
                }
                lock(&file, path)?;
                Ok(Self { path: path.to_owned(), file: Some(file) })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self { path: path.to_owned(), file: None })
            }
            Err(error) => Err(fail(error)),
        }
    }

    /// One that another engine had open and locked.
    pub(super) fn inherited(path: &Path, file: File) -> Self {
        Self { path: path.to_owned(), file: Some(file) }
    }

    fn refuse(&self, source: SnapshotError) -> StartError {
        StartError::Snapshot { path: self.path.clone(), source }
    }

    /// Puts the newest edition into an empty region.
    pub(super) fn load(
        &self,
        region: &Region,
        writer: &region::Right,
        now: Nanos,
        notices: &mut Vec<String>,
    ) -> Result<Option<Loaded>, StartError> {
        let Some(file) = &self.file else { return Ok(None) };
        let loaded = Reader::open(file)
            .and_then(|reader| reader.load(region, writer, now))
            .map_err(|source| self.refuse(source))?;
        if let Some(loaded) = &loaded {
            notices.push(format!(
                "{} leases from edition {} of {}",
                loaded.leases,
                loaded.edition,
                self.path.display()
            ));
        }
        Ok(loaded)
    }

    /// A writer that goes on after what was loaded. A file for other sizes is replaced once a first
    /// edition is in the new one.
    pub(super) fn into_writer(
        self,
        loaded: Option<Loaded>,
        region: &Region,
        now: Nanos,
        notices: &mut Vec<String>,
    ) -> Result<Writer<File>, StartError> {
        let sizes = Sizes::new(region.geometry());
        let last = match &self.file {
            None => None,
            Some(file) => match Reader::open(file) {
                Ok(reader) if reader.sizes() == sizes && !reader.is_worthless() => {
                    let newest = loaded.or_else(|| reader.newest());
                    return Ok(Writer::new(
                        self.file.expect("it was read"),
                        sizes,
                        newest.as_ref(),
                        region,
                        now,
                    ));
                }
                Ok(reader) if reader.is_worthless() => {
                    notices.push(format!(
                        "the snapshot {} is damaged and is written anew from memory",
                        self.path.display()
                    ));
                    None
                }
                Ok(reader) => loaded.or_else(|| reader.newest()),
                // Memory is newer than any snapshot.
                Err(
                    error @ (SnapshotError::Damaged(_)
                    | SnapshotError::Short { .. }
                    | SnapshotError::Empty),
                ) => {
                    notices.push(format!(
                        "the snapshot {} {error}; it is written anew from memory",
                        self.path.display()
                    ));
                    None
                }
                Err(source) => return Err(self.refuse(source)),
            },
        };
        let replaces = self.file.is_some();
        let fail = |source: io::Error| StartError::Snapshot {
            path: self.path.clone(),
            source: source.into(),
        };
        let mut fresh = self.path.clone().into_os_string();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        let file = make(&fresh, &self.path, sizes)?;
        let mut writer = Writer::new(file, sizes, last.as_ref(), region, now);
        if replaces {
            writer.write(region, now, true).map_err(fail)?;
        }
        std::fs::rename(&fresh, &self.path).map_err(fail)?;
        let directory = self
            .path
            .parent()
            .filter(|directory| !directory.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(fail)?;
        Ok(writer)
    }
}

fn lock(file: &File, path: &Path) -> Result<(), StartError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(StartError::SnapshotInUse(path.to_owned())),
        Err(TryLockError::Error(source)) => {
            Err(StartError::Snapshot { path: path.to_owned(), source: source.into() })
        }
    }
}

/// Makes a file with nothing but its header, all of it allocated.
fn make(fresh: &Path, path: &Path, sizes: Sizes) -> Result<File, StartError> {
    let fail =
        |source: io::Error| StartError::Snapshot { path: path.to_owned(), source: source.into() };
    let options = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(fresh);
    let mut file = options.map_err(fail)?;
    lock(&file, path)?;
    let bytes = sizes.file_bytes();
    let allocated = match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        // File systems without allocation get zeros.
        Err(rustix::io::Errno::OPNOTSUPP) => zeros(&file, bytes),
        other => other.map_err(io::Error::from),
    };
    allocated.map_err(|source| {
        let _ = std::fs::remove_file(fresh);
        StartError::SnapshotSpace { path: path.to_owned(), bytes, source }
    })?;
    sizes.write_header(&mut file).and_then(|()| file.sync_all()).map_err(fail)?;
    Ok(file)
}

fn zeros(file: &File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    for start in (0..bytes).step_by(zeros.len()) {
        file.write_all_at(&zeros[..zeros.len().min((bytes - start) as usize)], start)?;
    }
    Ok(())
}
