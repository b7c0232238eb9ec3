//! Services and members in a view: found in the tables, read under their locks, distrusted.

use super::super::directory::ServiceMeta;
use super::super::index::Disturbed;
use super::super::service_number::ServiceNumber;
use super::files::Files;
use super::member::Member;
use crate::limits::READ_RETRIES;
use crate::wire::balance::{self, Members, mix};
use crate::wire::{Declared, Endpoint, Name, Slot, State, fnv1a};

/// How [`Service::pick`] chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Each with the same chance.
    Random,
    /// Each with a chance in proportion to its weight.
    Weighted,
    /// The highest of a weighted rendezvous hash of this key and the member's address: the same key
    /// finds the same member, as discovery's strategy does.
    Rendezvous(u64),
    /// The next from this turn on; the caller counts turns.
    RoundRobin(u32),
}

/// Random positions that are tried before all members are looked at.
const TRIES: usize = 8;

/// A service as it stood when it was looked up. What is asked of it later is read anew.
#[derive(Clone, Copy, Debug)]
pub struct Service<'a> {
    files: &'a Files,
    number: ServiceNumber,
    /// The words of its name, compared as well as the id: two names may have one.
    name: [u64; 8],
    meta: ServiceMeta,
}

impl<'a> Service<'a> {
    #[inline]
    pub(super) fn find(files: &'a Files, name: &str) -> Result<Option<Self>, Disturbed> {
        // What is no name is nobody's.
        let Ok(name) = Name::new(name) else { return Ok(None) };
        let (tables, id) = (&files.tables, fnv1a(name.bytes()));
        let name = zerocopy::transmute!(name);
        let found = tables.read_whole(|| {
            let Some(number) = tables.find_service(id)? else { return Ok(None) };
            let entry = tables.directory().get(number.index()).ok_or(Disturbed)?;
            let read = || entry.is_of(id, &name).then(|| entry.meta());
            let meta = entry.sequence().read(read).ok_or(Disturbed)?;
            Ok(meta.map(|meta| Self { files, number, name, meta }))
        });
        found.unwrap_or(Err(Disturbed))
    }

    /// Version of its list: grows by one with every event of the service.
    #[inline]
    pub fn revision(&self) -> u64 {
        self.meta.revision
    }

    /// Members that are up or suspect.
    #[inline]
    pub fn listed(&self) -> u32 {
        self.meta.listed
    }

    /// Members in any state.
    #[inline]
    pub fn total(&self) -> u32 {
        self.meta.total
    }

    /// Runs `read` over its list while the writer is not there. `None` once the entry is another's.
    #[inline]
    fn read<R>(&self, mut read: impl FnMut(List<'a>) -> R) -> Result<Option<R>, Disturbed> {
        let tables = &self.files.tables;
        let entry = tables.directory().get(self.number.index()).ok_or(Disturbed)?;
        let whole = tables.read_whole(|| {
            entry.sequence().read(|| {
                entry
                    .is_of(self.meta.id, &self.name)
                    .then(|| read(List { files: self.files, meta: entry.meta() }))
            })
        });
        whole.flatten().ok_or(Disturbed)
    }

    /// Replaces what is in `members` by the listed ones, all of one moment, and returns the version
    /// of that list. A service that is gone has version 0 and no members.
    ///
    /// # Errors
    /// [`Disturbed`]: the engine changed the service during each try, died while it did, or makes
    /// its tables anew. `members` is empty then.
    pub fn fill(&self, members: &mut Vec<Member>) -> Result<u64, Disturbed> {
        let read = self.read(|list| {
            members.clear();
            members.extend((0..list.count()).filter_map(|position| list.member(position)));
            list.meta.revision
        });
        if !matches!(read, Ok(Some(_))) {
            members.clear();
        }
        Ok(read?.unwrap_or(0))
    }

    /// One that takes requests: up if any is, else suspect. Draining ones and those in maintenance
    /// are never picked. `None`: there is nobody.
    ///
    /// # Errors
    /// As for [`Self::fill`].
    #[inline]
    pub fn pick(
        &self,
        choice: Choice,
        mut draw: impl FnMut() -> u64,
    ) -> Result<Option<Member>, Disturbed> {
        let picked = self.read(|list| {
            let up = Candidates { list, state: State::Up };
            let at = up.pick(choice, &mut draw).or_else(|| {
                let suspect = Candidates { list, state: State::Suspect };
                suspect.pick(choice, &mut draw)
            });
            at.and_then(|position| list.member(position))
        });
        Ok(picked?.flatten())
    }

    /// The member with this name, whatever its state.
    ///
    /// # Errors
    /// As for [`Self::fill`].
    pub fn instance(&self, name: &str) -> Result<Option<Member>, Disturbed> {
        let Ok(name) = Name::new(name) else { return Ok(None) };
        let tables = &self.files.tables;
        let find = || tables.find_instance(self.number, self.meta.id, &name);
        let mut seen = Err(Disturbed);
        for _ in 0..READ_RETRIES {
            let Some(slot) = tables.read_whole(find).ok_or(Disturbed)?? else { return Ok(None) };
            // Slots rest for the engine's own threads only: the slot may be another's by now, so
            // its name is compared again, together with the rest.
            let read = self.read(|list| {
                let is_own = tables.records().is_of(slot, &name, |own| own == self.number);
                is_own.map(|is_own| (is_own, list.member_in(slot)))
            });
            seen = match read?.unwrap_or(Some((true, None))) {
                Some((true, Some(member))) => return Ok(Some(member)),
                // It left, or another lease has taken its place.
                Some((true, None)) => Ok(None),
                Some((false, _)) | None => Err(Disturbed),
            };
        }
        seen
    }
}

/// The list of a service, inside its sequence: what is read of it is thrown away if it changes.
#[derive(Clone, Copy)]
struct List<'a> {
    files: &'a Files,
    meta: ServiceMeta,
}

