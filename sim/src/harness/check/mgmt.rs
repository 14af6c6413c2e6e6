//! The management contract: what pollers are shown, judged by the stamps in the answers.
//!
//! Every record carries the cluster time of the change that made it, and every poll the cluster time at
//! which it looks. Together all answers of a run say which versions of each record there were; a poll at
//! time `O` must show exactly the last version of each by then, however old the node's own view was:
//!
//! - a *current* snapshot: every record that is live at `O`; a *complete* one: closed brokers too;
//! - a *diff* since `P`: exactly what changed after `P` and not after `O`, brokers that closed as deleted.
//!   So a poller that follows its offsets misses nothing and is told nothing twice;
//! - the right kind for the age `O − P`: current up to ten minutes, complete beyond, and complete
//!   for an offset that was never issued;
//! - one version of a record is the same wherever it is shown;
//! - **real time**: what was answered before something began has no later stamp. A poll sees every write
//!   that was answered before it began, offsets never go back, and no write is stamped before a poll that
//!   had ended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use yakt::metadata::Timestamp;

use crate::harness::exchanges::{Effect, Exchange};

/// The age up to which a poll gets the current image.
const CURRENT_AGE_MAX: Duration = Duration::from_mins(10);

/// What a record is about: its kind, and its key among those.
type Key = (Kind, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Broker,
    Topic,
    Partition,
    Producer,
}

/// What is known of one version of a record.
#[derive(Clone, Debug, Default)]
struct Version {
    fields: Option<Value>,
    closed: bool,
}

/// A broken promise, and the exchange that shows it.
pub type Broken = (usize, String);

/// Every version of every record that anybody was shown.
#[derive(Debug, Default)]
pub struct Versions {
    records: BTreeMap<Key, BTreeMap<u64, Version>>,
    /// The same, by stamp. A change may move several records (a broker's fencing moves its partitions).
    stamps: BTreeMap<u64, Vec<Key>>,
    /// The incarnations of each broker id, by the first stamp that anybody was shown of them, and each one's broker id.
    incarnations: BTreeMap<u64, BTreeMap<u64, String>>,
    broker_ids: BTreeMap<String, u64>,
    /// The broker ids that somebody asked to close who never heard what came of it.
    open_closings: BTreeSet<String>,
    /// Who holds each partition, which never changes: nothing in the API moves a replica.
    replicas: BTreeMap<Key, Value>,
    /// The latest time at which somebody was shown everything, closed brokers too.
    complete_until: u64,
    /// Every offset that an answer carried.
    issued: BTreeSet<u64>,
    /// Every history that an answer named.
    histories: BTreeSet<String>,
}

/// The microseconds of a time in seconds, as answers show it.
pub(super) fn micros(value: &Value) -> Option<u64> {
    Timestamp::from_seconds_f64(value.as_f64()?).map(Timestamp::micros)
}

/// What `record` is about, and its stamp.
fn key(record: &Value) -> Option<(Key, u64)> {
    let fields = &record["fields"];
    let text = |name: &str| fields[name].as_str().map(str::to_owned);
    let key = match record["name"].as_str()? {
        "RegisterBrokerRecord" => (Kind::Broker, text("internalUUID")?),
        "RegistrationChangeBrokerRecord" => (Kind::Broker, text("brokerId")?),
        "TopicRecord" => (Kind::Topic, text("topicUUID")?),
        "PartitionRecord" => {
            (Kind::Partition, format!("{}/{}", text("topicUUID")?, fields["partitionId"]))
        }
        "ProducerIdsRecord" => (Kind::Producer, fields["producerId"].to_string()),
        _ => return None,
    };
    Some((key, micros(&record["timestamp"])?))
}

/// All records that `answer` shows.
pub(super) fn all_records(answer: &Value) -> impl Iterator<Item = &Value> {
    let single = answer["fields"].is_object().then_some(answer);
    single.into_iter().chain(records(&answer["records"])).chain(records(&answer["upserted"]))
}

