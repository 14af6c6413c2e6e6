//! Cluster time, as the leader reads it.
//!
//! Every command carries the proposing leader's reading, and the state machine makes of it a stamp that is
//! greater than every stamp before (see [`crate::metadata`]). A reading is the largest of
//!
//! - this machine's wall clock, so that stamps are the time of day when clocks are right, and
//! - the last stamp plus the time since this node applied it, so that a leader whose clock is behind its
//!   predecessor's goes on from there instead of standing still until its clock has caught up. While it is
//!   ahead of the wall clock, cluster time runs slow by [`SLEW_PER_MILLION`], and so meets it again.
//!
//! What remains of a wrong clock: a leader whose clock is ahead takes the cluster's time ahead with it.

use crate::env::{Env, rt};
use crate::metadata::Timestamp;
use crate::raft::state_machine::Image;

/// How much slower than real time cluster time runs while it is ahead of the leader's wall clock, in
/// microseconds per second: the largest correction that NTP's clock discipline makes without a step (RFC 5905).
const SLEW_PER_MILLION: u128 = 500;

/// Cluster time now, if this node leads.
pub(super) fn reading<E: Env>(env: &E, image: &Image<rt::Instant<E>>) -> Timestamp {
    let elapsed = (rt::now::<E>() - image.stamped_at).as_micros();
    let slewed = elapsed - elapsed * SLEW_PER_MILLION / 1_000_000;
    let wall = micros(env.wall_clock().as_micros());
    let carried = image.state.last_stamp().micros().saturating_add(micros(slewed));
    Timestamp::from_micros(wall.max(carried))
}

fn micros(micros: u128) -> u64 {
    u64::try_from(micros).unwrap_or(u64::MAX)
}
