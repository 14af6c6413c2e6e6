//! Writes down what a report shows, if anyone wants one.
//!
//! Formatting every message costs more than simulating it, so a recorder is off unless a report was asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use madsim::time::TimeHandle;
use yakt::raft::NodeId;
use yakt::raft::observe::Step;

use super::cluster::host;
use super::exchanges::{Effect, Exchange};
use crate::report::recording::{
    RecordedEvent, RecordedMessage, RecordedOperation, RecordedVerdict, Recording,
};

/// Messages that a recording keeps, so that a long run's page still opens.
const MESSAGES_MAX: usize = 60_000;

/// Characters of a message or an answer that are kept.
const TEXT_CHARS_MAX: usize = 400;

/// A recorder, on or off. Clones share what they write down.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Option<Arc<Mutex<Recorded>>>);

#[derive(Debug, Default)]
struct Recorded {
    recording: Recording,
    /// Where the messages are that wait for their answers.
    sent: BTreeMap<(NodeId, u64), usize>,
}

/// Virtual milliseconds since the start.
fn now() -> f64 {
    TimeHandle::try_current().map_or(0.0, |time| time.elapsed().as_secs_f64() * 1_000.0)
}

fn short(text: String) -> String {
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl Recorder {
    /// A recorder that writes down, if `on`.
    #[must_use]
    pub fn new(on: bool) -> Self {
        Self(on.then(Arc::default))
    }

    /// Whether anything is written down.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    fn with(&self, write: impl FnOnce(&mut Recorded)) {
        if let Some(recorded) = &self.0 {
            let mut recorded: MutexGuard<'_, _> =
                recorded.lock().unwrap_or_else(PoisonError::into_inner);
            write(&mut recorded);
        }
    }

    /// Something happened; the rest of the event is filled in by `more`.
    pub fn event(
        &self,
        node: Option<String>,
        kind: &str,
        text: impl FnOnce() -> String,
        more: impl FnOnce(&mut RecordedEvent),
    ) {
        self.with(|recorded| {
            let mut event = RecordedEvent {
                at: now(),
                node,
                kind: kind.to_owned(),
                text: text(),
                ..RecordedEvent::default()
            };
            more(&mut event);
            recorded.recording.events.push(event);
        });
    }

    /// Something happened to `node`, or to the whole cluster.
    pub fn note(&self, node: Option<String>, kind: &str, text: impl FnOnce() -> String) {
        self.event(node, kind, text, |_| {});
    }

    /// `node` takes on a role.
    pub fn role(&self, node: NodeId, role: &str, term: u64) {
        self.event(
            Some(host(node)),
            "role",
            || format!("{role} in term {term}"),
            |event| {
                event.role = Some(role.to_owned());
                event.term = Some(term);
            },
        );
    }

    /// `node` took a step.
    pub fn step(&self, node: NodeId, step: &Step<'_>) {
        if self.0.is_none() {
            return;
        }
        let lane = Some(host(node));
        let indexed = |kind: &str, text: String, index: u64| {
            self.event(lane.clone(), kind, || text, |event| event.index = Some(index));
        };
        match step {
            Step::Recovered(found) => {
                let last = found.entries.last().map(|entry| entry.log_id).or(found.purged);
                self.note(lane, "note", || {
                    format!(
                        "found a log up to {last:?}, vote {:?}, snapshot {:?}",
                        found.vote, found.snapshot
                    )
                });
            }
            Step::Truncated(from) => {
                indexed("truncate", format!("truncates its log from {from}"), *from);
            }
            Step::Committed(id) => indexed("commit", format!("committed {id}"), id.index),
            Step::Purged(upto) => indexed("purge", format!("purges up to {upto}"), upto.index),
            Step::Applied(entry, reply, _) => {
                indexed(
                    "apply",
                    short(format!("applied {}: {} → {reply}", entry.log_id, entry.payload)),
                    entry.log_id.index,
                );
            }
            Step::SnapshotBegun(last) => {
                self.note(lane, "snapshot", || format!("takes a snapshot up to {last:?}"));
            }
            Step::Installed(meta, _) => {
                let index = meta.last_log_id.map_or(0, |id| id.index);
                indexed(
                    "install",
                    format!("installed a snapshot up to {:?}", meta.last_log_id),
                    index,
                );
            }
            Step::VoteAnswered { vote, granted, pre } => {
                let what = if *pre { "pre-vote" } else { "vote" };
                let said = if *granted { "grants" } else { "refuses" };
                self.note(lane, "vote", || format!("{said} a {what}: {vote}"));
            }
            Step::Sent(message) => self.with(|recorded| {
                if recorded.recording.messages.len() >= MESSAGES_MAX {
                    return;
                }
                recorded.sent.insert((node, message.number), recorded.recording.messages.len());
                recorded.recording.messages.push(RecordedMessage {
                    sent: now(),
                    answered: None,
                    from: host(node),
                    to: host(message.peer),
                    kind: message.kind.to_owned(),
                    text: short(message.what.to_string()),
                });
            }),
            Step::Heard(message) => self.with(|recorded| {
                let Some(position) = recorded.sent.remove(&(node, message.number)) else { return };
                let Some(sent) = recorded.recording.messages.get_mut(position) else { return };
                sent.answered = Some(now());
                sent.text = format!("{} → {}", sent.text, short(message.what.to_string()));
            }),
            Step::Appended(_) | Step::Stored(_) | Step::Installing(_) => {}
        }
    }

    /// The finished recording: with the operations, and the verdict; `offending` are the numbers of the
    /// operations that the violation is about.
    #[must_use]
    pub fn finish(
        &self,
        mut frame: Recording,
        exchanges: &[Exchange],
        offending: &[usize],
    ) -> Recording {
        self.with(|recorded| {
            frame.events = std::mem::take(&mut recorded.recording.events);
            frame.messages = std::mem::take(&mut recorded.recording.messages);
        });
        frame.millis = now();
        if !frame.verdict.what.is_empty() {
            frame.events.push(RecordedEvent {
                at: frame.millis,
                kind: "violation".to_owned(),
                text: frame.verdict.what.clone(),
                ..RecordedEvent::default()
            });
        }
        frame.operations = exchanges
            .iter()
            .enumerate()
            .map(|(number, exchange)| operation(exchange, offending.contains(&number)))
            .collect();
        frame
    }
}

