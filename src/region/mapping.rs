//! Memory that outlives the process: files on tmpfs, allocated and faulted in at once.

use super::layout::FORMAT;
use super::part::{Part, Shared};
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, memfd_create, statfs,
};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

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

impl Place {
    /// The state directory of an engine unless configured otherwise: `/dev/shm/heartline` for root,
    /// `/dev/shm/heartline-UID` for others. Every Linux with POSIX shared memory has tmpfs there.
    pub fn default_directory() -> PathBuf {
        let uid = rustix::process::geteuid();
        if uid.is_root() {
            PathBuf::from("/dev/shm/heartline")
        } else {
            PathBuf::from(format!("/dev/shm/heartline-{}", uid.as_raw()))
        }
    }
}

/// Why the region could not be made. Nothing was left behind.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The files can't be made or mapped.
    #[error("{file}: {source}")]
    Io {
        /// The file, as a path or a name.
        file: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not enough memory in the file system.
    #[error("{file}: {bytes} bytes do not fit: {source}; lower `capacity` or enlarge the tmpfs")]
    Space {
        /// The file, as a path or a name.
        file: String,
        /// How many it needs.
        bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// The caller gave up while memory was being allocated.
    #[error("cancelled")]
    Cancelled,
    /// A file that was left behind is not one to go on with. Nothing in it was changed.
    #[error("{file} {mismatch}")]
    Refused {
        /// The file, as a path or a name.
        file: String,
        /// The first check that it did not pass.
        mismatch: Mismatch,
    },
}

/// Why a file is not the memory of an engine like this one, in the order in which it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It doesn't begin as memory files do, or is no regular file.
    #[error("is no memory file of heartline; move it away")]
    Foreign,
    /// Another version of the format.
    #[error(
        "has format {0}, this program knows format {FORMAT}; start the program that wrote it, or remove the file and lose what it holds"
    )]
    Format(u32),
    /// Whoever made it has not finished.
    #[error("was never finished; remove it")]
    Unfinished,
    /// It was written before the machine started: clock readings in it mean nothing.
    #[error("is from before this start of the machine; remove it")]
    Boot,
    /// Sizes or offsets are not what this program would choose.
    #[error(
        "has another layout than this program makes; start the program that wrote it, or remove the file and lose what it holds"
    )]
    Layout,
    /// It is shorter or longer than its header says.
    #[error("has {found} bytes and should have {expected}; remove it")]
    Size {
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// The two files are not of one engine.
    #[error("belongs to another engine than the file beside it; remove both")]
    Mixed,
}

/// Bytes allocated and faulted in between two looks at whether the start was cancelled.
const STEP_BYTES: usize = 64 << 20;

/// A huge page of x86-64, and of aarch64 with pages of 4 KiB.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// `MADV_COLLAPSE` of `asm-generic/mman-common.h`: puts small pages together to huge ones at once,
/// whatever is configured under `/sys/kernel/mm/transparent_hugepage` (madvise(2), since Linux
/// 6.1).
const MADV_COLLAPSE: libc::c_int = 25;

/// One mapped file.
#[derive(Debug)]
pub(super) struct Mapping {
    pages: Pages,
    file: File,
    path: Option<PathBuf>,
}

impl Mapping {
    /// Makes a file of zeros beside its place, all of it allocated, mapped and faulted in;
    /// [`Self::install`] puts it there. Until then a memory file in that place is as it was. Any
    /// other file of that name is left alone and refused.
    pub(super) fn create(
        place: &Place,
        name: &str,
        bytes: usize,
        cancelled: &AtomicBool,
    ) -> Result<Self, RegionError> {
        let path = match place {
            Place::Scratch => None,
            Place::Directory(directory) => Some(directory.join(name)),
        };
        let shown = path
            .as_ref()
            .map_or_else(|| format!("memfd {name}"), |path| path.display().to_string());
        let fail = |source: io::Error| RegionError::Io { file: shown.clone(), source };
        let file = match &path {
            None => memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
                .map(File::from)
                .map_err(io::Error::from),
            Some(path) => refuse_foreign(path).and_then(|()| fresh_file(path, name)),
        };
        let file = file.map_err(fail)?;
        match Self::fill(&file, bytes, cancelled, &shown, &fail) {
            Ok(pages) => {
                if path.is_none() {
                    // Nobody can cut it short under the mapping; files of a directory can't be
                    // sealed (fcntl(2), F_ADD_SEALS).
                    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
                    fcntl_add_seals(&file, seals).map_err(|error| fail(error.into()))?;
                }
                Ok(Self { pages, file, path })
            }
            Err(error) => {
                remove_if_same(&file, path.as_deref().map(fresh).as_deref());
                Err(error)
            }
        }
    }

