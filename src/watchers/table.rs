//! The watches that stand: found by their names, and for each list that is watched in the order in
//! which they began. Everything is allocated at start.

use crate::clock::{Moment, Span};
use crate::exchange::Peer;
use crate::limits::{
    BEACON_NS, BEACON_NS_MAX, BEACONS_IN_PACE, WATCHES_MAX, WATCHES_PER_ADDRESS_MAX,
};
use crate::wire::Status;
use ahash::AHashMap;
use std::ops::{Index, IndexMut};

/// No watch, no list.
pub(super) const NONE: u32 = u32::MAX;
/// Keys that a map is made for: while at most half of them are there, removed ones never make it
/// grow.
const KEYS: usize = 2 * WATCHES_MAX;

/// The name of a watch: address, port and tag of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name {
    ip: [u8; 16],
    scope: u32,
    port: u16,
    tag: u64,
}

impl Name {
    pub(super) fn new(peer: &Peer, tag: u64) -> Self {
        Self { ip: peer.ip, scope: peer.scope, port: peer.port, tag }
    }
}

/// One watch.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    pub(super) peer: Peer,
    pub(super) tag: u64,
    /// Its proofs are made with this.
    pub(super) secret: u64,
    /// Number of its newest push.
    pub(super) number: u32,
    /// Newest push that is known to have been received.
    pub(super) confirmed: u32,
    /// Bytes of pushes until the next proof.
    pub(super) credit: u32,
    /// Whether a reply or push has been received at address and port.
    pub(super) proved: bool,
    /// There was no credit for a change: the watcher must be told to pull.
    pub(super) behind: bool,
    /// Beacons since the newest push.
    pub(super) beacons: u32,
    /// When the next one is due.
    pub(super) beacon_at: Option<Moment>,
    /// When a receipt was last asked for.
    pub(super) asked: Moment,
    pub(super) expires: Moment,
    list: u32,
    next: u32,
    previous: u32,
}

impl Watch {
    /// When it must be looked at.
    pub(super) fn due(&self) -> Moment {
        self.beacon_at.map_or(self.expires, |at| at.min(self.expires))
    }

    /// Time from the newest push or beacon to the next beacon.
    pub(super) fn beacon_pause(&self) -> Span {
        let doublings = self.beacons.saturating_sub(BEACONS_IN_PACE).min(63);
        let pause = BEACON_NS.saturating_mul(1 << doublings);
        Span::from_nanos(pause.min(BEACON_NS_MAX))
    }

    /// The list that it watches.
    pub(super) fn list(&self) -> u32 {
        self.list
    }
}

/// A list that is watched: that of a service, or that of the services.
#[derive(Clone, Debug)]
pub(super) struct List {
    /// Id of the service; 0: the list of services.
    pub(super) service: u64,
    /// The version that its watchers were told.
    pub(super) told: u64,
    first: u32,
    last: u32,
}

impl List {
    /// The watch that began first.
    pub(super) fn first(&self) -> u32 {
        self.first
    }
}

#[derive(Debug)]
pub(super) struct Table {
    names: AHashMap<Name, u32>,
    watches: Vec<Option<Watch>>,
    free: Vec<u32>,
    services: AHashMap<u64, u32>,
    lists: Vec<Option<List>>,
    free_lists: Vec<u32>,
    addresses: AHashMap<[u8; 16], u32>,
}

impl Index<u32> for Table {
    type Output = Watch;

    fn index(&self, watch: u32) -> &Watch {
        self.watches[watch as usize].as_ref().expect("the watch stands")
    }
}

impl IndexMut<u32> for Table {
    fn index_mut(&mut self, watch: u32) -> &mut Watch {
        self.watches[watch as usize].as_mut().expect("the watch stands")
    }
}

