//! What goes wrong in a run, and the shortest list of it that still fails.

use heartline::internals::clock::Nanos;
use std::fmt;

/// Kinds of faults. The names are what `HEARTLINE_FAULTS` takes.
pub trait FaultClass: Copy + fmt::Debug + PartialEq + Send + Sync + 'static {
    /// All of them, with their names.
    const ALL: &'static [(Self, &'static str)];

    /// Its name.
    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(class, _)| *class == self).map_or("", |(_, name)| name)
    }
}

/// One fault: from when to when, and a seed for its details. Times count from the start of the run.
#[derive(Clone, Copy, Debug)]
pub struct Fault<C> {
    /// Its place in the list of the seed.
    pub number: usize,
    /// Its kind.
    pub class: C,
    /// When it begins.
    pub from: Nanos,
    /// When it ends.
    pub until: Nanos,
    /// What decides its details.
    pub seed: u64,
}

impl<C: FaultClass> fmt::Display for Fault<C> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Nanos| time as f64 / 1e6;
        let (number, class) = (self.number, self.class.name());
        write!(
            formatter,
            "{number} {class} from {:.3} ms to {:.3} ms",
            ms(self.from),
            ms(self.until)
        )
    }
}

/// The shortest list of faults with which it still fails that leaving out parts, ever smaller ones,
/// leads to.
pub(super) fn shrink<F: Copy>(mut faults: Vec<F>, mut fails: impl FnMut(&[F]) -> bool) -> Vec<F> {
    let mut part = faults.len().div_ceil(2);
    while part > 0 && !faults.is_empty() {
        let mut start = 0;
        let before = faults.len();
        while start < faults.len() {
            let without: Vec<F> = faults
                .iter()
                .enumerate()
                .filter(|(at, _)| !(start..start + part).contains(at))
                .map(|(_, fault)| *fault)
                .collect();
            if fails(&without) {
                faults = without;
            } else {
                start += part;
            }
        }
        if faults.len() == before || part > 1 {
            part /= 2;
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_list_is_shrunk_to_what_it_needs() {
        let needs = |faults: &[i32]| [3, 17].iter().all(|number| faults.contains(number));
        assert_eq!(shrink((0..24).collect(), needs), [3, 17]);
        assert!(shrink((0..24).collect::<Vec<i32>>(), |_| true).is_empty());
    }
}
