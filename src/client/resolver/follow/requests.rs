//! What a follow asks for, and that it received a push.

use super::{Follow, Frame};
use heartline_wire::{Kind, Received, Watch};
use zerocopy::{FromZeros, IntoBytes};

impl Follow {
    pub(super) fn request(&self, ttl_ms: u32) -> Frame {
        let body = Watch {
            cookie: self.cookie.into(),
            service: self.service.into(),
            proof: self.proof.into(),
            version: if self.is_known { self.version } else { 0 }.into(),
            ttl_ms: ttl_ms.into(),
            number: self.number.into(),
        };
        Frame::new(Kind::Watch, self.tag, body.as_bytes())
    }

    pub(super) fn receipt(&self) -> Frame {
        let mut body = Received::new_zeroed();
        body.cookie = self.cookie.into();
        body.proof = self.proof.into();
        body.number = self.number.into();
        Frame::new(Kind::Push, self.tag, body.as_bytes())
    }
}
