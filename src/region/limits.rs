//! The caps of the tables, and the relations between them. Those of the format are in
//! `heartline_wire`.

pub use heartline_wire::limits::*;

/// Fewest leases an engine can be sized for.
pub const CAPACITY_MIN: u32 = 16;
/// Most leases an engine can be sized for.
pub const CAPACITY_MAX: u32 = 1 << 24;
/// Slots beyond the capacity, so that an instance of a full table can be replaced while its old
/// slot is in quarantine.
pub const SPARE_SLOTS: u32 = 64;
/// Times a reader repeats a read that a writer disturbed before it answers `busy`.
pub const READ_RETRIES: u32 = 64;
/// Longest probe sequence of an index.
pub const PROBES_MAX: usize = 512;
/// Loops in one engine.
pub const LOOPS_MAX: usize = 256;

const _: () = {
    // Slots and their directory are u32; list positions keep one bit for the paging cursor.
    assert!((CAPACITY_MAX + SPARE_SLOTS) < 1 << 31);
};
