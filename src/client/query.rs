//! Discovery: what to look for, and what is found.

use crate::error::{ClientError, text};
use heartline_wire::{
    self as wire, Declared, Discover, Filter, Label, State, Status, Strategy, Version, service_id,
};
use std::net::SocketAddr;
use std::time::Duration;
use zerocopy::byteorder::little_endian::U64;

/// Which versions to find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VersionFilter {
    /// Every version.
    #[default]
    Any,
    /// This one.
    Exact(Version),
    /// The same major number, and not older.
    Compatible(Version),
}

/// Which zones to find.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ZoneFilter {
    /// Every zone.
    #[default]
    Any,
    /// This one.
    Only(String),
    /// This one if it has an endpoint to answer, else every zone.
    Preferred(String),
}

/// What to discover.
#[derive(Clone, Debug)]
pub struct Query {
    /// Service name.
    pub service: String,
    /// How to choose.
    pub strategy: Strategy,
    /// Most endpoints, up to 25; 0: a page for [`Strategy::All`], one for the others.
    pub limit: u16,
    /// Which versions.
    pub version: VersionFilter,
    /// Which zones.
    pub zone: ZoneFilter,
    /// Only endpoints with this whole attribute entry.
    pub tag: Option<String>,
    /// Only endpoints that are up.
    pub without_suspect: bool,
    /// Key of [`Strategy::Rendezvous`].
    pub key: u64,
    /// For [`Strategy::All`]: [`Page::cursor`] of the page before; 0: the first page.
    pub cursor: u32,
}

impl Query {
    /// All endpoints of a service.
    pub fn new(service: &str) -> Self {
        Self {
            service: service.into(),
            strategy: Strategy::All,
            limit: 0,
            version: VersionFilter::Any,
            zone: ZoneFilter::Any,
            tag: None,
            without_suspect: false,
            key: 0,
            cursor: 0,
        }
    }

    /// The body of a discover request.
    pub(crate) fn encode(&self) -> Result<Discover, ClientError> {
        let (version_bit, version) = match self.version {
            VersionFilter::Any => (0, Version::default()),
            VersionFilter::Exact(version) => (Filter::VERSION_EXACT, version),
            VersionFilter::Compatible(version) => (Filter::VERSION_COMPATIBLE, version),
        };
        let (zone_bit, zone) = match &self.zone {
            ZoneFilter::Any => (0, ""),
            ZoneFilter::Only(zone) => (Filter::ZONE_ONLY, zone.as_str()),
            ZoneFilter::Preferred(zone) => (Filter::ZONE_PREFERRED, zone.as_str()),
        };
        let tag_bit = if self.tag.is_some() { Filter::TAG } else { 0 };
        let suspect_bit = if self.without_suspect { Filter::NO_SUSPECT } else { 0 };
        Ok(Discover {
            cookie: U64::ZERO,
            service: service_id(&self.service).into(),
            key: self.key.into(),
            version,
            cursor: self.cursor.into(),
            limit: self.limit.into(),
            strategy: self.strategy as u8,
            filter: version_bit | zone_bit | tag_bit | suspect_bit,
            zone: Label::new(zone).map_err(text("zone"))?,
            tag: Label::new(self.tag.as_deref().unwrap_or_default()).map_err(text("tag"))?,
        })
    }
}

/// One instance as discovery answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it serves; port 0 when it has none.
    pub address: SocketAddr,
    /// Share of weighted picks.
    pub weight: u16,
    /// Load of the last beat, in the instance's own unit.
    pub load: u16,
    /// The state as the engine sees it.
    pub state: State,
    /// What the instance says of itself.
    pub declared: Declared,
    /// Its deadline has passed, and a hold keeps it from being declared down.
    pub held: bool,
    /// With the generation: which instance, for describe.
    pub slot: u32,
    /// Which use of the slot.
    pub generation: u32,
    /// Version of the instance.
    pub version: Version,
    /// Low 32 bits of the FNV-1a hash of the zone; 0 for none.
    pub zone_hash: u32,
    /// Time since the last beat, at most 2^32 - 1 ms.
    pub age: Duration,
}

