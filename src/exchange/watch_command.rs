//! Commands of loops to the watch thread.

use super::{Peer, Requester};
use crate::wire::{Received, Watch};
use zerocopy::byteorder::little_endian::U64;

/// A command of a loop to the watch thread. Its cookie was good.
#[derive(Clone, Copy, Debug)]
pub enum WatchCommand {
    /// Begin, renew or end a watch. The request has been checked.
    Watch {
        /// The requester that gets the reply.
        from: Requester,
        /// The body of the request.
        request: Watch,
    },
    /// A push was received.
    Received {
        /// Its receiver.
        from: Peer,
        /// The tag of the watch.
        tag: U64,
        /// The body of the receipt.
        receipt: Received,
    },
}
