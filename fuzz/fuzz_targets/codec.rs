//! See [`yakt_fuzz::codec`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| yakt_fuzz::codec::run(data));
