//! Registrations, and each one's post at each engine: from the queue over the lease to the end.

use super::event::{Event, Identity, Standing};
use super::limits::{ATTEMPTS, BACKOFF_BASE};
use super::machine::{Machine, Next, RegistrationId, Timer};
use super::packs::{Joining, NO_PACK};
use heartline_wire::time::Nanos;
use heartline_wire::{Declared, Granted, Lease, Register, Status};
use std::cmp::Reverse;
use zerocopy::FromZeros;

/// Stands for no post.
pub(super) const NO_POST: u32 = u32::MAX;

/// One registration.
pub(super) struct Member {
    pub(super) identity: Identity,
    /// The request without cookie and nonce; weight, version and declared state are those of now.
    pub(super) body: Register,
    pub(super) tail: Vec<u8>,
    pub(super) load: u16,
    /// Grows with each update.
    pub(super) revision: u32,
    /// At each engine.
    pub(super) posts: Vec<u32>,
    pub(super) generation: u32,
    pub(super) is_live: bool,
    /// It ends as soon as every engine knows.
    pub(super) is_ending: bool,
    pub(super) is_replaced: bool,
    /// Its owner asks no more how it stands.
    pub(super) is_released: bool,
}

impl Member {
    pub(super) fn new(
        identity: Identity,
        body: Register,
        tail: Vec<u8>,
        load: u16,
        links: usize,
    ) -> Self {
        Self {
            identity,
            body,
            tail,
            load,
            revision: 0,
            posts: vec![NO_POST; links],
            generation: 0,
            is_live: true,
            is_ending: false,
            is_replaced: false,
            is_released: false,
        }
    }

    pub(super) fn declared(&self) -> Declared {
        Declared::from_bits(self.body.declared.into())
    }
}

/// How far a registration is at one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// In the queue of its link.
    Queued,
    /// Its request is under way.
    Asking,
    /// Queued again when its timer says so; after a loss or a refusal.
    Waiting(Status),
    /// It has a lease and a place in a pack.
    Up,
    /// Its beats say good-bye.
    Leaving,
    /// Refused for good.
    Refused(Status),
    /// Not in use.
    Free,
}

/// A registration at one engine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Post {
    pub(super) member: u32,
    pub(super) link: usize,
    pub(super) stage: Stage,
    pub(super) lease: Lease,
    /// Of the engine process that granted it.
    pub(super) epoch: u64,
    /// Of the request for the present or next lease; 0: none is drawn yet.
    pub(super) nonce: u64,
    pub(super) pack: u32,
    pub(super) place: u8,
    /// It is to leave as soon as it has a lease.
    pub(super) is_ending: bool,
    /// It registers again once it has left.
    pub(super) renews: bool,
    /// An update is under way or in the queue.
    pub(super) is_updating: bool,
    /// What the engine knows of the member, and the state that was registered.
    pub(super) revision: u32,
    pub(super) declared: Declared,
    /// Refusals one after the other.
    pub(super) refusals: u32,
    /// Which timer counts.
    pub(super) stamp: u32,
    /// Answers to frames with later serial numbers are about this lease, or about its farewell.
    pub(super) since: u64,
}

impl Machine {
    pub(super) fn member(&self, registration: RegistrationId) -> Option<&Member> {
        let member = self.members.get(registration.member as usize)?;
        (member.is_live && member.generation == registration.generation).then_some(member)
    }

    /// A registration that has not ended and is not about to.
    pub(super) fn member_mut(&mut self, registration: RegistrationId) -> Option<&mut Member> {
        let member = self.members.get_mut(registration.member as usize)?;
        let is_meant = member.is_live && member.generation == registration.generation;
        (is_meant && !member.is_ending).then_some(member)
    }

    pub(super) fn id_of(&self, member: u32) -> RegistrationId {
        RegistrationId { member, generation: self.members[member as usize].generation }
    }

