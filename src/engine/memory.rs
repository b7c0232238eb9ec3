//! Where an engine's memory comes from: what a former engine left on tmpfs, else the snapshot, else
//! nothing.

use crate::clock::Nanos;
use crate::config::Config;
use crate::error::StartError;
use crate::limits::ATTRIBUTES_BYTES_MAX;
use crate::region::{self, Geometry, Mismatch, Place, Region, RegionError, is_tmpfs};
use crate::registrar::{Registrar, Settings};
use crate::snapshot::{Loaded, MemoryDisk, Reader, Sizes, SnapshotError, Writer};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What an engine begins with.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) region: Region,
    pub(super) writer: region::Writer,
    /// Members are in it.
    pub(super) peopled: bool,
    /// The files were made for this start.
    pub(super) made: bool,
    pub(super) snapshot: Option<Writer<File>>,
    /// What whoever runs the engine should know.
    pub(super) notices: Vec<String>,
}

/// What a start goes by.
pub(super) struct Start<'a> {
    pub(super) config: &'a Config,
    pub(super) settings: &'a Settings,
    /// Key of a new region's index.
    pub(super) key: (u64, u64),
    pub(super) now: Nanos,
    pub(super) cancelled: &'a AtomicBool,
}

impl Memory {
    /// Takes what there is. Nothing of a former engine is changed before it is known that this one
    /// can go on with it.
    pub(super) fn take(start: &Start<'_>) -> Result<Self, StartError> {
        let file = match (&start.config.state, &start.config.snapshot) {
            (Place::Directory(_), Some(path)) => Some(SnapshotFile::open(path)?),
            _ => None,
        };
        Self::take_with(start, file)
    }

    /// The same with a snapshot file that is open already.
    pub(super) fn take_with(
        start: &Start<'_>,
        file: Option<SnapshotFile>,
    ) -> Result<Self, StartError> {
        let config = start.config;
        let geometry = Geometry::new(config.capacity, config.attributes_bytes);
        let mut notices = Vec::new();
        let left = left_behind(&config.state, &geometry, &mut notices)?;
        let create = || {
            Region::prepare(
                &config.state,
                geometry.clone(),
                start.key,
                start.settings.epoch,
                start.cancelled,
            )
        };
        let ((region, writer), peopled, made, loaded) = match left {
            Left::Whole(left) => (*left, true, false, None),
            Left::Other(other) => {
                let disk = carry(*other, start, &geometry)?;
                let (region, writer) = create()?;
                let loaded =
                    Reader::open(&disk).and_then(|reader| reader.load(&region, &writer, start.now));
                loaded.expect("what was written to memory and fits is read again");
                ((region, writer), true, true, None)
            }
            Left::Nothing | Left::Unreadable(_) => {
                let (region, writer) = create()?;
                let loaded = match &file {
                    Some(file) => file
                        .load(&region, &writer, start.now, &mut notices)
                        .inspect_err(|_| region.remove_files())?,
                    None => None,
                };
                if let (Left::Unreadable(error), None) = (left, loaded) {
                    region.remove_files();
                    return Err(error.into());
                }
                ((region, writer), loaded.is_some(), true, loaded)
            }
        };
        let snapshot = match file {
            Some(file) => match file.into_writer(loaded, &region, start.now, &mut notices) {
                Ok(snapshot) => Some(snapshot),
                Err(error) => {
                    if made {
                        region.remove_files();
                    }
                    return Err(error);
                }
            },
            None => None,
        };
        if let (Place::Directory(path), false) = (&config.state, made) {
            Region::remove_unfinished(path);
        }
        if made {
            // Last: until here memory and snapshot of the engine before are as they were.
            region.install().inspect_err(|_| region.remove_files())?;
        }
        Ok(Self { region, writer, peopled, made, snapshot, notices })
    }
}

