//! Where an engine's memory comes from: what a former engine left on tmpfs, else the snapshot, else
//! nothing.

use super::StartError;
use super::snapshot_file::SnapshotFile;
use crate::clock::{self, Nanos};
use crate::config::Config;
use crate::limits::ATTRIBUTES_BYTES_MAX;
use crate::region::{self, Geometry, Mismatch, Place, Region, RegionError, Run};
use crate::registrar::{Registrar, Settings};
use crate::snapshot::{MemoryDisk, Reader, Sizes, Writer};
use crate::wire::Slot;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What an engine begins with.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) region: Region,
    pub(super) writer: region::Right,
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
        let run = Run { boot: clock::boot_id(), epoch: start.settings.epoch, key: start.key };
        let left = left_behind(&config.state, run.boot, &geometry, &mut notices)?;
        let create = || Region::prepare(&config.state, geometry.clone(), run, start.cancelled);
        let mut before = None;
        let ((region, writer), peopled, made, loaded) = match left {
            Left::Whole(left) => (*left, true, false, None),
            Left::Other(other) => {
                let (disk, other) = carry(*other, start, &geometry)?;
                before = Some(other);
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
            if let Some((before, right)) = before {
                before.leave(&right);
            }
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
    Whole(Box<(Region, region::Right)>),
    /// Memory for another number of leases or attribute bytes.
    Other(Box<(Region, region::Right)>),
}

fn left_behind(
    place: &Place,
    boot: [u8; 16],
    geometry: &Geometry,
    notices: &mut Vec<String>,
) -> Result<Left, RegionError> {
    let Place::Directory(path) = place else { return Ok(Left::Nothing) };
    let left = match Region::attach(path, boot) {
        Ok((region, writer)) if region.geometry() == geometry => {
            Left::Whole(Box::new((region, writer)))
        }
        Ok((region, writer)) => {
            let found = region.geometry();
            notices.push(format!(
                "{} has memory for {} leases with {} attribute bytes, and {} with {} are asked \
                 for: moved",
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

/// A region and the right to change it.
type Owned = (Arc<Region>, region::Right);

/// Members of a region with another layout, on their way into a new one. What an interrupted step
/// left is repaired first. The region comes back, to be left once the new one is in its place.
fn carry(
    (region, writer): (Region, region::Right),
    start: &Start<'_>,
    to: &Geometry,
) -> Result<(MemoryDisk, Owned), StartError> {
    let leased = region
        .lines()
        .iter()
        .rposition(|line| line.head().1.is_leased())
        .map_or(0, |slot| slot as u32);
    let mut buffer = [0; ATTRIBUTES_BYTES_MAX];
    let attributes = (0..=leased)
        .filter_map(|slot| Some(region.records().attributes(Slot::new(slot), &mut buffer)?.len()))
        .max()
        .unwrap_or(0);
    if leased >= to.slots || attributes > to.attributes_bytes {
        return Err(StartError::LessRoom { slot: leased, attributes });
    }
    let sizes = Sizes::new(region.geometry());
    let registrar = Registrar::resume(Arc::new(region), writer, start.settings.clone(), start.now);
    let (region, right) = registrar.release();
    let mut disk = MemoryDisk(vec![0; sizes.file_bytes() as usize]);
    sizes.write_header(&mut disk).expect("memory takes what is written to it");
    let mut writer = Writer::new(disk, sizes, None, &region, start.now);
    writer.write(&region, start.now, true).expect("nobody changes members meanwhile");
    Ok((writer.into_disk(), (region, right)))
}
