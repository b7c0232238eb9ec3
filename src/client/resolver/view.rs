//! A view as words: what the writer publishes, and how readers pick from it.
//!
//! Header, then eight words for each endpoint, then the tables. Endpoints that may be picked, the
//! candidates, come first, so that a position among candidates is a position among endpoints.
//! Readers may see words of two views at once and drop the result later. So every position is
//! checked, and every loop has a bound.

use super::cells::Cells;
use super::merge::Member;
use super::options::Balance;
use super::picked::{Degraded, PickError, Picked};
use super::publish::Words;
use crate::draw::Draw;
use crate::query::Endpoint;
use heartline_wire::balance::{self, Members, identity, maglev_place, mix};
use heartline_wire::time::Nanos;
use heartline_wire::{self as wire, Version};
use zerocopy::{FromBytes, IntoBytes};

/// Words of the header: counts, state, tables, and one that is free.
const HEADER: usize = 4;
/// Words of one endpoint: the 48 bytes of the wire entry, its cell and engine, its identity.
const ENDPOINT: usize = 8;
const CELL: usize = 6;
const IDENTITY: usize = 7;
/// Candidates are drawn again so many times while those drawn are left out; then all are looked at.
const DRAWS: u32 = 8;

const _: () = assert!(size_of::<wire::Endpoint>() == 6 * 8);

/// An endpoint with what readers need of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) member: Member,
    pub(super) cell: u32,
    /// It stands in although no engine lists it.
    pub(super) stands_in: bool,
}

/// A view before it is words.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Candidates first.
    pub(super) endpoints: Vec<Placed>,
    pub(super) candidates: usize,
    /// Columns of the alias table, or turns.
    pub(super) columns: Vec<u64>,
    /// The table of Maglev.
    pub(super) keys: Vec<u32>,
    pub(super) hold_percent: u8,
    pub(super) degraded: Option<Degraded>,
    /// Why nothing can be picked.
    pub(super) error: Option<PickError>,
}

impl View {
    /// The words of the view; `words` is cleared first.
    pub(super) fn encode(&self, words: &mut Vec<u64>) {
        words.clear();
        let pair = |low: usize, high: usize| low as u64 | (high as u64) << 32;
        words.push(pair(self.endpoints.len(), self.candidates));
        let error = self.error.map_or(0, PickError::code);
        let degraded = self.degraded.map_or(0, Degraded::code);
        words
            .push(u64::from(error) | u64::from(degraded) << 8 | u64::from(self.hold_percent) << 16);
        words.push(pair(self.columns.len(), self.keys.len()));
        words.push(0);
        for placed in &self.endpoints {
            let (entry, at) = (&placed.member.entry, words.len());
            words.resize(at + 6, 0);
            words[at..].as_mut_bytes().copy_from_slice(entry.as_bytes());
            let engine = u64::from(placed.member.engine) << 32;
            let stands_in = u64::from(placed.stands_in) << 63;
            words.push(u64::from(placed.cell) | engine | stands_in);
            words.push(identity(entry.address, entry.port.get()));
        }
        words.extend_from_slice(&self.columns);
        let (pairs, last) = self.keys.as_chunks::<2>();
        words.extend(pairs.iter().map(|[low, high]| pair(*low as usize, *high as usize)));
        words.extend(last.iter().map(|&key| u64::from(key)));
    }
}

/// A view as a reader meets it.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    words: Words<'a>,
    cells: &'a Cells,
    endpoints: u32,
    candidates: u32,
    state: u64,
    tables: u64,
}

/// The words of an endpoint, with the state of its view in the place of its identity.
#[derive(Clone, Copy, Default)]
pub(super) struct Row([u64; ENDPOINT]);

impl Row {
    #[inline]
    pub(super) fn picked(self) -> Picked {
        let [low, high, ports, names, version, zone, tail, state] = self.0;
        Picked {
            address: (u128::from(high) << 64 | u128::from(low)).to_le_bytes(),
            port: ports as u16,
            state: (ports >> 48) as u8,
            degraded: Degraded::from_code((state >> 8) as u8),
            slot: names as u32,
            generation: (names >> 32) as u32,
            version: Version::from_u64(version),
            zone_hash: zone as u32,
            engine: (tail >> 32) as u16,
        }
    }

    pub(super) fn cell(self) -> u32 {
        self.0[CELL] as u32
    }
}

/// What a pick is for.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    pub(super) balance: Balance,
    /// The time, for strategies that look at latencies.
    pub(super) now: Nanos,
    /// The outcome will be reported, so it may be a trial.
    pub(super) is_call: bool,
}

impl<'a> Reading<'a> {
    #[inline]
    pub(super) fn new(words: Words<'a>, cells: &'a Cells) -> Self {
        let [counts, state, tables] = words.row(0);
        let (endpoints, candidates) = (counts as u32, (counts >> 32) as u32);
        Self { words, cells, endpoints, candidates, state, tables }
    }

    /// Why nothing can be picked.
    #[inline]
    pub(super) fn error(&self) -> Option<PickError> {
        PickError::from_code(self.state as u8)
    }

    pub(super) fn hold_percent(&self) -> u8 {
        (self.state >> 16) as u8
    }

    #[inline]
    fn word(&self, endpoint: u32, at: usize) -> u64 {
        self.words.get(HEADER + endpoint as usize * ENDPOINT + at)
    }

    fn entry(&self, endpoint: u32) -> wire::Endpoint {
        let words: [u64; 6] = self.words.row(HEADER + endpoint as usize * ENDPOINT);
        // 48 bytes on both sides, and every pattern is an entry.
        wire::Endpoint::read_from_bytes(words.as_bytes()).expect("as long as an entry")
    }