fn records(parts: &Value) -> impl Iterator<Item = &Value> {
    parts
        .as_object()
        .into_iter()
        .flat_map(|parts| parts.values())
        .filter_map(Value::as_array)
        .flatten()
}

/// The broker that `exchange` asks to close, by the name that the request uses for it.
fn closed_by(exchange: &Exchange) -> Option<String> {
    if let Some(broker) = exchange.path().strip_prefix("/unregister_broker/") {
        return Some(broker.to_owned());
    }
    let sent = exchange.request.body.as_ref().filter(|_| exchange.path() == "/update_broker")?;
    let body = if sent["fields"].is_object() { &sent["fields"] } else { sent };
    let names = ["brokerId", "internalUUID"].map(|name| &body[name]);
    let named = names.into_iter().find(|name| !name.is_null())?;
    let name = named.as_str().map_or_else(|| named.to_string(), str::to_owned);
    (body["brokerStatus"] == "CLOSED").then_some(name)
}

/// Learns who holds the partition `key`, all of whom are there from its creation on, and who of them is in sync.
fn learn_replicas(
    replicas: &mut BTreeMap<Key, Value>,
    key: &Key,
    fields: &Value,
) -> Result<(), String> {
    let lists = ["replicas", "removingReplicas", "addingReplicas"].map(|name| fields[name].clone());
    let lists = Value::from(lists.to_vec());
    let known = replicas.entry(key.clone()).or_insert_with(|| lists.clone());
    if *known != lists {
        return Err(format!("{key:?} was held by {known}, and is shown as {fields}"));
    }
    let held = &known[0];
    let holds = |broker: &Value| held.as_array().is_some_and(|held| held.contains(broker));
    let in_sync = fields["ISR"].as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(stranger) = in_sync.iter().find(|broker| !holds(broker)) {
        return Err(format!("{key:?}: {stranger} is in sync and no replica: {fields}"));
    }
    if in_sync.is_empty() && fields["leader"].as_str().is_some_and(|leader| !leader.is_empty()) {
        return Err(format!("{key:?} is led by somebody who is not in sync: {fields}"));
    }
    Ok(())
}

impl Versions {
    /// Learns from one answer.
    ///
    /// # Errors
    ///
    /// When it shows another version under the same stamp than was shown before.
    pub fn learn(&mut self, answer: &Value) -> Result<(), String> {
        for record in all_records(answer) {
            let Some((key, stamp)) = key(record) else { continue };
            let whole = record["name"] != "RegistrationChangeBrokerRecord";
            let versions = self.records.entry(key.clone()).or_default();
            if !versions.contains_key(&stamp) {
                self.stamps.entry(stamp).or_default().push(key.clone());
            }
            if key.0 == Kind::Partition {
                learn_replicas(&mut self.replicas, &key, &record["fields"])?;
            }
            let version = versions.entry(stamp).or_default();
            version.closed |= record["fields"]["brokerStatus"] == "CLOSED";
            if !whole {
                continue;
            }
            if let Some(broker) = record["fields"]["brokerId"].as_u64()
                && key.0 == Kind::Broker
            {
                self.broker_ids.insert(key.1.clone(), broker);
                self.incarnations.entry(broker).or_default().insert(stamp, key.1.clone());
            }
            match &version.fields {
                Some(known) if *known != record["fields"] => {
                    return Err(format!(
                        "{key:?} of {stamp} was shown as {known} and as {}",
                        record["fields"]
                    ));
                }
                Some(_) => {}
                None => version.fields = Some(record["fields"].clone()),
            }
        }
        Ok(())
    }

    /// The last version of `key` by time `offset`.
    fn last(&self, key: &Key, offset: u64) -> Option<(u64, &Version)> {
        let (stamp, version) = self.records.get(key)?.range(..=offset).next_back()?;
        Some((*stamp, version))
    }

