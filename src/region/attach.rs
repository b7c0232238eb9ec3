//! Going on with the two files that a former engine left: a ladder of checks, each with its own
//! refusal, before anything is mapped.
//!
//! What is checked is the frame: who made the files, when, and how they are laid out. What is in
//! the tables is distrusted by each reader, as in any shared memory: numbers are bounds, not
//! promises.

use super::Region;
use super::layout::{FORMAT, Geometry, MAGIC};
use super::mapping::{Mapping, Mismatch, RegionError, fresh};
use super::right::Right;
use crate::limits::{ATTRIBUTES_BYTES_MAX, CAPACITY_MAX, CAPACITY_MIN};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The common header as it lies in a file.
const HEADER: usize = 64;

/// A file that passed the checks that concern it alone.
pub(super) struct Candidate {
    pub(super) file: File,
    path: PathBuf,
    pub(super) geometry: Geometry,
    pub(super) epoch: u64,
}

impl Region {
    /// Attaches to the files in a directory, if they were made in this boot of the machine. The
    /// caller holds the directory's lock, so that it becomes their only writer.
    ///
    /// # Errors
    /// [`RegionError::Io`]: a file is missing or can't be read. [`RegionError::Refused`]: the files
    /// are of another boot, format, layout or program, or do not belong together. Nothing is
    /// changed.
    pub fn attach(directory: &Path, boot: [u8; 16]) -> Result<(Self, Right), RegionError> {
        let open = |path: &PathBuf| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(path)
        };
        let [heart, public] = ["heart", "public"].map(|name| directory.join(name));
        let fail = |path: &Path, source: io::Error| RegionError::Io {
            file: path.display().to_string(),
            source,
        };
        let both = |second: &PathBuf| {
            Ok([
                open(&heart).map_err(|error| fail(&heart, error))?,
                open(second).map_err(|error| fail(second, error))?,
            ])
        };
        let attached = Self::attach_files(directory, boot, both(&public)?);
        if matches!(attached, Err(RegionError::Refused { mismatch: Mismatch::Mixed, .. }))
            && let Ok(files) = both(&fresh(&public))
            && let Ok(whole) = Self::attach_files(directory, boot, files)
        {
            // Whoever made them was killed between putting the first and the second into its place.
            std::fs::rename(fresh(&public), &public).map_err(|error| fail(&public, error))?;
            return Ok(whole);
        }
        attached
    }

    /// Removes what a start that was killed left beside the files' places: it may be much memory.
    /// The caller holds the directory's lock.
    pub fn remove_unfinished(directory: &Path) {
        for name in ["heart", "public"] {
            let _ = std::fs::remove_file(fresh(&directory.join(name)));
        }
    }

    /// Like [`Self::attach`], with the files of a directory that are open already, the heart file
    /// first.
    ///
    /// # Errors
    /// As for [`Self::attach`].
    pub fn attach_files(
        directory: &Path,
        boot: [u8; 16],
        [heart, public]: [File; 2],
    ) -> Result<(Self, Right), RegionError> {
        let heart = candidate(heart, directory.join("heart"), boot, Geometry::heart_bytes)?;
        let public = candidate(public, directory.join("public"), boot, Geometry::public_bytes)?;
        if heart.geometry != public.geometry || heart.epoch != public.epoch {
            return Err(RegionError::Refused {
                file: public.path.display().to_string(),
                mismatch: Mismatch::Mixed,
            });
        }
        let files =
            [Mapping::open(heart.file, &heart.path)?, Mapping::open(public.file, &public.path)?];
        Ok((Self::assemble(files, public.geometry, None), Right::new()))
    }
}

/// The public file in a place, open for reading, after the same checks.
pub(super) fn public_file(path: &Path, boot: [u8; 16]) -> Result<Candidate, RegionError> {
    candidate(open_to_read(path)?, path.to_owned(), boot, Geometry::public_bytes)
}

/// The heart file in a place, likewise.
pub(super) fn heart_file(path: &Path, boot: [u8; 16]) -> Result<Candidate, RegionError> {
    candidate(open_to_read(path)?, path.to_owned(), boot, Geometry::heart_bytes)
}

