//! Every limit of the metadata model, in one place.
//!
//! A value outside of its limit is refused where it is parsed, or by [`State::apply`](super::State::apply)
//! when only the state can tell. Raising a limit is compatible; lowering one makes old logs unreadable.

use std::time::Duration;

/// The largest broker, partition or producer id: `i32::MAX`, because clients of the Kafka protocol
/// read ids as signed 32-bit integers.
pub const ID_MAX: u32 = i32::MAX as u32;

/// The largest epoch, 2⁵³ − 1: the largest integer that every JSON reader holds exactly. A million
/// changes a second reach it in 285 years.
pub const EPOCH_MAX: u64 = (1 << 53) - 1;

/// The latest clock reading that moves cluster time, in microseconds: about 2106.
///
/// A clock beyond it is broken: its reading is ignored and reported. Cluster time never goes back,
/// so it cannot follow such a clock and recover. The limit lies 2⁴⁰ µs below 2³² s, up to where
/// microseconds survive in a float of seconds, so that stamps can still count up one by one from
/// there.
pub const CLOCK_MAX_MICROS: u64 = (1 << 32) * 1_000_000 - (1 << 40);

/// Stamps stay below this many microseconds (2⁵³): beyond, microseconds are not even distinct floats.
/// A trillion commands past [`CLOCK_MAX_MICROS`] do not reach it.
pub const STAMP_MAX_MICROS: u64 = (1 << 53) - 1;

/// Kafka's limit on the length of a topic's name, in characters (and bytes, since they are ASCII).
pub const TOPIC_NAME_CHARS_MAX: usize = 249;

/// The longest host name, in characters. DNS names end at 253.
pub const HOST_CHARS_MAX: usize = 255;

/// The longest security protocol name, in characters.
pub const SECURITY_PROTOCOL_CHARS_MAX: usize = 64;

/// The longest rack id, in characters.
pub const RACK_ID_CHARS_MAX: usize = 255;

/// The most replicas of one partition. Real clusters use three to five.
pub const REPLICAS_MAX: usize = 64;

/// The longest idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// How long a command's outcome is remembered for its idempotency key, in cluster time. A retry after
/// this is a new command.
pub const IDEMPOTENCY_RETENTION: Duration = Duration::from_mins(10);

/// How many outcomes are remembered at most. Above it the oldest is forgotten first, retention or not:
/// without the bound a flood of keys would fill the memory of every node.
pub const IDEMPOTENCY_ENTRIES_MAX: usize = 100_000;

/// How many outdated outcomes one command may clear away. More than one is added by none, so the table
/// shrinks; the bound keeps the first command after an idle hour from paying for all of them.
pub const IDEMPOTENCY_PRUNE_MAX: usize = 16;

/// How old, in cluster time, an offset may be to be answered with a diff.
pub const HISTORY_WINDOW: Duration = Duration::from_mins(10);

/// The oldest offset, by age in cluster time, that is answered with the current-state snapshot.
pub const CURRENT_SNAPSHOT_AGE_MAX: Duration = Duration::from_mins(10);
