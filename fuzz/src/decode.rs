//! The two decode gates.

use heartline::limits::{BEATS_PER_FRAME_MAX, FRAME_BYTES_MAX, HEADER_BYTES};
use heartline::wire::{Reply, ReplyBody, Request, check_attributes};

/// Any datagram: refused, or everything in it can be read and fits the datagram.
pub fn decode(data: &[u8]) {
    if let Ok(request) = Request::decode(data) {
        assert!((HEADER_BYTES..=FRAME_BYTES_MAX).contains(&data.len()));
        assert!(Reply::decode(data).is_err(), "a frame for both directions");
        match request {
            Request::Beat(header, beats) => {
                assert_eq!(beats.len(), usize::from(header.count.get()));
                assert!((1..=BEATS_PER_FRAME_MAX).contains(&beats.len()));
            }
            Request::Register(_, body, tail) => {
                let texts = [body.service.as_str(), body.instance.as_str(), body.zone.as_str()];
                assert!(texts.iter().all(|text| text.len() < 64));
                assert_eq!(tail.len(), usize::from(body.attributes_len.get()));
                let _ = check_attributes(tail);
            }
            Request::Update(_, body, tail) => assert_eq!(tail.len(), usize::from(body.attributes_len.get())),
            Request::Describe(_, body) => assert!(body.service.as_str().len() < 64 && body.instance.as_str().len() < 64),
            Request::Discover(_, body) => assert!(body.zone.as_str().len() < 32 && body.tag.bytes().len() < 32),
            Request::Hello(_) | Request::Deregister(..) | Request::Services(..) | Request::Stats(..) => {}
        }
    }
    if let Ok(reply) = Reply::decode(data) {
        match reply.body {
            ReplyBody::Description(facts, tail) => {
                assert_eq!(tail.len(), usize::from(facts.attributes_len.get()));
                let _ = (facts.endpoint.state(), facts.endpoint.declared(), facts.service.as_str());
            }
            ReplyBody::Endpoints(_, endpoints) => assert_eq!(endpoints.len(), usize::from(reply.header.count.get())),
            ReplyBody::Services(_, services) => services.iter().for_each(|service| assert!(service.name.bytes().len() < 64)),
            _ => {}
        }
    }
}