    /// Whether the broker `key` had closed by time `offset` although nobody was told so, since there is another incarnation of
    /// its id by then. (Found by simulation: swarm, seed 1000000825.)
    fn is_superseded(&self, (kind, uuid): &Key, stamp: u64, offset: u64) -> bool {
        let Some(broker) = self.broker_ids.get(uuid).filter(|_| *kind == Kind::Broker) else {
            return false;
        };
        let incarnations = self.incarnations.get(broker);
        let mut later = incarnations.into_iter().flat_map(|known| known.range(stamp + 1..));
        later.any(|(first, other)| *first <= offset && other != uuid)
    }

    /// Whether the broker `key` may have closed although nobody was told so: somebody asked for it, and nobody was shown
    /// everything since, as in a run that ends without a majority. (Found by simulation: swarm, seed 770000110.)
    fn is_uncertain(&self, (kind, uuid): &Key, offset: u64) -> bool {
        let broker = self.broker_ids.get(uuid).filter(|_| *kind == Kind::Broker);
        let asked = |broker: &u64| {
            self.open_closings.contains(&broker.to_string()) || self.open_closings.contains(uuid)
        };
        offset > self.complete_until && broker.is_some_and(asked)
    }

    /// Notes whether `exchange` asks for a closing, and nobody knows what came of it.
    fn note_closing(&mut self, exchange: &Exchange) {
        if exchange.effect() == Effect::Open
            && let Some(broker) = closed_by(exchange)
        {
            self.open_closings.insert(broker);
        }
    }

    /// Judges a list of active brokers: each is alive, and is shown as it was at the list's time.
    ///
    /// Who is missing is not judged here, since a fencing may have had an outcome that nobody knows: the search for an
    /// order does that, of those that are not stale.
    ///
    /// # Errors
    ///
    /// What it shows wrongly.
    fn judge_list(&self, list: &Value) -> Result<(), String> {
        let Some(offset) = micros(&list["offset"]) else {
            return Err(format!("a list without an offset: {list}"));
        };
        let mut shown = BTreeSet::new();
        for record in records(&list["records"]) {
            let Some((key, stamp)) = key(record).filter(|(key, _)| key.0 == Kind::Broker) else {
                return Err(format!("a strange record {record}"));
            };
            let last = self.last(&key, offset).map(|(last, _)| last);
            if last != Some(stamp) || self.is_superseded(&key, stamp, offset) {
                return Err(format!(
                    "{key:?} is listed as of {stamp} at {offset}, and was changed at {last:?} or is closed"
                ));
            }
            if record["fields"]["brokerStatus"] != "ALIVE" {
                return Err(format!("{key:?} is listed as active: {record}"));
            }
            if !shown.insert(record["fields"]["brokerId"].to_string()) {
                return Err(format!("{key:?} is listed, and another of its id"));
            }
        }
        Ok(())
    }

