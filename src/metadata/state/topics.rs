//! Topics: they are created, and stay.

use std::sync::Arc;

use super::State;
use crate::metadata::{
    CreateTopic, Record, Rejection, RejectionCode, Stamped, Timestamp, TopicRecord,
};

impl State {
    /// The topic of that name.
    pub fn topic_by_name(&self, name: &str) -> Option<&Arc<Stamped<TopicRecord>>> {
        self.topics.get(self.index.topic_uuids.get(name)?)
    }

    pub(super) fn create_topic(
        &mut self,
        stamp: Timestamp,
        change: &CreateTopic,
    ) -> Result<Record, Rejection> {
        let CreateTopic { uuid, name } = change;
        if self.index.topic_uuids.contains_key(name) {
            let message = format!("there is a topic {name} already");
            return Err(Rejection::new(RejectionCode::DuplicateTopic, message));
        }
        if self.topics.contains_key(uuid) {
            let message = format!("the UUID {uuid} belongs to another topic");
            return Err(Rejection::new(RejectionCode::DuplicateUuid, message));
        }
        let fields = TopicRecord { uuid: *uuid, name: name.clone() };
        let entry = Arc::new(Stamped { timestamp: stamp, fields });
        self.index.topic_created(entry.clone());
        self.topics.insert(*uuid, entry.clone());
        Ok(entry.into())
    }
}
