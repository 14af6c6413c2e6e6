//! Producers.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::body::Body;
use super::problem::Problem;
use super::write::commit;
use crate::env::Env;
use crate::metadata::{BrokerRef, Change, ProducerId, ProducerIdsRecord, RegisterProducer};
use crate::node::Node;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registration {
    broker_id: BrokerRef,
    producer_id: Option<ProducerId>,
}

pub(super) async fn register<E: Env>(
    State(node): State<Node<E>>,
    body: Body<ProducerIdsRecord>,
) -> Result<Response, Problem> {
    let idempotency = body.idempotency.clone();
    let request: Registration = body.parse()?;
    let change = Change::RegisterProducer(RegisterProducer {
        broker: request.broker_id,
        producer_id: request.producer_id,
    });
    commit(&node, change, idempotency, StatusCode::CREATED).await
}
