//! Where and how often things are measured.

use crate::machine::{self, Steal};
use crate::report::Chart;

/// Pairs with more stolen time than this, in percent, say nothing.
const STEAL_MAX: f64 = 1.0;
/// A pair is tried at most this often.
const TRIES: u32 = 3;

/// The CPUs, and what came off beside goals.
pub(crate) struct Lab {
    /// CPU of engines, floors and peers.
    pub(crate) engine_cpu: usize,
    /// CPU of the load.
    pub(crate) generator_cpu: usize,
    /// Pairs for each ratio.
    pub(crate) pairs: u32,
    pub(crate) charts: Vec<Chart>,
}

impl Lab {
    pub(crate) fn new(pairs: u32) -> Result<Self, String> {
        let (engine_cpu, generator_cpu) = machine::two_cpus()?;
        Ok(Self { engine_cpu, generator_cpu, pairs, charts: Vec::new() })
    }

    /// Measures ours and a floor in turns on the generator's CPU: A B, B A, A B ... Pairs in which
    /// the machine was taken away are measured again.
    pub(crate) fn pairs<S: Send, T: Send>(
        &self,
        state: &mut S,
        ours: impl FnMut(&mut S) -> Result<T, String> + Send,
        floor: impl FnMut(&mut S) -> Result<T, String> + Send,
    ) -> Result<Vec<(T, T)>, String> {
        self.pairs_on(self.generator_cpu, state, ours, floor)
    }

    /// The same on any CPU.
    pub(crate) fn pairs_on<S: Send, T: Send>(
        &self,
        cpu: usize,
        state: &mut S,
        mut ours: impl FnMut(&mut S) -> Result<T, String> + Send,
        mut floor: impl FnMut(&mut S) -> Result<T, String> + Send,
    ) -> Result<Vec<(T, T)>, String> {
        let mut pair = |number: u32| {
            let mut tries = 1;
            loop {
                let steal = Steal::read();
                let measured = if number.is_multiple_of(2) {
                    let first = machine::pinned(cpu, || ours(state))?;
                    (first, machine::pinned(cpu, || floor(state))?)
                } else {
                    let first = machine::pinned(cpu, || floor(state))?;
                    (machine::pinned(cpu, || ours(state))?, first)
                };
                if steal.percent() <= STEAL_MAX || tries == TRIES {
                    return Ok(measured);
                }
                tries += 1;
            }
        };
        (0..self.pairs).map(&mut pair).collect()
    }
}
