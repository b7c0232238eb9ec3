//! Following one list at one engine: a service's members, or the services there are. No socket and
//! no clock: times and replies come in, frames go out.
//!
//! The engine grants a watch for a time and pushes changes meanwhile. Each push says the version of
//! the list before and after. A push that begins where the own list ends is applied. A push that
//! begins later shows a gap, and the whole list is pulled. What was heard of and is not in the list
//! yet is never forgotten: `heard` is the newest version that the engine spoke of.
//!
//! Invariant: while `is_known`, the list is the engine's at `version`, or newer in single entries.

#[cfg(feature = "view")]
mod mirror;
mod requests;

use super::ahead::Ahead;
use super::frame::Frame;
use super::list::List;
use super::pull::{Page, Pull};
use super::round_trip::RoundTrip;
use crate::draw::Draw;
use heartline_wire::limits::FRAME_BYTES_MAX;
use heartline_wire::time::{NANOS_PER_SECOND, Nanos, from_ms};
use heartline_wire::{
    Endpoint, Kind, PushHead, Reply, ReplyBody, ServiceEntry, Status, Watching, header_flags,
    service_id,
};

/// For how long a watch is asked to stand: a client that vanished costs the engine pushes for no
/// longer, and a renewal every third of it costs one small datagram.
pub(super) const WATCH_MS: u32 = 10_000;
/// Time to the first repetition of an unanswered request; doubled for each further one.
const PATIENCE: Nanos = from_ms(200);
/// Longest wait after refusals that more requests can't mend: quota, full, invalid.
const REFUSED_MAX: Nanos = 60 * NANOS_PER_SECOND;
/// Requests that follow an unproved reply at once. More would be a loop with an engine that never
/// takes the proof.
const CONFIRMS_MAX: u32 = 2;
/// The effect of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// None, or only on what is sent next.
    Nothing,
    /// The list is known to be current once more.
    Fresh,
    /// The list or the hold is another one now.
    Changed,
    /// The cookie is worthless.
    WantsCookie,
}

/// One list at one engine.
#[derive(Debug)]
pub struct Follow {
    service: u64,
    draw: Draw,
    /// Names the watch, with the socket.
    tag: u64,
    /// Whether a reply to this tag came.
    is_answered: bool,
    has_ended: bool,
    epoch: u64,
    /// Of the newest reply or push.
    proof: u64,
    number: u32,
    /// The end of the time that was granted last.
    stands_until: Nanos,
    /// The watch request that comes next.
    next: Nanos,
    /// Requests in a row without a reply, with a refusal, and with a reply that took no proof.
    unanswered: u32,
    refused: u32,
    unproved: u32,
    trouble: Option<Status>,
    is_receipt_wanted: bool,
    /// The cookie that was sent last, and one that was refused, with the time to try it again.
    cookie: u64,
    cookie_refused: Option<(u64, Nanos)>,
    /// Something is due, and there is no cookie to send it with.
    is_starved: bool,
    list: List,
    is_known: bool,
    /// The list must be pulled, whatever the versions say.
    is_doubted: bool,
    version: u64,
    heard: u64,
    fresh_at: Option<Nanos>,
    hold_percent: u8,
    changes: u64,
    gaps: u64,
    ahead: Ahead,
    pull: Pull,
    trip: RoundTrip,
    sent_at: Nanos,
}

impl Follow {
    /// Follows the members of a service. `random` seeds tags and jitter.
    pub fn new(service: &str, random: u64) -> Self {
        Self::with_id(service_id(service), random)
    }

    /// Follows the list of services.
    pub fn of_services(random: u64) -> Self {
        Self::with_id(0, random)
    }

    fn with_id(service: u64, random: u64) -> Self {
        let mut draw = Draw::new(random);
        Self {
            service,
            tag: draw.next(),
            draw,
            is_answered: false,
            has_ended: false,
            epoch: 0,
            proof: 0,
            number: 0,
            stands_until: 0,
            next: 0,
            unanswered: 0,
            refused: 0,
            unproved: 0,
            trouble: None,
            is_receipt_wanted: false,
            cookie: 0,
            cookie_refused: None,
            is_starved: false,
            list: List::default(),
            is_known: false,
            is_doubted: false,
            version: 0,
            heard: 0,
            fresh_at: None,
            hold_percent: 0,
            changes: 0,
            gaps: 0,
            ahead: Ahead::default(),
            pull: Pull::default(),
            trip: RoundTrip::default(),
            sent_at: 0,
        }
    }

