//! What is simulated: yakt as it is, or a service that embeds it.
//!
//! A service of your own runs on every node, beside or around yakt's HTTP API; a client of your own talks to it
//! throughout each run, and your own judge looks at what all clients were answered when the run is over and clean so
//! far. Everything else (schedules, faults, yakt's own clients and checkers, the runner, shrinking, reports) comes along.
//! `sim/examples/own_service.rs` does it in a page.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use yakt::node::Node;

use super::Violation;
use super::client::Client;
use super::exchanges::Exchange;
use crate::env::SimEnv;

/// Makes the HTTP service of a node: [`yakt::http::router`], or more than that.
pub type Service = Arc<dyn Fn(Node<SimEnv>) -> axum::Router + Send + Sync>;

/// What a client does from the start of the clients' work to its end, when it is stopped where it is.
pub type Visit = Arc<dyn Fn(Client) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Says whether what all clients asked and were answered is as it must be.
pub type Judge = Arc<dyn Fn(&[Exchange]) -> Result<(), Violation> + Send + Sync>;

/// What is simulated.
#[derive(Clone)]
pub struct Subject {
    /// What each node serves.
    pub service: Service,
    /// A client beside those that the schedule plans, if there is to be one.
    pub visit: Option<Visit>,
    /// What must hold beyond what always must.
    pub judge: Judge,
}

impl Default for Subject {
    /// yakt as it is.
    fn default() -> Self {
        Self {
            service: Arc::new(yakt::http::router::<SimEnv>),
            visit: None,
            judge: Arc::new(|_| Ok(())),
        }
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("visited", &self.visit.is_some()).finish_non_exhaustive()
    }
}
