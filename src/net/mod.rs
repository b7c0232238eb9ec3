//! Sockets and batches: the only room that talks to the network.
//!
//! Buffers and message headers live as long as the loop that owns them; only what the kernel
//! overwrote is set again. A datagram that can't be received or sent costs its neighbours nothing.

mod address;
mod inherited;
mod receive;
mod send;
mod socket;

pub use inherited::{Inherited, STORE_NAME, close_strays, inherited, loops_possible};
pub use receive::{Message, ReceiveBatch};
pub use send::{SendBatch, Sent};
pub use socket::{BindError, Socket, bind_group};
