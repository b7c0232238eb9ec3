//! Weighted draws in constant time, from a table that is prepared once (A. J. Walker, ACM TOMS
//! 3(3), 1977; built as by M. D. Vose, IEEE TSE 17(9), 1991).
//!
//! The table has one column for each member. A draw takes a column, each with the same chance. The
//! column stands for its own member with a certain chance, else for one other member.

/// Prepares the table: for each column, the chance of its own member in the high 32 bits, as a part
/// of 2^32, and the position of the other member in the low ones. No column: no weight is above 0.
pub fn columns(weights: &[f64]) -> Vec<u64> {
    let total: f64 = weights.iter().sum();
    if total.is_nan() || total <= 0.0 {
        return Vec::new();
    }
    let scale = weights.len() as f64 / total;
    // What is left of each weight, 1 being the average.
    let mut left: Vec<f64> = weights.iter().map(|weight| weight * scale).collect();
    let mut columns: Vec<u64> = (0..weights.len() as u64).map(|own| ALWAYS | own).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..weights.len()).partition(|&position| left[position] < 1.0);
    while let (Some(&low), Some(&high)) = (small.last(), large.last()) {
        small.pop();
        let chance = (left[low] * (1_u64 << 32) as f64) as u32;
        columns[low] = u64::from(chance) << 32 | high as u64;
        left[high] -= 1.0 - left[low];
        if left[high] < 1.0 {
            large.pop();
            small.push(high);
        }
    }
    // Rounding may leave columns over. A member without weight must not be drawn all the same.
    if let Some(heavy) = weights.iter().position(|&weight| weight > 0.0) {
        for low in small.into_iter().filter(|&low| weights[low] <= 0.0) {
            columns[low] = heavy as u64;
        }
    }
    columns
}

/// A column that stands for its own member only.
const ALWAYS: u64 = (u32::MAX as u64) << 32;

/// The position that random bits draw. `column` gives the table's columns, of which there are
/// `count`, at least one.
#[inline]
pub fn draw(count: u32, bits: u64, column: impl FnOnce(u32) -> u64) -> u32 {
    // Multiply-shift, as in `random`; the low half of the bits decides within the column.
    let own = (((bits >> 32) * u64::from(count)) >> 32) as u32;
    let column = column(own);
    if bits & 0xFFFF_FFFF < column >> 32 { own } else { column as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    fn hits(weights: &[f64], draws: u32) -> Vec<u32> {
        let (columns, mut rng) = (columns(weights), SmallRng::seed_from_u64(5));
        let mut hits = vec![0; weights.len()];
        for _ in 0..draws {
            let at = draw(columns.len() as u32, rng.next_u64(), |at| columns[at as usize]);
            hits[at as usize] += 1;
        }
        hits
    }

    /// Pearson's test; a sound table fails it once in a thousand seeds.
    #[test]
    fn draws_follow_the_weights() {
        for weights in [
            vec![1.0; 10],
            vec![1.0, 3.0, 0.0, 6.0],
            (1..=20).map(f64::from).collect(),
            vec![0.001, 1000.0, 1.0],
        ] {
            let total: f64 = weights.iter().sum();
            let draws = 200_000;
            let mut chi = 0.0;
            for (&weight, &hits) in weights.iter().zip(&hits(&weights, draws)) {
                let expected = weight / total * f64::from(draws);
                if weight == 0.0 {
                    assert_eq!(hits, 0, "weight 0 was drawn");
                } else {
                    chi += (f64::from(hits) - expected).powi(2) / expected;
                }
            }
            // 0.999 quantiles: 13.8 for 2 degrees of freedom, 27.9 for 9, 43.8 for 19.
            let bound = match weights.len() - 1 {
                2 => 13.8,
                3 => 16.3,
                9 => 27.9,
                _ => 43.8,
            };
            assert!(chi < bound, "{weights:?}: {chi}");
        }
    }

    #[test]
    fn nothing_is_drawn_without_weight() {
        assert!(columns(&[]).is_empty() && columns(&[0.0, 0.0]).is_empty());
        assert!(columns(&[f64::NAN]).is_empty());
    }

    #[test]
    fn the_only_one_with_weight_is_always_drawn() {
        let columns = columns(&[0.0, 7.0, 0.0]);
        for bits in [0, 1, u64::MAX, 0xFFFF_FFFF, 0xFFFF_FFFF << 32, 1 << 63] {
            assert_eq!(draw(3, bits, |at| columns[at as usize]), 1);
        }
    }
}
