//! What the rooms hand to one another: peers and requesters, commands for the registrar, and
//! replies on their way out.

mod command;
mod peer;
mod replies;

pub use command::{Attributes, Command};
pub use peer::{Peer, Requester};
pub use replies::Replies;
