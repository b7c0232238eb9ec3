//! A blocking session with one engine: one socket, one request at a time, time-outs and retries.

use super::call::{ATTEMPTS, Caller, Failure, Step};
use heartline_wire::limits::{BEATS_PER_FRAME_MAX, FRAME_BYTES_MAX};
use heartline_wire::time::Nanos;
use heartline_wire::*;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Why a request has no answer. The session goes on working.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket failed.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    /// No reply came; the request may or may not have been done.
    #[error("no reply from {0} after {ATTEMPTS} attempts")]
    Timeout(SocketAddr),
    /// The engine refused. `field` is the offset of the wrong field when the status is `Invalid`.
    #[error("refused: {status:?}{}", if *.status == Status::Invalid { format!(" (field at byte {field})") } else { String::new() })]
    Refused {
        /// Why.
        status: Status,
        /// Offset of the wrong field in the request.
        field: u16,
    },
    /// A value does not fit its field.
    #[error("{what} {source}")]
    Text {
        /// Which.
        what: &'static str,
        /// Why.
        source: TextError,
    },
    /// Attributes, TTL or another number outside what the format can say.
    #[error("{0}")]
    Value(&'static str),
}

/// What to register.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Service name, 1 to 63 visible ASCII characters.
    pub service: String,
    /// Instance name, likewise.
    pub instance: String,
    /// Where it serves; an unspecified IP address stands for the one the request comes from.
    pub address: SocketAddr,
    /// Zone, up to 31 characters; may be empty.
    pub zone: String,
    /// Version.
    pub version: Version,
    /// Weight.
    pub weight: u16,
    /// Tags and `key=value` pairs.
    pub attributes: Vec<String>,
    /// Time to live, in whole milliseconds.
    pub ttl: Duration,
    /// What the instance says of itself until its first beat; one that is not ready yet declares
    /// maintenance.
    pub declared: Declared,
    /// The same nonce gets the same lease again; 0: a random one.
    pub nonce: u64,
}

impl Registration {
    /// An instance that serves, with weight 100 and a TTL of 3 seconds, at the address of this machine.
    pub fn new(service: &str, instance: &str, port: u16) -> Self {
        Self {
            service: service.into(),
            instance: instance.into(),
            address: SocketAddr::from(([0, 0, 0, 0], port)),
            zone: String::new(),
            version: Version::default(),
            weight: 100,
            attributes: Vec::new(),
            ttl: Duration::from_secs(3),
            declared: Declared::Serving,
            nonce: 0,
        }
    }

    /// The request body and the attribute tail. The cookie is left 0.
    pub fn encode(&self) -> Result<(Register, Vec<u8>), ClientError> {
        let text = |what: &'static str| move |source: TextError| ClientError::Text { what, source };
        let tail = attribute_tail(&self.attributes)?;
        let mut body = Register::new_zeroed();
        body.nonce = U64::new(self.nonce);
        body.address =
            if self.address.ip().is_unspecified() { [0; 16] } else { map_ip(self.address.ip()) };
        body.port = U16::new(self.address.port());
        body.weight = U16::new(self.weight);
        body.ttl_ms = U32::new(
            u32::try_from(self.ttl.as_millis())
                .map_err(|_| ClientError::Value("the TTL is longer than 24 hours"))?,
        );
        body.version = self.version;
        body.attributes_len = U16::new(tail.len() as u16);
        body.declared = self.declared as u8;
        body.zone = Label::new(&self.zone).map_err(text("zone"))?;
        body.service = Name::new(&self.service).map_err(text("service"))?;
        body.instance = Name::new(&self.instance).map_err(text("instance"))?;
        Ok((body, tail))
    }
}

fn attribute_tail(attributes: &[String]) -> Result<Vec<u8>, ClientError> {
    encode_attributes(attributes).map_err(|error| {
        ClientError::Value(match error {
            AttributesError::Entry => "an attribute is longer than 255 bytes",
            AttributesError::Whole => "the attributes are longer than 512 bytes together",
        })
    })
}

/// A lease as it was granted.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    /// The lease.
    pub lease: Lease,
    /// Run of the engine.
    pub epoch: u64,
    /// How often the engine wants a beat.
    pub interval: Duration,
    /// When it wants the first.
    pub phase: Duration,
}

/// What became of a frame of beats.
#[derive(Clone, Debug)]
pub enum Beats {
    /// All were for leases that stand.
    Acked(Ack),
    /// Some were refused; these, with their reasons. The others counted.
    Refused(Vec<Nak>),
}

