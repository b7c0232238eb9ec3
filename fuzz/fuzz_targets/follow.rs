//! `cargo +nightly fuzz run follow --features libfuzzer`: see `heartline_fuzz::follow`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heartline_fuzz::follow(data));
