//! What clients asked and were answered: the history that layer 3 judges.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::StatusCode;

use super::client::{Answer, NoAnswer, Request};

/// Client errors that say nothing of the cluster: the request never reached it.
const WITHOUT_EFFECT: [StatusCode; 2] =
    [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT];

/// Whether `status` is a client error that says nothing of the cluster.
#[must_use]
pub fn is_without_effect(status: StatusCode) -> bool {
    WITHOUT_EFFECT.contains(&status)
}

/// One request, and what came of it.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The client's host.
    pub client: String,
    /// `HOST:PORT` of the asked node.
    pub addr: String,
    /// What was asked.
    pub request: Request,
    /// When it was sent, in nanoseconds of virtual time (see [`Exchanges`]).
    pub begun: u64,
    /// When the answer came or was given up; `None` while it is waited for.
    pub ended: Option<u64>,
    /// Over which connection it came. Who answers over one connection is one process: one life of one node.
    pub connection: Option<u64>,
    /// What came.
    pub answer: Option<Result<Answer, NoAnswer>>,
}

/// What is known of the effect of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Effect<'a> {
    /// The cluster decided: this is its answer.
    Decided(&'a Answer),
    /// It certainly did nothing.
    None,
    /// Nobody knows.
    Open,
}

impl Exchange {
    /// What is known of its effect.
    #[must_use]
    pub fn effect(&self) -> Effect<'_> {
        match &self.answer {
            Some(Ok(answer)) if answer.status == StatusCode::GATEWAY_TIMEOUT => Effect::Open,
            Some(Ok(answer)) if answer.status.is_server_error() => Effect::None,
            Some(Ok(answer)) if is_without_effect(answer.status) => Effect::None,
            Some(Ok(answer)) => Effect::Decided(answer),
            Some(Err(NoAnswer::NotSent)) => Effect::None,
            Some(Err(NoAnswer::Lost)) | None => Effect::Open,
        }
    }

    /// Node 1's answer to GET `path` over `connection`, for checkers' tests.
    #[cfg(test)]
    pub(crate) fn answered(
        connection: u64,
        path: &str,
        status: u16,
        body: serde_json::Value,
    ) -> Self {
        let status = StatusCode::from_u16(status).unwrap();
        Self {
            client: "c1".to_owned(),
            addr: "n1:5011".to_owned(),
            request: Request::get(path),
            begun: 0,
            ended: Some(1),
            connection: Some(connection),
            answer: Some(Ok(Answer { status, body })),
        }
    }

    /// The path without its query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.request.path.split('?').next().unwrap_or_default()
    }

    /// Whether it asks only for what the node itself has.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.request.path.contains("consistency=stale")
    }
}

/// All exchanges of a run. Clones share them.
///
/// No two of them begin or end at the same time: virtual time stands still while a client that was answered asks for the
/// next thing, and the second request would count as made at the same time as the first, and so be excused from seeing what
/// that one did. What comes later at one moment is given a nanosecond more.
#[derive(Clone, Debug, Default)]
pub struct Exchanges(Arc<Mutex<History>>);

#[derive(Debug, Default)]
struct History {
    exchanges: Vec<Exchange>,
    connections: u64,
    latest: u64,
    encodings: BTreeSet<String>,
}

impl History {
    /// `now`, or the first moment that is later than all before.
    fn moment(&mut self, now: u64) -> u64 {
        self.latest = now.max(self.latest + 1);
        self.latest
    }
}

impl Exchanges {
    /// Notes that `request` is sent; the number names it to [`end`](Self::end).
    pub fn begin(&self, client: &str, addr: &str, request: &Request, now: u64) -> usize {
        let mut history = self.lock();
        let begun = history.moment(now);
        history.exchanges.push(Exchange {
            client: client.to_owned(),
            addr: addr.to_owned(),
            request: request.clone(),
            begun,
            ended: None,
            connection: None,
            answer: None,
        });
        history.exchanges.len() - 1
    }

    /// A number for a new connection.
    #[must_use]
    pub fn connect(&self) -> u64 {
        let mut history = self.lock();
        history.connections += 1;
        history.connections
    }

    /// Notes what came of it, and over which connection.
    pub fn end(
        &self,
        number: usize,
        connection: Option<u64>,
        answer: &Result<Answer, NoAnswer>,
        now: u64,
    ) {
        let mut history = self.lock();
        let ended = history.moment(now);
        if let Some(exchange) = history.exchanges.get_mut(number) {
            exchange.ended = Some(ended);
            exchange.connection = connection;
            exchange.answer = Some(answer.clone());
        }
    }

    /// All of them, in the order in which they were sent.
    #[must_use]
    pub fn all(&self) -> Vec<Exchange> {
        self.lock().exchanges.clone()
    }

    /// Notes that an answer was compressed in this way.
    pub fn decoded(&self, encoding: String) {
        self.lock().encodings.insert(encoding);
    }

    /// The ways in which answers were compressed.
    #[must_use]
    pub fn encodings(&self) -> BTreeSet<String> {
        self.lock().encodings.clone()
    }

    /// How many were answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.lock()
            .exchanges
            .iter()
            .filter(|exchange| matches!(exchange.answer, Some(Ok(_))))
            .count() as u64
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_after_an_answer_counts_as_later_though_no_time_has_passed() {
        let exchanges = Exchanges::default();
        let request = Request::get("/metrics");
        for _ in 0..2 {
            let number = exchanges.begin("c1", "n1:1", &request, 7);
            exchanges.end(number, None, &Err(NoAnswer::Lost), 7);
        }
        let all = exchanges.all();
        assert!(all[0].ended < Some(all[1].begun), "{all:?}");
    }
}