    fn fill(
        file: &File,
        bytes: usize,
        cancelled: &AtomicBool,
        shown: &str,
        fail: &impl Fn(io::Error) -> RegionError,
    ) -> Result<Pages, RegionError> {
        let steps =
            || (0..bytes).step_by(STEP_BYTES).map(|start| (start, STEP_BYTES.min(bytes - start)));
        for (start, length) in steps() {
            if cancelled.load(Relaxed) {
                return Err(RegionError::Cancelled);
            }
            fallocate(file, FallocateFlags::empty(), start as u64, length as u64).map_err(
                |error| RegionError::Space { file: shown.to_owned(), bytes, source: error.into() },
            )?;
        }
        let pages = Pages::map(file, bytes).map_err(fail)?;
        for (start, length) in steps() {
            if cancelled.load(Relaxed) {
                return Err(RegionError::Cancelled);
            }
            pages.collapse(start, length);
            pages.populate(start, length).map_err(fail)?;
        }
        Ok(pages)
    }

    /// Maps a file that is there, all of it.
    pub(super) fn open(file: File, path: &Path) -> Result<Self, RegionError> {
        let fail = |source: io::Error| RegionError::Io { file: path.display().to_string(), source };
        let bytes = usize::try_from(file.metadata().map_err(fail)?.len())
            .map_err(|_| fail(io::ErrorKind::FileTooLarge.into()))?;
        let pages = Pages::map(&file, bytes).map_err(fail)?;
        // The memory is there; this only spares the loops the faults. Reading faults map 16 pages
        // at once (fault_around_bytes), and pages of tmpfs are mapped writable at that. A kernel
        // that can't takes the faults later.
        let _ = pages.reserved.advise_range(memmap2::Advice::PopulateRead, pages.start, bytes);
        Ok(Self { pages, file, path: Some(path.to_owned()) })
    }

    /// The file that is mapped.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Puts a file that was made into its place. Who has the file mapped that was there before
    /// keeps it.
    pub(super) fn install(&self) -> Result<(), RegionError> {
        let Some(path) = &self.path else { return Ok(()) };
        std::fs::rename(fresh(path), path)
            .map_err(|source| RegionError::Io { file: path.display().to_string(), source })
    }

    /// Whether the file is in its place.
    pub(super) fn is_in_place(&self) -> bool {
        self.path.as_deref().is_none_or(|path| is_same(&self.file, path))
    }

    /// Removes the file from its directory, unless another has taken its place there.
    pub(super) fn remove(&self) {
        remove_if_same(&self.file, self.path.as_deref());
        remove_if_same(&self.file, self.path.as_deref().map(fresh).as_deref());
    }
}

/// A mapped file that tables are found in.
pub(super) trait Source {
    /// Where the file begins in memory, and how many of its bytes are mapped.
    fn bytes(&self) -> (*mut u8, usize);

    /// `count` values from `offset` on.
    fn part<T: Shared>(&self, offset: usize, count: usize) -> Part<T> {
        let (first, bytes) = self.bytes();
        let end = count.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(offset));
        assert!(end.is_some_and(|end| end <= bytes), "a part ends behind its mapping");
        let start = first.wrapping_add(offset).cast::<T>();
        assert!(start.is_aligned(), "a part is not aligned");
        let start = NonNull::new(start).expect("a mapping does not start at zero");
        // SAFETY: aligned and inside the mapping by the assertions above; whoever asks for a part
        // keeps the mapping as long.
        unsafe { Part::new(start, count) }
    }
}

impl Source for Mapping {
    fn bytes(&self) -> (*mut u8, usize) {
        (self.pages.address(0), self.pages.bytes)
    }
}

