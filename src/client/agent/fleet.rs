//! Which engines registrations are wanted at: the first `replicas` that answer. An engine is left
//! only when another has taken its place.

use super::event::Event;
use super::link::Link;
use super::machine::{Machine, Next};
use super::post::{NO_POST, Stage};
use heartline_wire::time::Nanos;
use std::net::IpAddr;
use std::time::Duration;

impl Machine {
    /// Decides anew which engines are wanted.
    pub(super) fn choose(&mut self, now: Nanos) {
        let mut wanted = vec![false; self.links.len()];
        let mut left = self.replicas;
        // One that was silent until lately comes last: it may fall silent again.
        for only_settled in [true, false] {
            for (link, wanted) in self.links.iter().zip(&mut wanted) {
                let may = !link.is_silent() && (!only_settled || now >= link.settled_at);
                if left > 0 && may && !*wanted {
                    *wanted = true;
                    left -= 1;
                }
            }
        }
        let last = wanted.iter().rposition(|&wanted| wanted);
        let before: Vec<bool> = self.links.iter().map(|link| link.wanted).collect();
        for (at, link) in self.links.iter_mut().enumerate() {
            link.wanted = wanted[at];
            link.needed = link.wanted || left > 0 || last.is_some_and(|last| at < last);
        }
        for at in (0..self.links.len()).filter(|&at| wanted[at] && !before[at]) {
            for member in 0..self.members.len() as u32 {
                self.add_post(member, at);
            }
        }
        if wanted != before {
            self.watch_due = 0;
            for member in 0..self.members.len() as u32 {
                self.break_after_make(now, member);
            }
        }
        self.links.iter_mut().for_each(Link::forget);
    }

    /// Once a registration is up at all wanted engines, and they are as many as they are to be, it
    /// leaves the others.
    pub(super) fn break_after_make(&mut self, now: Nanos, member: u32) {
        let made = &self.members[member as usize];
        if !made.is_live || made.is_ending {
            return;
        }
        let is_up = |post: u32| post != NO_POST && self.posts[post as usize].stage == Stage::Up;
        let up = self.links.iter().zip(&made.posts);
        if up.filter(|(link, post)| link.wanted && is_up(**post)).count() < self.replicas {
            return;
        }
        for at in 0..self.links.len() {
            let post = self.members[member as usize].posts[at];
            if !self.links[at].wanted && post != NO_POST {
                self.leave(now, post);
            }
        }
    }

    /// An engine has answered.
    pub(super) fn heard(&mut self, now: Nanos, at: usize) {
        if !self.links[at].answers() {
            self.watch_due = 0;
        }
        let Some(silent_for) = self.links[at].heard(now) else { return };
        let engine = self.links[at].name.clone();
        let silent_for = Duration::from_nanos(silent_for);
        self.tell(Event::EngineBack { engine, silent_for }, None);
        self.choose(now);
    }

    /// An engine has not answered for too long. Beats for it go on; requests wait.
    pub(super) fn falls_silent(&mut self, now: Nanos, at: usize) {
        let since = self.links[at].falls_silent(now, &mut self.random);
        for request in self.links[at].end_all() {
            let post = self.posts[request.post as usize];
            match post.stage {
                Stage::Asking if post.is_ending => self.free(request.post),
                Stage::Asking => self.enqueue(request.post),
                Stage::Up => self.links[at].updates.push_back(request.post),
                _ => {}
            }
        }
        let engine = self.links[at].name.clone();
        let since = Duration::from_nanos(now.saturating_sub(since));
        self.tell(Event::EngineSilent { engine, since }, None);
        self.outbox.push_back(Next::Resolve(at));
        self.watch_due = 0;
        self.choose(now);
    }

    /// What was refused for good may be taken by another engine process.
    pub(super) fn ask_refused_again(&mut self, at: usize) {
        for post in 0..self.posts.len() as u32 {
            let refused = &self.posts[post as usize];
            if refused.link == at && matches!(refused.stage, Stage::Refused(_)) {
                self.enqueue(post);
            }
        }
    }

    /// The address on this side is another one. Cookies are bound to it, and so are instances that
    /// serve at the source address: those give their leases back, because an identity that lives
    /// can't be registered from another address, and register anew.
    pub(super) fn address_changed(&mut self, now: Nanos, at: usize, address: IpAddr) {
        self.links[at].cookie = 0;
        let engine = self.links[at].name.clone();
        self.tell(Event::AddressChanged { engine, address }, None);
        for post in 0..self.posts.len() as u32 {
            let moved = self.posts[post as usize];
            let is_at_source = || self.members[moved.member as usize].body.address == [0_u8; 16];
            if moved.link != at || moved.stage == Stage::Free || !is_at_source() {
                continue;
            }
            match moved.stage {
                Stage::Up => {
                    self.leave(now, post);
                    self.posts[post as usize].renews = true;
                }
                // The lease that may have been granted is another address's.
                Stage::Queued | Stage::Waiting(_) => self.posts[post as usize].nonce = 0,
                Stage::Asking => self.posts[post as usize].renews = true,
                _ => {}
            }
        }
    }
}