    /// Judges a poll: everything that it should show, and nothing else.
    ///
    /// # Errors
    ///
    /// What it shows wrongly.
    pub fn judge(&self, poll: &Poll<'_>) -> Result<(), String> {
        let Poll { offset, previous, kind, .. } = *poll;
        let age = Duration::from_micros(offset.saturating_sub(previous));
        // An offset that this history never issued gets a complete snapshot. This is certain for an
        // offset from the future, and for one of a history that no answer named.
        let is_of_another =
            poll.asks_history.is_some_and(|history| !self.histories.contains(history));
        let is_foreign = previous > offset
            || is_of_another
            || (kind == "complete" && !self.issued.contains(&previous));
        let expected = match (age <= CURRENT_AGE_MAX && !is_foreign, poll.asks_diff) {
            (false, _) => "complete",
            (true, true) => "diff",
            (true, false) => "current",
        };
        if kind != expected {
            return Err(format!("{kind} for an offset of age {age:?}, which asks for {expected}"));
        }
        let since = if kind == "diff" { previous } else { 0 };
        let part = if kind == "diff" { "upserted" } else { "records" };
        let mut shown: BTreeMap<Key, u64> = BTreeMap::new();
        for record in records(&poll.body[part]) {
            let Some((key, stamp)) = key(record) else {
                return Err(format!("a strange record {record}"));
            };
            if record["name"] == "RegistrationChangeBrokerRecord" {
                continue;
            }
            if !poll.sees(key.0) {
                return Err(format!("{key:?} is none of its business"));
            }
            if stamp > offset || (kind == "diff" && stamp <= since) {
                return Err(format!("{key:?} of {stamp} in a {kind} from {since} to {offset}"));
            }
            if shown.insert(key.clone(), stamp).is_some() {
                return Err(format!("{key:?} is shown twice"));
            }
        }
        let mut deleted: BTreeSet<Key> = BTreeSet::new();
        for broker in records(&poll.body["deleted"]) {
            let uuid = broker["internalUUID"].as_str().unwrap_or_default();
            deleted.insert((Kind::Broker, uuid.to_owned()));
        }
        // A broker that nobody was told had closed is told of here, if it is one.
        let strange = deleted.iter().find(|key| {
            let last = self.last(key, offset);
            let closed = last.is_some_and(|(stamp, version)| {
                version.closed && stamp > since || self.is_superseded(key, stamp, offset)
            });
            let closed = closed || self.is_uncertain(key, offset);
            kind != "diff" || !closed
        });
        if let Some(key) = strange {
            return Err(format!("{key:?} is deleted in a {kind} from {since} to {offset}"));
        }
        let from = since + u64::from(kind == "diff");
        let changed = (from <= offset).then(|| self.stamps.range(from..=offset));
        for key in changed.into_iter().flatten().flat_map(|(_, keys)| keys) {
            let Some((stamp, version)) = self.last(key, offset).filter(|_| poll.sees(key.0)) else {
                continue;
            };
            let closed = version.closed || self.is_superseded(key, stamp, offset);
            let live = !closed || kind == "complete";
            let told = shown.remove(key);
            // A broker's closing shows as such in a diff, and by its absence in a current snapshot.
            let gone = kind == "diff" && closed;
            let uncertain = !closed && self.is_uncertain(key, offset);
            if live && told.is_none() && !uncertain {
                return Err(format!(
                    "{key:?} of {stamp} is missing in a {kind} from {since} to {offset}"
                ));
            }
            if let Some(told) = told
                && (!live || told != stamp || closed != version.closed)
            {
                return Err(format!(
                    "{key:?} is shown as of {told} in a {kind} from {since} to {offset}, and was changed at {stamp} (closed: {closed})"
                ));
            }
            if gone && !deleted.contains(key) {
                return Err(format!(
                    "{key:?}, closed at {stamp}, is not deleted in a diff from {since} to {offset}"
                ));
            }
            if !gone && deleted.contains(key) && !uncertain {
                return Err(format!(
                    "{key:?} of {stamp} is deleted in a diff from {since} to {offset}"
                ));
            }
            // Keys come once for each of their versions.
            if let Some(told) = told {
                shown.insert(key.clone(), told);
            }
        }
        for (key, stamp) in shown {
            if self.last(&key, offset).is_none_or(|(last, _)| last != stamp) {
                return Err(format!("{key:?} of {stamp} is shown, and was never made"));
            }
        }
        Ok(())
    }
}

/// An answered poll.
#[derive(Clone, Copy, Debug)]
pub struct Poll<'a> {
    previous: u64,
    offset: u64,
    kind: &'a str,
    asks_diff: bool,
    asks_history: Option<&'a str>,
    for_brokers: bool,
    body: &'a Value,
}

impl<'a> Poll<'a> {
    /// The poll that `exchange` is, if it is one and was answered.
    #[must_use]
    pub fn of(exchange: &'a Exchange) -> Option<Self> {
        let Effect::Decided(answer) = exchange.effect() else { return None };
        let mut parts = exchange.path().trim_start_matches('/').split('/');
        let for_brokers = match parts.next()? {
            "broker_mgmt" => true,
            "client_mgmt" => false,
            _ => return None,
        };
        let previous = Timestamp::from_seconds_f64(parts.next()?.parse().ok()?)?.micros();
        let body = &answer.body;
        Some(Self {
            previous,
            offset: micros(&body["offset"])?,
            kind: body["snapshot"].as_str()?,
            asks_diff: exchange.request.path.contains("mode=diff"),
            asks_history: exchange
                .request
                .path
                .split(['?', '&'])
                .find_map(|part| part.strip_prefix("history=")),
            for_brokers,
            body,
        })
    }

