//! Requests about single registrations: register and update, their repetitions and their answers.

use super::event::Event;
use super::limits::{ATTEMPTS, BACKOFF_BASE, BUSY_BASE};
use super::link::Request;
use super::machine::{Machine, Next};
use super::post::{Post, Stage};
use heartline_wire::time::Nanos;
use heartline_wire::{
    Header, Kind, Lease, Register, Reply, ReplyBody, Status, Update, update_fields,
};
use std::time::Duration;
use zerocopy::IntoBytes;

impl Machine {
    /// The next request to an engine: a repetition, an update, a registration.
    pub(super) fn request(&mut self, now: Nanos, at: usize) -> Option<Next> {
        while let Some(request) = self.links[at].overdue(now) {
            if request.sends < ATTEMPTS {
                return Some(self.compose_request(at, &request));
            }
            self.links[at].end(request.tag);
            self.unanswered(now, &request);
        }
        while self.links[at].has_room()
            && let Some(post) = self.links[at].updates.pop_front()
        {
            // A post that is up no more registers with what it has.
            if self.posts[post as usize].stage == Stage::Up {
                return Some(self.begin(now, at, Kind::Update, post));
            }
        }
        while self.links[at].takes_registrations(now)
            && let Some(&post) = self.links[at].queue.front()
        {
            let waits = &self.posts[post as usize];
            if waits.stage == Stage::Queued && waits.link == at {
                if !self.links[at].pace(now) {
                    return None;
                }
                self.links[at].queue.pop_front();
                return Some(self.begin(now, at, Kind::Register, post));
            }
            self.links[at].queue.pop_front();
        }
        None
    }

    fn begin(&mut self, now: Nanos, at: usize, kind: Kind, number: u32) -> Next {
        let post = &mut self.posts[number as usize];
        let member = &self.members[post.member as usize];
        let revision = member.revision;
        if kind == Kind::Register {
            post.stage = Stage::Asking;
            if post.nonce == 0 {
                // A repetition with this nonce may get what the first one registered.
                post.nonce = self.random.nonce();
                (post.revision, post.declared) = (revision, member.declared());
            }
        }
        let tag = self.links[at].begin(now, kind, number, revision);
        let request = Request { tag, kind, post: number, revision, sends: 1, due: now };
        self.compose_request(at, &request)
    }

    fn compose_request(&mut self, at: usize, request: &Request) -> Next {
        let Post { member, lease, nonce, .. } = self.posts[request.post as usize];
        let member = &self.members[member as usize];
        let header = Header::request(request.kind, request.tag);
        let tail = member.tail.clone();
        let bytes = if request.kind == Kind::Register {
            let cookie = self.links[at].cookie.into();
            let body = Register { cookie, nonce: nonce.into(), ..member.body };
            self.compose(&[header.as_bytes(), body.as_bytes(), &tail])
        } else {
            let body = update_of(lease, &member.body);
            self.compose(&[header.as_bytes(), body.as_bytes(), &tail])
        };
        Next::Scratch(at, bytes)
    }

    /// The engine did not answer a request: it may or may not have been done. The same nonce gets
    /// the same lease.
    fn unanswered(&mut self, now: Nanos, request: &Request) {
        match (request.kind, self.posts[request.post as usize].is_ending) {
            (Kind::Register, true) => self.free(request.post),
            (Kind::Register, false) => self.back_off(now, request.post, Status::Busy, BACKOFF_BASE),
            _ => self.retry_update(now, request.post),
        }
    }

