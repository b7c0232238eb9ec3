//! `cargo +nightly fuzz run config --features libfuzzer`: see `heartline_fuzz::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heartline_fuzz::config(data));
