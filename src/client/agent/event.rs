//! What an agent tells of: changes of its registrations and engines, and its own health.

use heartline_wire::Status;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Which instance: its service and its name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(Arc<(String, String)>);

impl Identity {
    pub(super) fn new(service: &str, instance: &str) -> Self {
        Self(Arc::new((service.into(), instance.into())))
    }

    /// The service.
    pub fn service(&self) -> &str {
        &self.0.0
    }

    /// The name of the instance.
    pub fn instance(&self) -> &str {
        &self.0.1
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.service(), self.instance())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Something that happened. Engines are named as the agent was told them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// An engine granted a lease; beats for it go out from here on.
    Up {
        /// Which instance.
        instance: Identity,
        /// Where.
        engine: Arc<str>,
    },
    /// An engine does not know the lease any more. The agent registers again by itself.
    Lost {
        /// Which instance.
        instance: Identity,
        /// Where.
        engine: Arc<str>,
        /// [`Status::Unknown`] or [`Status::Removed`].
        status: Status,
    },
    /// Somebody else registered the same identity. This registration has ended everywhere; the
    /// agent does not take the identity back.
    Replaced {
        /// Which instance.
        instance: Identity,
        /// Where.
        engine: Arc<str>,
    },
    /// An engine refuses the registration or its update, and would again. Nothing is repeated until
    /// the next update, or until another engine is in its place.
    Refused {
        /// Which instance.
        instance: Identity,
        /// Where.
        engine: Arc<str>,
        /// Why.
        status: Status,
        /// With [`Status::Invalid`]: offset of the wrong field in the request.
        field: u16,
    },
    /// An engine has no room at this moment, or the identity lives elsewhere. Asked again later.
    BackOff {
        /// Which instance.
        instance: Identity,
        /// Where.
        engine: Arc<str>,
        /// Why.
        status: Status,
        /// When it is asked again.
        wait: Duration,
    },
    /// The registration has ended at every engine, as it was told to.
    Ended {
        /// Which instance.
        instance: Identity,
    },
    /// An engine has not answered for so long. Beats for it go on.
    EngineSilent {
        /// Which engine.
        engine: Arc<str>,
        /// Time since the first request without an answer.
        since: Duration,
    },
    /// A silent engine answers again.
    EngineBack {
        /// Which engine.
        engine: Arc<str>,
        /// For how long it was silent.
        silent_for: Duration,
    },
    /// Another engine process is in the place of the one before. Leases may stand all the same.
    EngineRestarted {
        /// Which engine.
        engine: Arc<str>,
    },
    /// The address of this machine towards an engine has changed. Instances that serve at the
    /// source address are registered anew.
    AddressChanged {
        /// Which engine.
        engine: Arc<str>,
        /// The new address.
        address: IpAddr,
    },
    /// The thread of the agent ran late: this process or machine was starved or stopped.
    Late {
        /// By how much.
        by: Duration,
    },
    /// The reader of this channel was too slow.
    EventsLost {
        /// How many events are missing here.
        count: u64,
    },
}

/// How a registration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// It is being registered.
    Pending,
    /// It is registered and beats.
    Up {
        /// Engines at which it is.
        engines: usize,
    },
    /// It beats for a lease, and no engine answers.
    Silent,
    /// Refused for now; asked again later.
    BackOff(Status),
    /// Refused for good; an update tries again.
    Refused(Status),
    /// Somebody else has registered the identity; this registration has ended.
    Replaced,
    /// It has ended.
    Ended,
}

impl Standing {
    /// Whether nothing will come of waiting for it to be up.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Refused(_) | Self::Replaced | Self::Ended)
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pending => formatter.write_str("no engine has answered yet"),
            Self::Up { engines } => write!(formatter, "registered at {engines}"),
            Self::Silent => formatter.write_str("registered, and no engine answers"),
            Self::BackOff(status) => write!(formatter, "refused for now: {status}"),
            Self::Refused(status) => write!(formatter, "refused: {status}"),
            Self::Replaced => formatter.write_str("registered anew by another process"),
            Self::Ended => formatter.write_str("deregistered"),
        }
    }
}

impl std::error::Error for Standing {}

/// How late something was: how often, and by how much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lateness {
    /// How often.
    pub count: u64,
    /// By how much at most.
    pub max: Duration,
    /// By how much the last time.
    pub last: Duration,
}

impl Lateness {
    pub(super) fn note(&mut self, by: Duration, count: u64) {
        self.count += count;
        self.max = self.max.max(by);
        self.last = by;
    }
}

/// How an agent and its engines do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Beats sent.
    pub beats: u64,
    /// Beats sent late. The fault is on this side.
    pub late_beats: Lateness,
    /// Wake-ups of the thread that came late: this process or machine was starved or stopped.
    pub starvation: Lateness,
    /// Datagrams that the kernel did not take.
    pub send_failures: u64,
    /// Events that no channel had room for.
    pub events_lost: u64,
    /// The engines, in the order in which they were given.
    pub engines: Vec<EngineHealth>,
}

/// How one engine does, as an agent sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineHealth {
    /// As it was given.
    pub name: Arc<str>,
    /// Whether instances are to be registered there.
    pub is_wanted: bool,
    /// Time since the first request without an answer, once the engine counts as silent.
    pub silent_for: Option<Duration>,
    /// Random number of its run; 0: it never answered.
    pub epoch: u64,
    /// Instances that beat there.
    pub beating: usize,
    /// Datagrams to it that the kernel did not take.
    pub send_failures: u64,
}
