//! One engine replaces another that runs: sockets, memory files and locks pass over, so that
//! nothing that waits is lost and nobody is told anything.
//!
//! The new one does everything that can fail before the old one stops. If it dies all the same, the
//! old one goes on; it is killed first, so that there is never more than one that writes.

mod channel;
mod new;
mod old;
mod words;

pub(super) use channel::Listener;
pub use new::replace;
pub use old::{HandedOver, Successor, control, hand_over, meet};
use std::path::Path;
use std::time::Duration;

/// How long the other side may take for a word that needs no work.
const PROMPT: Duration = Duration::from_secs(5);
/// How long a new engine may take to make tables for another layout.
const MOVING: Duration = Duration::from_secs(120);

/// A path as a message has it.
fn shown(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |path| path.display().to_string().replace('\n', " "))
}