impl List<'_> {
    /// A list that is being changed, or a damaged one, is not believed to be longer than all slots.
    #[inline]
    fn count(&self) -> u32 {
        self.meta.listed.min(self.files.tables.geometry().slots)
    }

    #[inline]
    fn slot(&self, position: u32) -> Option<Slot> {
        self.files.tables.listed(self.meta.list, position)
    }

    #[inline]
    fn endpoint(&self, position: u32) -> Option<Endpoint> {
        let slot = self.slot(position)?;
        Some(self.files.tables.endpoints().get(slot.index())?.entry())
    }

    #[inline]
    fn member(&self, position: u32) -> Option<Member> {
        self.with_heart(self.slot(position)?)
    }

    /// Of a slot that is this service's, and listed unless it is down.
    fn member_in(&self, slot: Slot) -> Option<Member> {
        let line = self.files.tables.endpoints().get(slot.index())?;
        let member = self.with_heart(slot)?;
        let is_there = member.state() == State::Down
            || line.position() < self.count() && self.slot(line.position()) == Some(slot);
        is_there.then_some(member)
    }

    #[inline]
    fn with_heart(&self, slot: Slot) -> Option<Member> {
        let endpoint = self.files.tables.endpoints().get(slot.index())?.entry();
        let line = self.files.lines().get(slot.index());
        let own = line.filter(|line| line.head().0 == endpoint.generation());
        Member::new(endpoint, own.map(|line| line.last()))
    }
}

/// The members of a list that may be picked.
struct Candidates<'a> {
    list: List<'a>,
    state: State,
}

impl Candidates<'_> {
    #[inline]
    fn pick(&self, choice: Choice, draw: &mut impl FnMut() -> u64) -> Option<u32> {
        let picks = match choice {
            Choice::Random => {
                let count = u64::from(self.count());
                // A few draws find one nearly always, without a look at all members.
                let tried = (0..TRIES.min(count as usize))
                    .map(|_| (((draw() >> 32) * count) >> 32) as u32)
                    .find(|&position| self.is_eligible(position));
                if tried.is_some() || count == 0 {
                    return tried;
                }
                balance::random(self, 1, draw)
            }
            Choice::Weighted => balance::weighted(self, 1, draw),
            Choice::Rendezvous(key) => balance::rendezvous(self, 1, mix(key)),
            Choice::RoundRobin(turn) => balance::round_robin(self, turn, 1).0,
        };
        picks.first().copied()
    }
}

impl Members for Candidates<'_> {
    #[inline]
    fn count(&self) -> u32 {
        self.list.count()
    }

    #[inline]
    fn is_eligible(&self, position: u32) -> bool {
        self.list.endpoint(position).is_some_and(|endpoint| {
            endpoint.state == self.state as u8 && endpoint.declared() == Declared::Serving
        })
    }

    fn weight(&self, position: u32) -> u16 {
        self.list.endpoint(position).map_or(0, |endpoint| endpoint.weight.get())
    }

    /// No choice asks for it: who may not read the heart file does not know it.
    fn load(&self, _: u32) -> u16 {
        0
    }

    fn identity(&self, position: u32) -> u64 {
        self.list
            .endpoint(position)
            .map_or(0, |endpoint| balance::identity(endpoint.address, endpoint.port.get()))
    }
}
