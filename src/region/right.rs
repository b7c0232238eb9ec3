//! The right to change the region, as a type: every change asks for a reference to it.

/// The right to change the region. There is one for each region, and the registrar has it.
#[derive(Debug)]
pub struct Right(());

impl Right {
    /// Made once for each region, where the region is made or attached to.
    pub(super) const fn new() -> Self {
        Self(())
    }
}
