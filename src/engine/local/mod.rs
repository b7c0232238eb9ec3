//! The socket `local` in the state directory, and the thread that serves it: processes of this
//! machine show their leases there, and when the kernel closes a connection because its process
//! died, the registrar is told.
//!
//! An engine that stops closes every connection and blames nobody.

mod book;
mod server;

pub use book::{Book, ConnectionId, Course};
pub(super) use server::LocalThread;
