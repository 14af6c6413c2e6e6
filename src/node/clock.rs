//! Cluster time, as the leader reads it.
//!
//! Every command carries the proposing leader's reading, and the state machine makes of it a stamp that is
//! greater than every stamp before (see [`crate::metadata`]). A reading is the larger of
//!
//! - this machine's wall clock, so that stamps are the time of day when clocks are right, and
//! - the node's reckoning of how far cluster time has gone on since the last stamps
//!   ([`ClusterClock`](crate::raft::ClusterClock)), so that a leader whose clock is behind its predecessor's goes on
//!   from there instead of standing still until its clock has caught up. While it is ahead of the wall
//!   clock, cluster time runs a little slow, and so meets it again.
//!
//! What remains of a wrong clock: a leader whose clock is ahead takes the cluster's time ahead with it.

use crate::env::{Env, rt};
use crate::metadata::Timestamp;
use crate::raft::state_machine::Image;

/// Cluster time now, if this node leads.
pub(super) fn reading<E: Env>(env: &E, image: &Image<rt::Instant<E>>) -> Timestamp {
    let wall = u64::try_from(env.wall_clock().as_micros()).unwrap_or(u64::MAX);
    image.clock.reading(rt::now::<E>()).max(Timestamp::from_micros(wall))
}
