//! The thread that writes snapshots: the only one that writes to a disk, and the one that everybody
//! else goes before.

use super::cpu_time::CpuTime;
use crate::clock;
use crate::region::{Counter, OwnCounters, Region, Tally};
use crate::snapshot::Writer;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
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

pub(super) struct SnapshotThread {
    region: Arc<Region>,
    writer: Writer<File>,
    tally: Tally,
    counters: OwnCounters,
    cpu: CpuTime,
    failures: Sender<String>,
    failing: bool,
}

impl SnapshotThread {
    pub(super) fn new(
        region: Arc<Region>,
        writer: Writer<File>,
        counters: OwnCounters,
        failures: Sender<String>,
    ) -> Self {
        let mut tally = Tally::default();
        tally.set(Counter::MemoryBytes, writer.memory_bytes() as u64);
        tally.set(Counter::Snapshot, writer.edition());
        tally.set(Counter::SnapshotAt, clock::now());
        counters.publish(&tally);
        let cpu = CpuTime::default();
        Self { region, writer, tally, counters, cpu, failures, failing: false }
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
                    self.tally.set(Counter::Snapshot, written.edition);
                    self.tally.set(Counter::SnapshotAt, clock::now());
                }
                if std::mem::take(&mut self.failing) {
                    self.tell(format!(
                        "snapshots are written again; edition {} is on the disk",
                        self.writer.edition()
                    ));
                }
            }
            Err(error) => {
                self.tally.add(Counter::SnapshotFailures, 1);
                if !std::mem::replace(&mut self.failing, true) {
                    let edition = self.writer.edition();
                    self.tell(format!(
                        "a snapshot could not be written: {error}; edition {edition} stays, and \
                         the next attempt writes all"
                    ));
                }
            }
        }
        if let Some(spent) = self.cpu.read(clock::now()) {
            self.tally.set(Counter::CpuNs, spent);
        }
        self.counters.publish(&self.tally);
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
