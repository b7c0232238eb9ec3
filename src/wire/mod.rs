//! The wire format, version 1: what a datagram may say, and the one gate through which it comes in.
//!
//! [`Request::decode`] and [`Reply::decode`] are the only ways from bytes to frames. They check
//! everything that can be checked without state: length, magic, version, kind, direction, counts,
//! reserved bytes, canonical texts. After them no accessor can fail. `docs/PROTOCOL.md` states the
//! same layouts for other languages.

mod beat;
mod describe;
mod discover;
mod header;
mod hello;
mod lease;
mod register;
mod reply;
mod request;
mod services;
mod stats;
mod status;
mod text;
mod version;

pub use beat::{Ack, Beat, Declared, Nak, NakHead};
pub use describe::{Describe, Description};
pub use discover::{Discover, DiscoverHead, Endpoint, Filter, Strategy, endpoint_flags};
pub use header::{Header, Kind, MAGIC, REPLY_BIT, WIRE_VERSION, header_flags};
pub use hello::{Hello, Welcome};
pub use lease::{Changed, Deregister, Lease, Update, update_fields};
pub use register::{Granted, Register, check_attributes, has_tag};
pub use reply::{Reply, ReplyBody};
pub use request::{Reject, Request};
pub use services::{ServiceEntry, Services, ServicesHead};
pub use stats::{STATS, Stat, StatsRequest};
pub use status::Status;
pub use text::{Label, Name, Text, TextError, fnv1a, service_id};
pub use version::Version;

/// The state of an instance as the engine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Beating.
    Up = 1,
    /// Silent for two thirds of its TTL; still answered, marked.
    Suspect = 2,
    /// Proved silent for its TTL; not answered; a beat with the same lease revives it.
    Down = 3,
}

impl State {
    /// The state with this number.
    pub fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Up,
            2 => Self::Suspect,
            3 => Self::Down,
            _ => return None,
        })
    }
}
