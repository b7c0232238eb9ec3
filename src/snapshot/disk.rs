//! What a snapshot is written to and read from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A file, as far as snapshots need one.
pub trait Disk {
    /// Writes all bytes at an offset. Not durable before [`Self::sync`].
    ///
    /// # Errors
    /// When the disk is full or fails; a part may be written.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes durable what was written.
    ///
    /// # Errors
    /// When the disk fails; nothing is known of what was written.
    fn sync(&mut self) -> io::Result<()>;
    /// Fills the buffer from an offset on; an error when the file is shorter.
    ///
    /// # Errors
    /// When the file is shorter or the disk fails.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Bytes in the file.
    ///
    /// # Errors
    /// When the file can't be asked.
    fn length(&self) -> io::Result<u64>;
}

impl Disk for File {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// A file in memory, to carry members from one layout to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryDisk(pub Vec<u8>);

impl Disk for MemoryDisk {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let start = offset as usize;
        let end = start + bytes.len();
        if self.0.len() < end {
            self.0.resize(end, 0);
        }
        self.0[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.0.get(offset as usize..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
}
