//! The decode gate for what the engine sends: the client's side.

use super::header::{Header, Kind, REPLY_BIT};
use super::request::gate;
use super::*;
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// A reply that passed the gate.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// What kind of request it answers.
    pub kind: Kind,
    /// What became of the request.
    pub status: Status,
    /// The header.
    pub header: &'a Header,
    /// What follows it.
    pub body: ReplyBody<'a>,
}

/// The body of a reply.
#[derive(Clone, Copy, Debug)]
pub enum ReplyBody<'a> {
    /// Nothing but the status.
    Empty,
    /// To hello.
    Welcome(&'a Welcome),
    /// To register.
    Granted(&'a Granted),
    /// To beats, when asked for.
    Ack(&'a Ack),
    /// To beats of which some were refused.
    Nak(&'a NakHead, &'a [Nak]),
    /// To update and deregister.
    Changed(&'a Changed),
    /// To describe; with the attributes.
    Description(&'a Description, &'a [u8]),
    /// To services.
    Services(&'a ServicesHead, &'a [ServiceEntry]),
    /// To discover.
    Endpoints(&'a DiscoverHead, &'a [Endpoint]),
    /// To stats.
    Stats(&'a [U64]),
}

impl<'a> Reply<'a> {
    /// Decodes a datagram. Never panics, whatever the bytes.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Reject> {
        let (header, body) = gate(bytes)?;
        if header.kind & REPLY_BIT == 0 {
            return Err(Reject::Direction);
        }
        let kind = Kind::from_u8(header.kind & !REPLY_BIT).ok_or(Reject::Kind)?;
        let status = Status::from_u8(header.status).ok_or(Reject::Reserved)?;
        Ok(Self { kind, status, header, body: decode_body(kind, status, header, body)? })
    }
}

fn decode_body<'a>(
    kind: Kind,
    status: Status,
    header: &Header,
    body: &'a [u8],
) -> Result<ReplyBody<'a>, Reject> {
    if body.is_empty() {
        return Ok(ReplyBody::Empty);
    }
    let count = usize::from(header.count.get());
    Ok(match kind {
        Kind::Hello => ReplyBody::Welcome(whole(body)?),
        Kind::Register => ReplyBody::Granted(whole(body)?),
        Kind::Beat if status == Status::Nak => {
            let (head, entries) = entries(body, count)?;
            ReplyBody::Nak(head, entries)
        }
        Kind::Beat => ReplyBody::Ack(whole(body)?),
        Kind::Update | Kind::Deregister => ReplyBody::Changed(whole(body)?),
        Kind::Describe => {
            let (head, tail) = Description::ref_from_prefix(body).map_err(|_| Reject::Short)?;
            if tail.len() != usize::from(head.attributes_len.get()) {
                return Err(Reject::Count);
            }
            ReplyBody::Description(head, tail)
        }
        Kind::Services => {
            let (head, entries) = entries(body, count)?;
            ReplyBody::Services(head, entries)
        }
        Kind::Discover => {
            let (head, entries) = entries(body, count)?;
            ReplyBody::Endpoints(head, entries)
        }
        Kind::Stats => ReplyBody::Stats(
            <[U64]>::ref_from_bytes_with_elems(body, count).map_err(|_| Reject::Count)?,
        ),
    })
}

fn whole<T: FromBytes + KnownLayout + Immutable + Unaligned>(body: &[u8]) -> Result<&T, Reject> {
    T::ref_from_bytes(body).map_err(|_| Reject::Count)
}

fn entries<H, T>(body: &[u8], count: usize) -> Result<(&H, &[T]), Reject>
where
    H: FromBytes + KnownLayout + Immutable + Unaligned,
    T: FromBytes + Immutable + Unaligned,
{
    let (head, rest) = H::ref_from_prefix(body).map_err(|_| Reject::Short)?;
    let entries = <[T]>::ref_from_bytes_with_elems(rest, count).map_err(|_| Reject::Count)?;
    Ok((head, entries))
}