    /// The members, in the order of their slots, each with the time at which the engine's word of
    /// it came.
    pub fn members_with_times(&self) -> impl Iterator<Item = (&Endpoint, Nanos)> {
        self.list.members()
    }

    /// The members, in the order of their slots.
    pub fn members(&self) -> impl Iterator<Item = &Endpoint> {
        self.list.members().map(|(entry, _)| entry)
    }

    /// Whether a member at this address and port left in order and has not come back; only the
    /// latest are remembered.
    pub(super) fn has_left(&self, address: [u8; 16], port: u16) -> bool {
        self.list.has_left(address, port)
    }

    /// The services, if they are followed.
    pub fn services(&self) -> &[ServiceEntry] {
        self.list.services()
    }

    /// Whether a whole list has come since the watch began.
    pub fn is_known(&self) -> bool {
        self.is_known
    }

    /// The watch stands, and nothing was heard of that is not in the list.
    pub fn is_current(&self, now: Nanos) -> bool {
        self.is_known && !self.wants_pull() && now < self.stands_until
    }

    /// When the list was last known to be the engine's.
    pub fn fresh_at(&self) -> Option<Nanos> {
        self.fresh_at
    }

    /// Time since then; `None`: never.
    pub fn age(&self, now: Nanos) -> Option<Nanos> {
        self.fresh_at.map(|at| now.saturating_sub(at))
    }

    /// Percent of live instances that were silent when the hold that is on began; 0: none is on.
    pub fn hold_percent(&self) -> u8 {
        self.hold_percent
    }

    /// Version of the list.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Run of the engine that answered last; 0: none yet.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Counts the changes of the list and of the hold.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Counts the times that the list was pulled although there was one: changes that were undone
    /// meanwhile were not seen.
    pub fn gaps(&self) -> u64 {
        self.gaps
    }

    /// The status with which the engine refuses the watch.
    pub fn trouble(&self) -> Option<Status> {
        self.trouble
    }

    /// Whether a reply or push with this tag is for this follow.
    pub fn owns_tag(&self, tag: u64) -> bool {
        tag == self.tag || self.pull.owns_tag(tag)
    }

    /// The next frame to send, if one is due: ask until there is none. Without a cookie nothing is
    /// sent.
    pub fn poll(&mut self, now: Nanos, cookie: Option<u64>) -> Option<Frame> {
        self.is_starved = false;
        if self.due() > now {
            return None;
        }
        // One whose time is over would be due for ever.
        self.cookie_refused = self.cookie_refused.filter(|(_, until)| now < *until);
        let refused = |cookie| self.cookie_refused.is_some_and(|(value, _)| value == cookie);
        let Some(cookie) = cookie.filter(|&cookie| !refused(cookie)) else {
            self.is_starved = true;
            return None;
        };
        self.cookie = cookie;
        if std::mem::take(&mut self.is_receipt_wanted) {
            return Some(self.receipt());
        }
        if now >= self.next {
            self.next = now + self.patience();
            self.unanswered += 1;
            self.sent_at = now;
            return Some(self.request(WATCH_MS));
        }
        if self.is_answered && self.wants_pull() && self.pull.begins(now, &mut self.draw) {
            // The answer is at least as new as all that was heard of so far.
            (self.heard, self.is_doubted) = (0, true);
        }
        self.pull.poll(now, self.service, cookie, &mut self.trip, &mut self.draw)
    }

    /// Whether something is due and cannot be sent without another cookie.
    pub fn is_starved(&self) -> bool {
        self.is_starved
    }

    /// When [`Self::poll`] has something to send. Without a usable cookie: when the refused one may
    /// be tried again, or never; a new one is reason to poll.
    pub fn due(&self) -> Nanos {
        if self.has_ended {
            return Nanos::MAX;
        }
        if self.is_starved {
            return self.cookie_refused.map_or(Nanos::MAX, |(_, until)| until);
        }
        if self.is_receipt_wanted {
            return 0;
        }
        let pull = self.pull.due(self.is_answered && self.wants_pull());
        self.next.min(pull)
    }

