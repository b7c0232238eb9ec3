//! The agent as a program uses it.

use super::driver::{Callback, Driver, Shared, WAKE};
use super::event::{Event, Health};
use super::instance::Instance;
use super::limits::STOP_MAX;
use super::local::directories;
use super::machine::Machine;
use super::random::Random;
use super::registered::Registered;
use super::sockets::{Place, Socket, places};
use crate::error::ClientError;
use crate::resolver::{Keeper, Watch, WatchOptions};
use mio::{Poll, Token};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::ThreadId;
use std::time::Duration;

/// Names the engines where a program names none.
const VARIABLE: &str = "HEARTLINE_ENGINE";
/// The engine where nobody names one; the port is the default one.
const DEFAULT: &str = "127.0.0.1";

/// Registers instances and beats for them, in one background thread, for as long as a handle lives.
///
/// Clones are handles of the same agent. When the last of them and of its [`Registered`] is
/// dropped, at a normal end or by a panic that unwinds, every instance leaves: the drop waits up to
/// 200 ms for the engines to say that they know. `std::process::exit`, a panic that aborts and a
/// signal that kills drop nothing: then instances are down when their TTL is over.
///
/// ```no_run
/// use heartline_client::{Agent, Event, Instance};
///
/// # fn main() -> Result<(), heartline_client::ClientError> {
/// let agent = Agent::builder("engine-1,engine-2:19528")
///     .replicas(2)
///     .on_event(|event| if let Event::Replaced { instance, .. } = event {
///         eprintln!("{instance} was taken over");
///     })
///     .build()?;
/// let web = agent.register(Instance::new("web", 8080).zone("eu-1a"))?;
/// web.set_load(17);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

/// What the handles of an agent own together.
pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    thread: ThreadId,
}

/// Settings of an agent that is to start.
pub struct AgentBuilder {
    engines: String,
    replicas: usize,
    state: Option<PathBuf>,
    callback: Option<Callback>,
}

impl Agent {
    /// Starts an agent of these engines: addresses or host names, separated by commas, with or
    /// without a port (19528). The first one that answers is used; when it falls silent, the next.
    ///
    /// With an empty list [`Agent::from_env`]. No engine needs to be there yet.
    ///
    /// # Errors
    /// [`ClientError::Value`]: the list can't be read. [`ClientError::Io`]: the kernel gave no
    /// thread, no `epoll` or no random numbers.
    pub fn connect(engines: &str) -> Result<Self, ClientError> {
        Self::builder(engines).build()
    }

    /// Starts an agent of the engines in the variable `HEARTLINE_ENGINE`, or else of the one at
    /// 127.0.0.1:19528.
    ///
    /// # Errors
    /// As for [`Agent::connect`].
    pub fn from_env() -> Result<Self, ClientError> {
        Self::connect("")
    }

    /// An agent with settings of its own.
    pub fn builder(engines: &str) -> AgentBuilder {
        AgentBuilder { engines: engines.into(), replicas: 1, state: None, callback: None }
    }

    /// Registers an instance: the agent beats for it until the result is dropped. This does not
    /// wait for an engine; see [`Registered::wait_up`].
    ///
    /// A second registration of one identity replaces the first.
    ///
    /// # Errors
    /// [`ClientError::Text`], [`ClientError::Attributes`], [`ClientError::Value`]: something does
    /// not fit the format.
    pub fn register(&self, instance: Instance) -> Result<Registered, ClientError> {
        let registration = self.inner.shared.lock().machine.register(&instance)?;
        self.inner.shared.wake();
        Ok(Registered::new(self.inner.clone(), registration))
    }

    /// Watches a service: its view is kept current until the last handle is dropped. This does not
    /// wait for an engine; see [`Watch::wait_ready`].
    ///
    /// # Errors
    /// [`ClientError::Text`]: this is no name of a service.
    pub fn watch(&self, service: &str) -> Result<Watch, ClientError> {
        self.watch_with(service, WatchOptions::default())
    }

