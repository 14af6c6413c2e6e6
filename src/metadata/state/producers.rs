//! Producer ids: a broker gets one, and keeps it.
//!
//! An id given explicitly is just taken. The server's own choice comes from a counter that skips what
//! is taken and never looks back, so that an id is not searched for twice. A producer stays when its
//! broker closes: the id was used, and ids are not used again.

use std::sync::Arc;

use super::State;
use crate::metadata::{
    ProducerId, ProducerIdsRecord, Record, RegisterProducer, Rejection, RejectionCode, Stamped,
    Timestamp,
};

impl State {
    pub(super) fn register_producer(
        &mut self,
        stamp: Timestamp,
        change: &RegisterProducer,
    ) -> Result<Record, Rejection> {
        let broker = self.live_broker(&change.broker)?;
        let (uuid, broker_epoch) = (broker.fields.uuid, broker.fields.epoch);
        let producer_id = match change.producer_id {
            Some(id) if self.producers.contains_key(&id) => {
                let message = format!("there is a producer {id} already");
                return Err(Rejection::new(RejectionCode::DuplicateProducer, message));
            }
            Some(id) => id,
            None => self.free_producer_id()?,
        };
        let fields = ProducerIdsRecord { broker: uuid, broker_epoch, producer_id };
        let entry = Arc::new(Stamped { timestamp: stamp, fields });
        self.index.producer_registered(entry.clone());
        self.producers.insert(producer_id, entry.clone());
        Ok(entry.into())
    }

    fn free_producer_id(&mut self) -> Result<ProducerId, Rejection> {
        while let Ok(id) = ProducerId::try_from(self.producer_id_next) {
            self.producer_id_next += 1;
            if !self.producers.contains_key(&id) {
                return Ok(id);
            }
        }
        let message = "every producer id is taken";
        Err(Rejection::new(RejectionCode::ProducerIdsExhausted, message))
    }
}
