//! How often something was done, and how many bytes it took.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the process started. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    times: AtomicU64,
    bytes: AtomicU64,
}

impl Tally {
    /// It was done once more, with so many bytes.
    pub fn add(&self, bytes: usize) {
        // Nobody draws conclusions from one of them about the other, or about anything else.
        self.0.times.fetch_add(1, Ordering::Relaxed);
        self.0.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How often.
    #[must_use]
    pub fn times(&self) -> u64 {
        self.0.times.load(Ordering::Relaxed)
    }

    /// How many bytes in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }
}
