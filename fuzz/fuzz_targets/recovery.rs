//! See [`yakt_fuzz::recovery`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| yakt_fuzz::recovery::run(data));
