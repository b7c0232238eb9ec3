//! How slow a member is, with slowness seen at once and forgotten slowly: the peak-sensitive
//! exponentially weighted moving average of Finagle (`PeakEwma`).

/// An average follows a latency that went down in about this many nanoseconds: 10 s, as in Finagle.
const DECAY_NS: f64 = 10e9;
/// Cost of a member that has calls in flight and no latency yet: more than any latency, so that a
/// newcomer gets one call at first, and not all of them.
const UNKNOWN: f64 = 1e15;

/// The average after a latency was measured, both in nanoseconds. A higher one counts at once.
pub fn peak_average(average: f64, idle_ns: u64, latency_ns: u64) -> f64 {
    let latency = latency_ns as f64;
    if latency >= average {
        return latency;
    }
    let kept = kept(idle_ns);
    average * kept + latency * (1.0 - kept)
}

/// The cost of one more call: the average, less what time has worn off, times the calls that would
/// then be in flight.
#[inline]
pub fn peak_cost(average: f64, idle_ns: u64, in_flight: u32) -> f64 {
    let worn = average * kept(idle_ns);
    if worn <= 0.0 && in_flight > 0 {
        return UNKNOWN + f64::from(in_flight);
    }
    worn * (f64::from(in_flight) + 1.0)
}

/// The part of an average that is left after a time. 1 / (1 + x + x²/2) stands in for e^-x: within
/// 7 % of the whole, without a call of the mathematical library.
#[inline]
fn kept(idle_ns: u64) -> f64 {
    let x = idle_ns as f64 / DECAY_NS;
    1.0 / (1.0 + x * (1.0 + 0.5 * x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_count_at_once_and_wear_off() {
        assert_eq!(peak_average(1e6, 1_000_000, 9_000_000), 9e6);
        let mut average = 9e6;
        for _ in 0..100 {
            average = peak_average(average, 1_000_000_000, 1_000_000);
        }
        assert!((1e6..1.1e6).contains(&average), "{average}");
    }

    #[test]
    fn the_stand_in_is_near_the_exponential() {
        for tenths in 0..200_u32 {
            let x = f64::from(tenths) / 10.0;
            let kept = kept((x * DECAY_NS) as u64);
            assert!((kept - (-x).exp()).abs() < 0.07, "{x}: {kept}");
        }
    }

    #[test]
    fn cost_grows_with_what_is_in_flight() {
        assert!(peak_cost(2e6, 0, 0) < peak_cost(1e6, 0, 2));
        assert!(peak_cost(0.0, 0, 1) > peak_cost(1e12, 0, 100), "a newcomer is tried once");
        assert_eq!(peak_cost(0.0, 0, 0), 0.0);
    }
}
