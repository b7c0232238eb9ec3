//! Which run of an engine made the files.

/// A run of an engine, as the files that it makes tell it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The kernel's boot id. Readings of the monotonic clock mean something only together with the
    /// boot they were taken in.
    pub boot: [u8; 16],
    /// Random number of the run.
    pub epoch: u64,
    /// Key of the hashes of the index, whose keys come from the network.
    pub key: (u64, u64),
}