/// Nothing that is no regular file keeps the caller waiting.
fn open_to_read(path: &Path) -> Result<File, RegionError> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(|source| RegionError::Io { file: path.display().to_string(), source })
}

fn candidate(
    file: File,
    path: PathBuf,
    boot: [u8; 16],
    bytes: fn(&Geometry) -> usize,
) -> Result<Candidate, RegionError> {
    let shown = path.display().to_string();
    let refuse = |mismatch| RegionError::Refused { file: shown.clone(), mismatch };
    let fail = |source: io::Error| RegionError::Io { file: shown.clone(), source };
    let facts = file.metadata().map_err(fail)?;
    let mut header = [0; HEADER];
    if !facts.is_file() || facts.len() < HEADER as u64 {
        return Err(refuse(Mismatch::Foreign));
    }
    file.read_exact_at(&mut header, 0).map_err(fail)?;
    let (geometry, epoch) = check(&header, boot).map_err(refuse)?;
    let expected = bytes(&geometry) as u64;
    if facts.len() != expected {
        return Err(refuse(Mismatch::Size { found: facts.len(), expected }));
    }
    Ok(Candidate { file, path, geometry, epoch })
}

/// The ladder. Offsets are those that `layout.rs` asserts.
fn check(header: &[u8; HEADER], boot: [u8; 16]) -> Result<(Geometry, u64), Mismatch> {
    let long = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| header[at + byte]));
    let short = |at: usize| u32::from_ne_bytes(std::array::from_fn(|byte| header[at + byte]));
    if long(0) != MAGIC {
        return Err(Mismatch::Foreign);
    }
    if short(8) != FORMAT {
        return Err(Mismatch::Format(short(8)));
    }
    if short(12) != 1 {
        return Err(Mismatch::Unfinished);
    }
    let made_in = u128::from(long(40)) << 64 | u128::from(long(48));
    if made_in.to_be_bytes() != boot {
        return Err(Mismatch::Boot);
    }
    let (capacity, attributes_bytes) = (short(24), short(36) as usize);
    if !(CAPACITY_MIN..=CAPACITY_MAX).contains(&capacity) || attributes_bytes > ATTRIBUTES_BYTES_MAX
    {
        return Err(Mismatch::Layout);
    }
    let geometry = Geometry::new(capacity, attributes_bytes);
    if (long(16), short(28), short(32)) != (geometry.hash(), geometry.slots, geometry.services_max)
    {
        return Err(Mismatch::Layout);
    }
    Ok((geometry, long(56)))
}

#[cfg(test)]
mod tests {
    use super::super::{HeartState, Place, Run};
    use super::*;
    use crate::sync::AtomicBool;
    use crate::wire::time::{Moment, Span};
    use crate::wire::{Generation, Name, Slot};

