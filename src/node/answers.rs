//! The answers of peers to a node that waits for them, and the log lines that report them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::env::{Env, rt};
use crate::raft::network::message::Response;

/// How long a node waits before the first line: nodes that start together find each other sooner.
const FIRST_LINE: Duration = Duration::from_secs(1);

/// Time between two lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The latest answer of each address that was asked.
pub(super) struct Answers<E: Env> {
    began: rt::Instant<E>,
    due: rt::Instant<E>,
    by_addr: BTreeMap<String, String>,
}

impl<E: Env> Answers<E> {
    pub(super) fn new() -> Self {
        let began = rt::now::<E>();
        Self { began, due: began + FIRST_LINE, by_addr: BTreeMap::new() }
    }

    pub(super) fn note(&mut self, addr: &str, answer: impl Into<String>) {
        self.by_addr.insert(addr.to_owned(), answer.into());
    }

    /// Logs all answers, with `message`, if a line is due.
    pub(super) fn write(&mut self, message: &str) {
        let now = rt::now::<E>();
        if now < self.due {
            return;
        }
        self.due = now + LINE_INTERVAL;
        let answers: Vec<_> =
            self.by_addr.iter().map(|(addr, answer)| format!("{addr}: {answer}")).collect();
        let waited_secs = (now - self.began).as_secs();
        tracing::warn!(waited_secs, answers = answers.join("; "), "{message}");
    }
}

/// Describes a response that is not the one hoped for.
pub(super) fn describe<E: Env>(response: Response<E>) -> String {
    match response {
        Response::Unavailable(reason)
        | Response::Refused(reason)
        | Response::Misdirected(reason) => reason,
        Response::NotLeader(Some(leader)) => format!("node {leader} leads, and did not answer"),
        Response::NotLeader(None) => "no leader is known".to_owned(),
        other => format!("unexpected answer {other}"),
    }
}
