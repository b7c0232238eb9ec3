//! Pulling a whole list, page by page.
//!
//! Pages belong together while they have one version; otherwise the pull begins again. Pulls keep a
//! distance to one another: a list that never stands still would be asked for without end.

use super::frame::Frame;
use super::list::List;
use super::round_trip::RoundTrip;
use crate::draw::Draw;
use heartline_wire::time::{NANOS_PER_SECOND, Nanos, from_ms};
use heartline_wire::{Discover, Kind, Reply, ReplyBody, Services, Status};
use zerocopy::{FromZeros, IntoBytes};

/// Time between the beginnings of two pulls at least.
const DISTANCE: Nanos = from_ms(5);
/// The same while the list changes under every pull: it may stand still at any moment, and then the
/// view is to be right soon.
const DISTANCE_CHANGING: Nanos = from_ms(20);
/// The same while pulls fail.
const DISTANCE_FAILING: Nanos = NANOS_PER_SECOND;
/// Times a page is asked for before the pull is given up and begins anew.
const ATTEMPTS: u32 = 5;
/// Entries that are gathered at most: the largest capacity of an engine.
const ENTRIES_MAX: usize = 1 << 24;
/// Pages that are read at most.
const PAGES_MAX: u32 = 1 << 21;

#[derive(Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    Send,
    /// Sent; no longer waited for after this time.
    Wait(Nanos),
    /// The engine was busy; sent again at this time.
    Pause(Nanos),
}

/// The effect of a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// Not of this pull, one of several, or the pull failed.
    Other,
    /// The list is whole; its version.
    Last(u64),
}

#[derive(Debug, Default)]
pub(super) struct Pull {
    stage: Stage,
    tag: u64,
    cursor: u32,
    /// Of the first page.
    version: Option<u64>,
    pages: u32,
    gathered: List,
    began_at: Nanos,
    /// The next pull begins no sooner.
    not_before: Nanos,
    sent_at: Nanos,
    attempts: u32,
    failures: u32,
    changes: u32,
}

impl Pull {
    pub(super) fn is_under_way(&self) -> bool {
        self.stage != Stage::Idle
    }

    pub(super) fn owns_tag(&self, tag: u64) -> bool {
        self.is_under_way() && tag == self.tag
    }

    /// The list that was gathered.
    pub(super) fn take(&mut self) -> List {
        std::mem::take(&mut self.gathered)
    }

    /// Begins a pull unless one is under way, or the last one was a moment ago.
    pub(super) fn begins(&mut self, now: Nanos, draw: &mut Draw) -> bool {
        if self.is_under_way() || now < self.not_before {
            return false;
        }
        (self.cursor, self.version, self.pages) = (0, None, 0);
        self.gathered.clear();
        self.began_at = now;
        self.ask(draw);
        true
    }

    pub(super) fn due(&self, is_wanted: bool) -> Nanos {
        match self.stage {
            Stage::Idle if is_wanted => self.not_before,
            Stage::Idle => Nanos::MAX,
            Stage::Send => 0,
            Stage::Wait(until) | Stage::Pause(until) => until,
        }
    }

    pub(super) fn poll(
        &mut self,
        now: Nanos,
        service: u64,
        cookie: u64,
        trip: &mut RoundTrip,
        draw: &mut Draw,
    ) -> Option<Frame> {
        match self.stage {
            Stage::Wait(until) if now >= until => {
                self.failures += 1;
                if self.attempts == ATTEMPTS {
                    self.rest(now, draw);
                    return None;
                }
            }
            Stage::Pause(until) if now >= until => self.ask(draw),
            Stage::Send => {}
            _ => return None,
        }
        let wait = trip.patience(self.attempts);
        self.stage = Stage::Wait(now + wait + draw.below(wait / 4));
        self.attempts += 1;
        self.sent_at = now;
        Some(self.request(service, cookie))
    }

    /// The cookie of a page was refused: asks for it again.
    pub(super) fn refused(&mut self, tag: u64) -> bool {
        let is_own = self.owns_tag(tag);
        if is_own {
            self.stage = Stage::Pause(0);
        }
        is_own
    }

    pub(super) fn receive(
        &mut self,
        now: Nanos,
        reply: &Reply<'_>,
        trip: &mut RoundTrip,
        draw: &mut Draw,
    ) -> Page {
        if !self.owns_tag(reply.header.tag.get()) {
            return Page::Other;
        }
        if self.attempts == 1 {
            trip.measured(now.saturating_sub(self.sent_at));
        }
        let (version, cursor) = match (reply.status, reply.body) {
            (Status::Busy, _) => {
                self.failures += 1;
                let wait = (from_ms(1) << self.failures.min(10)).min(NANOS_PER_SECOND);
                self.stage = Stage::Pause(now + draw.jitter(wait));
                return Page::Other;
            }
            (Status::NoService, _) => (0, 0),
            (
                Status::Ok | Status::NoneRegistered | Status::NoneHealthy | Status::AllFiltered,
                ReplyBody::Endpoints(head, entries),
            ) => {
                entries.iter().for_each(|entry| self.gathered.set(entry, now));
                (head.version.get(), head.cursor.get())
            }
            (Status::Ok, ReplyBody::Services(head, entries)) => {
                self.gathered.add_services(entries);
                (head.version.get(), head.cursor.get())
            }
            _ => {
                self.failures += 1;
                self.rest(now, draw);
                return Page::Other;
            }
        };
        self.pages += 1;
        self.failures = 0;
        if *self.version.get_or_insert(version) != version {
            self.changes += 1;
            self.rest(now, draw);
            return Page::Other;
        }
        if cursor == 0 {
            self.changes = 0;
            self.rest(now, draw);
            return Page::Last(version);
        }
        if self.pages == PAGES_MAX || self.gathered.count() > ENTRIES_MAX {
            self.failures += 1;
            self.rest(now, draw);
            return Page::Other;
        }
        self.cursor = cursor;
        self.ask(draw);
        Page::Other
    }

    /// A page is a request of its own: it gets another tag.
    fn ask(&mut self, draw: &mut Draw) {
        self.tag = draw.next();
        (self.stage, self.attempts) = (Stage::Send, 0);
    }

    fn rest(&mut self, now: Nanos, draw: &mut Draw) {
        self.stage = Stage::Idle;
        let failing = (DISTANCE << self.failures.min(10)).min(DISTANCE_FAILING);
        let changing = (DISTANCE << self.changes.min(10)).min(DISTANCE_CHANGING);
        let distance = if self.failures > 0 { failing } else { changing };
        let spread = draw.below(distance);
        // A pull that failed may have taken longer than the distance.
        let from = if self.failures > 0 { now } else { self.began_at };
        self.not_before = from + distance + spread;
    }

    fn request(&self, service: u64, cookie: u64) -> Frame {
        if service == 0 {
            let mut body = Services::new_zeroed();
            (body.cookie, body.cursor) = (cookie.into(), self.cursor.into());
            return Frame::new(Kind::Services, self.tag, body.as_bytes());
        }
        let mut body = Discover::new_zeroed();
        (body.cookie, body.service) = (cookie.into(), service.into());
        body.cursor = self.cursor.into();
        Frame::new(Kind::Discover, self.tag, body.as_bytes())
    }
}
