//! See [`yakt_fuzz::commands`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| yakt_fuzz::commands::run(data));