    /// Takes a reply or push whose tag belongs to this follow.
    pub fn receive(&mut self, now: Nanos, reply: &Reply<'_>) -> Received {
        let tag = reply.header.tag.get();
        if self.has_ended {
            return Received::Nothing;
        }
        let (changes, fresh_at) = (self.changes, self.fresh_at);
        match (reply.kind, reply.status, reply.body) {
            (Kind::Watch, _, _) if tag != self.tag => {}
            (Kind::Push, _, _) if tag != self.tag => {}
            (Kind::Watch | Kind::Discover | Kind::Services, Status::Cookie, _) => {
                if reply.kind != Kind::Watch && !self.pull.refused(tag) {
                    return Received::Nothing;
                }
                self.cookie_refused = Some((self.cookie, now + PATIENCE));
                self.next = if reply.kind == Kind::Watch { now } else { self.next };
                return Received::WantsCookie;
            }
            (Kind::Watch, Status::Ok, ReplyBody::Watching(watching)) => {
                self.watching(now, watching, reply.header.flags);
            }
            (Kind::Watch, status, _) => self.refusal(now, status),
            (Kind::Push, Status::Ok, ReplyBody::Push(head, entries)) => {
                self.push(now, head, entries, reply.header.flags);
            }
            (Kind::Discover | Kind::Services, ..) => {
                let page = self.pull.receive(now, reply, &mut self.trip, &mut self.draw);
                if let Page::Last(version) = page {
                    self.pulled(now, version);
                }
            }
            _ => {}
        }
        if self.changes != changes {
            Received::Changed
        } else if self.fresh_at != fresh_at {
            Received::Fresh
        } else {
            Received::Nothing
        }
    }

    /// The engine started anew, or the socket changed: watches again within a quarter of the
    /// watch's time, so that all of the engine's watchers do not come back at once.
    pub fn restart(&mut self, now: Nanos) {
        self.forget_watch();
        self.next = now + self.draw.below(from_ms(u64::from(WATCH_MS)) / 4);
    }

    /// The request that ends the watch, if it stands. Nothing is sent afterwards.
    pub fn end(&mut self) -> Option<Frame> {
        let stood = self.is_answered && !self.has_ended;
        self.has_ended = true;
        stood.then(|| self.request(0))
    }

    /// Begins under another tag, so that late pushes of the former watch are nobody's.
    fn forget_watch(&mut self) {
        self.tag = self.draw.next();
        (self.is_answered, self.is_receipt_wanted) = (false, false);
        (self.proof, self.number, self.unproved, self.unanswered) = (0, 0, 0, 0);
        self.stands_until = 0;
        self.ahead.clear();
        self.pull = Pull::default();
    }

    /// How long an answer is waited for: twice as long each time, a third of the watch's time at
    /// the longest, with jitter.
    fn patience(&mut self) -> Nanos {
        let longest = from_ms(u64::from(WATCH_MS)) / 3;
        self.draw.jitter((PATIENCE << self.unanswered.min(10)).min(longest))
    }

    fn refusal(&mut self, now: Nanos, status: Status) {
        let first = if status == Status::Busy { from_ms(1) } else { NANOS_PER_SECOND };
        let longest = if status == Status::Busy { NANOS_PER_SECOND } else { REFUSED_MAX };
        let wait = (first << self.refused.min(10)).min(longest);
        self.trouble = (status != Status::Busy).then_some(status);
        self.refused += 1;
        self.unanswered = 0;
        self.next = now + self.draw.jitter(wait);
    }

