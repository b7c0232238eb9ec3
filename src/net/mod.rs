//! Sockets and batches: the only room that talks to the network.
//!
//! Buffers and message headers live as long as the loop that owns them; only what the kernel
//! overwrote is set again. A datagram that can't be received or sent costs its neighbours nothing.

mod address;
mod bind;
mod inherited;
mod messages;
mod push;
mod receive;
mod send;
mod socket;

pub use bind::{BindError, bind_group, close_strays, loops_possible};
pub use inherited::{Inherited, take_passed};
pub use push::PushBatch;
pub use receive::{Message, ReceiveBatch};
pub use send::SendBatch;
pub use socket::Socket;
