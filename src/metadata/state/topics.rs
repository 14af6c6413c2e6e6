//! Topics: they are created, and stay as they are.
//!
//! A topic is known by its number: the place where it stands among all topics, in the order in which they were created,
//! which is the same on every node. Its partitions and the index hold that. A copy of a part of a tree, as every command
//! makes some, then copies plain numbers; of pointers it would have to count the references, one by one and all over the
//! memory.

use std::sync::Arc;

use imbl::{OrdMap, Vector};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{State, TopicEntry, packed};
use crate::metadata::{
    CreateTopic, Record, Rejection, RejectionCode, Stamped, Timestamp, TopicName, TopicRecord,
};

/// A topic's place among all topics, counted from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct TopicNumber(u32);

impl TopicNumber {
    pub(super) fn new(index: usize) -> Self {
        Self(u32::try_from(index).expect("four billion topics fit into no memory"))
    }

    const fn index(self) -> usize {
        self.0 as usize
    }
}

/// All topics.
#[derive(Clone, Debug, Default)]
pub(super) struct Topics {
    entries: Vector<TopicEntry>,
    by_uuid: OrdMap<Uuid, TopicNumber>,
    by_name: OrdMap<TopicName, TopicNumber>,
}

impl Topics {
    /// From topics in the order in which they were created. If two have the same UUID or name, one is not found again.
    pub(super) fn of(entries: Vec<TopicEntry>) -> Self {
        let numbered = || entries.iter().zip((0..).map(TopicNumber::new));
        let mut by_uuid: Vec<_> = numbered().map(|(topic, n)| (topic.fields.uuid, n)).collect();
        by_uuid.sort_unstable();
        let mut by_name: Vec<_> =
            numbered().map(|(topic, n)| (topic.fields.name.clone(), n)).collect();
        by_name.sort_unstable();
        Self {
            by_uuid: packed::map(by_uuid.into_iter()),
            by_name: packed::map(by_name.into_iter()),
            entries: entries.into(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no two have the same UUID, nor the same name.
    pub(super) fn are_distinct(&self) -> bool {
        [self.by_uuid.len(), self.by_name.len()] == [self.len(); 2]
    }

    /// All of them, in the order in which they were created.
    pub(super) const fn created(&self) -> &Vector<TopicEntry> {
        &self.entries
    }

    /// All of them, by UUID.
    pub(super) fn by_uuid(&self) -> impl Iterator<Item = &TopicEntry> {
        self.numbers().map(|number| &self[number])
    }

    /// All of them, by UUID. Owns what it needs.
    pub(super) fn into_entries(self) -> impl Iterator<Item = TopicEntry> {
        let Self { entries, by_uuid, .. } = self;
        by_uuid.into_iter().map(move |(_, number)| entries[number.index()].clone())
    }

    /// Their numbers, by UUID.
    pub(super) fn numbers(&self) -> impl Iterator<Item = TopicNumber> {
        self.by_uuid.values().copied()
    }

    /// Their numbers, by UUID. Owns what it needs.
    pub(super) fn into_numbers(self) -> impl Iterator<Item = TopicNumber> {
        self.by_uuid.into_iter().map(|(_, number)| number)
    }

    /// The number of the topic with that UUID.
    pub(super) fn number(&self, uuid: &Uuid) -> Option<TopicNumber> {
        self.by_uuid.get(uuid).copied()
    }

    /// The topic of that number, if it was given out.
    pub(super) fn get(&self, number: TopicNumber) -> Option<&TopicEntry> {
        self.entries.get(number.index())
    }

    /// The topic of that name.
    pub(super) fn named(&self, name: &str) -> Option<&TopicEntry> {
        self.by_name.get(name).map(|number| &self[*number])
    }

    /// Adds a topic, whose UUID and name no other has.
    fn push(&mut self, topic: TopicEntry) {
        let number = TopicNumber::new(self.entries.len());
        let TopicRecord { uuid, name } = &topic.fields;
        let last = self.entries.last().map_or(Timestamp::ZERO, |last| last.timestamp);
        assert!(
            topic.timestamp > last,
            "topic {uuid} is of {}, and one of {last}",
            topic.timestamp
        );
        self.by_name.insert(name.clone(), number);
        let previous = self.by_uuid.insert(*uuid, number);
        assert!(previous.is_none(), "there are two topics {uuid}");
        self.entries.push_back(topic);
    }
}

/// The topic of a number that was given out.
impl std::ops::Index<TopicNumber> for Topics {
    type Output = TopicEntry;

    fn index(&self, number: TopicNumber) -> &TopicEntry {
        &self.entries[number.index()]
    }
}

impl State {
    /// The topic of that name.
    pub fn topic_by_name(&self, name: &str) -> Option<&Arc<Stamped<TopicRecord>>> {
        self.topics.named(name)
    }

    pub(super) fn create_topic(
        &mut self,
        stamp: Timestamp,
        change: &CreateTopic,
    ) -> Result<Record, Rejection> {
        let CreateTopic { uuid, name } = change;
        if self.topics.named(name.as_str()).is_some() {
            let message = format!("there is a topic {name} already");
            return Err(Rejection::new(RejectionCode::DuplicateTopic, message));
        }
        if self.topics.number(uuid).is_some() {
            let message = format!("the UUID {uuid} belongs to another topic");
            return Err(Rejection::new(RejectionCode::DuplicateUuid, message));
        }
        let fields = TopicRecord { uuid: *uuid, name: name.clone() };
        let entry = Arc::new(Stamped { timestamp: stamp, fields });
        self.topics.push(entry.clone());
        Ok(entry.into())
    }
}