    pub(super) fn posts_of(&self, member: u32) -> Vec<u32> {
        let posts = &self.members[member as usize].posts;
        posts.iter().copied().filter(|&post| post != NO_POST).collect()
    }

    /// Tells of a post: its instance, its engine.
    pub(super) fn tell_of(
        &mut self,
        post: u32,
        event: impl FnOnce(Identity, std::sync::Arc<str>) -> Event,
    ) {
        let Post { member, link, .. } = self.posts[post as usize];
        let instance = self.members[member as usize].identity.clone();
        let event = event(instance, self.links[link].name.clone());
        let about = self.id_of(member);
        self.tell(event, Some(about));
    }

    pub(super) fn stands(&self, member: &Member) -> Standing {
        if member.is_replaced {
            return Standing::Replaced;
        }
        if member.is_ending {
            return Standing::Ended;
        }
        let posts = || member.posts.iter().filter(|&&post| post != NO_POST);
        let posts = || posts().map(|&post| &self.posts[post as usize]);
        let up = || posts().filter(|post| post.stage == Stage::Up);
        let engines = up().filter(|post| !self.links[post.link].is_silent()).count();
        if engines > 0 {
            return Standing::Up { engines };
        }
        if up().next().is_some() {
            return Standing::Silent;
        }
        let refused = posts().find_map(|post| match post.stage {
            Stage::Refused(status) => Some(Standing::Refused(status)),
            Stage::Waiting(status) => Some(Standing::BackOff(status)),
            _ => None,
        });
        refused.unwrap_or(Standing::Pending)
    }

    pub(super) fn add_member(&mut self, member: Member) -> RegistrationId {
        self.live_members += 1;
        let number = match self.free_members.pop() {
            Some(number) => {
                let generation = self.members[number as usize].generation.wrapping_add(1);
                self.members[number as usize] = Member { generation, ..member };
                number
            }
            None => {
                self.members.push(member);
                self.members.len() as u32 - 1
            }
        };
        for link in 0..self.links.len() {
            if self.links[link].wanted {
                self.add_post(number, link);
            }
        }
        self.id_of(number)
    }

    /// Lets a member register at an engine, if it does not already.
    pub(super) fn add_post(&mut self, number: u32, link: usize) {
        let member = &self.members[number as usize];
        if !member.is_live || member.is_ending {
            return;
        }
        let standing = member.posts[link];
        if standing != NO_POST {
            // It was about to leave: it comes back when it has left.
            let post = &mut self.posts[standing as usize];
            match post.stage {
                Stage::Leaving => post.renews = true,
                _ => post.is_ending = false,
            }
            return;
        }
        let post = Post {
            member: number,
            link,
            stage: Stage::Queued,
            lease: Lease::new_zeroed(),
            epoch: 0,
            nonce: 0,
            pack: NO_PACK,
            place: 0,
            is_ending: false,
            renews: false,
            is_updating: false,
            revision: 0,
            declared: Declared::Serving,
            refusals: 0,
            stamp: 0,
            since: 0,
        };
        let place = match self.free_posts.pop() {
            Some(place) => {
                let stamp = self.posts[place as usize].stamp.wrapping_add(1);
                self.posts[place as usize] = Post { stamp, ..post };
                place
            }
            None => {
                self.posts.push(post);
                self.posts.len() as u32 - 1
            }
        };
        self.members[number as usize].posts[link] = place;
        self.links[link].queue.push_back(place);
    }

    /// Puts a post into the queue of its link.
    pub(super) fn enqueue(&mut self, post: u32) {
        let queued = &mut self.posts[post as usize];
        queued.stage = Stage::Queued;
        self.links[queued.link].queue.push_back(post);
    }

    /// A post waits before it asks again.
    pub(super) fn wait(&mut self, now: Nanos, post: u32, status: Status, wait: Nanos) {
        let waiting = &mut self.posts[post as usize];
        waiting.stage = Stage::Waiting(status);
        self.arm_post(post, now + wait);
    }