/// Which instance to describe.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// By service and instance name.
    Names(&'a str, &'a str),
    /// By slot and generation, from an endpoint or a lease.
    Slot(u32, u32),
}

/// Everything about one instance.
#[derive(Clone, Debug)]
pub struct Described {
    /// The fixed part.
    pub facts: Description,
    /// Tags and `key=value` pairs.
    pub attributes: Vec<String>,
}

/// What to discover.
#[derive(Clone, Debug)]
pub struct Query {
    /// Service name.
    pub service: String,
    /// How to choose.
    pub strategy: Strategy,
    /// Most endpoints; 0: a page for `All`, one for the others.
    pub limit: u16,
    /// [`Filter`] bits.
    pub filter: u8,
    /// For the version filters.
    pub version: Version,
    /// For the zone filters.
    pub zone: String,
    /// For the tag filter.
    pub tag: String,
    /// For `Rendezvous`.
    pub key: u64,
    /// For `All`: where the page before ended.
    pub cursor: u32,
}

impl Query {
    /// All endpoints of a service.
    pub fn new(service: &str) -> Self {
        Self {
            service: service.into(),
            strategy: Strategy::All,
            limit: 0,
            filter: 0,
            version: Version::default(),
            zone: String::new(),
            tag: String::new(),
            key: 0,
            cursor: 0,
        }
    }
}

/// One page of discovery.
#[derive(Clone, Debug)]
pub struct Page {
    /// `Ok`, or why there is no endpoint.
    pub status: Status,
    /// Version of the service's list.
    pub version: u64,
    /// Where the next page starts; 0: this was the last.
    pub cursor: u32,
    /// Percent of instances that were silent when the hold that is on began; 0 with no hold.
    pub hold_percent: u8,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A whole list, read within one version.
#[derive(Clone, Debug)]
pub struct Discovered {
    /// Why the list is empty, or `Ok`.
    pub status: Status,
    /// The version it has.
    pub version: u64,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A session with one engine.
#[derive(Debug)]
pub struct Session {
    socket: UdpSocket,
    engine: SocketAddr,
    caller: Caller,
    /// Times are counted from here.
    start: Instant,
}

impl Session {
    /// Opens a socket to an engine. Nothing is sent yet.
    pub fn connect(engine: SocketAddr) -> Result<Self, ClientError> {
        let any = if engine.is_ipv6() {
            SocketAddr::from(([0_u16; 8], 0))
        } else {
            SocketAddr::from(([0_u8; 4], 0))
        };
        Self::from_socket(UdpSocket::bind(any)?, engine)
    }

    /// Uses a socket that the caller bound.
    pub fn from_socket(socket: UdpSocket, engine: SocketAddr) -> Result<Self, ClientError> {
        socket.connect(engine)?;
        Ok(Self { socket, engine, caller: Caller::new(random()?), start: Instant::now() })
    }

    /// Sets the time to the first retry.
    pub fn set_patience(&mut self, patience: Duration) {
        self.caller.set_patience(patience.as_nanos() as Nanos);
    }

    /// The socket.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Proves the address, and learns epoch and limits.
    pub fn hello(&mut self) -> Result<Welcome, ClientError> {
        let reply = self.call(Kind::Hello, &[Hello::new_zeroed().as_bytes()])?;
        let ReplyBody::Welcome(welcome) = accept(reply)? else { return Err(unexpected()) };
        Ok(*welcome)
    }

    /// Asks for a lease.
    pub fn register(&mut self, registration: &Registration) -> Result<Grant, ClientError> {
        let (mut body, tail) = registration.encode()?;
        if body.nonce.get() == 0 {
            body.nonce = U64::new(random()? | 1);
        }
        let reply = self.call(Kind::Register, &[body.as_bytes(), &tail])?;
        let ReplyBody::Granted(granted) = accept(reply)? else { return Err(unexpected()) };
        Ok(Grant {
            lease: granted.lease,
            epoch: granted.epoch.get(),
            interval: Duration::from_micros(granted.interval_us.get().into()),
            phase: Duration::from_micros(granted.phase_us.get().into()),
        })
    }

    /// Sends a frame of 1 to 50 beats and does not wait.
    pub fn send_beats(&mut self, beats: &[Beat]) -> Result<(), ClientError> {
        check_beats(beats)?;
        let frame = self.caller.datagram(Kind::Beat, beats.len() as u16, 0, &[beats.as_bytes()]);
        // The first error may tell of an earlier datagram to a port where nobody listened; then
        // this one was not sent.
        match self.socket.send(frame) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.socket.send(frame)?
            }
            other => other?,
        };
        Ok(())
    }