    fn sees(&self, kind: Kind) -> bool {
        self.for_brokers || kind != Kind::Producer
    }
}

/// Whether `exchange` is a poll whose answer is none.
fn is_refused_poll(exchange: &Exchange) -> bool {
    let path = exchange.path();
    let is_poll = path.starts_with("/broker_mgmt/") || path.starts_with("/client_mgmt/");
    is_poll && exchange.request.refusal.is_none() && matches!(exchange.effect(), Effect::Decided(_))
}

/// Something with a stamp that happened in real time.
#[derive(Clone, Copy, Debug)]
struct Stamped {
    number: usize,
    begun: u64,
    ended: u64,
    stamp: u64,
    writes: bool,
}

/// Whether stamps agree with real time.
fn check_real_time(mut events: Vec<Stamped>) -> Result<(), Broken> {
    let mut by_end = events.clone();
    by_end.sort_by_key(|event| event.ended);
    events.sort_by_key(|event| event.begun);
    let mut ended = by_end.iter().peekable();
    let mut latest: Option<Stamped> = None;
    for event in &events {
        while let Some(before) = ended.next_if(|before| before.ended < event.begun) {
            if latest.is_none_or(|latest| latest.stamp < before.stamp) {
                latest = Some(*before);
            }
        }
        // A write is later than all that it could know of; a read may be of the same moment.
        let back = latest.filter(|latest| {
            latest.stamp > event.stamp
                || (event.writes && latest.stamp == event.stamp && latest.number != event.number)
        });
        if let Some(latest) = back {
            let what = format!(
                "cluster time went back: {} was answered before this began, and this is of {}",
                latest.stamp, event.stamp
            );
            return Err((event.number, what));
        }
    }
    Ok(())
}

/// Judges all `exchanges` of a run. `begun` says when the operation of each began, `None` when it only repeats
/// another.
///
/// # Errors
///
/// The first broken promise, and the exchange that shows it.
pub fn check(exchanges: &[Exchange], begun: &dyn Fn(usize) -> Option<u64>) -> Result<(), Broken> {
    let mut versions = Versions::default();
    let mut stamped = Vec::new();
    for (number, exchange) in exchanges.iter().enumerate() {
        versions.note_closing(exchange);
        if let Some(poll) = Poll::of(exchange).filter(|poll| poll.kind == "complete") {
            versions.complete_until = versions.complete_until.max(poll.offset);
        }
        let Effect::Decided(answer) = exchange.effect() else { continue };
        if !answer.status.is_success() {
            continue;
        }
        versions.learn(&answer.body).map_err(|what| (number, what))?;
        // A node that has applied no command yet has no cluster time, and shows 0.
        versions.histories.extend(answer.body["history"].as_str().map(str::to_owned));
        versions.issued.extend(micros(&answer.body["offset"]).filter(|offset| *offset > 0));
        let (Some(begun), Some(ended)) = (begun(number), exchange.ended) else { continue };
        let writes = exchange.request.method != hyper::Method::GET;
        let stamp =
            if writes { micros(&answer.body["timestamp"]) } else { micros(&answer.body["offset"]) };
        let Some(stamp) = stamp.filter(|_| !exchange.is_stale()) else { continue };
        stamped.push(Stamped { number, begun, ended, stamp, writes });
    }
    check_real_time(stamped)?;
    for (number, exchange) in exchanges.iter().enumerate() {
        match Poll::of(exchange) {
            Some(poll) => versions.judge(&poll).map_err(|what| (number, what))?,
            None if exchange.path() == "/get_active_brokers" => {
                let Some(Ok(answer)) = &exchange.answer else { continue };
                if answer.status.is_success() {
                    versions.judge_list(&answer.body).map_err(|what| (number, what))?;
                }
            }
            None if is_refused_poll(exchange) => {
                return Err((number, "a poll that asks for nothing strange is refused".to_owned()));
            }
            None => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
