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
    /// The header, for its count, flags and tag.
    pub header: &'a Header,
    /// What follows it.
    pub body: ReplyBody<'a>,
}

/// The body of a reply.
#[derive(Clone, Copy, Debug)]
pub enum ReplyBody<'a> {
    /// Nothing but the status.
    Empty,
    /// To hello: the cookie, and what the engine accepts.
    Welcome(&'a Welcome),
    /// To register: the lease.
    Granted(&'a Granted),
    /// To beats, when asked for.
    Ack(&'a Ack),
    /// To beats of which some were refused.
    Nak(&'a NakHead, &'a [Nak]),
    /// To update and deregister.
    Changed(&'a Changed),
    /// To describe; with the attributes.
    Description(&'a Description, &'a [u8]),
    /// To services: one page.
    Services(&'a ServicesHead, &'a [ServiceEntry]),
    /// To discover: the endpoints that were chosen.
    Endpoints(&'a DiscoverHead, &'a [Endpoint]),
    /// To stats: the numbers, in the order of [`Stat`].
    Stats(&'a [U64]),
    /// To watch: how the watch stands.
    Watching(&'a Watching),
    /// Pushed: what changed.
    Push(&'a PushHead, &'a [Endpoint]),
}

impl<'a> Reply<'a> {
    /// Decodes a datagram. Never panics, whatever the bytes. Bytes behind what this code knows are
    /// those of a later engine, and left out.
    ///
    /// # Errors
    /// [`Reject`]: the datagram is no reply of this format, and why.
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
            let (head, rest) = Description::ref_from_prefix(body).map_err(|_| Reject::Short)?;
            let tail = rest.get(..usize::from(head.attributes_len.get())).ok_or(Reject::Count)?;
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
        Kind::Stats => ReplyBody::Stats(counted(body, count)?),
        Kind::Watch => ReplyBody::Watching(whole(body)?),
        Kind::Push => {
            let (head, entries) = entries(body, count)?;
            ReplyBody::Push(head, entries)
        }
    })
}

fn whole<T: FromBytes + KnownLayout + Immutable + Unaligned>(body: &[u8]) -> Result<&T, Reject> {
    T::ref_from_prefix(body).map(|(whole, _)| whole).map_err(|_| Reject::Short)
}

fn counted<T: FromBytes + Immutable + Unaligned>(
    body: &[u8],
    count: usize,
) -> Result<&[T], Reject> {
    <[T]>::ref_from_prefix_with_elems(body, count)
        .map(|(entries, _)| entries)
        .map_err(|_| Reject::Count)
}

fn entries<H, T>(body: &[u8], count: usize) -> Result<(&H, &[T]), Reject>
where
    H: FromBytes + KnownLayout + Immutable + Unaligned,
    T: FromBytes + Immutable + Unaligned,
{
    let (head, rest) = H::ref_from_prefix(body).map_err(|_| Reject::Short)?;
    Ok((head, counted(rest, count)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::{FromZeros, IntoBytes};

    /// Fields that a later engine appends, and entries that are missing.
    #[test]
    fn longer_is_ignored_and_shorter_refused() {
        let frame = |kind, count, body: &[u8]| {
            let header = Header::reply(kind, Status::Ok, count, U64::new(7));
            [header.as_bytes(), body].concat()
        };
        let more = [0xFF; 7];
        let hello = frame(Kind::Hello, 0, &[Welcome::new_zeroed().as_bytes(), &more].concat());
        let reply = Reply::decode(&hello).unwrap();
        assert!(matches!(reply.body, ReplyBody::Welcome(welcome) if welcome.cookie.get() == 0));
        assert!(matches!(Reply::decode(&hello[..hello.len() - 8]), Err(Reject::Short)));
        let stats = frame(Kind::Stats, 2, &[[1; 16].as_slice(), &more].concat());
        let reply = Reply::decode(&stats).unwrap();
        assert!(matches!(reply.body, ReplyBody::Stats(numbers) if numbers.len() == 2));
        assert!(matches!(Reply::decode(&stats[..stats.len() - 8]), Err(Reject::Count)));
        let mut facts = Description::new_zeroed();
        facts.attributes_len = 3.into();
        let described = frame(Kind::Describe, 1, &[facts.as_bytes(), b"\x02ab", &more].concat());
        let reply = Reply::decode(&described).unwrap();
        assert!(matches!(reply.body, ReplyBody::Description(_, b"\x02ab")));
        assert!(matches!(Reply::decode(&described[..described.len() - 8]), Err(Reject::Count)));
    }
}