fn operation(exchange: &Exchange, offending: bool) -> RecordedOperation {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a few hours in nanoseconds are exact in a double"
    )]
    let millis = |nanos: u64| nanos as f64 / 1e6;
    let (kind, outcome) = match (exchange.effect(), &exchange.answer) {
        (Effect::Decided(answer), _) if answer.status.is_success() => {
            ("ok", format!("{} {}", answer.status, answer.body))
        }
        (Effect::Decided(answer), _) => {
            ("rejected", format!("{} {}", answer.status, answer.body["code"]))
        }
        (Effect::None, Some(Ok(answer))) => {
            ("failed", format!("{} {}", answer.status, answer.body["code"]))
        }
        (Effect::None, _) => ("failed", "not sent".to_owned()),
        (Effect::Open, Some(Ok(answer))) => {
            ("unknown", format!("{} {}", answer.status, answer.body["code"]))
        }
        (Effect::Open, _) => ("unknown", "no answer".to_owned()),
    };
    let request = &exchange.request;
    let body = request.body.as_ref().map(|body| format!(" {body}")).unwrap_or_default();
    let key = request.key.as_ref().map(|key| format!(" key {key}")).unwrap_or_default();
    RecordedOperation {
        client: exchange.client.clone(),
        node: exchange.addr.split(':').next().unwrap_or_default().to_owned(),
        begin: millis(exchange.begun),
        end: if kind == "unknown" { None } else { exchange.ended.map(millis) },
        text: short(format!("{} {}{body}{key}", request.method, request.path)),
        outcome: short(outcome),
        kind: kind.to_owned(),
        offending,
    }
}

/// The verdict as a report words it.
#[must_use]
pub fn verdict(kind: &str, what: &str) -> RecordedVerdict {
    RecordedVerdict { kind: kind.to_owned(), what: what.to_owned() }
}
