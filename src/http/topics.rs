//! Topics and their partitions.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Deserializer};

use super::body::Body;
use super::extract::{Freshness, TopicPath};
use super::problem::Problem;
use super::write::commit;
use crate::env::{Env, rt};
use crate::metadata::{
    BrokerRef, Change, CreatePartition, CreateTopic, LeaderChoice, PartitionId, PartitionRecord,
    TopicName, TopicRecord, Uuid,
};
use crate::node::{Node, REQUEST_DEADLINE};

#[derive(Deserialize)]
struct Topic {
    name: TopicName,
}

pub(super) async fn create<E: Env>(
    State(node): State<Node<E>>,
    body: Body<TopicRecord>,
) -> Result<Response, Problem> {
    let idempotency = body.idempotency.clone();
    let Topic { name } = body.parse()?;
    let uuid = rt::time_ordered_uuid(node.env());
    let change = Change::CreateTopic(CreateTopic { uuid, name });
    commit(&node, change, idempotency, StatusCode::CREATED).await
}

pub(super) async fn by_name<E: Env>(
    State(node): State<Node<E>>,
    TopicPath(name): TopicPath,
    Freshness(consistency): Freshness,
) -> Result<Response, Problem> {
    let image = node.read(consistency, REQUEST_DEADLINE).await?;
    let topic = image.state.topic_by_name(&name);
    let topic = topic.ok_or_else(|| {
        Problem::not_found("unknown_topic", format!("there is no topic {name:?}"))
    })?;
    Ok(Json(topic).into_response())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Partition {
    partition_id: PartitionId,
    #[serde(rename = "topicUUID")]
    topic: Uuid,
    replicas: Option<Vec<BrokerRef>>,
    #[serde(rename = "ISR")]
    isr: Option<Vec<BrokerRef>>,
    removing_replicas: Option<Vec<BrokerRef>>,
    adding_replicas: Option<Vec<BrokerRef>>,
    #[serde(default, deserialize_with = "leader")]
    leader: LeaderChoice,
}

/// A broker, `""` for nobody, or nothing for whom the rules choose.
fn leader<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LeaderChoice, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "a broker's integer id, its internal UUID, or \"\" for no leader"
    )]
    enum Choice {
        Broker(BrokerRef),
        Text(Empty),
        Null(()),
    }
    Ok(match Choice::deserialize(deserializer)? {
        Choice::Broker(broker) => LeaderChoice::Broker(broker),
        Choice::Text(Empty::Empty) => LeaderChoice::Nobody,
        Choice::Null(()) => LeaderChoice::Preferred,
    })
}

#[derive(Deserialize)]
enum Empty {
    #[serde(rename = "")]
    Empty,
}

pub(super) async fn create_partition<E: Env>(
    State(node): State<Node<E>>,
    body: Body<PartitionRecord>,
) -> Result<Response, Problem> {
    let idempotency = body.idempotency.clone();
    let request: Partition = body.parse()?;
    let change = Change::CreatePartition(CreatePartition {
        topic: request.topic,
        partition_id: request.partition_id,
        replicas: request.replicas.unwrap_or_default(),
        isr: request.isr,
        removing: request.removing_replicas.unwrap_or_default(),
        adding: request.adding_replicas.unwrap_or_default(),
        leader: request.leader,
    });
    commit(&node, change, idempotency, StatusCode::CREATED).await
}
