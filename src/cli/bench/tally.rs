//! What was measured.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::mix::Kind;
use crate::cli::Failure;

/// Three significant digits, as HDR histograms have it: 0.1 % of whatever is measured.
const DIGITS: u8 = 3;

/// Latencies in microseconds, and errors.
#[derive(Debug, Default)]
pub(super) struct Tally {
    latencies: BTreeMap<Kind, Histogram<u64>>,
    errors: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn answered(&mut self, kind: Kind, took: Duration) {
        let latencies = self.latencies.entry(kind).or_insert_with(histogram);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        latencies.record(micros).expect("a histogram that grows takes every value");
    }

    pub(super) fn failed(&mut self, how: &str) {
        *self.errors.entry(how.to_owned()).or_default() += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (kind, latencies) in &other.latencies {
            let mine = self.latencies.entry(*kind).or_insert_with(histogram);
            mine.add(latencies).expect("a histogram that grows takes every value");
        }
        for (how, count) in &other.errors {
            *self.errors.entry(how.clone()).or_default() += count;
        }
    }

    pub(super) fn latencies(&self) -> &BTreeMap<Kind, Histogram<u64>> {
        &self.latencies
    }

    pub(super) fn errors(&self) -> &BTreeMap<String, u64> {
        &self.errors
    }

    /// For what is not measured but must be.
    pub(super) fn must_be_clean(&self) -> Result<(), Failure> {
        match self.errors.first_key_value() {
            None => Ok(()),
            Some((how, count)) => Err(format!("{count} requests failed: {how}").into()),
        }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new(DIGITS).expect("three digits are supported")
}
