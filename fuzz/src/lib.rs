//! What the fuzz targets do with their input.
//!
//! | target | input | claim |
//! |---|---|---|
//! | [`codec`] | one value's bytes, from the disk or the wire | decoding never panics, what decodes survives encoding |
//! | [`commands`] | a history of commands | the state does what the property tests' model does, snapshots lose nothing |
//! | [`frames`] | a connection's bytes | however they arrive, the same messages or the same error come out |
//! | [`recovery`] | writes, crashes and damage of a data directory | what was acknowledged is there, or opening fails |
//! | [`router`] | an HTTP request to a leader | every answer is one that `/openapi.json` describes, and every error is a problem |
//!
//! ```text
//! cargo install cargo-fuzz --locked
//! cargo fuzz run -s none codec                  # until it finds something
//! cargo fuzz run -s none codec PATH-TO-A-FIND   # once, on that
//! ```
//!
//! Stable Rust suffices. `-s none` leaves AddressSanitizer out: it needs a nightly compiler, and this
//! project forbids `unsafe`. `corpus/` holds the seeds, which `cargo run --example seeds`, run in this
//! directory, writes anew after a change of format; `cargo fuzz run` adds what it finds there, to be
//! committed or deleted.

pub mod codec;
pub mod commands;
pub mod frames;
pub mod recovery;
pub mod router;
