//! A blocking session with one engine: one socket, one request at a time, time-outs and retries.

use crate::call::{Caller, Failure, Step};
use crate::error::{ClientError, text};
use crate::facts::{Description, Service, Services, Stats, Target, Welcome};
use crate::lease::{Beat, Beats, Grant, Lease, Refusal};
use crate::query::{Discovered, Endpoint, Page, Query};
use crate::registration::{Change, Registration, encode};
use heartline_wire::limits::{BEATS_PER_FRAME_MAX, FRAME_BYTES_MAX};
use heartline_wire::time::Nanos;
use heartline_wire::{
    self as wire, Describe, Hello, Kind, Name, Reply, ReplyBody, StatsRequest, Status, header_flags,
};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use zerocopy::{FromZeros, IntoBytes};

/// A session with one engine.
///
/// Every request waits for its reply and is repeated while none comes: 200 ms at first, then twice
/// as long each time, five times in all. So it fails with [`ClientError::Timeout`] after 6.2 s;
/// [`ClientError::Io`] says that the socket failed, [`ClientError::Refused`] why the engine said
/// no.
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
    ///
    /// # Errors
    /// [`ClientError::Io`]: no socket could be opened.
    pub fn connect(engine: SocketAddr) -> Result<Self, ClientError> {
        let any = if engine.is_ipv6() {
            SocketAddr::from(([0_u16; 8], 0))
        } else {
            SocketAddr::from(([0_u8; 4], 0))
        };
        Self::from_socket(UdpSocket::bind(any)?, engine)
    }

    /// Uses a socket that the caller bound, and connects it.
    ///
    /// # Errors
    /// [`ClientError::Io`]: the socket can't be connected to that address.
    pub fn from_socket(socket: UdpSocket, engine: SocketAddr) -> Result<Self, ClientError> {
        socket.connect(engine)?;
        Ok(Self { socket, engine, caller: Caller::new(random()?), start: Instant::now() })
    }

    /// Sets the time to the first retry; 200 ms unless set.
    pub fn set_patience(&mut self, patience: Duration) {
        self.caller.set_patience(patience.as_nanos() as Nanos);
    }

    /// The socket.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Proves the address, and learns epoch and limits.
    ///
    /// # Errors
    /// As for [`Session`].
    pub fn hello(&mut self) -> Result<Welcome, ClientError> {
        let reply = self.call(Kind::Hello, &[Hello::new_zeroed().as_bytes()])?;
        let ReplyBody::Welcome(welcome) = accept(reply)? else { return Err(other("hello")) };
        Ok(welcome.into())
    }

    /// Asks for a lease.
    ///
    /// # Errors
    /// [`ClientError::Text`], [`ClientError::Attributes`], [`ClientError::Value`]: something does
    /// not fit the format, and nothing was sent. Else as for [`Session`].
    pub fn register(&mut self, registration: &Registration) -> Result<Grant, ClientError> {
        let (mut body, tail) = encode(registration)?;
        if body.nonce.get() == 0 {
            body.nonce = (random()? | 1).into();
        }
        let reply = self.call(Kind::Register, &[body.as_bytes(), &tail])?;
        let ReplyBody::Granted(granted) = accept(reply)? else { return Err(other("register")) };
        Ok(Grant {
            lease: granted.lease.into(),
            epoch: granted.epoch.get(),
            interval: Duration::from_micros(granted.interval_us.get().into()),
            phase: Duration::from_micros(granted.phase_us.get().into()),
            ttl: Duration::from_millis(granted.ttl_ms.get().into()),
        })
    }

    /// Sends a frame of 1 to 50 beats and does not wait.
    ///
    /// # Errors
    /// [`ClientError::Value`]: no beats, or more than 50. [`ClientError::Io`]: the kernel did not
    /// take the frame.
    pub fn send_beats(&mut self, beats: &[Beat]) -> Result<(), ClientError> {
        let beats = encode_beats(beats)?;
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

    /// Sends a frame of 1 to 50 beats and waits for the outcome.
    ///
    /// # Errors
    /// [`ClientError::Value`]: no beats, or more than 50. Else as for [`Session`].
    pub fn beat(&mut self, beats: &[Beat]) -> Result<Beats, ClientError> {
        let beats = encode_beats(beats)?;
        let count = beats.len() as u16;
        let reply = self.ask(Kind::Beat, count, header_flags::ACK_WANTED, &[beats.as_bytes()])?;
        match reply.body {
            ReplyBody::Ack(ack) => Ok(Beats::Acked(ack.into())),
            ReplyBody::Nak(_, naks) => {
                let refusal = |nak: &wire::Nak| {
                    let (slot, generation) = (nak.slot.get(), nak.generation.get());
                    Status::from_u8(nak.reason).map(|status| Refusal { slot, generation, status })
                };
                let refused: Option<_> = naks.iter().map(refusal).collect();
                Ok(Beats::Refused(refused.ok_or(other("beat"))?))
            }
            _ => Err(other("beat")),
        }
    }

    /// Changes an instance.
    ///
    /// # Errors
    /// [`ClientError::Attributes`]: they do not fit the format. Else as for [`Session`].
    pub fn update(&mut self, lease: &Lease, change: &Change) -> Result<(), ClientError> {
        let (body, tail) = change.encode(*lease)?;
        let reply = self.call(Kind::Update, &[body.as_bytes(), &tail])?;
        accept(reply).map(drop)
    }

    /// Gives a lease back. A lease that has ended already is no error: the reply to an earlier
    /// attempt may have been lost.
    ///
    /// # Errors
    /// As for [`Session`].
    pub fn deregister(&mut self, lease: &Lease) -> Result<(), ClientError> {
        let reply = self.call(Kind::Deregister, &[wire::Lease::from(*lease).as_bytes()])?;
        match accept(reply) {
            Err(ClientError::Refused { status: Status::Removed, .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Everything about one instance.
    ///
    /// # Errors
    /// [`ClientError::Text`]: a name does not fit. Else as for [`Session`].
    pub fn describe(&mut self, target: Target<'_>) -> Result<Description, ClientError> {
        let mut body = Describe::new_zeroed();
        match target {
            Target::Names(service, instance) => {
                body.service = Name::new(service).map_err(text("service"))?;
                body.instance = Name::new(instance).map_err(text("instance"))?;
            }
            Target::Slot(slot, generation) => {
                (body.slot, body.generation) = (slot.into(), generation.into());
            }
        }
        let reply = self.call(Kind::Describe, &[body.as_bytes()])?;
        let ReplyBody::Description(facts, tail) = accept(reply)? else {
            return Err(other("describe"));
        };
        Description::from_wire(facts, tail).ok_or(other("describe"))
    }

    /// One page of services from a cursor on.
    ///
    /// # Errors
    /// As for [`Session`].
    pub fn services_page(&mut self, cursor: u32) -> Result<Services, ClientError> {
        let mut body = wire::Services::new_zeroed();
        body.cursor = cursor.into();
        let reply = self.call(Kind::Services, &[body.as_bytes()])?;
        let ReplyBody::Services(head, entries) = accept(reply)? else {
            return Err(other("services"));
        };
        Ok(Services {
            revision: head.version.get(),
            cursor: head.cursor.get(),
            count: head.services.get(),
            services: entries.iter().map(Service::from).collect(),
        })
    }

    /// Every service there is.
    ///
    /// # Errors
    /// As for [`Session`].
    pub fn services(&mut self) -> Result<Vec<Service>, ClientError> {
        let (mut services, mut cursor) = (Vec::new(), 0);
        loop {
            let page = self.services_page(cursor)?;
            services.extend(page.services);
            cursor = page.cursor;
            if cursor == 0 {
                return Ok(services);
            }
        }
    }

    /// One page of endpoints. That there are none is an answer, not an error: see [`Page::status`].
    ///
    /// # Errors
    /// [`ClientError::Text`]: zone or tag does not fit. Else as for [`Session`].
    pub fn discover(&mut self, query: &Query) -> Result<Page, ClientError> {
        let reply = self.call(Kind::Discover, &[query.encode()?.as_bytes()])?;
        let (status, field) = (reply.status, reply.header.count.get());
        match (status, reply.body) {
            (Status::NoService, _) => {
                let endpoints = Vec::new();
                Ok(Page { status, revision: 0, cursor: 0, hold_percent: 0, endpoints })
            }
            (
                Status::Ok | Status::NoneRegistered | Status::NoneHealthy | Status::AllFiltered,
                ReplyBody::Endpoints(head, endpoints),
            ) => {
                let endpoints: Option<_> = endpoints.iter().map(Endpoint::from_wire).collect();
                Ok(Page {
                    status,
                    revision: head.version.get(),
                    cursor: head.cursor.get(),
                    hold_percent: head.hold_percent,
                    endpoints: endpoints.ok_or(other("discover"))?,
                })
            }
            _ => Err(ClientError::Refused { status, field }),
        }
    }

    /// The whole list of a service, page by page; begins again when the list changes under way, up
    /// to `restarts` times. `None`: it changed every time.
    ///
    /// # Errors
    /// As for [`Session`].
    pub fn discover_all(
        &mut self,
        service: &str,
        restarts: u32,
    ) -> Result<Option<Discovered>, ClientError> {
        'again: for _ in 0..=restarts {
            let mut query = Query::new(service);
            let Page { status, revision, cursor, mut endpoints, .. } = self.discover(&query)?;
            query.cursor = cursor;
            while query.cursor != 0 {
                let page = self.discover(&query)?;
                if page.revision != revision {
                    continue 'again;
                }
                endpoints.extend(page.endpoints);
                query.cursor = page.cursor;
            }
            return Ok(Some(Discovered { status, revision, endpoints }));
        }
        Ok(None)
    }

    /// The numbers that the engine tells of itself.
    ///
    /// # Errors
    /// As for [`Session`].
    pub fn stats(&mut self) -> Result<Stats, ClientError> {
        let reply = self.call(Kind::Stats, &[StatsRequest::new_zeroed().as_bytes()])?;
        let ReplyBody::Stats(numbers) = accept(reply)? else { return Err(other("stats")) };
        Ok(Stats::from_wire(numbers))
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
            let now = self.now();
            match self.caller.step(now) {
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
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::TimedOut
                | io::ErrorKind::Interrupted => Ok(None),
                io::ErrorKind::ConnectionRefused => {
                    std::thread::sleep(left.min(Duration::from_millis(20)));
                    Ok(None)
                }
                _ => Err(error.into()),
            },
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

fn encode_beats(beats: &[Beat]) -> Result<Vec<wire::Beat>, ClientError> {
    match beats.len() {
        1..=BEATS_PER_FRAME_MAX => Ok(beats.iter().map(|beat| wire::Beat::from(*beat)).collect()),
        _ => Err(ClientError::Value("a frame carries 1 to 50 beats")),
    }
}

fn other(request: &'static str) -> ClientError {
    ClientError::Reply(request)
}

fn random() -> Result<u64, ClientError> {
    getrandom::u64().map_err(|error| ClientError::Io(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_carries_1_to_50_beats() {
        let beats = [Lease::from_parts(1, 2, 3).beat(4, 5); 51];
        assert!(matches!(encode_beats(&[]), Err(ClientError::Value(_))));
        assert!(matches!(encode_beats(&beats), Err(ClientError::Value(_))));
        for count in [1, 50] {
            assert_eq!(encode_beats(&beats[..count]).unwrap().len(), count);
        }
    }
}