    #[inline]
    fn column(&self, at: u32) -> u64 {
        self.words.get(HEADER + self.endpoints as usize * ENDPOINT + at as usize)
    }

    #[inline]
    fn columns(&self) -> u32 {
        self.tables as u32
    }

    fn key_place(&self, at: u32) -> u32 {
        let start = HEADER + self.endpoints as usize * ENDPOINT + self.columns() as usize;
        let pair = self.words.get(start + at as usize / 2);
        if at.is_multiple_of(2) { pair as u32 } else { (pair >> 32) as u32 }
    }

    #[inline]
    fn cell_number(&self, endpoint: u32) -> u32 {
        self.word(endpoint, CELL) as u32
    }

    #[inline]
    fn is_usable(&self, candidate: u32, is_call: bool) -> bool {
        candidate < self.candidates
            && self
                .cells
                .get(self.cell_number(candidate))
                .is_none_or(|cell| if is_call { cell.takes_call() } else { cell.is_open() })
    }

    /// A candidate without a key. `turn` gives turns, below a count.
    #[inline]
    pub(super) fn pick(
        &self,
        wish: &Wish,
        draw: &mut Draw,
        mut turn: impl FnMut(u32) -> u32,
    ) -> Result<u32, PickError> {
        if let Some(error) = self.error() {
            return Err(error);
        }
        let columns = self.columns();
        if columns == 0 || self.candidates == 0 {
            return Err(PickError::NoneHealthy);
        }
        let mut last = 0;
        for _ in 0..DRAWS {
            last = match wish.balance {
                Balance::RoundRobin => self.column(turn(columns)) as u32,
                Balance::LeastInFlight | Balance::PeakEwma => self.of_two(wish, draw, columns),
                _ => balance::draw(columns, draw.next(), |at| self.column(at)),
            };
            if self.is_usable(last, wish.is_call) {
                return Ok(last);
            }
        }
        Ok(self.any_usable(last, wish.is_call))
    }

    /// The cheaper of two candidates.
    #[inline]
    fn of_two(&self, wish: &Wish, draw: &mut Draw, columns: u32) -> u32 {
        let mut one = || balance::draw(columns, draw.next(), |at| self.column(at));
        let (first, mut second) = (one(), one());
        if first == second {
            second = one();
        }
        let cell = |at| self.cells.get(self.cell_number(at));
        let (Some(a), Some(b)) = (cell(first), cell(second)) else { return first };
        if !self.is_usable(first, wish.is_call) {
            return second;
        }
        let second_is_cheaper = match wish.balance {
            Balance::PeakEwma => b.cost(wish.now) < a.cost(wish.now),
            _ => b.in_flight() < a.in_flight(),
        };
        let is_better = second_is_cheaper && self.is_usable(second, wish.is_call);
        if is_better { second } else { first }
    }

    /// The next usable candidate after one, around the end once; that one if there is none.
    fn any_usable(&self, from: u32, is_call: bool) -> u32 {
        let count = self.candidates.min(wire::limits::SCAN_MEMBERS_MAX);
        let next = (0..count).map(|step| (u64::from(from) + u64::from(step)) % u64::from(count));
        let mut usable = next.map(|at| at as u32).filter(|&at| self.is_usable(at, is_call));
        usable.next().unwrap_or(from)
    }

    /// The candidate of a key.
    pub(super) fn pick_by(&self, wish: &Wish, key: u64) -> Result<u32, PickError> {
        if let Some(error) = self.error() {
            return Err(error);
        }
        let size = (self.tables >> 32) as u32;
        if wish.balance != Balance::Maglev || size == 0 {
            let picks = balance::rendezvous(&Candidates(self, wish.is_call), 1, mix(key));
            return picks.first().copied().ok_or(PickError::NoneHealthy);
        }
        // While the first choice is left out, each key goes on to places of its own.
        let mut place = key;
        let mut last = 0;
        for _ in 0..DRAWS {
            last = self.key_place(maglev_place(place, size));
            if self.is_usable(last, wish.is_call) {
                return Ok(last);
            }
            place = mix(place.wrapping_add(1));
        }
        Ok(self.any_usable(last, wish.is_call))
    }

    /// An endpoint as callers see it.
    #[inline]
    pub(super) fn row(&self, candidate: u32) -> Row {
        let mut row = self.words.row(HEADER + candidate as usize * ENDPOINT);
        row[IDENTITY] = self.state;
        Row(row)
    }

    /// All endpoints that engines list.
    pub(super) fn all(&self) -> Vec<Endpoint> {
        // Half a view may claim any number.
        let count = self.endpoints.min(self.words.len() as u32 / ENDPOINT as u32);
        let listed = (0..count).filter(|&at| self.word(at, CELL) >> 63 == 0);
        listed.filter_map(|at| Endpoint::from_wire(&self.entry(at))).collect()
    }
}

/// Candidates as the strategies see them.
struct Candidates<'a>(&'a Reading<'a>, bool);

impl Members for Candidates<'_> {
    fn count(&self) -> u32 {
        self.0.candidates
    }

    fn is_eligible(&self, position: u32) -> bool {
        self.0.is_usable(position, self.1)
    }

    fn weight(&self, position: u32) -> u16 {
        (self.0.word(position, 2) >> 16) as u16
    }

    fn load(&self, position: u32) -> u16 {
        (self.0.word(position, 2) >> 32) as u16
    }

    fn identity(&self, position: u32) -> u64 {
        self.0.word(position, IDENTITY)
    }
}
