//! Followed services: at which engines they are followed, and the views that they make.
//!
//! A service is followed at the engines that registrations are wanted at. An engine that is wanted
//! no more is followed until another has told the list.

use super::link::Presence;
#[cfg(feature = "view")]
use super::machine::LinkId;
use super::machine::{Machine, Next};
#[cfg(feature = "view")]
use super::mirror::Mirrored;
use crate::error::{ClientError, text};
use crate::resolver::{Follow, Received, Resolver, Source, Watch, WatchOptions};
use heartline_wire::time::Nanos;
use heartline_wire::{Kind, Name, Reply};
use std::time::Instant;

/// One service that is followed.
pub(super) struct Watched {
    service: Box<str>,
    /// For each engine, if it is followed there.
    follows: Vec<Option<Follow>>,
    /// Views of it, each with options of its own.
    resolvers: Vec<Resolver>,
}

impl Watched {
    /// Whether an engine that is wanted has told the whole list.
    fn is_told(&self, now: Nanos, wanted: impl Fn(usize) -> bool) -> bool {
        let follows = self.follows.iter().enumerate().filter(|(at, _)| wanted(*at));
        follows.filter_map(|(_, follow)| follow.as_ref()).any(|follow| follow.is_current(now))
    }
}

impl Machine {
    /// Follows a service from now on, and for as long as a handle is left. Times that the handle
    /// tells are counted from `start`, as those that the machine is given.
    ///
    /// # Errors
    /// [`ClientError::Text`]: this is no name of a service.
    pub fn watch(
        &mut self,
        service: &str,
        options: WatchOptions,
        start: Instant,
    ) -> Result<Watch, ClientError> {
        Name::new(service).map_err(text("service"))?;
        self.watch_due = 0;
        let at = match self.watched.iter().position(|watched| &*watched.service == service) {
            Some(at) => at,
            None => {
                let follows = self.links.iter().map(|_| None).collect();
                let service = service.into();
                self.watched.push(Watched { service, follows, resolvers: Vec::new() });
                self.watched.len() - 1
            }
        };
        let resolvers = &mut self.watched[at].resolvers;
        if let Some(same) = resolvers.iter().find(|resolver| *resolver.options() == options) {
            return Ok(same.handle());
        }
        let (resolver, watch) = Resolver::new(service, options, start);
        resolvers.push(resolver);
        Ok(watch)
    }

    /// The next datagram for a followed service, once its time has come. Views are published when
    /// there is none.
    pub(super) fn follow_services(&mut self, now: Nanos) -> Option<Next> {
        if now < self.watch_due {
            return None;
        }
        self.forget_unwatched();
        while let Some((link, mut follow)) = self.farewells.pop() {
            if let Some(frame) = follow.end().filter(|_| self.links[link].is_open) {
                return Some(Next::Scratch(link, self.compose(&[frame.bytes()])));
            }
        }
        for at in 0..self.watched.len() {
            for link in 0..self.links.len() {
                if let Some(next) = self.follow_at(now, at, link) {
                    return Some(next);
                }
            }
        }
        let mut due = Nanos::MAX;
        for at in 0..self.watched.len() {
            due = due.min(self.publish_views(now, at));
        }
        self.watch_due = due;
        None
    }

    /// Services without a handle are followed no more.
    fn forget_unwatched(&mut self) {
        for watched in &mut self.watched {
            watched.resolvers.retain(Resolver::is_watched);
        }
        for at in (0..self.watched.len()).rev() {
            if self.watched[at].resolvers.is_empty() {
                self.forget(at);
            }
        }
    }

    fn forget(&mut self, at: usize) {
        let follows = self.watched.swap_remove(at).follows.into_iter().enumerate();
        self.farewells.extend(follows.filter_map(|(link, follow)| Some((link, follow?))));
    }

    /// Ends all watches, whether there are handles or not.
    pub(super) fn forget_all(&mut self) {
        self.watch_due = 0;
        (0..self.watched.len()).rev().for_each(|at| self.forget(at));
    }