/// A part of a file, mapped for reading: a store to it would end the process.
#[derive(Debug)]
pub(super) struct ReadOnly(MmapRaw);

impl ReadOnly {
    /// Maps `length` bytes from `offset`, a multiple of the page size, on.
    pub(super) fn map(file: &File, offset: usize, length: usize) -> io::Result<Self> {
        MmapOptions::new().offset(offset as u64).len(length).map_raw_read_only(file).map(Self)
    }
}

impl Source for ReadOnly {
    fn bytes(&self) -> (*mut u8, usize) {
        (self.0.as_mut_ptr(), self.0.len())
    }
}

/// A file mapped where huge pages can be mapped, too: at a multiple of their size. Only then does
/// the kernel use one entry for each of them.
#[derive(Debug)]
struct Pages {
    /// Addresses that the file is mapped over, from `start` on. Unmapping them unmaps the file.
    reserved: MmapRaw,
    start: usize,
    bytes: usize,
}

impl Pages {
    fn map(file: &File, bytes: usize) -> io::Result<Self> {
        // A mapping of the file that is longer than the file: it takes addresses and no memory, and
        // what lies behind the file can't be touched.
        let reserved = MmapOptions::new().len(bytes + HUGE_PAGE_BYTES).map_raw(file)?;
        let start = reserved.as_ptr().align_offset(HUGE_PAGE_BYTES);
        let pages = Self { reserved, start, bytes };
        if bytes > 0 {
            let (access, flags) =
                (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
            // SAFETY: these addresses are in the reservation, which was made for this and is used
            // by nobody.
            unsafe { mmap(pages.address(0).cast(), bytes, access, flags, file, 0) }?;
        }
        Ok(pages)
    }

    fn address(&self, offset: usize) -> *mut u8 {
        self.reserved.as_mut_ptr().wrapping_add(self.start + offset)
    }

    /// Makes huge pages of small ones. Where the kernel or its memory has none, small ones stay.
    fn collapse(&self, start: usize, length: usize) {
        // SAFETY: the range is in the mapping; the call changes what backs it, not what is in it.
        let _ = unsafe { libc::madvise(self.address(start).cast(), length, MADV_COLLAPSE) };
    }

    /// Faults pages in for writing.
    fn populate(&self, start: usize, length: usize) -> io::Result<()> {
        let populated =
            self.reserved.advise_range(memmap2::Advice::PopulateWrite, self.start + start, length);
        populated.or_else(|_| {
            // Kernels without `MADV_POPULATE_WRITE` (before 5.14): writing a zero to each does it.
            for page in (start..start + length).step_by(4096) {
                // SAFETY: `page` is inside the mapping, which nobody else uses yet.
                unsafe { self.address(page).write_volatile(0) };
            }
            Ok(())
        })
    }
}

/// Where a file is made before it is put into its place.
pub(super) fn fresh(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn is_same(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(own), Ok(there)) => (own.dev(), own.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn remove_if_same(file: &File, path: Option<&Path>) {
    if let Some(path) = path.filter(|path| is_same(file, path)) {
        let _ = std::fs::remove_file(path);
    }
}

fn refuse_foreign(path: &Path) -> io::Result<()> {
    let mut old = match OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
    {
        Ok(old) => old,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut start = [0; 8];
    let facts = old.metadata()?;
    let known = facts.is_file()
        && (facts.len() == 0
            || old.read_exact(&mut start).is_ok() && (start == *b"HLREGION" || start == [0; 8]));
    if known {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "is no memory file of heartline; move it away",
        ))
    }
}

/// What an engine that was killed while it started left there is nobody's.
fn fresh_file(path: &Path, name: &str) -> io::Result<File> {
    match std::fs::remove_file(fresh(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mode = if name == "heart" { 0o600 } else { 0o644 };
    OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(fresh(path))
}

/// Whether a directory is on tmpfs.
///
/// # Errors
/// When the directory can't be asked.
pub fn is_tmpfs(directory: &Path) -> io::Result<bool> {
    Ok(statfs(directory)?.f_type as u64 == TMPFS_MAGIC)
}
