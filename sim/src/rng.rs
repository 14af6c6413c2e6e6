//! Random numbers that come from the seed, in the two forms the simulation needs.
//!
//! [`SimRng`] draws from madsim's generator and works only inside a simulation: it is what nodes see.
//! [`SeededRng`] is self-contained: the models of network and disk own one each, forked from the
//! simulation's when they are made. They need it because `Drop` code reaches them after the simulation
//! is over, and because a disk can then be tested without a simulation around it.

use std::convert::Infallible;
use std::ops::Range;
use std::time::Duration;

use madsim::rand::RngCore;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng, TryRng};

/// Draws from the running simulation's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct SimRng;

impl TryRng for SimRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(madsim::rand::thread_rng().next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(madsim::rand::thread_rng().next_u64())
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        madsim::rand::thread_rng().fill_bytes(dst);
        Ok(())
    }
}

/// A generator of its own, whose algorithm is fixed so that a seed means the same on every platform.
#[derive(Debug)]
pub struct SeededRng(Xoshiro256PlusPlus);

impl SeededRng {
    /// The generator of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// A new generator seeded from `parent`, which moves on.
    #[must_use]
    pub fn fork(parent: &mut impl Rng) -> Self {
        Self::new(parent.next_u64())
    }
}

impl TryRng for SeededRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.0.try_next_u32()
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0.try_next_u64()
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        self.0.try_fill_bytes(dst)
    }
}

/// A duration in `range`; its start when the range is empty.
pub(crate) fn draw_duration(rng: &mut impl Rng, range: &Range<Duration>) -> Duration {
    let span = range.end.saturating_sub(range.start);
    let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    range.start + Duration::from_nanos(draw_below(rng, span))
}

/// A number below `bound`, or 0 when `bound` is 0. The modulo's bias is irrelevant here.
pub(crate) fn draw_below(rng: &mut impl Rng, bound: u64) -> u64 {
    if bound == 0 { 0 } else { rng.next_u64() % bound }
}

/// True or false, evenly.
pub(crate) fn draw_bool(rng: &mut impl Rng) -> bool {
    rng.next_u64() >> 63 == 1
}
