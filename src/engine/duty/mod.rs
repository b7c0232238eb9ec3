//! What the threads of an engine decide, without I/O: what a loop receives next, when it has
//! drained, dozes, sleeps, wakes the registrar and stops; what the registrar thread does next.
//!
//! A driver asks a duty for its next step, does the step, and reports the outcome with clock
//! readings of its own. The threads of `engine` are such drivers with sockets and `epoll`. The
//! simulation in `tests/simulation` is another one, with queues and simulated time.

mod doze;
mod hearing;
mod inbox;
mod loop_duty;
mod registrar_duty;

pub use hearing::Hearing;
pub use loop_duty::{LoopDuty, LoopStep, Received};
pub use registrar_duty::{RegistrarDuty, RegistrarStep};

use super::rendezvous::Rendezvous;

/// What loops and registrar tell one another.
#[derive(Debug)]
pub struct Signals {
    /// Who sleeps, who must be woken, how far loops have drained.
    pub rendezvous: Rendezvous,
    /// Stalls and drops.
    pub hearing: Hearing,
}

impl Signals {
    /// For this many loops.
    pub fn new(loops: usize) -> Self {
        Self { rendezvous: Rendezvous::new(loops), hearing: Hearing::new(loops) }
    }
}
