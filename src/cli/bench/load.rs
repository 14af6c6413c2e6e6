//! Workers, one for each connection.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use uuid::Uuid;

use super::connection::Connection;
use super::mix::{Kind, Mix};
use super::tally::Tally;
use crate::cli::Failure;

/// Bytes of a topic's name, so that a write is about 300 bytes long.
const NAME_BYTES: usize = 220;

/// Longest pause of a worker whose node does not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// When a worker is done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stop {
    At(Duration),
    /// When all together have created so many topics.
    After(u64),
}

/// What all workers share.
pub(super) struct Load {
    addrs: Vec<String>,
    consistency: &'static str,
    /// Begins the name of every topic of this run.
    prefix: String,
    /// The next topic's number.
    next: AtomicU64,
    /// Numbers of topics whose creation was acknowledged.
    created: Mutex<Vec<u64>>,
    /// Where polls began last.
    offset: Mutex<String>,
    answered: AtomicU64,
    errors: AtomicU64,
}

impl Load {
    pub(super) fn new(addrs: &[String], consistency: &'static str) -> Self {
        Self {
            addrs: addrs.to_vec(),
            consistency,
            prefix: format!("bench-{}", run_id().simple()),
            next: AtomicU64::new(0),
            created: Mutex::default(),
            offset: Mutex::new("0".to_owned()),
            answered: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        }
    }

    /// Answers and errors so far.
    pub(super) fn answered(&self) -> (u64, u64) {
        (self.answered.load(Ordering::Relaxed), self.errors.load(Ordering::Relaxed))
    }

    /// Numbers of the topics that were acknowledged.
    pub(super) fn created(&self) -> Vec<u64> {
        self.lock_created().clone()
    }

    pub(super) fn connection(&self, number: u32) -> Connection {
        let number = usize::try_from(number).unwrap_or(0);
        Connection::new(self.addrs[number % self.addrs.len()].clone())
    }

    pub(super) fn name(&self, topic: u64) -> String {
        let name = format!("{}-{topic}-", self.prefix);
        format!("{name:x<NAME_BYTES$}")
    }

    /// Checks that some node is reachable, so that a wrong address fails immediately.
    pub(super) async fn reach(&self) -> Result<(), Failure> {
        let mut failures = Vec::new();
        for addr in &self.addrs {
            let mut connection = Connection::new(addr.clone());
            match connection.send(Method::GET, "/healthz", String::new()).await {
                Ok(_) => return Ok(()),
                Err(lost) => failures.push(format!("{addr}: {lost}")),
            }
        }
        Err(format!("no node is reachable: {}", failures.join(", ")).into())
    }

    /// Learns where polls begin. The first answer has everything in it, and is no change to be measured.
    pub(super) async fn poll_first(&self) -> Result<(), Failure> {
        let answer = self.connection(0).send(Method::GET, "/client_mgmt/0", String::new()).await?;
        let offset = next_offset(&answer.1).ok_or("an answer to client_mgmt has no offset")?;
        *self.offset.lock().unwrap_or_else(PoisonError::into_inner) = offset;
        Ok(())
    }

    /// Works until `stop`.
    pub(super) async fn work(
        self: Arc<Self>,
        number: u32,
        mix: Mix,
        stop: Stop,
        begun: Instant,
    ) -> Result<Tally, Failure> {
        let mut connection = self.connection(number);
        let mut tally = Tally::default();
        let mut offset = self.offset.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Workers begin at different places of the mix.
        for nth in u64::from(number).. {
            let over = match stop {
                Stop::At(duration) => begun.elapsed() >= duration,
                Stop::After(topics) => self.next.load(Ordering::Relaxed) >= topics,
            };
            if over {
                break;
            }
            let kind = mix.nth(nth);
            let mut creating = None;
            let (method, path, body) = match kind {
                Kind::Write => {
                    let topic = self.next.fetch_add(1, Ordering::Relaxed);
                    creating = Some(topic);
                    let body = format!("{{\"name\":\"{}\"}}", self.name(topic));
                    (Method::POST, "/create_topic".to_owned(), body)
                }
                Kind::Read => {
                    let Some(topic) = self.any_topic(nth) else {
                        // The first write is still under way.
                        tokio::time::sleep(RETRY_PAUSE).await;
                        continue;
                    };
                    let path = format!(
                        "/get_topic_by_name/{}?consistency={}",
                        self.name(topic),
                        self.consistency
                    );
                    (Method::GET, path, String::new())
                }
                Kind::Mgmt => {
                    let path =
                        format!("/broker_mgmt/{offset}?mode=diff&consistency={}", self.consistency);
                    (Method::GET, path, String::new())
                }
            };
            let sent = Instant::now();
            let answer = connection.send(method, &path, body).await;
            let took = sent.elapsed();
            let expected = if kind == Kind::Write { StatusCode::CREATED } else { StatusCode::OK };
            match answer {
                Ok((status, body)) if status == expected => {
                    tally.answered(kind, took);
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    if let Some(topic) = creating {
                        self.lock_created().push(topic);
                    }
                    if kind == Kind::Mgmt {
                        offset = next_offset(&body).unwrap_or(offset);
                    }
                }
                other => {
                    self.errors.fetch_add(1, Ordering::Relaxed);
                    match other {
                        Ok((status, _)) => tally.failed(status.as_str()),
                        Err(lost) => tally.failed(&lost.to_string()),
                    }
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
        Ok(tally)
    }

    fn lock_created(&self) -> MutexGuard<'_, Vec<u64>> {
        self.created.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Some topic that is there, if any is.
    fn any_topic(&self, nth: u64) -> Option<u64> {
        let created = self.lock_created();
        // A multiplicative hash: spread over all of them, and the same in every run.
        let place = nth.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        let count = u64::try_from(created.len()).unwrap_or(0).max(1);
        created.get(usize::try_from(place % count).unwrap_or(0)).copied()
    }
}

/// The offset that an answer ends at, as it is written there.
fn next_offset(body: &Bytes) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    answer.get("offset").filter(|offset| offset.is_number()).map(ToString::to_string)
}

/// Different in every run, so that runs do not create each other's topics.
fn run_id() -> Uuid {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanos = since.unwrap_or_default().as_nanos();
    Uuid::from_u128(nanos ^ u128::from(std::process::id()) << 96)
}
