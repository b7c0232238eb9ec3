//! `cargo +nightly fuzz run local --features libfuzzer`: see `heartline_fuzz::local`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heartline_fuzz::local(data));
