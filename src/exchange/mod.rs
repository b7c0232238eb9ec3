//! What the rooms hand to one another: peers and requesters, commands for the registrar and the
//! watch thread, replies and pushes on their way out.

mod command;
mod peer;
mod pushes;
mod replies;
mod watch_command;

pub use command::{Attributes, Command};
pub use peer::{Peer, Requester};
pub use pushes::{Body, Pushes};
pub use replies::Replies;
pub use watch_command::WatchCommand;
