//! Is what was acknowledged there?

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::{Method, StatusCode};
use serde::Serialize;

use super::load::Load;
use crate::cli::Failure;

/// Topics that are looked for at most, evenly spread over all.
const TOPICS_MAX: usize = 20_000;

/// Attempts at a topic: what is asked is not measured any more, only whether it is there.
const ATTEMPTS: usize = 5;

/// What was found.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Checked {
    pub(super) acknowledged: usize,
    pub(super) checked: usize,
    pub(super) missing: usize,
}

/// Looks for what was acknowledged, with linearizable reads over `connections` connections.
pub(super) async fn acknowledged(load: &Arc<Load>, connections: u32) -> Result<Checked, Failure> {
    let topics = load.created();
    let step = topics.len().div_ceil(TOPICS_MAX).max(1);
    let chosen: Arc<Vec<u64>> = Arc::new(topics.iter().copied().step_by(step).collect());
    let next = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..connections)
        .map(|number| {
            let (load, chosen, next) = (Arc::clone(load), Arc::clone(&chosen), Arc::clone(&next));
            tokio::spawn(async move {
                let (mut connection, mut missing) = (load.connection(number), 0);
                while let Some(topic) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let path = format!("/get_topic_by_name/{}", load.name(*topic));
                    let mut seen = Err("it was not asked".to_owned());
                    for _ in 0..ATTEMPTS {
                        seen = match connection.send(Method::GET, &path, String::new()).await {
                            Ok((StatusCode::OK, _)) => Ok(true),
                            Ok((StatusCode::NOT_FOUND, _)) => Ok(false),
                            Ok((status, _)) => Err(status.to_string()),
                            Err(lost) => Err(lost.to_string()),
                        };
                        if seen.is_ok() {
                            break;
                        }
                    }
                    let seen = seen.map_err(|how| format!("cannot read topics back: {how}"))?;
                    missing += usize::from(!seen);
                }
                Ok::<_, String>(missing)
            })
        })
        .collect();
    let mut missing = 0;
    for worker in workers {
        missing += worker.await??;
    }
    Ok(Checked { acknowledged: topics.len(), checked: chosen.len(), missing })
}
