//! `cargo +nightly fuzz run registrar --features libfuzzer`: see `heartline_fuzz::registrar`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heartline_fuzz::registrar(data));
