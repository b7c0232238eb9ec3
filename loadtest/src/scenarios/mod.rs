//! What an engine is loaded with, and what became of it.

pub(crate) mod flood;
pub(crate) mod live;
pub(crate) mod massacre;
pub(crate) mod restart;
pub(crate) mod single;
pub(crate) mod traffic;
