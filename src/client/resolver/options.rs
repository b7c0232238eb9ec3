//! What a caller may say about the endpoints that it wants.

use crate::error::{ClientError, text};
use heartline_wire::Label;
use std::time::Duration;

/// How [`Watch::pick`](crate::Watch::pick) chooses among the endpoints that may be picked.
///
/// Weights are those of the registrations. [`Weighted`](Self::Weighted),
/// [`Rendezvous`](Self::Rendezvous) and [`Maglev`](Self::Maglev) heed them; a weight of 0 is never
/// picked then. The others ignore them, as the strategies of the engine do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Balance {
    /// One after the other. Each thread takes turns of its own.
    RoundRobin,
    /// Each with the same chance.
    Random,
    /// Each with a chance in proportion to its weight (Walker's alias method). The default: it does
    /// what registrations say, and needs no reports of calls.
    #[default]
    Weighted,
    /// Of two random ones the one with fewer calls of this process in flight (Mitzenmacher, IEEE
    /// TPDS 12(10), 2001). Needs [`Watch::call`](crate::Watch::call).
    LeastInFlight,
    /// Of two random ones the one that answers faster for what it has in flight; slowness counts
    /// at once and is forgotten within seconds (Finagle's peak EWMA). Needs
    /// [`Watch::call`](crate::Watch::call).
    PeakEwma,
    /// By weight without a key; [`Watch::pick_by`](crate::Watch::pick_by) finds the endpoint that
    /// the engine's strategy rendezvous finds, in a time that grows with their number.
    Rendezvous,
    /// By weight without a key; [`Watch::pick_by`](crate::Watch::pick_by) looks the key up in a
    /// table (Eisenbud et al., "Maglev", NSDI 2016), in the same time for any number of endpoints.
    Maglev,
}

/// When an endpoint whose calls fail is left out for a while. Only calls that are reported count:
/// see [`Call`](crate::Call).
///
/// The rules are those of Envoy's outlier detection. Its defaults are taken over, except where the
/// field says otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Outliers {
    /// Failures in a row that eject an endpoint; 0: none do. 5: fewer would eject for chance.
    pub consecutive_failures: u32,
    /// How often success rates are compared. 10 s.
    pub interval: Duration,
    /// Calls that an endpoint must have had in an interval for its success rate to count. 100.
    pub rate_calls_min: u32,
    /// Endpoints with so many calls that are needed for a comparison. 5.
    pub rate_endpoints_min: u32,
    /// An endpoint is ejected if its success rate lies more than so many standard deviations below
    /// the mean; 0.0: none is. 1.9.
    pub rate_deviations: f64,
    /// Length of the first ejection; each further one is longer by as much. 10 s, where Envoy has
    /// 30 s: the endpoint comes back with a single trial call, so an early return costs little.
    pub ejection: Duration,
    /// Longest ejection. 300 s.
    pub ejection_max: Duration,
    /// Most of the endpoints that are ejected at a time, in percent; one always may be, the last
    /// one never. 30, where Envoy has 10: a caller often knows ten endpoints or fewer.
    pub ejected_percent_max: u8,
}

impl Default for Outliers {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            interval: Duration::from_secs(10),
            rate_calls_min: 100,
            rate_endpoints_min: 5,
            rate_deviations: 1.9,
            ejection: Duration::from_secs(10),
            ejection_max: Duration::from_secs(300),
            ejected_percent_max: 30,
        }
    }
}

/// How to watch a service.
///
/// ```
/// use heartline_client::{Balance, WatchOptions};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), heartline_client::ClientError> {
/// let options = WatchOptions::new()
///     .balance(Balance::PeakEwma)
///     .zone("eu-1a")?
///     .max_stale(Duration::from_secs(60))
///     .slow_start(Duration::from_secs(30));
/// assert_eq!(options.balance, Balance::PeakEwma);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct WatchOptions {
    /// How endpoints are picked. By weight unless set.
    pub balance: Balance,
    /// Hash of the zone whose endpoints come first; 0, unless set: none does.
    pub zone_hash: u32,
    /// Longest age of a view that endpoints are picked from while no engine can be reached, and
    /// longest time that the last good endpoints stand in when none is healthy. 5 minutes unless
    /// set: longer than an engine takes to be replaced, shorter than addresses take to be given to
    /// others.
    pub max_stale: Duration,
    /// Time in which the share of an endpoint that appeared later than the watch grows from a tenth
    /// to the whole. Zero, unless set: it has its whole share at once, as most services expect.
    pub slow_start: Duration,
    /// When endpoints whose calls fail are left out; `None`: never.
    pub outliers: Option<Outliers>,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            balance: Balance::default(),
            zone_hash: 0,
            max_stale: Duration::from_secs(300),
            slow_start: Duration::ZERO,
            outliers: Some(Outliers::default()),
        }
    }
}

impl WatchOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how endpoints are picked.
    pub fn balance(mut self, balance: Balance) -> Self {
        self.balance = balance;
        self
    }

    /// Sets the zone whose endpoints come first.
    ///
    /// Each zone of the service is due the same part of the calls. A zone with at least this part
    /// of the capacity keeps all calls of its callers. A zone with less keeps what its capacity
    /// covers; the rest goes to zones with capacity above their part. Picks by a key pay no regard
    /// to zones: a key finds the same endpoint from everywhere.
    ///
    /// # Errors
    /// [`ClientError::Text`]: the zone is longer than 31 bytes or not visible ASCII.
    pub fn zone(mut self, zone: &str) -> Result<Self, ClientError> {
        self.zone_hash = Label::new(zone).map_err(text("zone"))?.hash32();
        Ok(self)
    }

    /// Sets the longest age of a view that endpoints are picked from.
    pub fn max_stale(mut self, max_stale: Duration) -> Self {
        self.max_stale = max_stale;
        self
    }

    /// Sets the time in which a newcomer's share grows to the whole.
    pub fn slow_start(mut self, window: Duration) -> Self {
        self.slow_start = window;
        self
    }

    /// Sets when endpoints whose calls fail are left out; `None`: never.
    pub fn outliers(mut self, outliers: Option<Outliers>) -> Self {
        self.outliers = outliers;
        self
    }
}
