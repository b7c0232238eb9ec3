//! The tables of the region against one another and against the oracle.

use crate::oracle::{Lease, Oracle, State, Verdict, must};
use heartline::internals::limits::ATTRIBUTES_BYTES_MAX;
use heartline::internals::registrar::Registrar;
use heartline_region::{HeartState, Region, ServiceNumber};
use heartline_wire::Slot;
use std::collections::BTreeMap;

/// Everything at once. Nothing here is written while it is read.
pub(crate) fn check(region: &Region, registrar: &Registrar, oracle: &Oracle) -> Verdict {
    let mut leased = 0;
    for (slot, line) in region.lines().iter().enumerate() {
        let (generation, state) = line.head();
        let lease = oracle.leases.get(&(slot as u32, generation.get()));
        must!(
            "tables",
            lease.is_some() == state.is_leased(),
            "slot {slot}, generation {generation} is {state:?}: {lease:?}"
        );
        if let Some(lease) = lease {
            leased += 1;
            check_slot(region, lease, state)?;
        }
    }
    must!("tables", leased == oracle.leases.len(), "{leased} leases, not {}", oracle.leases.len());
    let services = check_services(region, oracle)?;
    let count = region.service_count().map(|(_, count)| count);
    must!("tables", count == Ok(services), "{count:?} services, not {services}");
    let hold =
        region.hold().ok().flatten().map(|hold| (hold.since.nanos(), hold.silent, hold.live));
    must!("hold", hold == oracle.hold(), "hold {hold:?}, not {:?}", oracle.hold());
    check_counts(registrar, oracle)
}

fn check_slot(region: &Region, lease: &Lease, state: HeartState) -> Verdict {
    let slot = Slot::new(lease.slot);
    let line = &region.lines()[slot.index()];
    let named = match lease.state {
        State::Up => HeartState::Up,
        State::Suspect => HeartState::Suspect,
        State::Down => HeartState::Down,
    };
    must!("tables", state == named, "heart line {state:?}: {lease:?}");
    let given = line.lease(slot);
    must!(
        "tables",
        given.secret.get() == lease.secret && line.nonce() == lease.nonce,
        "another lease in {slot}: {lease:?}"
    );
    must!(
        "tables",
        line.ttl().nanos() == lease.ttl && line.last().at.nanos() == lease.last,
        "last beat {:?}: {lease:?}",
        line.last()
    );
    must!(
        "tables",
        line.last().load == lease.load && line.history() == lease.history,
        "last beat {:?}: {lease:?}",
        line.last()
    );
    let held = line.is_held();
    must!("hold", held == lease.held_at.is_some(), "held until {:?}: {lease:?}", line.until());
    check_endpoint(region, lease)
}

/// Endpoint, record, index and list of a lease.
fn check_endpoint(region: &Region, lease: &Lease) -> Verdict {
    let slot = Slot::new(lease.slot);
    let line = &region.endpoints()[slot.index()];
    let entry = line.entry();
    let is = (
        entry.address,
        entry.port.get(),
        entry.weight.get(),
        entry.state,
        entry.slot.get(),
        entry.generation.get(),
    );
    let must_be =
        (lease.address, lease.port, lease.weight, lease.state as u8, lease.slot, lease.generation);
    must!("tables", is == must_be, "endpoint {is:?}: {lease:?}");
    must!("tables", entry.declared() as u8 == lease.declared, "endpoint {entry:?}: {lease:?}");
    let record = region.records().read(slot);
    let right = record.as_ref().is_some_and(|record| {
        record.source == lease.source
            && record.instance.bytes() == lease.instance
            && record.zone.bytes() == lease.zone
            && record.replaced_nonce == lease.replaced_nonce
            && record.service == line.service()
    });
    must!("tables", right, "record {record:?}: {lease:?}");
    let mut buffer = [0; ATTRIBUTES_BYTES_MAX];
    must!(
        "tables",
        region.records().attributes(slot, &mut buffer) == Some(&lease.attributes[..]),
        "attributes of {lease:?}"
    );
    let service = line.service();
    let directory = &region.directory()[service.index()];
    must!(
        "tables",
        directory.name().bytes() == lease.service,
        "the endpoint is in another service: {lease:?}"
    );
    let found = record.map_or(Ok(None), |record| {
        region.find_instance(service, crate::frames::service_id(&lease.service), &record.instance)
    });
    must!("tables", found == Ok(Some(slot)), "the index finds {found:?}: {lease:?}");
    let meta = directory.meta();
    let is_listed =
        line.position() < meta.listed && region.listed(meta.list, line.position()) == Some(slot);
    must!(
        "tables",
        lease.state == State::Down || is_listed,
        "not in the list of its service: {lease:?}"
    );
    Ok(())
}

fn check_services(region: &Region, oracle: &Oracle) -> Result<u32, crate::oracle::Violation> {
    let mut members: BTreeMap<&[u8], (u32, u32)> = BTreeMap::new();
    for lease in oracle.leases.values() {
        let (listed, total) = members.entry(&lease.service).or_default();
        *listed += u32::from(lease.state != State::Down);
        *total += 1;
    }
    for (number, entry) in
        region.directory().iter().enumerate().filter(|(_, entry)| entry.is_used())
    {
        let (meta, name) = (entry.meta(), entry.name());
        let counts = members.remove(name.bytes()).unwrap_or_default();
        must!(
            "tables",
            (meta.listed, meta.total) == counts,
            "service {name:?} has {meta:?}, not {counts:?}"
        );
        let found = region.find_service(meta.id);
        must!(
            "tables",
            found == Ok(Some(ServiceNumber::new(number as u32))),
            "service {name:?} is found at {found:?}, not {number}"
        );
        let version = oracle.services.get(name.bytes());
        must!(
            "versions",
            version.is_none_or(|version| *version == meta.revision),
            "service {name:?}: {meta:?}, not {version:?}"
        );
        must!(
            "tables",
            meta.listed <= meta.list.capacity(),
            "a list longer than its room: {meta:?}"
        );
    }
    must!(
        "tables",
        members.is_empty(),
        "services that are not in the directory: {:?}",
        members.keys()
    );
    let peopled =
        region.directory().iter().filter(|entry| entry.is_used() && entry.meta().total > 0).count();
    Ok(peopled as u32)
}

fn check_counts(registrar: &Registrar, oracle: &Oracle) -> Verdict {
    let counts = registrar.counts();
    let count =
        |state: State| oracle.leases.values().filter(|lease| lease.state == state).count() as u32;
    let is = (counts.up, counts.suspect, counts.down);
    let must_be = (count(State::Up), count(State::Suspect), count(State::Down));
    must!("tables", is == must_be, "counts {is:?}, not {must_be:?}");
    let held = oracle.leases.values().filter(|lease| lease.held_at.is_some()).count() as u32;
    must!("hold", counts.held == held, "{} held, not {held}", counts.held);
    let all = (counts.registered, counts.ended, counts.downs, counts.revived, counts.holds);
    must!(
        "tables",
        all == oracle.totals,
        "counted since the start {all:?}, not {:?}",
        oracle.totals
    );
    let serving = |state: State| {
        oracle.leases.values().filter(|lease| lease.declared == 0 && lease.state == state).count()
            as u32
    };
    let is = (counts.serving, counts.serving_suspect);
    let must_be = (serving(State::Up) + serving(State::Suspect), serving(State::Suspect));
    must!("tables", is == must_be, "serving {is:?}, not {must_be:?}");
    Ok(())
}
