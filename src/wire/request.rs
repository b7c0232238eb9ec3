//! The decode gate for what clients send.

use super::header::{Header, Kind, MAGIC, REPLY_BIT, WIRE_VERSION, header_flags};
use super::*;
use crate::limits::{BEATS_PER_FRAME_MAX, FRAME_BYTES_MAX, HEADER_BYTES};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// A request that passed the gate.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// Prove an address.
    Hello(&'a Header),
    /// Ask for a lease; with the attributes.
    Register(&'a Header, &'a Register, &'a [u8]),
    /// 1 to 50 beats.
    Beat(&'a Header, &'a [Beat]),
    /// Change an instance; with the attributes.
    Update(&'a Header, &'a Update, &'a [u8]),
    /// Give a lease back.
    Deregister(&'a Header, &'a Deregister),
    /// Everything about one instance.
    Describe(&'a Header, &'a Describe),
    /// The services there are.
    Services(&'a Header, &'a Services),
    /// The endpoints of a service.
    Discover(&'a Header, &'a Discover),
    /// Counters of the engine.
    Stats(&'a Header, &'a StatsRequest),
    /// Begin, renew or end a watch.
    Watch(&'a Header, &'a Watch),
    /// A push was received.
    Received(&'a Header, &'a Received),
}

/// Why a datagram is not a frame. Such datagrams are counted and never answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.reason())]
pub enum Reject {
    /// Shorter than its kind needs.
    Short,
    /// Longer than its kind or any frame may be.
    Long,
    /// Doesn't start with `HL`.
    Magic,
    /// A version this code doesn't speak.
    Version,
    /// No such kind.
    Kind,
    /// A reply where requests are expected, or the other way round.
    Direction,
    /// A count that doesn't go with the kind or the length.
    Count,
    /// A reserved field or unknown flag is not zero.
    Reserved,
    /// A text field whose length or padding is wrong.
    Text,
}

impl Reject {
    /// The reason in words.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Short => "shorter than its kind needs",
            Self::Long => "longer than its kind or any frame may be",
            Self::Magic => "does not start with the magic",
            Self::Version => "another version of the format",
            Self::Kind => "no such kind",
            Self::Direction => "wrong direction",
            Self::Count => "count does not match",
            Self::Reserved => "a reserved field is not zero",
            Self::Text => "a text field is not canonical",
        }
    }
}

impl<'a> Request<'a> {
    /// Decodes a datagram. Never panics, whatever the bytes.
    ///
    /// # Errors
    /// [`Reject`]: the datagram is no request of this format, and why.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Reject> {
        let (header, body) = gate(bytes)?;
        if header.kind == Kind::Beat as u8 {
            return decode_beats(header, body);
        }
        if header.kind & REPLY_BIT != 0 {
            return Err(Reject::Direction);
        }
        decode_rest(header, body)
    }
}

/// What requests and replies have in common.
#[inline]
pub(super) fn gate(bytes: &[u8]) -> Result<(&Header, &[u8]), Reject> {
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(Reject::Long);
    }
    let (header, body) = Header::ref_from_prefix(bytes).map_err(|_| Reject::Short)?;
    if header.magic != MAGIC {
        return Err(Reject::Magic);
    }
    if header.version != WIRE_VERSION {
        return Err(Reject::Version);
    }
    Ok((header, body))
}

#[inline]
fn decode_beats<'a>(header: &'a Header, body: &'a [u8]) -> Result<Request<'a>, Reject> {
    if header.flags & !header_flags::ACK_WANTED != 0 || header.status != 0 {
        return Err(Reject::Reserved);
    }
    let count = usize::from(header.count.get());
    if count == 0 || count > BEATS_PER_FRAME_MAX {
        return Err(Reject::Count);
    }
    let beats = <[Beat]>::ref_from_bytes_with_elems(body, count).map_err(|_| Reject::Count)?;
    // All of them at once, without an early exit. Flags are the highest bits of a beat's last word.
    let all = beats.iter().fold(0, |all, beat| all | beat.words()[2]);
    if (all >> 48) as u16 & !Beat::FLAGS != 0 {
        return Err(Reject::Reserved);
    }
    Ok(Request::Beat(header, beats))
}

