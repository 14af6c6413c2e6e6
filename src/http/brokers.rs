//! Brokers.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::Value;

use super::body::Body;
use super::extract::{BrokerPath, Freshness};
use super::mgmt::List;
use super::problem::Problem;
use super::turns::Turns;
use super::write::{commit, idempotency_key};
use crate::env::{Env, rt};
use crate::metadata::{
    BrokerId, BrokerRef, BrokerStatus, Change, Epoch, Host, Port, RackId, RegisterBroker,
    RegisterBrokerRecord, RegistrationChangeBrokerRecord, SecurityProtocol, UnregisterBroker,
    UpdateBroker, Uuid,
};
use crate::node::{Node, REQUEST_DEADLINE};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registration {
    broker_id: BrokerId,
    broker_host: Host,
    broker_port: Port,
    security_protocol: Option<SecurityProtocol>,
    rack_id: Option<RackId>,
}

pub(super) async fn register<E: Env>(
    State(node): State<Node<E>>,
    body: Body<RegisterBrokerRecord>,
) -> Result<Response, Problem> {
    let idempotency = body.idempotency.clone();
    let request: Registration = body.parse()?;
    let change = Change::RegisterBroker(RegisterBroker {
        uuid: rt::random_uuid::<E>(),
        broker_id: request.broker_id,
        host: request.broker_host,
        port: request.broker_port,
        security_protocol: request.security_protocol.unwrap_or_default(),
        rack_id: request.rack_id.unwrap_or_default(),
    });
    commit(&node, change, idempotency, StatusCode::CREATED).await
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Update {
    broker_id: Option<BrokerRef>,
    #[serde(rename = "internalUUID")]
    uuid: Option<Uuid>,
    broker_host: Option<Host>,
    broker_port: Option<Port>,
    security_protocol: Option<SecurityProtocol>,
    broker_status: Option<BrokerStatus>,
    epoch: Option<Epoch>,
}

pub(super) async fn update<E: Env>(
    State(node): State<Node<E>>,
    body: Body<RegistrationChangeBrokerRecord>,
) -> Result<Response, Problem> {
    let idempotency = body.idempotency.clone();
    let request: Update = body.parse()?;
    let broker = request.broker_id.or(request.uuid.map(BrokerRef::Uuid));
    let change = Change::UpdateBroker(UpdateBroker {
        broker: broker
            .ok_or_else(|| Problem::bad_request("invalid_field", "missing field `brokerId`"))?,
        host: request.broker_host,
        port: request.broker_port,
        security_protocol: request.security_protocol,
        status: request.broker_status,
        epoch: request.epoch,
    });
    commit(&node, change, idempotency, StatusCode::OK).await
}

pub(super) async fn unregister<E: Env>(
    State(node): State<Node<E>>,
    BrokerPath(broker): BrokerPath,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let idempotency = idempotency_key(&headers, uri.path(), &Value::Null)?;
    let change = Change::UnregisterBroker(UnregisterBroker { broker, epoch: None });
    commit(&node, change, idempotency, StatusCode::OK).await
}

pub(super) async fn active<E: Env>(
    State(node): State<Node<E>>,
    Extension(turns): Extension<Turns>,
    Freshness(consistency): Freshness,
) -> Result<Response, Problem> {
    let image = node.read_with_time(consistency, REQUEST_DEADLINE).await?;
    let list = || List::of(image.state.last_stamp(), image.state.active_brokers()).respond();
    turns.take(list).await
}

pub(super) async fn by_id<E: Env>(
    State(node): State<Node<E>>,
    BrokerPath(broker): BrokerPath,
    Freshness(consistency): Freshness,
) -> Result<Response, Problem> {
    let image = node.read(consistency, REQUEST_DEADLINE).await?;
    let record = image.state.broker(&broker);
    let record = record.ok_or_else(|| {
        Problem::not_found("unknown_broker", format!("there is no broker {broker}"))
    })?;
    Ok(Json(record).into_response())
}
