//! The client's side: a small blocking session.

mod session;

pub use session::{Beats, ClientError, Described, Discovered, Grant, Page, Query, Registration, Session, Target};
