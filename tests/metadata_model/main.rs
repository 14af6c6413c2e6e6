//! Random commands against a plain model of the metadata.
//!
//! Every outcome is compared and every invariant checked after every command. Now and then, and at the
//! end, so are the views, the diffs from every earlier view, and a snapshot that is decoded and gone on
//! from. `PROPTEST_CASES` sets the number of cases.

#![allow(clippy::unwrap_used, reason = "a test that panics has said what it had to say")]

mod draw;
mod pair;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use yakt::codec::decode_versioned;
use yakt::metadata::{Applied, Command, State};

use crate::draw::steps;
use crate::pair::Pair;
use crate::pair::plan::Step;

const CASES: u32 = 10_000;

fn config(cases: u32) -> ProptestConfig {
    let wanted = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: wanted.unwrap_or(cases),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(CASES))]

    #[test]
    fn the_state_does_what_the_model_does(steps in steps()) {
        let mut pair = Pair::default();
        for step in &steps {
            pair.step(step);
        }
        pair.finish();
    }
}

proptest! {
    #![proptest_config(config(CASES / 10))]

    /// Whatever a damaged snapshot decodes to is a state like any other: nothing panics, then or later.
    #[test]
    fn a_damaged_snapshot_is_refused_or_sound(
        steps in steps(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        more in steps(),
    ) {
        let mut pair = Pair::default();
        for step in &steps {
            pair.step(step);
        }
        let mut bytes = pair.state.encode();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(mut state) = State::decode(&bytes) {
            prop_assert!(state.encode() == bytes);
            for step in &more {
                if let Step::Apply(plan) = step {
                    state.apply(&plan.command(&pair.model));
                    state.check_invariants().unwrap();
                }
            }
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_reason_to_panic(mut bytes: Vec<u8>) {
        let _ = State::decode(&bytes);
        bytes.insert(0, yakt::codec::FORMAT_VERSION);
        let _ = State::decode(&bytes);
        let _ = decode_versioned::<Command>(&bytes);
        let _ = decode_versioned::<Applied>(&bytes);
    }
}
