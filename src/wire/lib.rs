//! The wire format of heartline, version 1: what a datagram may say, and the one gate through which
//! it comes in.
//!
//! ```
//! use heartline_wire::{Header, Kind, Reject, Request};
//! use zerocopy::IntoBytes;
//!
//! let mut hello = vec![0; 64];
//! hello[..16].copy_from_slice(Header::request(Kind::Hello, 7).as_bytes());
//! let Ok(Request::Hello(header)) = Request::decode(&hello) else { panic!("a good hello") };
//! assert_eq!(header.tag.get(), 7);
//! assert_eq!(Request::decode(&hello[..15]).unwrap_err(), Reject::Short);
//! ```
//!
//! [`Request::decode`] and [`Reply::decode`] are the only ways from bytes to frames. They check
//! everything that can be checked without state: length, magic, version, kind, direction, counts,
//! reserved bytes, canonical texts. After them no accessor can fail. `docs/PROTOCOL.md` states the
//! same layouts for other languages.

#![warn(missing_docs)]

mod address;
mod attributes;
pub mod balance;
mod beat;
mod cadence;
mod describe;
mod discover;
mod header;
mod hello;
mod lease;
pub mod limits;
mod local;
mod register;
mod reply;
mod request;
mod services;
mod slot;
mod state;
mod stats;
mod status;
mod text;
pub mod time;
mod version;
mod watch;

pub use address::{map_ip, unmap_ip};
pub use attributes::{
    AttributeEntries, AttributesError, check_attributes, encode_attributes, has_tag,
};
pub use beat::{Ack, Beat, Nak, NakHead};
pub use cadence::Cadence;
pub use describe::{Describe, Description};
pub use discover::{Discover, DiscoverHead, Endpoint, Filter, Strategy, endpoint_flags};
pub use header::{Header, Kind, MAGIC, REPLY_BIT, WIRE_VERSION, header_flags};
pub use hello::{Hello, Welcome};
pub use lease::{Changed, Deregister, Lease, Update, update_fields};
pub use local::{LOCAL_MAGIC, LOCAL_VERSION, LocalGreeting, LocalKind, LocalReply, LocalRequest};
pub use register::{Granted, Register};
pub use reply::{Reply, ReplyBody};
pub use request::{Reject, Request};
pub use services::{ServiceEntry, Services, ServicesHead};
pub use slot::{Generation, Slot};
pub use state::{Declared, State};
pub use stats::{About, STATS, Stat, StatsRequest};
pub use status::Status;
pub use text::{Label, Name, Text, TextError, fnv1a, service_id};
pub use version::Version;
pub use watch::{PushHead, Received, Watch, Watching};
