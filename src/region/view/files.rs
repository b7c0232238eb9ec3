//! The files of an engine, mapped for reading.

use super::super::RegionError;
use super::super::attach::{heart_file, public_file};
use super::super::heart::HeartLine;
use super::super::mapping::{ReadOnly, Source};
use super::super::part::Part;
use super::super::public::PublicTables;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The public file, and the heart file where the process may read it.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) tables: PublicTables,
    lines: Option<Part<HeartLine>>,
    /// Device and inode of the public file.
    identity: (u64, u64),
    _public: ReadOnly,
    _heart: Option<ReadOnly>,
}

impl Files {
    pub(super) fn open(directory: &Path, boot: [u8; 16]) -> Result<Self, RegionError> {
        let path = directory.join("public");
        let whole = public_file(&path, boot)?;
        let fail = |source: io::Error| RegionError::Io { file: path.display().to_string(), source };
        let identity = identity(&whole.file.metadata().map_err(fail)?);
        let public = ReadOnly::map(&whole.file, 0, whole.geometry.public_bytes()).map_err(fail)?;
        let slots = whole.geometry.slots as usize;
        // It has secrets: the file is the owner's. Whoever can't read it goes without.
        let heart = heart_file(&directory.join("heart"), boot)
            .ok()
            .filter(|heart| (&heart.geometry, heart.epoch) == (&whole.geometry, whole.epoch))
            .and_then(|heart| ReadOnly::map(&heart.file, 0, heart.geometry.heart_bytes()).ok());
        let lines = heart.as_ref().map(|heart| heart.part(whole.geometry.lines, slots));
        let tables = PublicTables::over(&public, whole.geometry, None);
        Ok(Self { tables, lines, identity, _public: public, _heart: heart })
    }

    /// Whether another file lies where this one was. A place without a file has no other.
    pub(super) fn is_replaced(&self, directory: &Path) -> bool {
        std::fs::symlink_metadata(directory.join("public"))
            .is_ok_and(|there| identity(&there) != self.identity)
    }

    /// The heart line of each slot; empty where the process may not read them.
    #[inline]
    pub(super) fn lines(&self) -> &[HeartLine] {
        self.lines.as_deref().unwrap_or_default()
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}
