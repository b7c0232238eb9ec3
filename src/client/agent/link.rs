//! What an agent knows of one engine: whether it answers, its cookie and epoch, the requests under
//! way, and how fast further ones may follow.

use super::limits::*;
use super::packs::Packs;
use super::random::{Random, ceiling};
use heartline_wire::Kind;
use heartline_wire::time::{NANOS_PER_SECOND, Nanos};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

/// Bits of a tag that say which pack or request it belongs to.
const INDEX_BITS: u32 = 24;
/// The span of time that one registration takes.
const PACE: Nanos = NANOS_PER_SECOND / REGISTRATIONS_PER_SECOND;

/// Whether an engine answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// It was not asked yet.
    Unknown,
    /// It answers, or has not failed to for long enough.
    Answers,
    /// It has not answered since then.
    Silent { since: Nanos },
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) tag: u64,
    /// Register or update.
    pub(super) kind: Kind,
    pub(super) post: u32,
    /// What of the instance it says.
    pub(super) revision: u32,
    pub(super) sends: u32,
    pub(super) due: Nanos,
}

/// A hello under way.
#[derive(Clone, Copy, Debug)]
struct Hello {
    sends: u32,
    due: Nanos,
}

pub(super) struct Link {
    pub(super) name: Arc<str>,
    pub(super) presence: Presence,
    /// Instances are to be registered here.
    pub(super) wanted: bool,
    /// Whether it answers matters: it is wanted, or would be if it answered.
    pub(super) needed: bool,
    pub(super) epoch: u64,
    pub(super) cookie: u64,
    pub(super) cookie_until: Nanos,
    pub(super) is_open: bool,
    /// A followed service has something to send and no cookie.
    pub(super) wants_cookie: bool,
    pub(super) local: Option<IpAddr>,
    pub(super) send_failures: u64,
    reopen_at: Nanos,
    /// When the first request was sent that is not answered.
    waiting_since: Option<Nanos>,
    hello: Option<Hello>,
    probes: u32,
    probe_at: Nanos,
    pub(super) settled_at: Nanos,
    check_at: Nanos,
    tag_base: u64,
    pub(super) serial: u64,
    /// Posts that want to register, in this order.
    pub(super) queue: VecDeque<u32>,
    /// Posts whose engine has to be told of an update.
    pub(super) updates: VecDeque<u32>,
    requests: Vec<Option<Request>>,
    pub(super) under_way: usize,
    requests_due: Nanos,
    /// The theoretical time of the next registration (GCRA, ITU-T I.371).
    paced_until: Nanos,
    pub(super) packs: Packs,
}

/// What is to be done about an engine's presence.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Nothing,
    Hello,
    /// The socket is to be opened first.
    Open,
    /// It is time to look at a silent engine: with a new socket, perhaps at another address.
    Probe,
    /// It has not answered often enough.
    IsSilent,
}

impl Link {
    pub(super) fn new(name: Arc<str>, random: &mut Random) -> Self {
        Self {
            name,
            presence: Presence::Unknown,
            wanted: false,
            needed: false,
            epoch: 0,
            cookie: 0,
            cookie_until: 0,
            is_open: false,
            wants_cookie: false,
            local: None,
            send_failures: 0,
            reopen_at: 0,
            waiting_since: None,
            hello: None,
            probes: 0,
            probe_at: 0,
            settled_at: 0,
            check_at: 0,
            tag_base: random.next(),
            serial: 0,
            queue: VecDeque::new(),
            updates: VecDeque::new(),
            requests: vec![None; REQUESTS_MAX],
            under_way: 0,
            requests_due: Nanos::MAX,
            paced_until: 0,
            packs: Packs::default(),
        }
    }

    pub(super) fn is_silent(&self) -> bool {
        matches!(self.presence, Presence::Silent { .. })
    }

    /// A new tag that says which pack or request it belongs to.
    pub(super) fn tag(&mut self, index: u32) -> u64 {
        self.serial += 1;
        self.tag_base.wrapping_add(self.serial << INDEX_BITS | u64::from(index))
    }

