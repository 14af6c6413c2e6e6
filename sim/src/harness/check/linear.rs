//! Whether a history of concurrent operations on one object is linearizable: Wing and Gong's search with
//! Lowe's memory of what was tried ("Testing for linearizability", 2017), as Porcupine does it.
//!
//! Histories are judged object by object (P-compositionality: Herlihy and Wing, theorem 1), which keeps each
//! search small. stateright's tester, the one maintained alternative, keeps no memory of what it tried and
//! does not come back from a few dozen concurrent operations.
//!
//! An operation without an answer may take effect at any time after it began, or never; the search gives it
//! all the time after its beginning, and a model must accept it in every state.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

/// The sequential behaviour of one object.
pub trait Model {
    /// What the object is like between two operations.
    type State: Clone + Ord + Debug + Default;
    /// An operation with its outcome.
    type Operation: Debug + PartialEq;

    /// The state after `operation`, or `None` when it cannot have had that outcome in `state`.
    fn step(state: &Self::State, operation: &Self::Operation) -> Option<Self::State>;

    /// Something that no operation makes less: how many changes there were, for example.
    fn height(_state: &Self::State) -> u64 {
        0
    }

    /// How high the state can have been at most before `operation`, judged by its answer. A search gives up what has
    /// come too high for an answer that is yet to be explained.
    fn height_before(_operation: &Self::Operation) -> Option<u64> {
        None
    }
}

/// One operation of a history.
#[derive(Clone, Debug)]
pub struct Timed<O> {
    /// What the caller calls it.
    pub id: usize,
    /// What was done, and what came of it.
    pub operation: O,
    /// When it began.
    pub begun: u64,
    /// When its answer came, if one did.
    pub ended: Option<u64>,
}

/// What became of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is an order that explains every answer.
    Linearizable,
    /// There is none.
    Illegal {
        /// The operation that the longest explanation cannot explain.
        stuck: usize,
        /// How many operations that explanation explains.
        explained: usize,
        /// The state it ends in.
        state: String,
    },
    /// The search took too many steps.
    Undecided,
}

/// Steps that a search may take. A history of a thousand operations with little concurrency takes a few thousand.
const STEPS_MAX: usize = 2_000_000;

/// A beginning or an end, in a list that operations are taken out of and put back into.
struct Mark {
    operation: usize,
    begins: bool,
    previous: usize,
    next: usize,
}

const HEAD: usize = 0;

/// The marks of a history in order of time, with a head before the first.
struct Marks {
    marks: Vec<Mark>,
    /// The end mark of each operation.
    ends: Vec<usize>,
}

impl Marks {
    fn new<O>(history: &[Timed<O>]) -> Self {
        let mut order: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * history.len());
        for (position, operation) in history.iter().enumerate() {
            order.push((operation.begun, false, position));
            order.push((operation.ended.unwrap_or(u64::MAX), true, position));
        }
        // At one moment, beginnings come first: operations that touch count as concurrent.
        order.sort_unstable();
        let last = order.len();
        let mut marks =
            vec![Mark { operation: 0, begins: false, previous: last, next: 1 % (last + 1) }];
        let mut ends = vec![HEAD; history.len()];
        for (place, (_, ends_here, operation)) in (1..).zip(order) {
            if ends_here {
                ends[operation] = place;
            }
            let next = (place + 1) % (last + 1);
            marks.push(Mark { operation, begins: !ends_here, previous: place - 1, next });
        }
        Self { marks, ends }
    }

    fn unlink(&mut self, at: usize) {
        let (previous, next) = (self.marks[at].previous, self.marks[at].next);
        self.marks[previous].next = next;
        self.marks[next].previous = previous;
    }

    fn relink(&mut self, at: usize) {
        let (previous, next) = (self.marks[at].previous, self.marks[at].next);
        self.marks[previous].next = at;
        self.marks[next].previous = at;
    }

    fn take_out(&mut self, begin: usize) {
        self.unlink(begin);
        self.unlink(self.ends[self.marks[begin].operation]);
    }

    fn put_back(&mut self, begin: usize) {
        self.relink(self.ends[self.marks[begin].operation]);
        self.relink(begin);
    }
}

