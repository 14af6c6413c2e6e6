//! See [`yakt_fuzz::router`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| yakt_fuzz::router::run(data));
