//! Scenarios: each loads an engine, or a part of one, and reports figures.

pub(crate) mod detect;
pub(crate) mod flood;
pub(crate) mod floors;
pub(crate) mod live;
pub(crate) mod massacre;
pub(crate) mod memory;
pub(crate) mod restart;
pub(crate) mod traffic;
