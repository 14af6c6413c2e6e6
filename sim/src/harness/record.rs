//! Writes down what a report shows, if anyone wants one.
//!
//! Formatting every message costs more than simulating it, so a recorder is off unless a report was asked for.
//!
//! A recorder outlives a panic of what it records: it is made outside of the simulation, is told of the panic while that
//! happens ([`Recorder::crash`]), and makes a recording of what there was until then ([`Recorder::finish_crashed`]). Of a run
//! that does not end another thread makes one ([`Recorder::finish_hung`]).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use madsim::time::TimeHandle;
use yakt::raft::NodeId;
use yakt::raft::observe::Step;

use super::cluster::host;
use super::exchanges::{Effect, Exchange, Exchanges};
use super::scenarios::NODES;
use crate::report::recording::{
    RecordedEvent, RecordedMessage, RecordedOperation, RecordedVerdict, Recording,
};

/// Messages that a recording keeps, so that a long run's page still opens: the last, because a run fails at its end.
const MESSAGES_MAX: usize = 60_000;

/// Characters of a message or an answer that are kept.
const TEXT_CHARS_MAX: usize = 400;

/// A recorder, on or off. Clones share what they write down.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Option<Arc<Mutex<Recorded>>>);

#[derive(Debug, Default)]
struct Recorded {
    events: Vec<RecordedEvent>,
    messages: Messages,
    /// What the clients asked, where they can still be asked for it after a panic.
    exchanges: Exchanges,
    /// When something panicked first, and what it said.
    crash: Option<(f64, String)>,
}

impl Recorded {
    /// When the last thing happened that is written down of the nodes, in virtual milliseconds.
    fn last_moment(&self) -> f64 {
        let event = self.events.last().map(|event| event.at);
        let message = self.messages.kept.back().map(|(_, message)| message.sent);
        event.into_iter().chain(message).fold(0.0, f64::max)
    }
}

/// Who sent a message, and its number: see [`Message::number`](yakt::raft::observe::Message::number).
type MessageId = (NodeId, u64);

/// The last [`MESSAGES_MAX`] messages.
#[derive(Debug, Default)]
struct Messages {
    kept: VecDeque<(MessageId, RecordedMessage)>,
    /// How many there were before those.
    left_out: usize,
    /// Which of those that are kept wait for their answers, counted from the first that there ever was.
    waiting: BTreeMap<MessageId, usize>,
}

impl Messages {
    fn sent(&mut self, id: MessageId, message: RecordedMessage) {
        if self.kept.len() == MESSAGES_MAX
            && let Some((oldest, _)) = self.kept.pop_front()
        {
            // A node that was started again numbers from the start: the place may be another message's now.
            if self.waiting.get(&oldest) == Some(&self.left_out) {
                self.waiting.remove(&oldest);
            }
            self.left_out += 1;
        }
        self.waiting.insert(id, self.left_out + self.kept.len());
        self.kept.push_back((id, message));
    }