    /// What a service needs at one engine.
    fn follow_at(&mut self, now: Nanos, at: usize, link: usize) -> Option<Next> {
        let (wanted, answers) = (self.links[link].wanted, self.links[link].answers());
        let watched = &mut self.watched[at];
        if wanted && watched.follows[link].is_none() {
            let follow = Follow::new(&watched.service, self.random.next());
            watched.follows[link] = Some(follow);
        }
        if !wanted
            && watched.follows[link].is_some()
            && watched.is_told(now, |link| self.links[link].wanted)
            && let Some(follow) = watched.follows[link].take()
        {
            self.farewells.push((link, follow));
        }
        let follow = self.watched[at].follows[link].as_mut().filter(|_| answers)?;
        let cookie = self.links[link].good_cookie(now);
        let Some(frame) = follow.poll(now, cookie) else {
            self.links[link].wants_cookie |= cookie.is_none() && follow.is_starved();
            return None;
        };
        // A receipt has no answer.
        if frame.bytes()[3] != Kind::Push as u8 {
            self.links[link].waits(now);
        }
        let bytes = self.compose(&[frame.bytes()]);
        Some(Next::Scratch(link, bytes))
    }

    /// Lets the views of a service see what its engines told. When they, or a frame, are due next.
    fn publish_views(&mut self, now: Nanos, at: usize) -> Nanos {
        let (links, watched) = (&self.links, &mut self.watched[at]);
        let follows = watched.follows.iter().zip(links).zip(0..);
        let followed =
            follows.filter_map(|((follow, link), at)| Some((follow.as_ref()?, link, at)));
        let sources: Vec<Source<'_>> = followed
            .clone()
            .map(|(follow, link, engine)| Source { follow, engine, is_reachable: link.answers() })
            .collect();
        for resolver in &mut watched.resolvers {
            resolver.update(now, &sources);
        }
        let frames =
            followed.filter(|(_, link, _)| link.answers()).map(|(follow, ..)| follow.due());
        let views = watched.resolvers.iter().map(Resolver::due);
        frames.chain(views).min().unwrap_or(Nanos::MAX)
    }

    /// A reply or push that is none of the agent's own.
    pub(super) fn followed(&mut self, now: Nanos, link: usize, reply: &Reply<'_>) {
        let tag = reply.header.tag.get();
        let follows = self.watched.iter_mut().filter_map(|watched| watched.follows[link].as_mut());
        let Some(follow) = follows.into_iter().find(|follow| follow.owns_tag(tag)) else { return };
        let received = follow.receive(now, reply);
        let epoch = follow.epoch();
        self.watch_due = 0;
        if received == Received::WantsCookie {
            self.links[link].cookie = 0;
        }
        self.heard(now, link);
        if reply.kind == Kind::Watch && epoch != 0 {
            self.note_epoch(now, link, epoch);
        }
    }

    /// The services that are followed at an engine.
    #[cfg(feature = "view")]
    pub(super) fn watched_at(&self, link: LinkId) -> Vec<String> {
        let followed = self.watched.iter().filter(|watched| watched.follows[link.0].is_some());
        followed.map(|watched| watched.service.to_string()).collect()
    }

    /// A list as it stands in the memory of an engine on this machine.
    #[cfg(feature = "view")]
    pub(super) fn mirror(&mut self, now: Nanos, link: LinkId, service: &str, list: &Mirrored<'_>) {
        self.watch_due = 0;
        let watched = self.watched.iter_mut().find(|watched| &*watched.service == service);
        if let Some(follow) = watched.and_then(|watched| watched.follows[link.0].as_mut()) {
            follow.mirror(now, list);
        }
    }

    /// Another engine process, which knows those watches only that it has answered; or, without an
    /// epoch, another address on this side.
    pub(super) fn watch_again(&mut self, now: Nanos, link: usize, epoch: Option<u64>) {
        self.watch_due = 0;
        let follows = self.watched.iter_mut().filter_map(|watched| watched.follows[link].as_mut());
        for follow in follows.filter(|follow| epoch != Some(follow.epoch())) {
            follow.restart(now);
        }
    }
}

impl super::link::Link {
    /// Whether the engine can be asked.
    pub(super) fn answers(&self) -> bool {
        self.is_open && self.presence == Presence::Answers
    }
}
