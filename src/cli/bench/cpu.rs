//! How much processor time this program has used: if it is much, it measures itself.

use std::time::Duration;

/// Ticks of `/proc/self/stat` in a second: the same on every Linux.
const TICKS_PER_SECOND: u32 = 100;

/// Processor time of this process so far, where the system says so.
pub(super) fn used() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is a name in parentheses, and may have spaces in it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: u32 = fields.next()?.parse::<u32>().ok()? + fields.next()?.parse::<u32>().ok()?;
    Some(Duration::from_secs(1) * ticks / TICKS_PER_SECOND)
}
