//! Picks from views that tests make up: which endpoints, with which share, and what is said when
//! times are not ordinary.
//!
//! What could go wrong: an endpoint that must not be called is, the share of a strategy is not what
//! it says, a view of two moments is read, an old view passes for a new one, a fault of the caller
//! leaves it with nobody to call.

mod choices;
mod outliers;
mod shares;
mod threads;
