//! YAKt
pub mod env;
