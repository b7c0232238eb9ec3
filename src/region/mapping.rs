//! Memory that outlives the process: files on tmpfs, allocated and faulted in at once.

use super::view::{Shared, View};
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, fstatfs, memfd_create};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

/// `TMPFS_MAGIC` of `linux/magic.h`.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Where the two files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this directory, which must be on tmpfs.
    Directory(PathBuf),
    /// In anonymous memory, gone with the engine.
    Scratch,
}

/// Why the region could not be made. Nothing was left behind.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The files can't be made or mapped.
    #[error("{file}: {source}")]
    Io {
        /// Which.
        file: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not enough memory in the file system.
    #[error("{file}: {bytes} bytes do not fit: {source}; lower --capacity or enlarge the tmpfs")]
    Space {
        /// Which.
        file: String,
        /// How many it needs.
        bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// The directory is not on tmpfs.
    #[error("{0} is not on tmpfs: a page that a disk backs would stall the loops; choose a directory under /dev/shm or /run")]
    NotTmpfs(PathBuf),
}

/// One mapped file.
#[derive(Debug)]
pub(super) struct Mapping {
    map: MmapRaw,
    _file: File,
}

impl Mapping {
    /// Makes a file of zeros, all of it allocated, mapped and faulted in. A file of that name is replaced, not changed:
    /// who has the old one mapped keeps it.
    pub(super) fn create(place: &Place, name: &str, bytes: usize) -> Result<Self, RegionError> {
        let (file, shown) = match place {
            Place::Scratch => (memfd_create(name, MemfdFlags::CLOEXEC).map(File::from).map_err(io::Error::from), format!("memfd {name}")),
            Place::Directory(directory) => (replace_file(directory, name), directory.join(name).display().to_string()),
        };
        let fail = |source: io::Error| RegionError::Io { file: shown.clone(), source };
        let file = file.map_err(fail)?;
        if let Place::Directory(directory) = place {
            let kind = fstatfs(&file).map_err(|error| fail(error.into()))?.f_type as u64;
            if kind != TMPFS_MAGIC {
                drop(std::fs::remove_file(directory.join(name)));
                return Err(RegionError::NotTmpfs(directory.clone()));
            }
        }
        fallocate(&file, FallocateFlags::empty(), 0, bytes as u64).map_err(|error| {
            if let Place::Directory(directory) = place {
                drop(std::fs::remove_file(directory.join(name)));
            }
            RegionError::Space { file: shown.clone(), bytes, source: error.into() }
        })?;
        let map = MmapOptions::new().len(bytes).map_raw(&file).map_err(fail)?;
        // Advice only: a kernel without huge pages for shared memory goes on with small ones.
        let _ = map.advise(memmap2::Advice::HugePage);
        map.advise(memmap2::Advice::PopulateWrite).or_else(|_| populate(&map)).map_err(fail)?;
        Ok(Self { map, _file: file })
    }

    /// `count` values from `offset` on.
    pub(super) fn view<T: Shared>(&self, offset: usize, count: usize) -> View<T> {
        let end = count.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(offset));
        assert!(end.is_some_and(|end| end <= self.map.len()), "a view ends behind its mapping");
        let start = self.map.as_mut_ptr().wrapping_add(offset).cast::<T>();
        assert!(start.is_aligned(), "a view is not aligned");
        let start = NonNull::new(start).expect("a mapping does not start at zero");
        // SAFETY: aligned and inside the mapping by the assertions above; `Region` keeps the mapping as long as its views.
        unsafe { View::new(start, count) }
    }
}

/// Faults pages in by writing a zero to each, for kernels without `MADV_POPULATE_WRITE` (before 5.14).
fn populate(map: &MmapRaw) -> io::Result<()> {
    for page in (0..map.len()).step_by(4096) {
        // SAFETY: `page` is inside the mapping, which nobody else uses yet.
        unsafe { map.as_mut_ptr().wrapping_add(page).write_volatile(0) };
    }
    Ok(())
}

fn replace_file(directory: &Path, name: &str) -> io::Result<File> {
    let path = directory.join(name);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mode = if name == "heart" { 0o600 } else { 0o644 };
    OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path)
}