    /// The serial number and the pack or request of a tag; `None`: it was never given.
    pub(super) fn read_tag(&self, tag: u64) -> Option<(u64, u32)> {
        let offset = tag.wrapping_sub(self.tag_base);
        let (serial, index) = (offset >> INDEX_BITS, offset as u32 & ((1 << INDEX_BITS) - 1));
        (1..=self.serial).contains(&serial).then_some((serial, index))
    }

    /// Something was sent that wants an answer.
    pub(super) fn waits(&mut self, now: Nanos) {
        self.waiting_since.get_or_insert(now);
    }

    fn has_cookie(&self, now: Nanos) -> bool {
        self.cookie != 0 && now < self.cookie_until
    }

    /// The cookie, as long as it is good for sure.
    pub(super) fn good_cookie(&self, now: Nanos) -> Option<u64> {
        Some(self.cookie).filter(|_| self.has_cookie(now))
    }

    fn wants_hello(&self, now: Nanos) -> bool {
        let wants_cookie = self.wants_cookie || !self.queue.is_empty();
        self.presence == Presence::Unknown || wants_cookie && !self.has_cookie(now)
    }

    /// When [`Self::ask`] is due.
    fn ask_due(&self, now: Nanos) -> Nanos {
        if !self.needed && self.packs.beating() == 0 {
            return Nanos::MAX;
        }
        match (self.presence, self.hello) {
            (Presence::Silent { .. }, Some(hello)) => hello.due,
            (Presence::Silent { .. }, None) => self.probe_at,
            (_, Some(hello)) => hello.due,
            _ if self.wants_hello(now) => now,
            (_, None) => {
                let missing = self.waiting_since.map_or(Nanos::MAX, |since| since + PATIENCE);
                let is_checked = self.needed && (!self.wanted || self.packs.beating() == 0);
                missing.min(if is_checked { self.check_at } else { Nanos::MAX })
            }
        }
    }

    /// What to do about its presence now.
    pub(super) fn ask(&mut self, now: Nanos, random: &mut Random) -> Ask {
        let due = self.ask_due(now);
        if now < due {
            return Ask::Nothing;
        }
        if self.is_silent() {
            if self.hello.take().is_some() && self.is_open {
                return Ask::Hello;
            }
            let wait = random.up_to(ceiling(PROBE_BASE, self.probes, PROBE_CAP));
            self.probes = self.probes.saturating_add(1);
            self.probe_at = now + wait.max(PROBE_MIN);
            return Ask::Probe;
        }
        // Whoever asks late may have slept over the answer: then there is one more question.
        let is_late = self.hello.is_some() && now > due + PATIENCE;
        let sends = self.hello.map_or(0, |hello| hello.sends);
        if sends >= HELLOS && !is_late {
            return Ask::IsSilent;
        }
        let sends = if is_late { sends } else { sends + 1 };
        self.hello = Some(Hello { sends, due: now + (PATIENCE << (sends.max(1) - 1)) });
        self.check_at = now + if self.wanted { CHECK_IDLE_EVERY } else { CHECK_EVERY };
        self.waits(now);
        if self.is_open {
            Ask::Hello
        } else if self.wants_open(now) {
            Ask::Open
        } else {
            Ask::Nothing
        }
    }

    /// Whether the socket may be opened again now.
    pub(super) fn wants_open(&mut self, now: Nanos) -> bool {
        let may = now >= self.reopen_at;
        if may {
            self.reopen_at = now + REOPEN_AFTER;
        }
        may
    }

    /// The socket is open: whatever was to be asked is asked at once.
    pub(super) fn opened(&mut self, now: Nanos) {
        self.is_open = true;
        self.hello = match (self.presence, self.hello) {
            (Presence::Silent { .. }, _) => Some(Hello { sends: 0, due: now }),
            (_, Some(hello)) => Some(Hello { due: now, sends: hello.sends.saturating_sub(1) }),
            (_, None) => None,
        };
    }

    /// It answered. How long it was silent, if it was.
    pub(super) fn heard(&mut self, now: Nanos) -> Option<Nanos> {
        self.waiting_since = None;
        self.hello = None;
        match std::mem::replace(&mut self.presence, Presence::Answers) {
            Presence::Silent { since } => {
                self.probes = 0;
                self.settled_at = now + SETTLED_AFTER;
                self.check_at = now + CHECK_EVERY;
                Some(now.saturating_sub(since))
            }
            _ => None,
        }
    }