fn take(asked: &mut BTreeMap<u64, usize>, height: Option<u64>) {
    if let Some(height) = height
        && let Some(count) = asked.get_mut(&height)
    {
        *count -= 1;
        if *count == 0 {
            asked.remove(&height);
        }
    }
}

fn give_back(asked: &mut BTreeMap<u64, usize>, height: Option<u64>) {
    if let Some(height) = height {
        *asked.entry(height).or_default() += 1;
    }
}

/// For each operation without an answer the equal one, if there is one, that begun last before it.
///
/// Of two equal ones either can be where the other is in an order, once both have begun: neither has an end. So the
/// earlier one can always be the first, and a search need not try the other before it.
fn twins<O: PartialEq>(history: &[Timed<O>]) -> Vec<Option<usize>> {
    let mut open: Vec<usize> =
        (0..history.len()).filter(|operation| history[*operation].ended.is_none()).collect();
    open.sort_by_key(|operation| history[*operation].begun);
    let mut twins = vec![None; history.len()];
    for (place, operation) in open.iter().enumerate() {
        let equal = |other: &&usize| history[**other].operation == history[*operation].operation;
        twins[*operation] = open[..place].iter().rev().find(equal).copied();
    }
    twins
}

/// Searches for an order of `history` that `M` allows.
///
/// Operations without an answer are tried last, and only if they change anything: whatever is not needed to explain an
/// answer can have happened after all of them. Of equal ones only the first is tried. So they cost little as long as there
/// is an order.
pub fn check<M: Model>(history: &[Timed<M::Operation>]) -> Outcome {
    let mut marks = Marks::new(history);
    let mut state = M::State::default();
    let mut done = vec![0_u64; history.len().div_ceil(64)];
    let mut tried: BTreeSet<(Vec<u64>, M::State)> = BTreeSet::new();
    let mut taken: Vec<(usize, M::State)> = Vec::new();
    let mut deepest: Option<(usize, usize, String)> = None;
    let is_open = |operation: usize| history[operation].ended.is_none();
    let twins = twins(history);
    let before = |operation: usize| {
        M::height_before(&history[operation].operation).filter(|_| !is_open(operation))
    };
    // The heights that the answers ask for which are not explained yet, and by how many of them.
    let mut asked: BTreeMap<u64, usize> = BTreeMap::new();
    for height in (0..history.len()).filter_map(before) {
        *asked.entry(height).or_default() += 1;
    }
    let mut answers_left = history.iter().filter(|timed| timed.ended.is_some()).count();
    let (mut at, mut trying_open) = (marks.marks[HEAD].next, false);
    for _ in 0..STEPS_MAX {
        if answers_left == 0 {
            return Outcome::Linearizable;
        }
        let Mark { operation, begins, next, .. } = marks.marks[at];
        let open = is_open(operation);
        if begins {
            let (word, bit) = (operation / 64, 1 << (operation % 64));
            let in_turn =
                twins[operation].is_none_or(|twin| done[twin / 64] & (1 << (twin % 64)) != 0);
            let after = in_turn.then(|| M::step(&state, &history[operation].operation)).flatten();
            let after = after.filter(|after| open == trying_open && !(open && *after == state));
            if let Some(after) = after {
                done[word] |= bit;
                take(&mut asked, before(operation));
                let in_reach =
                    asked.first_key_value().is_none_or(|(most, _)| M::height(&after) <= *most);
                if in_reach && tried.insert((done.clone(), after.clone())) {
                    taken.push((at, std::mem::replace(&mut state, after)));
                    marks.take_out(at);
                    answers_left -= usize::from(!open);
                    (at, trying_open) = (marks.marks[HEAD].next, false);
                    continue;
                }
                done[word] &= !bit;
                give_back(&mut asked, before(operation));
            }
            at = next;
            continue;
        }
        if !trying_open {
            (at, trying_open) = (marks.marks[HEAD].next, true);
            continue;
        }
        // An answer came before anything that could explain it.
        if deepest.as_ref().is_none_or(|(depth, _, _)| *depth < taken.len()) {
            deepest = Some((taken.len(), history[operation].id, format!("{state:?}")));
        }
        let Some((begin, former)) = taken.pop() else {
            let (explained, stuck, state) = deepest.unwrap_or_default();
            return Outcome::Illegal { stuck, explained, state };
        };
        let operation = marks.marks[begin].operation;
        done[operation / 64] &= !(1 << (operation % 64));
        give_back(&mut asked, before(operation));
        state = former;
        marks.put_back(begin);
        trying_open = is_open(operation);
        answers_left += usize::from(!trying_open);
        at = marks.marks[begin].next;
    }
    Outcome::Undecided
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register that starts at 0.
    struct Register;

    #[derive(Clone, Debug, PartialEq)]
    enum Op {
        Write(u32),
        Read(u32),
    }

    impl Model for Register {
        type State = u32;
        type Operation = Op;

        fn step(state: &u32, operation: &Op) -> Option<u32> {
            match operation {
                Op::Write(value) => Some(*value),
                Op::Read(value) => (state == value).then_some(*state),
            }
        }
    }

    fn history(operations: &[(Op, u64, Option<u64>)]) -> Vec<Timed<Op>> {
        let timed = |(id, (operation, begun, ended)): (usize, &(Op, u64, Option<u64>))| Timed {
            id,
            operation: operation.clone(),
            begun: *begun,
            ended: *ended,
        };
        operations.iter().enumerate().map(timed).collect()
    }

    fn judge(operations: &[(Op, u64, Option<u64>)]) -> Outcome {
        check::<Register>(&history(operations))
    }

    #[test]
    fn nothing_and_a_plain_sequence_are_linearizable() {
        assert_eq!(judge(&[]), Outcome::Linearizable);
        let plain = [(Op::Write(1), 0, Some(1)), (Op::Read(1), 2, Some(3))];
        assert_eq!(judge(&plain), Outcome::Linearizable);
    }

    #[test]
    fn a_stale_read_is_caught_and_named() {
        let stale =
            [(Op::Write(1), 0, Some(1)), (Op::Write(2), 2, Some(3)), (Op::Read(1), 4, Some(5))];
        let Outcome::Illegal { stuck, explained, .. } = judge(&stale) else { panic!("it passed") };
        assert_eq!((stuck, explained), (2, 2));
    }

    #[test]
    fn a_read_that_overlaps_the_write_may_see_either() {
        for seen in [0, 1] {
            let overlapping = [(Op::Write(1), 0, Some(10)), (Op::Read(seen), 5, Some(6))];
            assert_eq!(judge(&overlapping), Outcome::Linearizable);
        }
    }

    #[test]
    fn an_unanswered_write_may_show_up_late_but_not_vanish_again() {
        let late = [(Op::Write(1), 0, None), (Op::Read(0), 5, Some(6)), (Op::Read(1), 7, Some(8))];
        assert_eq!(judge(&late), Outcome::Linearizable);
        let back = [(Op::Write(1), 0, None), (Op::Read(1), 5, Some(6)), (Op::Read(0), 7, Some(8))];
        assert!(matches!(judge(&back), Outcome::Illegal { stuck: 2, .. }));
    }

    #[test]
    fn new_old_inversion_between_two_readers_is_caught() {
        let inverted = [
            (Op::Write(1), 0, Some(100)),
            (Op::Read(1), 10, Some(20)),
            (Op::Read(0), 30, Some(40)),
        ];
        assert!(matches!(judge(&inverted), Outcome::Illegal { .. }));
    }

    #[test]
    fn unanswered_operations_that_explain_nothing_cost_nothing() {
        // Forty writes that may have happened at any time: more orders than anybody can try.
        let mut operations: Vec<_> = (100..140).map(|value| (Op::Write(value), 0, None)).collect();
        for turn in 0..100_u32 {
            let begun = u64::from(turn) * 10 + 1;
            operations.push((Op::Write(turn), begun, Some(begun + 1)));
            operations.push((Op::Read(turn), begun + 2, Some(begun + 3)));
        }
        // One of them explains what is read last.
        operations.push((Op::Read(117), 2_000, Some(2_001)));
        assert_eq!(judge(&operations), Outcome::Linearizable);
    }

    /// Counts up, and says how far.
    struct Counter;

    impl Model for Counter {
        type State = u64;
        /// `None` counts, and nobody knows whether it did.
        type Operation = Option<u64>;

        fn step(state: &u64, operation: &Option<u64>) -> Option<u64> {
            operation.map_or(Some(state + 1), |seen| (*state == seen).then_some(seen))
        }

        fn height(state: &u64) -> u64 {
            *state
        }

        fn height_before(operation: &Option<u64>) -> Option<u64> {
            *operation
        }
    }

    #[test]
    fn what_has_come_too_high_is_given_up() {
        let count = |id| Timed { id, operation: None, begun: 0, ended: None };
        let see =
            |seen, begun| Timed { id: 100, operation: Some(seen), begun, ended: Some(begun + 1) };
        let counts: Vec<_> = (0..60).map(count).collect();
        let up = [counts.clone(), vec![see(0, 1), see(3, 3), see(3, 5), see(40, 7)]].concat();
        assert_eq!(check::<Counter>(&up), Outcome::Linearizable);
        // There are more ways to come to three than anybody can try, and no way back from there.
        let back = [counts, vec![see(3, 1), see(2, 3)]].concat();
        assert!(matches!(check::<Counter>(&back), Outcome::Illegal { .. }));
    }

    /// A register that counts its writes, and says how many there were.
    struct Counted;

    impl Model for Counted {
        type State = (u64, u32);
        /// What is written, and what was seen before.
        type Operation = (Option<u32>, Option<(u64, u32)>);

        fn step(state: &Self::State, (writes, saw): &Self::Operation) -> Option<Self::State> {
            let possible = saw.is_none_or(|saw| saw == *state);
            possible.then(|| writes.map_or(*state, |value| (state.0 + 1, value)))
        }

        fn height(state: &Self::State) -> u64 {
            state.0
        }

        fn height_before((_, saw): &Self::Operation) -> Option<u64> {
            saw.map(|(height, _)| height)
        }
    }

    #[test]
    fn of_equal_unanswered_operations_one_is_tried() {
        let write = |value| Timed { id: 0, operation: (Some(value), None), begun: 0, ended: None };
        let see = |height, value, begun| Timed {
            id: 100,
            operation: (None, Some((height, value))),
            begun,
            ended: Some(begun + 1),
        };
        // Thirty may have written 1, and thirty 2. One is seen after each of so many writes.
        let after = |writes| {
            let written = (0..60).map(|number| write(1 + number % 2));
            let seen = (1..=writes).map(|height| see(height, 1, 10 * height));
            check::<Counted>(&written.chain(seen).collect::<Vec<_>>())
        };
        assert_eq!(after(30), Outcome::Linearizable);
        assert!(matches!(after(31), Outcome::Illegal { .. }), "{:?}", after(31));
    }

    #[test]
    fn thousands_of_operations_with_some_open_ones_are_decided() {
        let mut operations = Vec::new();
        for turn in 0..3_000_u32 {
            let begun = u64::from(turn) * 10;
            operations.push((Op::Write(turn), begun, (turn % 300 != 7).then_some(begun + 15)));
            operations.push((Op::Read(turn), begun + 16, Some(begun + 19)));
        }
        // Every read overlaps the next write's beginning, never its own write's end.
        assert_ne!(judge(&operations), Outcome::Undecided);
    }
}
