//! Decides which callers may hold a connection to the Raft port.
//!
//! A caller is a *stranger* until it has said a hello that names this cluster and this node; then
//! it is a *member*. A quarter of the connections are for strangers. One stranger too many ends the
//! connection of the oldest stranger. A member says its hello immediately, so connections that say
//! nothing cannot keep it out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// One in this many connections is for a stranger.
const STRANGERS_PART: usize = 4;

/// The connections of one node. Clones share them.
#[derive(Clone)]
pub(super) struct Entrance {
    guests: Arc<Mutex<Guests>>,
    strangers_max: usize,
    members_max: usize,
}

#[derive(Default)]
struct Guests {
    number_last: u64,
    /// By number, so the first one is the oldest. A message ends the connection.
    strangers: BTreeMap<u64, oneshot::Sender<()>>,
    members: usize,
}

/// One connection's place. It is free again when this is dropped.
pub(super) struct Guest {
    entrance: Entrance,
    number: u64,
    is_member: bool,
}

/// A new connection's place.
pub(super) struct Admitted {
    pub(super) guest: Guest,
    /// Yields a message when the connection must end.
    pub(super) evicted: oneshot::Receiver<()>,
    /// Whether the oldest stranger was evicted for it.
    pub(super) has_evicted: bool,
}

impl Entrance {
    pub(super) fn new(connections_max: usize) -> Self {
        let strangers_max = (connections_max / STRANGERS_PART).max(1);
        let members_max = connections_max.saturating_sub(strangers_max).max(1);
        Self { guests: Arc::default(), strangers_max, members_max }
    }

    /// Admits a stranger.
    pub(super) fn admit(&self) -> Admitted {
        let (evict, evicted) = oneshot::channel();
        let mut guests = self.lock();
        guests.number_last += 1;
        let number = guests.number_last;
        let oldest = if guests.strangers.len() >= self.strangers_max {
            guests.strangers.pop_first()
        } else {
            None
        };
        guests.strangers.insert(number, evict);
        drop(guests);
        let has_evicted = oldest.is_some();
        if let Some((_, evict)) = oldest {
            // A connection that has ended meanwhile needs no message.
            let _ = evict.send(());
        }
        let guest = Guest { entrance: self.clone(), number, is_member: false };
        Admitted { guest, evicted, has_evicted }
    }

    fn lock(&self) -> MutexGuard<'_, Guests> {
        // No step that holds the lock can panic half-way.
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// Makes the stranger a member. `false` when there are too many members already: it stays a
    /// stranger.
    pub(super) fn promote(&mut self) -> bool {
        let mut guests = self.entrance.lock();
        if guests.members >= self.entrance.members_max {
            return false;
        }
        guests.strangers.remove(&self.number);
        guests.members += 1;
        self.is_member = true;
        true
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = self.entrance.lock();
        if self.is_member {
            guests.members -= 1;
        } else {
            guests.strangers.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stranger_too_many_evicts_the_oldest() {
        let entrance = Entrance::new(8);
        let mut first = entrance.admit();
        let mut second = entrance.admit();
        let third = entrance.admit();
        assert!(third.has_evicted && !second.has_evicted);
        assert_eq!(first.evicted.try_recv(), Ok(()));
        assert!(second.evicted.try_recv().is_err());
    }

    #[test]
    fn strangers_do_not_take_the_places_of_members() {
        let entrance = Entrance::new(8);
        let mut members: Vec<_> = (0..6).map(|_| entrance.admit()).collect();
        let promoted = members.iter_mut().map(|member| member.guest.promote());
        // Two strangers fit, so the first four were evicted. A promotion that was on its way still
        // counts.
        assert_eq!(promoted.filter(|promoted| *promoted).count(), 6);
        let strangers: Vec<_> = (0..100).map(|_| entrance.admit()).collect();
        assert_eq!(entrance.lock().members, 6);
        let mut one_more = entrance.admit();
        assert!(!one_more.guest.promote());
        drop((members, strangers));
        assert!(one_more.guest.promote());
        let guests = entrance.lock();
        assert_eq!((guests.members, guests.strangers.len()), (1, 0));
    }
}
