//! The house rules, kept by a test. Each rule is a function over the text of one file, tested with
//! an example that it passes and one that it does not, and applied to all crates.

mod clocks;
mod docs;
mod floors;
mod layouts;
mod leftovers;
mod lengths;
mod planted;
mod proc;
mod source;
mod unsafe_code;