    /// The message that is answered now, if it is kept.
    fn answered(&mut self, id: MessageId) -> Option<&mut RecordedMessage> {
        let place = self.waiting.remove(&id)?.checked_sub(self.left_out)?;
        self.kept.get_mut(place).map(|(_, message)| message)
    }
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
            recorded.events.push(event);
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
                let sent = RecordedMessage {
                    sent: now(),
                    answered: None,
                    from: host(node),
                    to: host(message.peer),
                    kind: message.kind.to_owned(),
                    text: short(message.what.to_string()),
                };
                recorded.messages.sent((node, message.number), sent);
            }),
            Step::Heard(message) => self.with(|recorded| {
                let id = (node, message.number);
                let Some(sent) = recorded.messages.answered(id) else { return };
                sent.answered = Some(now());
                sent.text = format!("{} → {}", sent.text, short(message.what.to_string()));
            }),
            Step::Appended(_) | Step::Stored(_) | Step::Installing(_) => {}
        }
    }

    /// Takes what the clients ask from `exchanges`, whose clones share it.
    pub fn follow(&self, exchanges: &Exchanges) {
        self.with(|recorded| recorded.exchanges = exchanges.clone());
    }

    /// Something panicked, at this moment. For a panic's hook: it never waits, as the panic may be in what is
    /// written down here, and never panics itself.
    pub fn crash(&self, what: &str) {
        let Some(recorded) = &self.0 else { return };
        let mut recorded = match recorded.try_lock() {
            Ok(recorded) => recorded,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        recorded.crash.get_or_insert_with(|| (now(), what.to_owned()));
    }

    /// What there was until the [`crash`](Self::crash), if there was one.
    #[must_use]
    pub fn finish_crashed(&self, mut frame: Recording) -> Option<Recording> {
        let (mut crash, mut exchanges) = (None, Exchanges::default());
        self.with(|recorded| {
            crash = recorded.crash.take();
            exchanges = recorded.exchanges.clone();
            if let Some((at, _)) = crash {
                // While a panic unwinds, what it drops may still have something to say.
                recorded.events.retain(|event| event.at <= at);
            }
        });
        let (at, what) = crash?;
        frame.verdict = verdict("crash", &what);
        Some(self.finish_at(at, frame, &exchanges.all(), &[]))
    }

    /// What there was until now, if anything is written down. For another thread, while the run does not end: it has no
    /// virtual clock, so the run is said to last until what nodes or clients did last. Waits for what is being written down,
    /// for ever if that is what does not end.
    #[must_use]
    pub fn finish_hung(&self, mut frame: Recording, what: &str) -> Option<Recording> {
        let mut seen = None;
        self.with(|recorded| seen = Some((recorded.last_moment(), recorded.exchanges.clone())));
        let (at, exchanges) = seen?;
        let exchanges = exchanges.all();
        let moments = exchanges.iter().map(|exchange| exchange.ended.unwrap_or(exchange.begun));
        let at = moments.map(millis).fold(at, f64::max);
        frame.verdict = verdict("hang", what);
        Some(self.finish_at(at, frame, &exchanges, &[]))
    }

    /// The finished recording: with the operations, and the verdict; `offending` are the numbers of the
    /// operations that the violation is about.
    #[must_use]
    pub fn finish(
        &self,
        frame: Recording,
        exchanges: &[Exchange],
        offending: &[usize],
    ) -> Recording {
        self.finish_at(now(), frame, exchanges, offending)
    }

    fn finish_at(
        &self,
        millis: f64,
        mut frame: Recording,
        exchanges: &[Exchange],
        offending: &[usize],
    ) -> Recording {
        self.with(|recorded| {
            frame.events = std::mem::take(&mut recorded.events);
            let Messages { kept, left_out, .. } = std::mem::take(&mut recorded.messages);
            frame.messages = kept.into_iter().map(|(_, message)| message).collect();
            frame.messages_left_out = left_out;
        });
        frame.millis = millis;
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

#[expect(clippy::cast_precision_loss, reason = "a few hours in nanoseconds are exact in a double")]
fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

fn operation(exchange: &Exchange, offending: bool) -> RecordedOperation {
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

/// A recording of `scenario` that holds nothing yet. `command` plays it again.
#[must_use]
pub fn frame(scenario: &str, seed: u64, command: String) -> Recording {
    Recording {
        scenario: scenario.to_owned(),
        seed,
        command,
        nodes: (1..=NODES).map(host).collect(),
        ..Recording::default()
    }
}

/// The verdict as a report words it.
#[must_use]
pub fn verdict(kind: &str, what: &str) -> RecordedVerdict {
    RecordedVerdict { kind: kind.to_owned(), what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use yakt::raft::observe::Message;

    use super::*;
    use crate::harness::client::Request;

    fn message(number: u64, what: &u64) -> Message<'_> {
        Message { number, peer: 2, kind: "append", what }
    }

    #[test]
    fn of_many_messages_the_last_are_kept_and_answered() {
        let recorder = Recorder::new(true);
        let more = 10;
        let count = MESSAGES_MAX as u64 + more;
        for number in 0..count {
            recorder.step(1, &Step::Sent(message(number, &number)));
        }
        // The first that is kept, the last that is not, and the very last.
        for number in [more, more - 1, count - 1] {
            recorder.step(1, &Step::Heard(message(number, &7)));
        }
        recorder.with(|recorded| {
            assert_eq!(
                recorded.messages.waiting.len(),
                MESSAGES_MAX - 2,
                "no more wait than are kept"
            );
        });
        let recording = recorder.finish(Recording::default(), &[], &[]);
        assert_eq!((recording.messages.len(), recording.messages_left_out), (MESSAGES_MAX, 10));
        assert_eq!(recording.messages[0].text, format!("{more} → 7"));
        assert_eq!(recording.messages[1].text, format!("{}", more + 1));
        assert_eq!(recording.messages[MESSAGES_MAX - 1].text, format!("{} → 7", count - 1));
        let answered = recording.messages.iter().filter(|message| message.answered.is_some());
        assert_eq!(answered.count(), 2);
    }

    #[test]
    fn a_message_of_a_later_life_is_not_mistaken_for_one_that_is_left_out() {
        let recorder = Recorder::new(true);
        recorder.step(1, &Step::Sent(message(0, &1)));
        // Started again, it numbers from the start, and its first message outlives that of its first life.
        recorder.step(1, &Step::Sent(message(0, &2)));
        for number in 1..MESSAGES_MAX as u64 {
            recorder.step(1, &Step::Sent(message(number, &number)));
        }
        recorder.step(1, &Step::Heard(message(0, &3)));
        let recording = recorder.finish(Recording::default(), &[], &[]);
        assert_eq!(
            (recording.messages_left_out, recording.messages[0].text.as_str()),
            (1, "2 → 3")
        );
    }

    #[test]
    fn what_happened_before_a_panic_is_kept() {
        let recorder = Recorder::new(true);
        assert!(
            recorder.finish_crashed(frame("x", 7, String::new())).is_none(),
            "nothing panicked"
        );
        recorder.note(None, "note", || "before".to_owned());
        recorder.crash("it broke");
        recorder.crash("and so did what needed it");
        let recording = recorder.finish_crashed(frame("x", 7, String::new())).unwrap();
        assert_eq!(
            (recording.verdict.kind.as_str(), recording.verdict.what.as_str()),
            ("crash", "it broke")
        );
        let texts: Vec<_> = recording.events.iter().map(|event| event.text.as_str()).collect();
        assert_eq!(texts, ["before", "it broke"]);
    }

    #[test]
    fn of_a_run_that_hangs_all_is_kept_up_to_what_happened_last() {
        let recorder = Recorder::new(true);
        assert!(Recorder::new(false).finish_hung(frame("x", 7, String::new()), "").is_none());
        recorder.event(None, "note", || "last".to_owned(), |event| event.at = 250.0);
        let recording = recorder.finish_hung(frame("x", 7, String::new()), "no end").unwrap();
        assert_eq!(
            (recording.verdict.kind.as_str(), recording.verdict.what.as_str()),
            ("hang", "no end")
        );
        assert!((recording.millis - 250.0).abs() < f64::EPSILON);
        let exchanges = Exchanges::default();
        exchanges.begin("c1", "n1:1", &Request::get("/healthz"), 300_000_000);
        recorder.follow(&exchanges);
        let asked = recorder.finish_hung(frame("x", 7, String::new()), "no end").unwrap();
        assert!((asked.millis - 300.0).abs() < 1e-3, "{}", asked.millis);
        let texts: Vec<_> = recording.events.iter().map(|event| event.text.as_str()).collect();
        assert_eq!(texts, ["last", "no end"]);
    }

    #[test]
    fn a_panic_in_the_midst_of_writing_down_does_not_wait_for_itself() {
        let recorder = Recorder::new(true);
        recorder.with(|_| recorder.crash("it broke"));
    }
}