    /// The same with options of its own. Handles with the same options share a view.
    ///
    /// # Errors
    /// As for [`Agent::watch`].
    pub fn watch_with(&self, service: &str, options: WatchOptions) -> Result<Watch, ClientError> {
        let shared = &self.inner.shared;
        let watch = shared.lock().machine.watch(service, options, shared.start())?;
        shared.wake();
        Ok(watch.kept_by(self.inner.clone()))
    }

    /// Events from now on. The channel holds 1,024; a reader that is too slow is told how many it
    /// missed ([`Event::EventsLost`]).
    pub fn events(&self) -> Receiver<Event> {
        self.inner.shared.lock().subscribe()
    }

    /// How the agent and its engines do.
    pub fn health(&self) -> Health {
        let now = self.inner.shared.now();
        let core = self.inner.shared.lock();
        Health { events_lost: core.events_lost, ..core.machine.health(now) }
    }
}

impl AgentBuilder {
    /// Sets at how many engines each instance is registered at once, so that the loss of one is
    /// invisible; 1 unless set, and never more than there are.
    #[must_use]
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// Sets the state directory of an engine on this machine. Unless set, it is looked for where
    /// `HEARTLINE_STATE` says, and at the usual places. There the engine is shown the leases, so
    /// that instances are down at once when this process dies, and its memory is read.
    #[must_use]
    pub fn state(mut self, directory: impl Into<PathBuf>) -> Self {
        self.state = Some(directory.into());
        self
    }

    /// Sets what is called with each event, in the thread that beats: it has to be short.
    #[must_use]
    pub fn on_event(mut self, callback: impl Fn(&Event) + Send + 'static) -> Self {
        self.callback = Some(Box::new(callback));
        self
    }

    /// Starts the agent.
    ///
    /// # Errors
    /// As for [`Agent::connect`].
    pub fn build(self) -> Result<Agent, ClientError> {
        let named = Some(self.engines).filter(|engines| !engines.trim().is_empty());
        let named = named.or_else(|| std::env::var(VARIABLE).ok());
        let named = named.filter(|engines| !engines.trim().is_empty());
        let places = places(named.as_deref().unwrap_or(DEFAULT))?;
        let names: Vec<Arc<str>> = places.iter().map(|place| place.text.clone()).collect();
        let machine = Machine::new(&names, self.replicas, [random()?, random()?]);
        let poll = Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), WAKE)?;
        let shared = Arc::new(Shared::new(machine, waker));
        let socket = |(link, place): (usize, Place)| Socket::new(place, Token(link));
        let sockets = places.into_iter().enumerate().map(socket).collect();
        let driver = Driver::new(
            shared.clone(),
            poll,
            sockets,
            self.callback,
            self.state.map_or_else(directories, |state| vec![state]),
            Random::new([random()?, random()?]),
        );
        let thread = std::thread::Builder::new().name("heartline-agent".into());
        let thread = thread.spawn(move || driver.run())?.thread().id();
        Ok(Agent { inner: Arc::new(Inner { shared, thread }) })
    }
}

fn random() -> Result<u64, ClientError> {
    getrandom::u64().map_err(|error| ClientError::Io(error.into()))
}

impl Keeper for Inner {}

impl fmt::Debug for Inner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.lock().machine.fmt(formatter)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.lock().is_stopping = true;
        self.shared.wake();
        // The thread itself may drop the last handle, in a callback: it can't wait for itself.
        if std::thread::current().id() != self.thread {
            // A little longer than the thread takes at most, so that it is seen to end.
            let longest = Duration::from_nanos(STOP_MAX) * 5 / 4;
            self.shared.wait_until(longest, |core| core.has_ended);
        }
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Agent").field(&self.inner).finish()
    }
}

impl fmt::Debug for AgentBuilder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AgentBuilder { engines, replicas, .. } = self;
        write!(formatter, "AgentBuilder({engines:?}, {replicas} replicas)")
    }
}