    fn directory(name: &str) -> PathBuf {
        let path = PathBuf::from(format!("/dev/shm/heartline-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    const BOOT: [u8; 16] = [7; 16];

    fn run(epoch: u64) -> Run {
        Run { boot: BOOT, epoch, key: (11, 12) }
    }

    fn attach(path: &Path) -> Result<(Region, Right), RegionError> {
        Region::attach(path, BOOT)
    }

    fn create(path: &Path, epoch: u64) -> (Region, Right) {
        let place = Place::Directory(path.to_owned());
        Region::create(&place, Geometry::new(64, 16), run(epoch), &AtomicBool::new(false)).unwrap()
    }

    #[test]
    fn what_was_written_is_there_again() {
        let path = directory("attach");
        let (region, right) = create(&path, 13);
        region.lines()[3].lease_to(&right, Moment::ZERO, Span::from_ms(1), 7, 1);
        let name = Name::new("a").unwrap();
        region.index_instance(&right, 5, &name, Slot::new(3)).unwrap();
        drop(region);
        let (again, _right) = attach(&path).unwrap();
        assert_eq!(again.lines()[3].head(), (Generation::new(1), HeartState::Up));
        assert_eq!(again.geometry(), &Geometry::new(64, 16));
        assert_eq!(
            again.index.find(again.hash(5, name.bytes()), |slot| Some(slot == Slot::new(3))),
            Ok(Some(Slot::new(3))),
            "under the same key"
        );
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn files_that_were_half_put_into_their_places_are_whole() {
        let path = directory("half");
        drop(create(&path, 13));
        let place = Place::Directory(path.clone());
        let (second, _) =
            Region::prepare(&place, Geometry::new(128, 16), run(14), &AtomicBool::new(false))
                .unwrap();
        assert!(
            attach(&path).unwrap().0.geometry() == &Geometry::new(64, 16),
            "until then the first stands"
        );
        second.files[0].install().unwrap();
        drop(second);
        assert_eq!(attach(&path).unwrap().0.geometry(), &Geometry::new(128, 16));
        assert!(attach(&path).unwrap().0.is_in_place() && !path.join("public.new").exists());
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_bit_that_flipped_in_a_header_is_refused_or_changes_nothing() {
        let path = directory("bits");
        drop(create(&path, 13));
        let mut refused = 0;
        for name in ["heart", "public"] {
            let file = File::options().read(true).write(true).open(path.join(name)).unwrap();
            for bit in 0..512 {
                let (mut byte, at) = ([0], bit / 8);
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], at).unwrap();
                match attach(&path) {
                    Ok((region, _)) => {
                        assert_eq!(region.geometry(), &Geometry::new(64, 16), "bit {bit} of {name}")
                    }
                    Err(RegionError::Refused { .. }) => refused += 1,
                    Err(other) => panic!("bit {bit} of {name}: {other:?}"),
                }
                file.write_all_at(&byte, at).unwrap();
            }
        }
        assert!(refused > 2 * 300, "only {refused} were noticed");
        assert!(attach(&path).is_ok());
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn each_difference_has_its_refusal() {
        let path = directory("refuse");
        let refusal = |at: u64, bytes: &[u8]| {
            let _ = std::fs::remove_file(path.join("public"));
            drop(create(&path, 13));
            File::options()
                .write(true)
                .open(path.join("public"))
                .unwrap()
                .write_all_at(bytes, at)
                .unwrap();
            match attach(&path) {
                Err(RegionError::Refused { mismatch, .. }) => mismatch,
                other => panic!("byte {at}: {other:?}"),
            }
        };
        assert_eq!(refusal(0, b"X"), Mismatch::Foreign);
        assert_eq!(refusal(8, &[9]), Mismatch::Format(9));
        assert_eq!(refusal(12, &[0]), Mismatch::Unfinished);
        assert_eq!(refusal(16, &[1, 2, 3]), Mismatch::Layout);
        assert_eq!(refusal(24, &[65]), Mismatch::Layout);
        assert_eq!(refusal(27, &[0xFF]), Mismatch::Layout);
        assert_eq!(refusal(36, &[0xFF, 0xFF]), Mismatch::Layout);
        assert_eq!(refusal(40, &[1, 2, 3, 4, 5, 6, 7, 8]), Mismatch::Boot);
        assert_eq!(refusal(56, &[14]), Mismatch::Mixed);
        std::fs::remove_file(path.join("public")).unwrap();
        drop(create(&path, 13));
        assert!(matches!(
            Region::attach(&path, [8; 16]),
            Err(RegionError::Refused { mismatch: Mismatch::Boot, .. })
        ));
        let expected = Geometry::new(64, 16).heart_bytes() as u64;
        File::options()
            .write(true)
            .open(path.join("heart"))
            .unwrap()
            .set_len(expected - 4096)
            .unwrap();
        let error = attach(&path).unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("has {} bytes and should have {expected}", expected - 4096)),
            "{error}"
        );
        File::options().write(true).open(path.join("heart")).unwrap().set_len(10).unwrap();
        assert!(matches!(
            attach(&path),
            Err(RegionError::Refused { mismatch: Mismatch::Foreign, .. })
        ));
        std::fs::remove_file(path.join("heart")).unwrap();
        assert!(matches!(attach(&path), Err(RegionError::Io { .. })));
        std::fs::remove_dir_all(&path).unwrap();
    }
}
