//! The handle of one registration.

use super::event::Standing;
use super::handle::Inner;
use super::limits::DEREGISTER_MAX;
use super::machine::{Machine, RegistrationId};
use crate::error::ClientError;
use crate::registration::Change;
use heartline_wire::Declared;
use heartline_wire::time::Nanos;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// An instance that an agent beats for. Dropped, it is deregistered.
///
/// Calls don't wait for the engine. What they say is sent at once, or with the next beat, and again
/// whenever the instance is registered again.
pub struct Registered {
    inner: Arc<Inner>,
    registration: RegistrationId,
}

impl Registered {
    pub(super) fn new(inner: Arc<Inner>, registration: RegistrationId) -> Self {
        Self { inner, registration }
    }

    /// How it stands.
    pub fn state(&self) -> Standing {
        self.inner.shared.lock().machine.standing(self.registration)
    }

    /// Waits until it is up at an engine, but not for longer than this.
    ///
    /// # Errors
    /// How it stands instead: the time is over, or nothing would come of waiting
    /// ([`Standing::is_final`]).
    pub fn wait_up(&self, longest: Duration) -> Result<(), Standing> {
        let shared = &self.inner.shared;
        let registration = self.registration;
        let outcome = |standing| outcome(standing);
        shared.wait_until(longest, |core| outcome(core.machine.standing(registration)).is_ready());
        match outcome(self.state()) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Err(self.state()),
        }
    }

    /// Completes once it is up at an engine, or with how it stands if that is final. It can be
    /// awaited in any runtime.
    pub fn up(&self) -> WhenUp {
        WhenUp { inner: self.inner.clone(), registration: self.registration }
    }

    /// Sets how busy it is, in its own unit; less is less busy. The next beat says so.
    pub fn set_load(&self, load: u16) {
        self.inner.shared.lock().machine.set_load(self.registration, load);
    }

    /// Sets its share of weighted picks; 0 is never picked by weight.
    pub fn set_weight(&self, weight: u16) {
        let change = Change { weight: Some(weight), ..Change::default() };
        // A weight has no attributes that could be wrong.
        let _ = self.update(&change);
    }

    /// Changes weight, load, version or attributes.
    ///
    /// # Errors
    /// [`ClientError::Attributes`], [`ClientError::Value`]: the attributes do not fit the format.
    pub fn update(&self, change: &Change) -> Result<(), ClientError> {
        self.call(|machine, _| machine.update(self.registration, change))
    }

    /// It takes requests.
    pub fn serve(&self) {
        self.declare(Declared::Serving);
    }

    /// It finishes what it has and wants nothing new.
    pub fn drain(&self) {
        self.declare(Declared::Draining);
    }

    /// It is out of service on purpose.
    pub fn maintenance(&self) {
        self.declare(Declared::Maintenance);
    }

    fn declare(&self, declared: Declared) {
        self.call(|machine, now| machine.declare(now, self.registration, declared));
    }

    /// Ends it, and waits up to 1.4 s until the engines have said that they know. After an error
    /// the agent goes on saying so for a few seconds.
    ///
    /// # Errors
    /// The standing [`Standing::Silent`]: an engine did not answer in this time.
    pub fn deregister(self) -> Result<(), Standing> {
        let registration = self.registration;
        self.call(|machine, now| machine.deregister(now, registration));
        let longest = Duration::from_nanos(DEREGISTER_MAX);
        let shared = &self.inner.shared;
        let has_ended = shared.wait_until(longest, |core| core.machine.has_ended(registration));
        if has_ended { Ok(()) } else { Err(Standing::Silent) }
    }

    /// Calls the machine, and lets the thread do what follows.
    fn call<T>(&self, call: impl FnOnce(&mut Machine, Nanos) -> T) -> T {
        let now = self.inner.shared.now();
        let result = call(&mut self.inner.shared.lock().machine, now);
        self.inner.shared.wake();
        result
    }
}

fn outcome(standing: Standing) -> Poll<Result<(), Standing>> {
    match standing {
        Standing::Up { .. } => Poll::Ready(Ok(())),
        other if other.is_final() => Poll::Ready(Err(other)),
        _ => Poll::Pending,
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.call(|machine, now| machine.deregister(now, self.registration));
    }
}

impl fmt::Debug for Registered {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Registered").field(&self.state()).finish()
    }
}

/// Completes once a registration is up; see [`Registered::up`].
pub struct WhenUp {
    inner: Arc<Inner>,
    registration: RegistrationId,
}

impl Future for WhenUp {
    type Output = Result<(), Standing>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut core = self.inner.shared.lock();
        if core.has_ended {
            return Poll::Ready(Err(Standing::Ended));
        }
        let standing = core.machine.standing(self.registration);
        let outcome = outcome(standing);
        if outcome.is_pending() {
            let tasks = core.tasks.entry(self.registration).or_default();
            if !tasks.iter().any(|task| task.will_wake(context.waker())) {
                tasks.push(context.waker().clone());
            }
        }
        outcome
    }
}

impl fmt::Debug for WhenUp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("WhenUp")
    }
}
