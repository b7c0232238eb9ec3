//! `cargo +nightly fuzz run dataplane --features libfuzzer`: see `heartline_fuzz::dataplane`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heartline_fuzz::dataplane(data));
