//! Which run of an engine made the files, and in which boot of the machine.

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

/// The kernel's boot id (`/proc/sys/kernel/random/boot_id`), or zeros where it can't be read.
///
/// Readings of the monotonic clock mean something only together with the boot they were taken in.
pub fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: Vec<u8> =
        text.bytes().filter_map(|byte| (byte as char).to_digit(16)).map(|d| d as u8).collect();
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_id_is_stable_and_not_zero() {
        assert_eq!(boot_id(), boot_id());
        assert_ne!(boot_id(), [0; 16]);
    }
}