    /// Sends a frame of 1 to 50 beats and waits for what became of them.
    pub fn beat(&mut self, beats: &[Beat]) -> Result<Beats, ClientError> {
        check_beats(beats)?;
        match self
            .ask(Kind::Beat, beats.len() as u16, header_flags::ACK_WANTED, &[beats.as_bytes()])?
            .body
        {
            ReplyBody::Ack(ack) => Ok(Beats::Acked(*ack)),
            ReplyBody::Nak(_, naks) => Ok(Beats::Refused(naks.to_vec())),
            _ => Err(unexpected()),
        }
    }

    /// Changes an instance. The attributes are those to replace the old ones, when `fields` says
    /// so.
    pub fn update(&mut self, change: &Update, attributes: &[String]) -> Result<(), ClientError> {
        let tail = attribute_tail(attributes)?;
        let body = Update { attributes_len: U16::new(tail.len() as u16), ..*change };
        let reply = self.call(Kind::Update, &[body.as_bytes(), &tail])?;
        accept(reply).map(drop)
    }

    /// Gives a lease back. A lease that has ended already is no error: the reply to an earlier
    /// attempt may have been lost.
    pub fn deregister(&mut self, lease: &Lease) -> Result<(), ClientError> {
        let reply = self.call(Kind::Deregister, &[lease.as_bytes()])?;
        match accept(reply) {
            Err(ClientError::Refused { status: Status::Removed, .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Everything about one instance.
    pub fn describe(&mut self, target: Target<'_>) -> Result<Described, ClientError> {
        let text = |what: &'static str| move |source: TextError| ClientError::Text { what, source };
        let mut body = Describe::new_zeroed();
        match target {
            Target::Names(service, instance) => {
                body.service = Name::new(service).map_err(text("service"))?;
                body.instance = Name::new(instance).map_err(text("instance"))?;
            }
            Target::Slot(slot, generation) => {
                body.slot = U32::new(slot);
                body.generation = U32::new(generation);
            }
        }
        let reply = self.call(Kind::Describe, &[body.as_bytes()])?;
        let ReplyBody::Description(facts, tail) = accept(reply)? else { return Err(unexpected()) };
        let attributes = AttributeEntries::new(tail)
            .map(|entry| String::from_utf8_lossy(entry).into_owned())
            .collect();
        Ok(Described { facts: *facts, attributes })
    }

    /// One page of services from a cursor on, and the cursor of the next.
    pub fn services_page(
        &mut self,
        cursor: u32,
    ) -> Result<(ServicesHead, Vec<ServiceEntry>), ClientError> {
        let mut body = Services::new_zeroed();
        body.cursor = U32::new(cursor);
        let reply = self.call(Kind::Services, &[body.as_bytes()])?;
        let ReplyBody::Services(head, entries) = accept(reply)? else { return Err(unexpected()) };
        Ok((*head, entries.to_vec()))
    }

    /// Every service there is.
    pub fn services(&mut self) -> Result<Vec<ServiceEntry>, ClientError> {
        let (mut services, mut cursor) = (Vec::new(), 0);
        loop {
            let (head, entries) = self.services_page(cursor)?;
            services.extend(entries);
            cursor = head.cursor.get();
            if cursor == 0 {
                return Ok(services);
            }
        }
    }

    /// One page of endpoints. That there are none is an answer, not an error: see [`Page::status`].
    pub fn discover(&mut self, query: &Query) -> Result<Page, ClientError> {
        let text = |what: &'static str| move |source: TextError| ClientError::Text { what, source };
        let body = Discover {
            cookie: U64::ZERO,
            service: U64::new(service_id(&query.service)),
            key: U64::new(query.key),
            version: query.version,
            cursor: U32::new(query.cursor),
            limit: U16::new(query.limit),
            strategy: query.strategy as u8,
            filter: query.filter,
            zone: Label::new(&query.zone).map_err(text("zone"))?,
            tag: Label::new(&query.tag).map_err(text("tag"))?,
        };
        let reply = self.call(Kind::Discover, &[body.as_bytes()])?;
        let (status, field) = (reply.status, reply.header.count.get());
        match (status, reply.body) {
            (Status::NoService, _) => {
                Ok(Page { status, version: 0, cursor: 0, hold_percent: 0, endpoints: Vec::new() })
            }
            (
                Status::Ok | Status::NoneRegistered | Status::NoneHealthy | Status::AllFiltered,
                ReplyBody::Endpoints(head, endpoints),
            ) => Ok(Page {
                status,
                version: head.version.get(),
                cursor: head.cursor.get(),
                hold_percent: head.hold_percent,
                endpoints: endpoints.to_vec(),
            }),
            _ => Err(ClientError::Refused { status, field }),
        }
    }

    /// The whole list of a service, page by page; begins again when the list changes under way, up
    /// to `restarts` times. `None`: it changed every time.
    pub fn discover_all(
        &mut self,
        service: &str,
        restarts: u32,
    ) -> Result<Option<Discovered>, ClientError> {
        'again: for _ in 0..=restarts {
            let mut query = Query::new(service);
            let first = self.discover(&query)?;
            let mut all = Discovered {
                status: first.status,
                version: first.version,
                endpoints: first.endpoints,
            };
            query.cursor = first.cursor;
            while query.cursor != 0 {
                let page = self.discover(&query)?;
                if page.version != all.version {
                    continue 'again;
                }
                all.endpoints.extend(page.endpoints);
                query.cursor = page.cursor;
            }
            return Ok(Some(all));
        }
        Ok(None)
    }

    /// The engine's counters, in the order of [`Stat`]; ask with `stats[Stat::Up as usize]`.
    pub fn stats(&mut self) -> Result<Vec<u64>, ClientError> {
        let reply = self.call(Kind::Stats, &[StatsRequest::new_zeroed().as_bytes()])?;
        let ReplyBody::Stats(numbers) = accept(reply)? else { return Err(unexpected()) };
        Ok(numbers.iter().map(|number| number.get()).collect())
    }

    /// Sends a request until it is answered with more than "prove your address" or "busy".
    fn call(&mut self, kind: Kind, parts: &[&[u8]]) -> Result<Reply<'_>, ClientError> {
        self.ask(kind, 0, 0, parts)
    }

    fn ask(
        &mut self,
        kind: Kind,
        count: u16,
        flags: u8,
        parts: &[&[u8]],
    ) -> Result<Reply<'_>, ClientError> {
        self.caller.begin(kind, count, flags, parts);
        let mut frame = [0; FRAME_BYTES_MAX];
        loop {
            match self.caller.step(self.now()) {
                Step::Send(frame) => match self.socket.send(frame) {
                    // The engine is not there (yet): an ICMP message to an earlier attempt.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                    other => drop(other?),
                },
                Step::Wait(until) => {
                    if let Some(length) = self.receive(until, &mut frame)? {
                        self.caller.receive(self.now(), &frame[..length]);
                    }
                }
                Step::Answered => return Ok(self.caller.reply()),
                Step::Failed(Failure::Timeout) => return Err(ClientError::Timeout(self.engine)),
                Step::Failed(Failure::Refused(status)) => {
                    return Err(ClientError::Refused { status, field: 0 });
                }
            }
        }
    }

    fn now(&self) -> Nanos {
        self.start.elapsed().as_nanos() as Nanos
    }

    /// Waits for a datagram. `None`: none came, but perhaps a signal or an ICMP message did.
    fn receive(
        &mut self,
        until: Nanos,
        frame: &mut [u8; FRAME_BYTES_MAX],
    ) -> Result<Option<usize>, ClientError> {
        let left = Duration::from_nanos(until.saturating_sub(self.now()));
        if left.is_zero() {
            return Ok(None);
        }
        self.socket.set_read_timeout(Some(left))?;
        match self.socket.recv(frame) {
            Ok(length) => Ok(Some(length)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::thread::sleep(left.min(Duration::from_millis(20)));
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The body of a reply that says the request was done; other replies are errors.
fn accept(reply: Reply<'_>) -> Result<ReplyBody<'_>, ClientError> {
    if reply.status == Status::Ok {
        Ok(reply.body)
    } else {
        Err(ClientError::Refused { status: reply.status, field: reply.header.count.get() })
    }
}

fn random() -> Result<u64, ClientError> {
    getrandom::u64().map_err(|error| ClientError::Io(error.into()))
}

fn check_beats(beats: &[Beat]) -> Result<(), ClientError> {
    match beats.len() {
        1..=BEATS_PER_FRAME_MAX => Ok(()),
        _ => Err(ClientError::Value("a frame carries 1 to 50 beats")),
    }
}

fn unexpected() -> ClientError {
    ClientError::Value("the reply does not have the form that its kind and status promise")
}
