//! The nodes that `-e` names, as seen by a node that has no cluster or is alone in one.
//!
//! A node with an empty directory and an ensemble joins the cluster of the first member that
//! answers. It waits for as long as it takes, and logs every answer. Meanwhile it listens on its
//! Raft port and tells callers that it waits. So nodes that all wait for each other can say so.
//!
//! A node that once founded a cluster because `-e` was forgotten stays alone in it, whatever `-e`
//! says later: its directory decides. If a named node belongs to another cluster, this node stops
//! with [`RunError::OtherCluster`]. Otherwise it would serve metadata that no other node has.

use std::io;
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft_rt::Select2;
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use super::answers::{Answers, describe};
use super::callers::hear_callers;
use super::join::{JOIN_PAUSE, Refused};
use super::{Node, RunError, Running};
use crate::env::{Env, rt};
use crate::quiet::Quiet;
use crate::raft::NodeId;
use crate::raft::network::message::{Call, Hello, Request, Response, Return};
use crate::raft::network::{HELLO_BYTES_MAX, ask, frame};

/// How long a request for the cluster of one address may take.
const IDENTIFY_LIMIT: Duration = Duration::from_secs(1);

/// How often a node that is alone asks the nodes that `-e` names.
const ALONE_INTERVAL: Duration = Duration::from_secs(1);

impl<E: Env> Node<E> {
    /// Binds the Raft address, and asks the ensemble for its cluster, for as long as it takes.
    ///
    /// # Errors
    ///
    /// [`RunError::Listen`] when the address cannot be bound, [`RunError::Refused`] when a named
    /// node says that this one cannot join.
    pub(super) async fn wait_for_cluster(&self) -> Result<(E::Listener, Uuid), RunError> {
        let listener = self.listen().await?;
        let node = self.id();
        let waiting = hear_callers::<E, _>(&listener, |stream| say_waiting::<E>(stream, node));
        let cluster = Box::pin(self.identify());
        let cluster = match E::Runtime::select2(cluster, Box::pin(waiting)).await {
            Select2::First(cluster) => cluster?,
            Select2::Second(never) => match never {},
        };
        Ok((listener, cluster))
    }

    async fn identify(&self) -> Result<Uuid, Refused> {
        let mut answers = Answers::<E>::new();
        loop {
            for addr in &self.inner.options.ensemble {
                match self.ask_cluster(addr).await {
                    Ok(Response::Cluster(cluster)) => return Ok(cluster),
                    Ok(Response::Refused(reason) | Response::Misdirected(reason)) => {
                        return Err(Refused(reason));
                    }
                    Ok(other) => answers.note(addr, describe(other)),
                    Err(error) => answers.note(addr, error.to_string()),
                }
            }
            answers.write(
                "waiting for a cluster to join; if there is none yet, start one node without -e",
            );
            rt::sleep::<E>(JOIN_PAUSE).await;
        }
    }

    async fn ask_cluster(&self, addr: &str) -> io::Result<Response<E>> {
        let asked = ask(&self.inner.names, addr, Request::Identify);
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer within a second");
        rt::timeout::<E, _>(IDENTIFY_LIMIT, asked).await.unwrap_or_else(|| Err(late()))
    }

    /// Ends when a node that `-e` names belongs to another cluster than this node, which founded
    /// its cluster and is alone in it.
    pub(super) async fn other_cluster(&self, running: &Running<E>) -> RunError {
        let mut quiet = Quiet::default();
        loop {
            for addr in &self.inner.options.ensemble {
                if !running.identity.founder || !self.is_alone(running) {
                    break;
                }
                let answer = match self.ask_cluster(addr).await {
                    Ok(Response::Cluster(other)) if other != running.identity.cluster => {
                        return RunError::OtherCluster {
                            own: running.identity.cluster,
                            addr: addr.clone(),
                            other,
                        };
                    }
                    Ok(Response::Cluster(_)) => continue,
                    Ok(other) => describe(other),
                    Err(error) => error.to_string(),
                };
                if let Some(unwritten) = quiet.note(rt::now::<E>()) {
                    tracing::warn!(
                        addr,
                        answer,
                        unwritten,
                        "this node is alone in the cluster that it founded, although -e names others"
                    );
                }
            }
            rt::sleep::<E>(ALONE_INTERVAL).await;
        }
    }
}

/// Tells a caller that node `node` waits for a cluster itself.
async fn say_waiting<E: Env>(mut stream: E::Stream, node: NodeId) {
    let Ok(Some(hello)) = frame::read::<Hello>(&mut stream, HELLO_BYTES_MAX).await else { return };
    // A caller that fails hangs up, and calls again.
    while let Ok(Some(call)) = frame::read::<Call<E>>(&mut stream, HELLO_BYTES_MAX).await {
        let reason = format!("node {node} waits for a cluster itself");
        let response = match hello.to {
            // This node's directory is empty: it is not the member that the caller means.
            Some(_) => Response::Misdirected(reason),
            None => Response::<E>::Unavailable(reason),
        };
        let Ok(frame) = frame::encode(&Return { number: call.number, response }) else { return };
        if stream.write_all(&frame).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}
