//! What a sweep says while it runs: a bar on a terminal, else a line now and then.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use yakt_sim::harness::runner::groups::Case;
use yakt_sim::harness::runner::{Failure, Plan, Sweep};

use super::text::{grouped, indented, rough};

/// How often there is a line where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Says how far a sweep is.
pub(super) struct Progress {
    /// `None` where there is no terminal.
    bar: Option<ProgressBar>,
    runs: u64,
    next_line: Duration,
}

impl Progress {
    pub(super) fn new(plan: &Plan) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = if plan.runs() == u64::MAX {
                ProgressBar::new_spinner()
            } else {
                ProgressBar::new(plan.runs())
            };
            let style = match bar.length() {
                Some(_) => "{bar:30} {pos}/{len}  {msg}  {eta} left",
                None => "{spinner} {pos}  {msg}",
            };
            // A template that is not understood would only look different.
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, runs: plan.runs(), next_line: LINE_EVERY }
    }

    /// Shows how far it is.
    pub(super) fn show(&mut self, sweep: &Sweep) {
        if let Some(bar) = &self.bar {
            bar.set_position(sweep.runs);
            bar.set_message(state(sweep));
        } else if sweep.elapsed >= self.next_line {
            self.next_line = sweep.elapsed + LINE_EVERY;
            let of = if self.runs == u64::MAX { String::new() } else { format!("/{}", self.runs) };
            let (runs, elapsed) = (sweep.runs, rough(sweep.elapsed));
            eprintln!("{elapsed}: {runs}{of} runs, {}", state(sweep));
        }
    }

    /// Tells of a failure of a new sort.
    pub(super) fn say(&self, case: Case, failure: &Failure) {
        let first_line = failure.what.lines().next().unwrap_or_default();
        let text = indented(
            &format!("{}, seed {}: {}: {first_line}", case.scenario, case.seed, failure.kind),
            "",
        );
        match &self.bar {
            Some(bar) => bar.println(text.trim_end()),
            None => eprint!("{text}"),
        }
    }

    /// Leaves the terminal to what comes after.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How it goes, in short.
fn state(sweep: &Sweep) -> String {
    format!(
        "{:.1} seeds/s, {} failed, {:.1} virtual h, {:.0} virtual s per core-second",
        sweep.per_second(),
        grouped(sweep.failed),
        sweep.virtual_time.as_secs_f64() / 3_600.0,
        sweep.virtual_per_core(),
    )
}