    /// It does not answer. Since when.
    pub(super) fn falls_silent(&mut self, now: Nanos, random: &mut Random) -> Nanos {
        let since = self.waiting_since.take().unwrap_or(now);
        self.presence = Presence::Silent { since };
        self.hello = None;
        self.probes = 1;
        self.probe_at = now + random.up_to(PROBE_BASE).max(PROBE_MIN);
        since
    }

    /// Nobody needs it: what was known of its presence gets old.
    pub(super) fn forget(&mut self) {
        if !self.needed && self.packs.beating() == 0 {
            self.presence = Presence::Unknown;
            (self.waiting_since, self.hello) = (None, None);
        }
    }

    /// Whether a request may be sent now that needs no cookie.
    pub(super) fn has_room(&self) -> bool {
        self.is_open && self.presence == Presence::Answers && self.under_way < REQUESTS_MAX
    }

    /// Whether a registration may be sent now, or as soon as its time comes.
    pub(super) fn takes_registrations(&self, now: Nanos) -> bool {
        self.has_room() && self.has_cookie(now)
    }

    /// Takes the time of one registration, if it has come.
    pub(super) fn pace(&mut self, now: Nanos) -> bool {
        let may = now >= self.pace_due();
        if may {
            self.paced_until = self.paced_until.max(now) + PACE;
        }
        may
    }

    fn pace_due(&self) -> Nanos {
        self.paced_until.saturating_sub(PACE * REGISTRATIONS_BURST)
    }

    /// Begins a request; its tag.
    pub(super) fn begin(&mut self, now: Nanos, kind: Kind, post: u32, revision: u32) -> u64 {
        let free = self.requests.iter().position(Option::is_none);
        let at = free.expect("there is room: it was asked for before");
        let tag = self.tag(at as u32);
        let due = now + PATIENCE;
        self.requests[at] = Some(Request { tag, kind, post, revision, sends: 1, due });
        self.under_way += 1;
        self.requests_due = self.requests_due.min(due);
        self.waits(now);
        tag
    }

    /// A request whose answer is overdue; its next one is in time.
    pub(super) fn overdue(&mut self, now: Nanos) -> Option<Request> {
        if now < self.requests_due {
            return None;
        }
        if let Some(request) = self.requests.iter_mut().flatten().find(|it| it.due <= now) {
            let found = *request;
            request.due = now + (PATIENCE << request.sends);
            request.sends += 1;
            return Some(found);
        }
        let dues = self.requests.iter().flatten().map(|request| request.due);
        self.requests_due = dues.min().unwrap_or(Nanos::MAX);
        None
    }

    /// Ends the request with this tag.
    pub(super) fn end(&mut self, tag: u64) -> Option<Request> {
        let (_, index) = self.read_tag(tag)?;
        let slot = self.requests.get_mut(index as usize)?;
        let request = slot.take_if(|request| request.tag == tag)?;
        self.under_way -= 1;
        Some(request)
    }

    /// Ends the requests of one post.
    pub(super) fn end_of(&mut self, post: u32) {
        for slot in &mut self.requests {
            if slot.take_if(|request| request.post == post).is_some() {
                self.under_way -= 1;
            }
        }
    }

    /// Ends every request.
    pub(super) fn end_all(&mut self) -> Vec<Request> {
        self.under_way = 0;
        self.requests.iter_mut().filter_map(Option::take).collect()
    }

    /// When something is due here other than beats.
    pub(super) fn due(&self, now: Nanos) -> Nanos {
        let mut due = self.ask_due(now);
        if self.under_way > 0 {
            due = due.min(self.requests_due);
        }
        if self.has_room() && !self.updates.is_empty() {
            due = now;
        }
        if self.takes_registrations(now) && !self.queue.is_empty() {
            due = due.min(self.pace_due());
        }
        if self.is_coming_back() {
            due = due.min(self.settled_at);
        }
        due
    }

    /// It was silent, and will be wanted once it has answered for long enough.
    pub(super) fn is_coming_back(&self) -> bool {
        self.presence == Presence::Answers && !self.wanted && self.needed
    }
}
