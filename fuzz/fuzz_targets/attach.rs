//! `cargo +nightly fuzz run attach --features libfuzzer`: see `heartline_fuzz::attach`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heartline_fuzz::attach(data));
