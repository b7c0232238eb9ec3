//! The client's side: requests with their retries, and a small blocking session that drives them
//! over a socket.

#![warn(missing_docs)]

mod call;
mod session;

pub use call::{Caller, Failure, Step};
pub use session::{
    Beats, ClientError, Described, Discovered, Grant, Page, Query, Registration, Session, Target,
};
