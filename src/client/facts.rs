//! Facts that an engine tells: of itself, of its services, of one instance.

use crate::lease::Lease;
use crate::query::Endpoint;
use heartline_wire::{self as wire, AttributeEntries, Stat};
use std::time::Duration;

/// What an engine accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Proof of the client's IP address, for requests that a driver of its own encodes.
    pub cookie: u64,
    /// Random number of this run of the engine.
    pub epoch: u64,
    /// Most leases.
    pub capacity: u32,
    /// How long the proof of the client's address is good at least.
    pub cookie_for: Duration,
    /// Shortest TTL.
    pub ttl_min: Duration,
    /// Longest TTL.
    pub ttl_max: Duration,
    /// Most beats in a frame.
    pub beats_max: u16,
    /// Most endpoints in a page.
    pub endpoints_max: u16,
    /// Longest datagram in bytes.
    pub frame_bytes_max: u16,
    /// Most bytes of attributes.
    pub attributes_bytes_max: u16,
}

impl From<&wire::Welcome> for Welcome {
    fn from(welcome: &wire::Welcome) -> Self {
        let ms = |ms: u32| Duration::from_millis(ms.into());
        Self {
            cookie: welcome.cookie.get(),
            epoch: welcome.epoch.get(),
            capacity: welcome.capacity.get(),
            cookie_for: ms(welcome.cookie_ms.get()),
            ttl_min: ms(welcome.ttl_ms_min.get()),
            ttl_max: ms(welcome.ttl_ms_max.get()),
            beats_max: welcome.beats_max.get(),
            endpoints_max: welcome.endpoints_max.get(),
            frame_bytes_max: welcome.frame_bytes_max.get(),
            attributes_bytes_max: welcome.attributes_bytes_max.get(),
        }
    }
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// FNV-1a hash of the name.
    pub id: u64,
    /// Revision of its list.
    pub revision: u64,
    /// Instances that discovery answers: up or suspect.
    pub listed: u32,
    /// All instances, those that are down included.
    pub total: u32,
}

impl From<&wire::ServiceEntry> for Service {
    fn from(entry: &wire::ServiceEntry) -> Self {
        Self {
            name: entry.name.as_str().into(),
            id: entry.id.get(),
            revision: entry.version.get(),
            listed: entry.listed.get(),
            total: entry.total.get(),
        }
    }
}

/// One page of services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Services {
    /// Changes whenever a service comes or goes.
    pub revision: u64,
    /// Where the next page starts; 0: this was the last.
    pub cursor: u32,
    /// Services with at least one instance.
    pub count: u32,
    /// The services of this page.
    pub services: Vec<Service>,
}

/// Which instance to describe.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// By service and instance name.
    Names(&'a str, &'a str),
    /// By slot and generation.
    Slot(u32, u32),
}

/// The instance of the lease.
impl From<&Lease> for Target<'_> {
    fn from(lease: &Lease) -> Self {
        Self::Slot(lease.slot(), lease.generation())
    }
}

/// The instance that discovery found.
impl From<&Endpoint> for Target<'_> {
    fn from(endpoint: &Endpoint) -> Self {
        Self::Slot(endpoint.slot, endpoint.generation)
    }
}

/// A hold that is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Time since it began.
    pub age: Duration,
    /// Instances that were silent then.
    pub silent: u32,
    /// Instances that were live then.
    pub live: u32,
}

/// Everything about one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// As discovery answers it; the state may be down here.
    pub endpoint: Endpoint,
    /// Service name.
    pub service: String,
    /// Instance name.
    pub instance: String,
    /// Zone; may be empty.
    pub zone: String,
    /// Time to live.
    pub ttl: Duration,
    /// The last 64 beats, the newest in bit 0; 1: it came within half a TTL after the one before.
    pub history: u64,
    /// Revision of the service's list.
    pub revision: u64,
    /// The hold that is on in the engine.
    pub hold: Option<Hold>,
    /// Tags and `key=value` pairs.
    pub attributes: Vec<String>,
}

impl Description {
    /// `None`: the state is none that this client knows.
    pub(crate) fn from_wire(facts: &wire::Description, tail: &[u8]) -> Option<Self> {
        let hold = Hold {
            age: Duration::from_millis(facts.hold_ms.get().into()),
            silent: facts.hold_silent.get(),
            live: facts.hold_live.get(),
        };
        let attribute = |entry: &[u8]| String::from_utf8_lossy(entry).into_owned();
        Some(Self {
            endpoint: Endpoint::from_wire(&facts.endpoint)?,
            service: facts.service.as_str().into(),
            instance: facts.instance.as_str().into(),
            zone: facts.zone.as_str().into(),
            ttl: Duration::from_millis(facts.ttl_ms.get().into()),
            history: facts.history.get(),
            revision: facts.service_version.get(),
            hold: (facts.hold_ms.get() != 0).then_some(hold),
            attributes: AttributeEntries::new(tail).map(attribute).collect(),
        })
    }
}

/// The numbers that an engine tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats(Vec<u64>);

impl Stats {
    pub(crate) fn from_wire(numbers: &[zerocopy::byteorder::little_endian::U64]) -> Self {
        Self(numbers.iter().map(|number| number.get()).collect())
    }

    /// One number; 0 when the engine is older than the number.
    pub fn get(&self, stat: Stat) -> u64 {
        self.0.get(stat as usize).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn a_number_that_an_older_engine_does_not_know_is_0() {
        let stats = Stats::from_wire(&[7.into(), 8.into()]);
        assert_eq!((stats.get(Stat::Epoch), stats.get(Stat::UptimeNs)), (7, 8));
        assert_eq!(stats.get(Stat::CpuNs), 0);
    }

    #[test]
    fn a_hold_is_described_while_it_is_on() {
        let mut facts = wire::Description::new_zeroed();
        assert_eq!(Description::from_wire(&facts, b""), None, "of unknown state");
        (facts.endpoint.state, facts.ttl_ms) = (1, 3000.into());
        (facts.hold_silent, facts.hold_live) = (9.into(), 10.into());
        let described = Description::from_wire(&facts, b"\x06canary\x05tag=2").unwrap();
        assert_eq!((described.hold, described.ttl), (None, Duration::from_secs(3)));
        assert_eq!(described.attributes, ["canary", "tag=2"]);
        facts.hold_ms = 1.into();
        let hold = Hold { age: Duration::from_millis(1), silent: 9, live: 10 };
        assert_eq!(Description::from_wire(&facts, b"").unwrap().hold, Some(hold));
    }

    #[test]
    fn leases_and_endpoints_are_targets() {
        let lease = Lease::from_parts(5, 6, 7);
        assert!(matches!(Target::from(&lease), Target::Slot(5, 6)));
        let mut entry = wire::Endpoint::new_zeroed();
        (entry.state, entry.slot, entry.generation) = (1, 5.into(), 6.into());
        let endpoint = Endpoint::from_wire(&entry).unwrap();
        assert!(matches!(Target::from(&endpoint), Target::Slot(5, 6)));
    }
}
