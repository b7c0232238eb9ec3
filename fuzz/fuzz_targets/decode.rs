//! `cargo +nightly fuzz run decode --features libfuzzer`: see `heartline_fuzz::decode`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heartline_fuzz::decode(data));