    fn watching(&mut self, now: Nanos, watching: &Watching, flags: u8) {
        let epoch = watching.epoch.get();
        if epoch != self.epoch {
            // Versions compare within one epoch only.
            let was_answered = self.is_answered;
            self.epoch = epoch;
            (self.is_known, self.heard) = (false, 0);
            self.ahead.clear();
            if was_answered {
                self.forget_watch();
                self.next = now;
                return;
            }
        }
        self.is_answered = true;
        if self.unanswered == 1 {
            self.trip.measured(now.saturating_sub(self.sent_at));
        }
        (self.unanswered, self.refused, self.trouble) = (0, 0, None);
        // Also an older number: the engine may have forgotten the watch and begun it anew.
        (self.proof, self.number) = (watching.proof.get(), watching.number.get());
        let granted = from_ms(u64::from(watching.ttl_ms.get().min(WATCH_MS)));
        self.stands_until = now + granted;
        self.set_hold(watching.hold_percent, flags);
        let is_proved =
            watching.credit.get() as usize > FRAME_BYTES_MAX && watching.ttl_ms.get() == WATCH_MS;
        self.unproved = if is_proved { 0 } else { self.unproved.saturating_add(1) };
        self.next = if (1..=CONFIRMS_MAX).contains(&self.unproved) {
            now
        } else {
            now + self.draw.jitter((granted / 3).max(PATIENCE))
        };
        self.told_version(now, watching.version.get());
    }

    /// The engine's list has this version; 0: there is no such service.
    fn told_version(&mut self, now: Nanos, version: u64) {
        if version == 0 && !self.is_known {
            self.list.clear();
            (self.is_known, self.version) = (true, 0);
            self.changes += 1;
        }
        self.is_doubted |= version == 0 && self.version != 0;
        self.heard = self.heard.max(version);
        self.note_fresh(now, version);
    }

    /// Whether more must be asked for than pushes say.
    fn wants_pull(&self) -> bool {
        !self.is_known || self.is_doubted || self.version < self.heard
    }

    fn note_fresh(&mut self, now: Nanos, version: u64) {
        if !self.wants_pull() && self.version == version {
            self.fresh_at = Some(now);
        }
    }

    fn set_hold(&mut self, percent: u8, flags: u8) {
        // A hold is never silent: the flag alone says as much as a share.
        let percent = percent.max(flags & header_flags::HOLD);
        if percent != self.hold_percent {
            self.hold_percent = percent;
            self.changes += 1;
        }
    }

    fn push(&mut self, now: Nanos, head: &PushHead, entries: &[Endpoint], flags: u8) {
        let number = head.number.get();
        let is_newer = number.wrapping_sub(self.number) as i32 >= 0;
        if is_newer {
            (self.proof, self.number) = (head.proof.get(), number);
            self.set_hold(head.hold_percent, flags);
        }
        self.is_receipt_wanted |= flags & header_flags::RECEIPT_WANTED != 0;
        if !self.is_answered {
            return;
        }
        let (before, after) = (head.before.get(), head.after.get());
        self.heard = self.heard.max(after);
        if entries.is_empty() || self.service == 0 {
            if before == after && is_newer {
                self.note_fresh(now, after);
            }
            return;
        }
        if !self.is_known || before > self.version {
            self.ahead.keep(before, after, entries);
        } else if after > self.version {
            self.apply(now, after, entries);
            self.catch_up(now);
            self.note_fresh(now, self.version);
        }
    }

    /// Entries are whole and no older than `after`, so a push that begins before the list ends can
    /// be applied as well.
    fn apply(&mut self, now: Nanos, after: u64, entries: &[Endpoint]) {
        for entry in entries {
            self.list.set(entry, now);
        }
        self.version = after;
        self.changes += 1;
    }

    /// Applies what came too early and begins here now.
    fn catch_up(&mut self, now: Nanos) {
        while let Some((after, entries)) = self.ahead.next_at(self.version) {
            self.apply(now, after, &entries);
        }
    }

    /// A whole list of this version was gathered.
    fn pulled(&mut self, now: Nanos, version: u64) {
        // Pushes may have carried the list further meanwhile.
        let is_newer = !self.is_known || version >= self.version || version == 0;
        if is_newer {
            self.gaps += u64::from(self.fresh_at.is_some());
            self.list = self.pull.take().after(&mut self.list);
            (self.is_known, self.version) = (true, version);
            self.changes += 1;
        }
        self.is_doubted = false;
        self.catch_up(now);
        self.note_fresh(now, self.version);
    }
}
