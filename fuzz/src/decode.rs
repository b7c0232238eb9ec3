//! The two decode gates.

use heartline::internals::limits::{BEATS_PER_FRAME_MAX, FRAME_BYTES_MAX, HEADER_BYTES};
use heartline_wire::{Beat, Reply, ReplyBody, Request, check_attributes};
use zerocopy::IntoBytes;

/// A length that fits the field, and zeros behind the text: so that two texts are equal exactly if
/// their fields are.
fn is_text(field: &[u8]) -> bool {
    let length = usize::from(field[0]);
    length < field.len() && field[1 + length..].iter().all(|&byte| byte == 0)
}

/// Any datagram: refused, or everything in it can be read and fits the datagram.
pub fn decode(data: &[u8]) {
    if let Ok(request) = Request::decode(data) {
        assert!((HEADER_BYTES..=FRAME_BYTES_MAX).contains(&data.len()));
        assert!(Reply::decode(data).is_err(), "a frame for both directions");
        match request {
            Request::Beat(header, beats) => {
                assert_eq!(beats.len(), usize::from(header.count.get()));
                assert!((1..=BEATS_PER_FRAME_MAX).contains(&beats.len()));
                assert!(beats.iter().all(|beat| beat.flags.get() & !Beat::FLAGS == 0));
            }
            Request::Register(_, body, tail) => {
                assert!(
                    [body.service.as_bytes(), body.instance.as_bytes(), body.zone.as_bytes()]
                        .into_iter()
                        .all(is_text)
                );
                assert_eq!(tail.len(), usize::from(body.attributes_len.get()));
                let _ = check_attributes(tail);
            }
            Request::Update(_, body, tail) => {
                assert_eq!(tail.len(), usize::from(body.attributes_len.get()))
            }
            Request::Describe(_, body) => {
                assert!(is_text(body.service.as_bytes()) && is_text(body.instance.as_bytes()))
            }
            Request::Discover(_, body) => {
                assert!(is_text(body.zone.as_bytes()) && is_text(body.tag.as_bytes()))
            }
            Request::Hello(_)
            | Request::Deregister(..)
            | Request::Services(..)
            | Request::Stats(..)
            | Request::Watch(..)
            | Request::Received(..) => {}
        }
    }
    if let Ok(reply) = Reply::decode(data) {
        match reply.body {
            ReplyBody::Description(facts, tail) => {
                assert_eq!(tail.len(), usize::from(facts.attributes_len.get()));
                let _ = (facts.endpoint.state(), facts.endpoint.declared(), facts.service.as_str());
            }
            ReplyBody::Endpoints(_, endpoints) => {
                assert_eq!(endpoints.len(), usize::from(reply.header.count.get()))
            }
            ReplyBody::Services(_, services) => {
                services.iter().for_each(|service| assert!(service.name.bytes().len() < 64))
            }
            _ => {}
        }
    }
}