    pub(super) fn arm_post(&mut self, number: u32, at: Nanos) {
        let post = &mut self.posts[number as usize];
        post.stamp = post.stamp.wrapping_add(1);
        let stamp = post.stamp;
        self.timers.push(Reverse((at, Timer::Post { post: number, stamp })));
    }

    pub(super) fn wait_is_over(&mut self, number: u32, stamp: u32) {
        let Post { stage, link, stamp: newest, .. } = self.posts[number as usize];
        if stamp != newest {
            return;
        }
        match stage {
            Stage::Waiting(_) => self.enqueue(number),
            // The engine was too busy for an update.
            Stage::Up => self.links[link].updates.push_back(number),
            _ => {}
        }
    }

    /// A lease is granted: the post beats from here on.
    pub(super) fn granted(&mut self, now: Nanos, number: u32, granted: &Granted) {
        let nanos = |us: u32| Nanos::from(us) * 1000;
        let post = self.posts[number as usize];
        let member = &self.members[post.member as usize];
        let joining = Joining {
            post: number,
            lease: granted.lease,
            load: member.load,
            declared: member.declared(),
            ttl_ms: granted.ttl_ms.get(),
            interval: nanos(granted.interval_us.get()),
            due: now + nanos(granted.phase_us.get()),
        };
        let (revision, is_ending) = (member.revision, post.is_ending || member.is_ending);
        let link = &mut self.links[post.link];
        let (pack, place, is_new) = link.packs.join(&joining);
        let since = link.serial;
        let joined = &mut self.posts[number as usize];
        (joined.stage, joined.lease, joined.refusals) = (Stage::Up, granted.lease, 0);
        (joined.pack, joined.place, joined.since) = (pack, place, since);
        joined.epoch = granted.epoch.get();
        if is_new {
            self.arm_pack(post.link, pack);
        }
        if is_ending || post.renews {
            self.leave(now, number);
            self.posts[number as usize].renews = !is_ending;
            return;
        }
        if joining.declared != post.declared {
            self.declare_at(now, number, joining.declared);
        }
        if revision != post.revision {
            self.queue_update(number);
        }
        self.outbox.push_back(Next::Granted(post.link, granted.lease.into()));
        self.tell_of(number, |instance, engine| Event::Up { instance, engine });
        self.break_after_make(now, post.member);
    }

    /// Lets the beat of a post say something else, at once.
    pub(super) fn declare_at(&mut self, now: Nanos, post: u32, declared: Declared) {
        let Post { link, pack, place, .. } = self.posts[post as usize];
        self.links[link].packs.get_mut(pack).declare(now, place, declared);
        self.arm_pack(link, pack);
    }

    /// Lets every engine know of an update.
    pub(super) fn spread_update(&mut self, member: u32) {
        for post in self.posts_of(member) {
            match self.posts[post as usize].stage {
                Stage::Up => self.queue_update(post),
                Stage::Refused(_) => self.enqueue(post),
                _ => {}
            }
        }
    }

    pub(super) fn queue_update(&mut self, number: u32) {
        let post = &mut self.posts[number as usize];
        if !std::mem::replace(&mut post.is_updating, true) {
            self.links[post.link].updates.push_back(number);
        }
    }

    pub(super) fn leave_all(&mut self, now: Nanos, member: u32) {
        for post in self.posts_of(member) {
            self.leave(now, post);
        }
        self.end_if_gone(member);
    }

    /// A post is to end: with a farewell, if it has a lease.
    pub(super) fn leave(&mut self, now: Nanos, number: u32) {
        let post = &mut self.posts[number as usize];
        post.renews = false;
        match post.stage {
            // The lease that may be granted is given back then.
            Stage::Asking => post.is_ending = true,
            Stage::Up => {
                post.stage = Stage::Leaving;
                post.since = self.links[post.link].serial;
                self.declare_at(now, number, Declared::Leaving);
            }
            Stage::Leaving | Stage::Free => {}
            Stage::Queued | Stage::Waiting(_) | Stage::Refused(_) => self.free(number),
        }
    }