fn decode_rest<'a>(header: &'a Header, body: &'a [u8]) -> Result<Request<'a>, Reject> {
    if header.flags != 0 || header.status != 0 || header.count.get() != 0 {
        return Err(Reject::Reserved);
    }
    match Kind::from_u8(header.kind).ok_or(Reject::Kind)? {
        Kind::Hello => {
            let hello: &Hello = padded(body)?;
            zeros(&hello.reserved)?;
            Ok(Request::Hello(header))
        }
        Kind::Register => {
            let (request, tail): (&Register, _) = split(body)?;
            zeros(&request.reserved)?;
            texts(&[request.service, request.instance], &[request.zone])?;
            exact(tail, request.attributes_len.get())?;
            Ok(Request::Register(header, request, tail))
        }
        Kind::Beat => Err(Reject::Count),
        Kind::Update => {
            let (request, tail): (&Update, _) = split(body)?;
            exact(tail, request.attributes_len.get())?;
            if request.fields.get() & !update_fields::ALL != 0 {
                return Err(Reject::Reserved);
            }
            Ok(Request::Update(header, request, tail))
        }
        Kind::Deregister => {
            let (request, tail) = split(body)?;
            exact(tail, 0)?;
            Ok(Request::Deregister(header, request))
        }
        Kind::Describe => {
            let request: &Describe = padded(body)?;
            texts(&[request.service, request.instance], &[])?;
            Ok(Request::Describe(header, request))
        }
        Kind::Services => {
            let request: &Services = padded(body)?;
            zeros(&request.reserved)?;
            Ok(Request::Services(header, request))
        }
        Kind::Discover => {
            let request: &Discover = padded(body)?;
            texts(&[], &[request.zone, request.tag])?;
            Ok(Request::Discover(header, request))
        }
        Kind::Stats => {
            let request: &StatsRequest = padded(body)?;
            zeros(&request.reserved)?;
            Ok(Request::Stats(header, request))
        }
        Kind::Watch => {
            let (request, tail) = split(body)?;
            exact(tail, 0)?;
            Ok(Request::Watch(header, request))
        }
        Kind::Push => {
            let (request, tail): (&Received, _) = split(body)?;
            exact(tail, 0)?;
            zeros(&request.reserved)?;
            Ok(Request::Received(header, request))
        }
    }
}

/// A fixed body and what follows it.
fn split<T: FromBytes + KnownLayout + Immutable + Unaligned>(
    body: &[u8],
) -> Result<(&T, &[u8]), Reject> {
    T::ref_from_prefix(body).map_err(|_| Reject::Short)
}

/// A fixed body, perhaps padded with zeros to make room for a reply.
fn padded<T: FromBytes + KnownLayout + Immutable + Unaligned>(body: &[u8]) -> Result<&T, Reject> {
    let (fixed, padding) = split(body)?;
    zeros(padding)?;
    Ok(fixed)
}

fn zeros(bytes: &[u8]) -> Result<(), Reject> {
    if bytes.iter().all(|&byte| byte == 0) { Ok(()) } else { Err(Reject::Reserved) }
}

fn exact(tail: &[u8], expected: u16) -> Result<(), Reject> {
    match tail.len().cmp(&usize::from(expected)) {
        std::cmp::Ordering::Less => Err(Reject::Short),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(Reject::Long),
    }
}

fn texts(names: &[Name], labels: &[Label]) -> Result<(), Reject> {
    if names.iter().all(Text::is_canonical) && labels.iter().all(Text::is_canonical) {
        Ok(())
    } else {
        Err(Reject::Text)
    }
}

const _: () = assert!(HEADER_BYTES == size_of::<Header>());
