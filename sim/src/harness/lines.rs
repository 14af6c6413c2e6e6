//! The log lines of simulated nodes: a checker bounds them, and a run's page shows them.
//!
//! A `tracing` subscriber for the thread that a simulation runs on. It takes the lines that the
//! program would write by its default filter, and assigns each to the process that runs at that
//! moment.
//!
//! A log sink that fails is not simulated. The sink belongs to the program, not to the library, and
//! a node only hands events to `tracing`. `tests/processes` closes and fills the real sink.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{DefaultGuard, Interest};
use tracing::{Event, Level, Metadata, Subscriber};

use super::check::Watch;
use super::scenarios::NODES;
use crate::world::World;

/// See the [module documentation](self).
struct Lines {
    world: World,
    watch: Watch,
}

/// Counts lines on this thread until the guard is dropped.
#[must_use]
pub(super) fn count(world: World, watch: Watch) -> DefaultGuard {
    tracing::subscriber::set_default(Lines { world, watch })
}

/// Whether the program's default filter lets an event pass (`LOG_FILTER` in its `cli/node.rs`).
fn is_written(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let is_of = |name: &str| target == name || target.starts_with(&format!("{name}::"));
    if is_of("openraft::raft::raft_inner") || is_of("openraft::raft::api::management") {
        return false;
    }
    let most = if is_of("yakt") {
        Level::INFO
    } else if is_of("openraft") {
        Level::ERROR
    } else {
        Level::WARN
    };
    metadata.is_event() && *metadata.level() <= most
}

/// An event in words: its message, then its fields.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

impl Subscriber for Lines {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_written(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_written(metadata)
    }

    fn event(&self, event: &Event<'_>) {
        let host = self.world.current_host();
        let node = host.and_then(|host| (1..=NODES).find(|id| super::cluster::host(*id) == *host));
        if let Some(node) = node {
            let mut line = Line::default();
            event.record(&mut line);
            self.watch.wrote_line(node, &format!("{}{}", line.message, line.fields));
        }
    }

    // Spans are never enabled.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
