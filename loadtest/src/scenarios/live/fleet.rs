//! The instances: their leases, their beats, and which of them are dead.

use heartline::clock::Nanos;
use heartline::wire::{Beat, Header, Kind, Lease};
use heartline_client::Registration;
use std::time::Duration;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromZeros, IntoBytes};

/// The population.
#[derive(Debug)]
pub(super) struct Fleet {
    leases: Vec<Lease>,
    sequences: Vec<u32>,
    dead: Vec<bool>,
    granted: Vec<bool>,
    services: u32,
    ttl: Duration,
    batch: usize,
    /// Number of this run: names and nonces are its own.
    run: u32,
    pub(super) batches: Vec<Batch>,
}

/// Instances that beat in one datagram.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    first: usize,
    last: usize,
    missing: usize,
    /// Intended time of the next frame; 0 while an instance is not registered yet.
    pub(super) due: Nanos,
    /// When the last frame was handed to the kernel; 0 before the first.
    pub(super) sent_at: Nanos,
}

impl Fleet {
    pub(super) fn new(instances: u32, services: u32, ttl: Duration, batch: usize) -> Self {
        let instances = instances as usize;
        let batches = (0..instances)
            .step_by(batch)
            .map(|first| {
                let last = (first + batch).min(instances);
                Batch { first, last, missing: last - first, due: 0, sent_at: 0 }
            })
            .collect();
        Self {
            leases: vec![Lease::new_zeroed(); instances],
            sequences: vec![0; instances],
            dead: vec![false; instances],
            granted: vec![false; instances],
            services,
            ttl,
            batch,
            run: rand::random(),
            batches,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.leases.len()
    }

    pub(super) fn service_name(service: u32) -> String {
        format!("svc-{service}")
    }

    /// How the instance registers; neighbours belong to different services.
    pub(super) fn registration(&self, instance: usize) -> Registration {
        let service = instance as u32 % self.services;
        Registration {
            ttl: self.ttl,
            nonce: u64::from(self.run) << 32 | (instance as u64 + 1),
            attributes: vec![format!("rack=r{}", instance % 40)],
            zone: format!("zone-{}", instance % 3),
            ..Registration::new(
                &Self::service_name(service),
                &format!("i-{:08x}-{instance}", self.run),
                (instance % 60_000) as u16 + 1,
            )
        }
    }

    pub(super) fn lease(&self, instance: usize) -> Lease {
        self.leases[instance]
    }

    pub(super) fn is_granted(&self, instance: usize) -> bool {
        self.granted[instance]
    }

    /// Takes a lease over. Returns the batch that is complete with it.
    pub(super) fn grant(&mut self, instance: usize, lease: Lease) -> Option<usize> {
        if std::mem::replace(&mut self.granted[instance], true) {
            return None;
        }
        self.leases[instance] = lease;
        let batch = instance / self.batch;
        self.batches[batch].missing -= 1;
        (self.batches[batch].missing == 0).then_some(batch)
    }

    /// Stops an instance; returns when it last beat. `None`: it has not yet, and goes on.
    pub(super) fn kill(&mut self, instance: usize) -> Option<Nanos> {
        let sent_at = self.batches[instance / self.batch].sent_at;
        self.dead[instance] = sent_at != 0;
        self.dead[instance].then_some(sent_at)
    }

    /// Writes the next frame of a batch; returns its length and its beats. No beats: all of them
    /// are dead.
    pub(super) fn frame(&mut self, batch: usize, frame: &mut [u8]) -> (usize, usize) {
        const HEADER: usize = size_of::<Header>();
        let Batch { first, last, .. } = self.batches[batch];
        let mut count = 0;
        for instance in (first..last).filter(|&instance| !self.dead[instance]) {
            self.sequences[instance] += 1;
            let beat = Beat {
                lease: self.leases[instance],
                sequence: U32::new(self.sequences[instance]),
                load: U16::new(self.sequences[instance] as u16 & 0xFF),
                flags: U16::ZERO,
            };
            let at = HEADER + count * size_of::<Beat>();
            frame[at..at + size_of::<Beat>()].copy_from_slice(beat.as_bytes());
            count += 1;
        }
        let header =
            Header { count: U16::new(count as u16), ..Header::request(Kind::Beat, batch as u64) };
        frame[..HEADER].copy_from_slice(header.as_bytes());
        (HEADER + count * size_of::<Beat>(), count)
    }
}