impl Table {
    pub(super) fn new() -> Self {
        let numbers = || (0..WATCHES_MAX as u32).rev().collect();
        Self {
            names: AHashMap::with_capacity(KEYS),
            watches: vec![None; WATCHES_MAX],
            free: numbers(),
            services: AHashMap::with_capacity(KEYS),
            lists: vec![None; WATCHES_MAX],
            free_lists: numbers(),
            addresses: AHashMap::with_capacity(KEYS),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The watch with this name.
    pub(super) fn find(&self, name: &Name) -> Option<u32> {
        self.names.get(name).copied()
    }

    /// The watch with this number, if it stands.
    pub(super) fn get(&self, watch: u32) -> Option<&Watch> {
        self.watches[watch as usize].as_ref()
    }

    /// The list of this service, if it is watched.
    pub(super) fn find_list(&self, service: u64) -> Option<u32> {
        self.services.get(&service).copied()
    }

    /// The list with this number, if it is watched.
    pub(super) fn list(&self, list: u32) -> Option<&List> {
        self.lists[list as usize].as_ref()
    }

    pub(super) fn list_mut(&mut self, list: u32) -> Option<&mut List> {
        self.lists[list as usize].as_mut()
    }

    /// The watch of the same list that began next.
    pub(super) fn after(&self, watch: u32) -> u32 {
        self[watch].next
    }

    /// Begins a watch of a service, whose list has this version.
    pub(super) fn begin(
        &mut self,
        peer: &Peer,
        tag: u64,
        secret: u64,
        service: u64,
        version: u64,
    ) -> Result<u32, Status> {
        let of_address = self.addresses.get(&peer.ip).copied().unwrap_or(0);
        if of_address >= WATCHES_PER_ADDRESS_MAX {
            return Err(Status::Quota);
        }
        let watch = self.free.pop().ok_or(Status::Full)?;
        self.addresses.insert(peer.ip, of_address + 1);
        self.names.insert(Name::new(peer, tag), watch);
        let list = self.find_list(service).unwrap_or_else(|| {
            let list = self.free_lists.pop().expect("no more lists are watched than watches stand");
            self.services.insert(service, list);
            self.lists[list as usize] =
                Some(List { service, told: version, first: NONE, last: NONE });
            list
        });
        let of_list = self.lists[list as usize].as_mut().expect("it was just found or made");
        let previous = std::mem::replace(&mut of_list.last, watch);
        if previous == NONE {
            of_list.first = watch;
        } else {
            self[previous].next = watch;
        }
        self.watches[watch as usize] = Some(Watch {
            peer: *peer,
            tag,
            secret,
            number: 0,
            confirmed: 0,
            credit: 0,
            proved: false,
            behind: false,
            beacons: 0,
            beacon_at: None,
            asked: Moment::ZERO,
            expires: Moment::ZERO,
            list,
            next: NONE,
            previous,
        });
        Ok(watch)
    }

    /// Ends a watch.
    pub(super) fn end(&mut self, watch: u32) {
        let ended = self.watches[watch as usize].take().expect("the watch stands");
        self.names.remove(&Name::new(&ended.peer, ended.tag));
        self.free.push(watch);
        let list = self.lists[ended.list as usize].as_mut().expect("its list is watched");
        if ended.previous == NONE {
            list.first = ended.next;
        }
        if ended.next == NONE {
            list.last = ended.previous;
        }
        let (service, is_empty) = (list.service, list.first == NONE);
        if is_empty {
            self.services.remove(&service);
            self.lists[ended.list as usize] = None;
            self.free_lists.push(ended.list);
        }
        for (neighbour, is_before) in [(ended.previous, true), (ended.next, false)] {
            if neighbour != NONE {
                let neighbour = &mut self[neighbour];
                if is_before {
                    neighbour.next = ended.next;
                } else {
                    neighbour.previous = ended.previous;
                }
            }
        }
        match self.addresses.get_mut(&ended.peer.ip) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.addresses.remove(&ended.peer.ip);
            }
        }
    }

    /// Bytes that the table takes.
    pub(super) fn memory_bytes(&self) -> usize {
        let of_map = |key: usize| 2 * KEYS * (key + size_of::<u32>() + 1);
        WATCHES_MAX * (size_of::<Option<Watch>>() + size_of::<Option<List>>() + 8)
            + of_map(size_of::<Name>())
            + of_map(size_of::<u64>())
            + of_map(16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u32) -> Peer {
        let mut ip = [0; 16];
        ip[12..].copy_from_slice(&number.to_be_bytes());
        Peer { ip, port: 9, ..Peer::default() }
    }

    fn of_list(table: &Table, service: u64) -> Vec<u64> {
        let Some(list) = table.find_list(service) else { return Vec::new() };
        let mut watch = table.list(list).unwrap().first();
        let mut tags = Vec::new();
        while watch != NONE {
            tags.push(table[watch].tag);
            watch = table.after(watch);
        }
        tags
    }

    #[test]
    fn watches_of_a_list_stay_in_their_order() {
        let mut table = Table::new();
        let watches: Vec<u32> =
            (0..5).map(|tag| table.begin(&peer(1), tag, 0, 7, 3).unwrap()).collect();
        table.begin(&peer(1), 9, 0, 8, 0).unwrap();
        assert_eq!(of_list(&table, 7), [0, 1, 2, 3, 4]);
        for (ended, left) in [(2, vec![0, 1, 3, 4]), (0, vec![1, 3, 4]), (4, vec![1, 3])] {
            table.end(watches[ended]);
            assert_eq!(of_list(&table, 7), left);
        }
        table.end(watches[1]);
        table.end(watches[3]);
        assert_eq!((table.find_list(7), table.len()), (None, 1));
        assert_eq!(of_list(&table, 8), [9]);
    }

    #[test]
    fn an_address_and_the_engine_have_room_for_so_many() {
        let mut table = Table::new();
        let capacities = [table.names.capacity(), table.services.capacity()];
        for watch in 0..WATCHES_MAX as u32 {
            let from = peer(watch / WATCHES_PER_ADDRESS_MAX);
            table.begin(&from, u64::from(watch), 0, u64::from(watch), 0).unwrap();
            if (watch + 1).is_multiple_of(WATCHES_PER_ADDRESS_MAX) {
                assert_eq!(table.begin(&from, u64::MAX, 0, 1, 0), Err(Status::Quota));
            }
        }
        assert_eq!(table.begin(&peer(99), 1, 0, 1, 0), Err(Status::Full));
        for round in 0..20 {
            for tag in 0..5000_u64 {
                let name = Name::new(&peer(tag as u32 / WATCHES_PER_ADDRESS_MAX), tag + round);
                let Some(watch) = table.find(&name) else { continue };
                let from = table[watch].peer;
                table.end(watch);
                table.begin(&from, tag + round + 1_000_000 * round, 0, tag, 0).unwrap();
            }
        }
        assert_eq!(table.len(), WATCHES_MAX);
        assert_eq!([table.names.capacity(), table.services.capacity()], capacities, "none grows");
    }

    /// 5 ms, eight times more, then twice the time each, up to a second.
    #[test]
    fn beacons_thin_out() {
        let mut table = Table::new();
        let watch = table.begin(&peer(1), 1, 0, 1, 0).unwrap();
        let pauses: Vec<u64> = (0..20)
            .map(|beacons| {
                table[watch].beacons = beacons;
                table[watch].beacon_pause().ms()
            })
            .collect();
        assert_eq!(pauses[..9], [5; 9]);
        assert_eq!(pauses[9..], [10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000, 1000]);
    }
}