    /// An engine answers a request about one registration.
    pub(super) fn answered(&mut self, now: Nanos, at: usize, reply: &Reply<'_>) {
        let tag = reply.header.tag.get();
        if self.links[at].read_tag(tag).is_some() {
            self.heard(now, at);
        }
        let Some(request) = self.links[at].end(tag) else { return };
        if request.kind != reply.kind {
            return self.unanswered(now, &request);
        }
        match (reply.body, reply.status) {
            (ReplyBody::Granted(granted), Status::Ok) => {
                self.note_epoch(now, at, granted.epoch.get());
                self.granted(now, request.post, granted);
            }
            (ReplyBody::Changed(changed), Status::Ok) => {
                self.note_epoch(now, at, changed.epoch.get());
                self.updated(request.post, request.revision);
            }
            (_, status) if request.kind == Kind::Update => {
                self.update_refused(now, &request, status, reply.header.count.get());
            }
            (_, status) => self.refused_as(now, at, request.post, status, reply.header.count.get()),
        }
    }

    fn refused_as(&mut self, now: Nanos, at: usize, number: u32, status: Status, field: u16) {
        let is_ending = self.posts[number as usize].is_ending;
        match status {
            Status::Cookie => {
                self.links[at].cookie = 0;
                // Waits are short here, and grow if cookies go on being refused.
                self.back_off(now, number, status, BUSY_BASE);
            }
            _ if is_ending => self.free(number),
            Status::Busy => self.back_off(now, number, status, BUSY_BASE),
            Status::Replaced => self.replaced(now, number),
            Status::Invalid | Status::Denied | Status::Collision | Status::TooLarge => {
                let post = &mut self.posts[number as usize];
                post.stage = Stage::Refused(status);
                self.tell_of(number, |instance, engine| Event::Refused {
                    instance,
                    engine,
                    status,
                    field,
                });
            }
            // With the same nonce: a late copy of this request then gets the same lease.
            _ => self.back_off(now, number, status, BACKOFF_BASE),
        }
    }

    /// A registration is asked for again after a wait that grows with each refusal.
    fn back_off(&mut self, now: Nanos, number: u32, status: Status, base: Nanos) {
        let post = &mut self.posts[number as usize];
        let wait = self.random.backoff(base, post.refusals);
        post.refusals = post.refusals.saturating_add(1);
        if std::mem::take(&mut post.renews) {
            post.nonce = 0;
        }
        self.wait(now, number, status, wait);
        if status != Status::Cookie {
            let wait = Duration::from_nanos(wait);
            self.tell_of(number, |instance, engine| Event::BackOff {
                instance,
                engine,
                status,
                wait,
            });
        }
    }

    /// The engine knows this revision; there may be a newer one.
    fn updated(&mut self, number: u32, revision: u32) {
        let post = &mut self.posts[number as usize];
        if post.stage != Stage::Up {
            return;
        }
        (post.revision, post.is_updating) = (revision, false);
        if self.members[post.member as usize].revision != revision {
            self.queue_update(number);
        }
    }

    fn update_refused(&mut self, now: Nanos, request: &Request, status: Status, field: u16) {
        let post = request.post;
        if self.posts[post as usize].stage != Stage::Up {
            return;
        }
        match status {
            Status::Unknown | Status::Removed => self.lost(now, post, status),
            Status::Replaced => self.replaced(now, post),
            Status::Invalid | Status::TooLarge => {
                self.tell_of(post, |instance, engine| Event::Refused {
                    instance,
                    engine,
                    status,
                    field,
                });
                self.updated(post, request.revision);
            }
            _ => self.retry_update(now, post),
        }
    }

    /// An update is sent again after a moment.
    fn retry_update(&mut self, now: Nanos, number: u32) {
        let post = &mut self.posts[number as usize];
        if post.stage == Stage::Up {
            let wait = self.random.backoff(BUSY_BASE, post.refusals);
            post.refusals = post.refusals.saturating_add(1);
            self.arm_post(number, now + wait);
        }
    }
}

/// An update that says all that may change.
fn update_of(lease: Lease, body: &Register) -> Update {
    let fields = update_fields::WEIGHT | update_fields::VERSION | update_fields::ATTRIBUTES;
    Update {
        lease,
        fields: fields.into(),
        weight: body.weight,
        load: 0.into(),
        attributes_len: body.attributes_len,
        version: body.version,
    }
}