    /// The engine does not know the lease any more. Who wanted to leave has left; the others come
    /// back, spread over a second.
    pub(super) fn lost(&mut self, now: Nanos, number: u32, status: Status) {
        if self.posts[number as usize].stage == Stage::Leaving {
            return self.left(number);
        }
        self.take_out(number);
        self.posts[number as usize].nonce = 0;
        let wait = self.random.backoff(BACKOFF_BASE, 0);
        self.wait(now, number, status, wait);
        self.tell_of(number, |instance, engine| Event::Lost { instance, engine, status });
    }

    /// A farewell is over.
    pub(super) fn left(&mut self, number: u32) {
        self.take_out(number);
        let post = &mut self.posts[number as usize];
        post.nonce = 0;
        if std::mem::take(&mut post.renews) {
            self.enqueue(number);
        } else {
            self.free(number);
        }
    }

    /// Another registration has the identity. It is the newer one: this one ends everywhere.
    pub(super) fn replaced(&mut self, now: Nanos, number: u32) {
        let Post { member, stage, renews, .. } = self.posts[number as usize];
        // One that leaves only to come back from another address has not left.
        let is_left = stage == Stage::Leaving && !renews;
        if self.members[member as usize].is_ending || is_left {
            return self.free(number);
        }
        self.tell_of(number, |instance, engine| Event::Replaced { instance, engine });
        let ended = &mut self.members[member as usize];
        (ended.is_replaced, ended.is_ending) = (true, true);
        self.free(number);
        self.leave_all(now, member);
    }

    /// Takes a post out of its pack.
    fn take_out(&mut self, number: u32) {
        let Post { link, pack, place, .. } = self.posts[number as usize];
        if pack == NO_PACK {
            return;
        }
        if let Some(moved) = self.links[link].packs.leave(pack, place) {
            self.posts[moved as usize].place = place;
        }
        let post = &mut self.posts[number as usize];
        post.pack = NO_PACK;
        if std::mem::take(&mut post.is_updating) {
            self.links[link].end_of(number);
        }
    }

    /// Ends a post.
    pub(super) fn free(&mut self, number: u32) {
        self.take_out(number);
        let post = &mut self.posts[number as usize];
        let (member, link) = (post.member, post.link);
        post.stage = Stage::Free;
        post.stamp = post.stamp.wrapping_add(1);
        self.free_posts.push(number);
        self.members[member as usize].posts[link] = NO_POST;
        self.end_if_gone(member);
    }

    /// A registration ends when its last post has.
    fn end_if_gone(&mut self, number: u32) {
        let member = &mut self.members[number as usize];
        let is_gone = member.posts.iter().all(|&post| post == NO_POST);
        // One that was replaced says so until its owner lets go of it.
        let is_over = member.is_ending && (member.is_released || !member.is_replaced);
        if !member.is_live || !is_over || !is_gone {
            return;
        }
        member.is_live = false;
        let (instance, about) = (member.identity.clone(), self.id_of(number));
        self.live_members -= 1;
        self.free_members.push(number);
        self.tell(Event::Ended { instance }, Some(about));
    }

    /// Gives up leases that have said good-bye often enough without an answer; whether the pack is
    /// empty then.
    pub(super) fn give_up_farewells(&mut self, link: usize, pack: u32) -> bool {
        let farewells = self.links[link].packs.get(pack).farewells();
        if u32::from(farewells) >= ATTEMPTS {
            for post in self.links[link].packs.get(pack).posts().to_vec() {
                if self.posts[post as usize].stage == Stage::Leaving {
                    self.left(post);
                }
            }
        }
        self.links[link].packs.get(pack).is_empty()
    }
}
