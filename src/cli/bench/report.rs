//! The result, for a person and for a machine.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use comfy_table::presets;
use comfy_table::{CellAlignment, Table};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::Args;
use super::check::Checked;
use super::cost::PerWrite;
use super::tally::Tally;

/// One kind of request. Latencies are in milliseconds.
#[derive(Debug, Serialize)]
struct Row {
    kind: &'static str,
    answered: u64,
    per_second: f64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// What came of a run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    connections: u32,
    seconds: f64,
    kinds: Vec<Row>,
    /// By status code, or by what happened to the connection.
    errors: BTreeMap<String, u64>,
    /// Processors that this program kept busy, of [`processors`](Self::processors): near that, it measured itself.
    generator_processors: Option<f64>,
    processors: usize,
    /// What a write cost the cluster, if there were writes and every node says so.
    per_write: Option<PerWrite>,
    /// Whether what was acknowledged is there.
    sanity: Checked,
}

/// What a run used.
pub(super) struct Used {
    /// Processor time of this program.
    pub(super) cpu: Option<Duration>,
    pub(super) cost: Option<PerWrite>,
}

impl Report {
    pub(super) fn new(
        args: &Args,
        tally: &Tally,
        took: Duration,
        used: &Used,
        sanity: Checked,
    ) -> Self {
        let seconds = took.as_secs_f64();
        let row = |kind: &'static str, latencies: &Histogram<u64>| {
            #[expect(clippy::cast_precision_loss, reason = "counts and times that are shown")]
            let millis = |micros: u64| micros as f64 / 1_000.0;
            #[expect(clippy::cast_precision_loss, reason = "counts and times that are shown")]
            let per_second = latencies.len() as f64 / seconds;
            Row {
                kind,
                answered: latencies.len(),
                per_second,
                mean: latencies.mean() / 1_000.0,
                p50: millis(latencies.value_at_quantile(0.5)),
                p90: millis(latencies.value_at_quantile(0.9)),
                p99: millis(latencies.value_at_quantile(0.99)),
                p999: millis(latencies.value_at_quantile(0.999)),
                max: millis(latencies.max()),
            }
        };
        Self {
            connections: args.connections,
            seconds,
            kinds: tally.latencies().iter().map(|(kind, all)| row(kind.name(), all)).collect(),
            errors: tally.errors().clone(),
            generator_processors: used.cpu.map(|cpu| cpu.as_secs_f64() / seconds),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            per_write: used.cost,
            sanity,
        }
    }

    /// How much of what was acknowledged is not there.
    pub(super) fn missing(&self) -> usize {
        self.sanity.missing
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
            "",
            "answered",
            "per second",
            "mean ms",
            "p50",
            "p90",
            "p99",
            "p99.9",
            "max",
        ]);
        for row in &self.kinds {
            let millis = [row.mean, row.p50, row.p90, row.p99, row.p999, row.max];
            let mut cells = vec![
                row.kind.to_owned(),
                row.answered.to_string(),
                format!("{:.0}", row.per_second),
            ];
            cells.extend(millis.map(|millis| format!("{millis:.2}")));
            table.add_row(cells);
        }
        for column in 1..9 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        writeln!(f, "{} connections, {:.1} s", self.connections, self.seconds)?;
        writeln!(f, "{table}")?;
        if self.errors.is_empty() {
            writeln!(f, "no errors")?;
        }
        for (how, count) in &self.errors {
            writeln!(f, "{count} errors: {how}")?;
        }
        if let Some(busy) = self.generator_processors {
            writeln!(f, "this program kept {busy:.2} of {} processors busy", self.processors)?;
        }
        if let Some(cost) = &self.per_write {
            writeln!(f, "{cost}")?;
        }
        let Checked { acknowledged, checked, missing } = self.sanity;
        write!(
            f,
            "{acknowledged} topics were acknowledged; of {checked} looked for, {missing} are missing"
        )
    }
}
