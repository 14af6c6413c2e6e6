//! See [`yakt_fuzz::frames`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| yakt_fuzz::frames::run(data));
