//! The thread that writes snapshots: the only one that writes to a disk, and the one that everybody
//! else goes before.

use crate::clock::{self, NANOS_PER_MS, Nanos};
use crate::region::Region;
use crate::snapshot::Writer;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// What it is told.
pub(super) enum Order {
    /// Write this often from now on.
    Interval(Duration),
    /// Nobody changes anything any more: write what there is, and end.
    Finish,
    /// End; somebody else goes on with the file.
    Yield,
}

/// What others can see of it.
#[derive(Debug, Default)]
pub(super) struct SnapshotStatus {
    edition: AtomicU64,
    failures: AtomicU64,
    /// 0: nobody writes snapshots.
    written_at: AtomicU64,
}

impl SnapshotStatus {
    /// Number of the newest snapshot on the disk, milliseconds since it was written, and how many
    /// could not be. All are 0 where nobody writes any.
    pub(super) fn read(&self, now: Nanos) -> (u64, u64, u64) {
        let age = match self.written_at.load(Relaxed) {
            0 => 0,
            written_at => now.saturating_sub(written_at) / NANOS_PER_MS,
        };
        (self.edition.load(Relaxed), age, self.failures.load(Relaxed))
    }
}

pub(super) struct SnapshotThread {
    region: Arc<Region>,
    writer: Writer<File>,
    status: Arc<SnapshotStatus>,
    failures: Sender<String>,
    failing: bool,
}

impl SnapshotThread {
    pub(super) fn new(
        region: Arc<Region>,
        writer: Writer<File>,
        status: Arc<SnapshotStatus>,
        failures: Sender<String>,
    ) -> Self {
        status.edition.store(writer.edition(), Relaxed);
        status.written_at.store(clock::now(), Relaxed);
        Self { region, writer, status, failures, failing: false }
    }

    /// Runs until it is told to end; returns the file, which stays locked as long as it is open,
    /// and whether the last write did well.
    pub(super) fn run(mut self, mut interval: Duration, orders: &Receiver<Order>) -> (File, bool) {
        // Lowest priority: beats go before. Whoever may not even do that writes all the same.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19);
        loop {
            match orders.recv_timeout(interval) {
                Err(RecvTimeoutError::Timeout) => self.write(false),
                Ok(Order::Interval(other)) => interval = other,
                Ok(Order::Finish) | Err(RecvTimeoutError::Disconnected) => {
                    self.write(true);
                    return (self.writer.into_disk(), !self.failing);
                }
                Ok(Order::Yield) => return (self.writer.into_disk(), !self.failing),
            }
        }
    }

    fn write(&mut self, complete: bool) {
        let written = self
            .check_file()
            .and_then(|()| self.writer.write(&self.region, clock::now(), complete));
        match written {
            Ok(written) => {
                if let Some(written) = written {
                    self.status.edition.store(written.edition, Relaxed);
                    self.status.written_at.store(clock::now(), Relaxed);
                }
                if std::mem::take(&mut self.failing) {
                    self.tell(format!(
                        "snapshots are written again; edition {} is on the disk",
                        self.writer.edition()
                    ));
                }
            }
            Err(error) => {
                self.status.failures.fetch_add(1, Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    let edition = self.writer.edition();
                    self.tell(format!(
                        "a snapshot could not be written: {error}; edition {edition} stays, and \
                         the next attempt writes all"
                    ));
                }
            }
        }
    }

    /// A file that was removed or cut short is none that a next start could read.
    fn check_file(&self) -> io::Result<()> {
        let facts = self.writer.disk().metadata()?;
        if facts.nlink() == 0 || facts.len() < self.writer.file_bytes() {
            return Err(io::Error::other(
                "the file was removed or cut short; start the engine anew",
            ));
        }
        Ok(())
    }

    /// Who does not listen knows it from the counters.
    fn tell(&self, what: String) {
        let _ = self.failures.send(what);
    }
}