/// What an engine that has ended left in the state directory, and the right to go on with it.
enum Left {
    /// Nothing that can be gone on with, or what [`Region::create`] refuses.
    Nothing,
    /// Memory that another version of the program wrote: only a snapshot leads from there to here.
    Unreadable(RegionError),
    /// Memory that this engine goes on with.
    Whole(Box<(Region, region::Writer)>),
    /// Memory for another number of leases or attribute bytes.
    Other(Box<(Region, region::Writer)>),
}

fn left_behind(
    place: &Place,
    geometry: &Geometry,
    notices: &mut Vec<String>,
) -> Result<Left, RegionError> {
    let Place::Directory(path) = place else { return Ok(Left::Nothing) };
    let left = match Region::attach(path) {
        Ok((region, writer)) if region.geometry() == geometry => {
            Left::Whole(Box::new((region, writer)))
        }
        Ok((region, writer)) => {
            let found = region.geometry();
            notices.push(format!(
                "{} has memory for {} leases with {} attribute bytes, and {} with {} are asked for: moved",
                path.display(),
                found.capacity,
                found.attributes_bytes,
                geometry.capacity,
                geometry.attributes_bytes
            ));
            Left::Other(Box::new((region, writer)))
        }
        // Foreign files are refused where new ones are made.
        Err(RegionError::Refused { mismatch: Mismatch::Foreign, .. }) => Left::Nothing,
        Err(RegionError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Left::Nothing
        }
        // Memory that may be whole, and can't be reached.
        Err(error @ RegionError::Io { .. }) => return Err(error),
        Err(
            error @ RegionError::Refused {
                mismatch: Mismatch::Format(_) | Mismatch::Layout, ..
            },
        ) => {
            notices.push(format!("could not go on with the memory of the engine before: {error}"));
            Left::Unreadable(error)
        }
        Err(error) => {
            notices.push(format!("could not go on with the memory of the engine before: {error}"));
            Left::Nothing
        }
    };
    Ok(left)
}

/// Members of a region with another layout, on their way into a new one. What an interrupted step
/// left is repaired first.
fn carry(
    (region, writer): (Region, region::Writer),
    start: &Start<'_>,
    to: &Geometry,
) -> Result<MemoryDisk, StartError> {
    let leased = region
        .lines()
        .iter()
        .rposition(|line| line.head().1.is_leased())
        .map_or(0, |slot| slot as u32);
    let mut buffer = [0; ATTRIBUTES_BYTES_MAX];
    let attributes = (0..=leased)
        .filter_map(|slot| Some(region.records().attributes(slot, &mut buffer)?.len()))
        .max()
        .unwrap_or(0);
    if leased >= to.slots || attributes > to.attributes_bytes {
        return Err(StartError::LessRoom { slot: leased, attributes });
    }
    let sizes = Sizes::new(region.geometry());
    let registrar = Registrar::resume(Arc::new(region), writer, start.settings.clone(), start.now);
    let (region, _) = registrar.release();
    let mut disk = MemoryDisk(vec![0; sizes.file_bytes() as usize]);
    sizes.write_header(&mut disk).expect("memory takes what is written to it");
    let mut writer = Writer::new(disk, sizes, None, &region, start.now);
    writer.write(&region, start.now, true).expect("nobody changes members meanwhile");
    Ok(writer.into_disk())
}

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

    /// Puts the newest generation into an empty region.
    fn load(
        &self,
        region: &Region,
        writer: &region::Writer,
        now: Nanos,
        notices: &mut Vec<String>,
    ) -> Result<Option<Loaded>, StartError> {
        let Some(file) = &self.file else { return Ok(None) };
        let loaded = Reader::open(file)
            .and_then(|reader| reader.load(region, writer, now))
            .map_err(|source| self.refuse(source))?;
        if let Some(loaded) = &loaded {
            notices.push(format!(
                "{} leases from generation {} of {}",
                loaded.leases,
                loaded.number,
                self.path.display()
            ));
        }
        Ok(loaded)
    }

    /// A writer that goes on after what was loaded. A file for other sizes is replaced once a first
    /// generation is in the new one.
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