impl Endpoint {
    /// `None`: the state is none that this client knows.
    pub(crate) fn from_wire(entry: &wire::Endpoint) -> Option<Self> {
        Some(Self {
            address: entry.socket_addr(),
            weight: entry.weight.get(),
            load: entry.load.get(),
            state: entry.state()?,
            declared: entry.declared(),
            held: entry.is_held(),
            slot: entry.slot.get(),
            generation: entry.generation.get(),
            version: entry.version,
            zone_hash: entry.zone.get(),
            age: Duration::from_millis(entry.age_ms.get().into()),
        })
    }
}

/// One page of discovery.
#[derive(Clone, Debug)]
pub struct Page {
    /// `Ok`, or why there is no endpoint.
    pub status: Status,
    /// Revision of the service's list. It grows with each event of the service and compares within
    /// one epoch.
    pub revision: u64,
    /// Where the next page starts; 0: this was the last.
    pub cursor: u32,
    /// Percent of instances that were silent when the hold that is on began; 0 with no hold.
    pub hold_percent: u8,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A whole list, read within one revision.
#[derive(Clone, Debug)]
pub struct Discovered {
    /// `Ok`, or why the list is empty.
    pub status: Status,
    /// Its revision.
    pub revision: u64,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn every_filter_sets_its_bit_and_its_value() {
        let version = Version::new(1, 2, 3, 4);
        let base = Query::new("s");
        let queries = [
            (base.clone(), 0),
            (Query { version: VersionFilter::Exact(version), ..base.clone() }, 1),
            (Query { version: VersionFilter::Compatible(version), ..base.clone() }, 2),
            (Query { zone: ZoneFilter::Only("z".into()), ..base.clone() }, 4),
            (Query { zone: ZoneFilter::Preferred("z".into()), ..base.clone() }, 8),
            (Query { tag: Some("t".into()), ..base.clone() }, 16),
            (Query { without_suspect: true, ..base.clone() }, 32),
        ];
        for (query, bit) in queries {
            let body = query.encode().unwrap();
            assert_eq!(body.filter, bit, "{query:?}");
            let version = if bit & 3 == 0 { Version::default() } else { version };
            assert_eq!(body.version, version, "{query:?}");
            assert_eq!(body.zone.as_str(), if bit & 12 == 0 { "" } else { "z" });
            assert_eq!(body.tag.as_str(), if bit & 16 == 0 { "" } else { "t" });
        }
        let all = Query {
            strategy: Strategy::TwoChoices,
            limit: 3,
            version: VersionFilter::Compatible(version),
            zone: ZoneFilter::Preferred("z".into()),
            tag: Some("t".into()),
            without_suspect: true,
            key: 6,
            cursor: 7,
            ..base
        };
        let body = all.encode().unwrap();
        assert_eq!((body.filter, body.strategy, body.limit.get()), (2 | 8 | 16 | 32, 5, 3));
        assert_eq!((body.key.get(), body.cursor.get()), (6, 7));
        assert_eq!(body.service.get(), service_id("s"));
    }

    #[test]
    fn a_text_that_does_not_fit_is_named() {
        let long = "x".repeat(32);
        let zone = Query { zone: ZoneFilter::Only(long.clone()), ..Query::new("s") };
        assert!(matches!(zone.encode(), Err(ClientError::Text { what: "zone", .. })));
        let tag = Query { tag: Some(long), ..Query::new("s") };
        assert!(matches!(tag.encode(), Err(ClientError::Text { what: "tag", .. })));
    }

    #[test]
    fn an_endpoint_of_unknown_state_is_refused() {
        let mut entry = wire::Endpoint::new_zeroed();
        (entry.address[15], entry.port) = (1, 80.into());
        (entry.flags, entry.age_ms) = (5, 1500.into());
        for state in [0, 4, 255] {
            assert_eq!(Endpoint::from_wire(&wire::Endpoint { state, ..entry }), None);
        }
        let endpoint = Endpoint::from_wire(&wire::Endpoint { state: 2, ..entry }).unwrap();
        assert_eq!(endpoint.address, "[::1]:80".parse().unwrap());
        assert_eq!((endpoint.state, endpoint.declared), (State::Suspect, Declared::Draining));
        assert!(endpoint.held);
        assert_eq!(endpoint.age, Duration::from_millis(1500));
    }
}
