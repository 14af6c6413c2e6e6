//! Brokers: they register, change and close.
//!
//! A broker is ALIVE from its registration on. In KRaft it would start fenced and its heartbeats would
//! unfence it (KIP-631); this API has no heartbeat, so a broker that started fenced would stay so until
//! somebody called `update_broker`.
//!
//! Every change after the registration appends a [`RegistrationChangeBrokerRecord`], which is the
//! answer, and raises the epoch by one. The broker's [`RegisterBrokerRecord`] always shows it as it is
//! now. An id whose broker was closed may be registered again: the new incarnation has a new UUID and
//! goes on from the old one's epoch, so that an epoch never means two things.

use std::sync::Arc;

use super::{BrokerEntry, State};
use crate::metadata::{
    BrokerRef, BrokerStatus, Epoch, Record, RegisterBroker, RegisterBrokerRecord,
    RegistrationChangeBrokerRecord, Rejection, RejectionCode, Stamped, Timestamp, UnregisterBroker,
    UpdateBroker,
};

impl State {
    /// A broker, closed ones too: by id the latest incarnation, by UUID exactly that one.
    pub fn broker(&self, broker: &BrokerRef) -> Option<&Arc<Stamped<RegisterBrokerRecord>>> {
        match broker {
            BrokerRef::Id(id) => self.brokers.get(id),
            BrokerRef::Uuid(uuid) => match self.index.broker_ids.get(uuid) {
                Some(id) => self.brokers.get(id),
                None => self.former_brokers.get(uuid),
            },
        }
    }

    /// A broker that can still change.
    pub(super) fn live_broker(&self, broker: &BrokerRef) -> Result<&BrokerEntry, Rejection> {
        let entry = self.broker(broker).ok_or_else(|| {
            Rejection::new(RejectionCode::UnknownBroker, format!("there is no broker {broker}"))
        })?;
        if entry.fields.broker_status == BrokerStatus::Closed {
            let message = format!("broker {broker} is closed");
            return Err(Rejection::new(RejectionCode::BrokerClosed, message));
        }
        Ok(entry)
    }

    pub(super) fn register_broker(
        &mut self,
        stamp: Timestamp,
        change: &RegisterBroker,
    ) -> Result<Record, Rejection> {
        let id = change.broker_id;
        if self.live_broker(&id.into()).is_ok() {
            let message = format!("broker {id} is registered already");
            return Err(Rejection::new(RejectionCode::DuplicateBroker, message));
        }
        if self.broker(&change.uuid.into()).is_some() {
            let message = format!("the UUID {} belongs to another broker", change.uuid);
            return Err(Rejection::new(RejectionCode::DuplicateUuid, message));
        }
        let mut epoch = Epoch::ZERO;
        if let Some(former) = self.brokers.get(&id).cloned() {
            epoch = former.fields.epoch.next();
            self.index.broker_ids.remove(&former.fields.uuid);
            self.former_brokers.insert(former.fields.uuid, former);
        }
        let fields = RegisterBrokerRecord {
            uuid: change.uuid,
            broker_id: id,
            broker_host: change.host.clone(),
            broker_port: change.port,
            security_protocol: change.security_protocol.clone(),
            broker_status: BrokerStatus::Alive,
            rack_id: change.rack_id.clone(),
            epoch,
        };
        let entry = Arc::new(Stamped { timestamp: stamp, fields });
        self.index.broker_ids.insert(change.uuid, id);
        self.index.broker_changed(change.uuid, None, stamp);
        self.brokers.insert(id, entry.clone());
        self.lead_awaiting_partitions(stamp, id);
        Ok(entry.into())
    }

    pub(super) fn unregister_broker(
        &mut self,
        stamp: Timestamp,
        change: &UnregisterBroker,
    ) -> Result<Record, Rejection> {
        let change = UpdateBroker {
            broker: change.broker,
            host: None,
            port: None,
            security_protocol: None,
            status: Some(BrokerStatus::Closed),
            epoch: change.epoch,
        };
        self.update_broker(stamp, &change)
    }

    pub(super) fn update_broker(
        &mut self,
        stamp: Timestamp,
        change: &UpdateBroker,
    ) -> Result<Record, Rejection> {
        let previous = self.live_broker(&change.broker)?.clone();
        let next = updated(&previous.fields, change)?;
        let (id, uuid) = (next.broker_id, next.uuid);
        let led = previous.fields.broker_status.may_lead();
        let may_lead = next.broker_status.may_lead();

        let record = Arc::new(Stamped { timestamp: stamp, fields: registration_change(&next) });
        self.registration_changes.push_back(record.clone());
        self.index.broker_changed(uuid, Some(previous.timestamp), stamp);
        self.brokers.insert(id, Arc::new(Stamped { timestamp: stamp, fields: next }));
        match (led, may_lead) {
            (true, false) => self.leave_partitions(stamp, id, uuid),
            (false, true) => self.lead_awaiting_partitions(stamp, id),
            _ => {}
        }
        Ok(record.into())
    }
}

/// The broker after `change`, or why it cannot change so.
fn updated(
    broker: &RegisterBrokerRecord,
    change: &UpdateBroker,
) -> Result<RegisterBrokerRecord, Rejection> {
    if let Some(epoch) = change.epoch
        && epoch != broker.epoch
    {
        let message = format!("the broker's epoch is {}, not {epoch}", broker.epoch);
        return Err(Rejection::new(RejectionCode::StaleEpoch, message));
    }
    if change.status == Some(BrokerStatus::Init) {
        let message = "a registered broker cannot become INIT";
        return Err(Rejection::new(RejectionCode::IllegalStatus, message));
    }
    let mut next = broker.clone();
    next.epoch = broker.epoch.next();
    if let Some(host) = &change.host {
        next.broker_host = host.clone();
    }
    if let Some(port) = change.port {
        next.broker_port = port;
    }
    if let Some(protocol) = &change.security_protocol {
        next.security_protocol = protocol.clone();
    }
    if let Some(status) = change.status {
        next.broker_status = status;
    }
    Ok(next)
}

fn registration_change(broker: &RegisterBrokerRecord) -> RegistrationChangeBrokerRecord {
    RegistrationChangeBrokerRecord {
        broker: broker.uuid,
        broker_host: broker.broker_host.clone(),
        broker_port: broker.broker_port,
        security_protocol: broker.security_protocol.clone(),
        broker_status: broker.broker_status,
        epoch: broker.epoch,
    }
}
