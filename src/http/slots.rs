//! Decides which kind of slot a connection gets.
//!
//! | slot | how many | given to |
//! |---|---|---|
//! | ordinary | [`ConnectionLimits::http`](crate::node::ConnectionLimits::http) | any connection, while its client address has at most half of them |
//! | reserved | [`RESERVED_CONNECTIONS`] | a connection that gets no ordinary slot |
//! | farewell | [`FAREWELLS_MAX`] | a connection that gets no reserved slot either |

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{FAREWELLS_MAX, RESERVED_CONNECTIONS};

/// The slots of one server. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    taken: Arc<Mutex<Taken>>,
    ordinary_max: usize,
}

#[derive(Debug, Default)]
struct Taken {
    ordinary: usize,
    /// Ordinary slots by client address. Addresses without a slot have no entry.
    by_address: BTreeMap<String, usize>,
    reserved: usize,
    farewells: usize,
}

/// The slot of a new connection.
#[derive(Debug)]
pub(super) enum Slot {
    /// The connection is served without restrictions.
    Ordinary(Guard),
    /// The connection is served one request, if slots are reserved for such requests.
    Reserved(Guard),
    /// The connection is told that the server is overloaded.
    Farewell(Guard),
    /// The same as `Farewell`, without time to read the answer.
    None,
}

/// Holds a slot until it is dropped.
#[derive(Debug)]
pub(super) struct Guard {
    taken: Arc<Mutex<Taken>>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Ordinary(String),
    Reserved,
    Farewell,
}

impl Slots {
    pub(super) fn new(ordinary_max: usize) -> Self {
        Self { taken: Arc::default(), ordinary_max }
    }

    /// Ordinary slots that one client address may hold: half of them, so that no single client
    /// locks out the others.
    fn address_max(&self) -> usize {
        self.ordinary_max.div_ceil(2)
    }

    /// The slot of a new connection from `address`.
    pub(super) fn admit(&self, address: String) -> Slot {
        let mut taken = lock(&self.taken);
        let guard = |kind| Guard { taken: Arc::clone(&self.taken), kind };
        let of_address = taken.by_address.get(&address).copied().unwrap_or_default();
        if taken.ordinary < self.ordinary_max && of_address < self.address_max() {
            taken.ordinary += 1;
            taken.by_address.insert(address.clone(), of_address + 1);
            Slot::Ordinary(guard(Kind::Ordinary(address)))
        } else if taken.reserved < RESERVED_CONNECTIONS {
            taken.reserved += 1;
            Slot::Reserved(guard(Kind::Reserved))
        } else if taken.farewells < FAREWELLS_MAX {
            taken.farewells += 1;
            Slot::Farewell(guard(Kind::Farewell))
        } else {
            Slot::None
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        match &self.kind {
            Kind::Reserved => taken.reserved -= 1,
            Kind::Farewell => taken.farewells -= 1,
            Kind::Ordinary(address) => {
                taken.ordinary -= 1;
                if let Some(count) = taken.by_address.get_mut(address) {
                    *count -= 1;
                    if *count == 0 {
                        taken.by_address.remove(address);
                    }
                }
            }
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    // No step that holds the lock can panic half-way.
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(slots: &Slots, address: &str, count: usize) -> Vec<Slot> {
        (0..count).map(|_| slots.admit(address.to_owned())).collect()
    }

    #[test]
    fn one_address_gets_half_of_the_ordinary_slots() {
        let slots = Slots::new(8);
        let greedy = take(&slots, "a", 8);
        let ordinary = greedy.iter().filter(|slot| matches!(slot, Slot::Ordinary(_))).count();
        assert_eq!(ordinary, 4);
        let others = take(&slots, "b", 4);
        assert!(others.iter().all(|slot| matches!(slot, Slot::Ordinary(_))));
        assert!(matches!(slots.admit("c".to_owned()), Slot::Reserved(_)));
    }

    #[test]
    fn slots_are_given_in_order_and_come_back() {
        let slots = Slots::new(2);
        let held = take(&slots, "a", 1 + RESERVED_CONNECTIONS + FAREWELLS_MAX);
        assert!(matches!(held[0], Slot::Ordinary(_)));
        assert!(matches!(held[1], Slot::Reserved(_)));
        assert!(matches!(held[1 + RESERVED_CONNECTIONS], Slot::Farewell(_)));
        assert!(matches!(slots.admit("a".to_owned()), Slot::None));
        drop(held);
        assert!(matches!(slots.admit("a".to_owned()), Slot::Ordinary(_)));
        assert!(lock(&slots.taken).by_address.is_empty());
    }
}
