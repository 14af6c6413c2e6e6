//! Saves messages that the next one makes superfluous.

use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use openraft::raft::AppendEntriesRequest;

use crate::env::{Env, rt};
use crate::raft::types::TypeConfig;

/// How long a follower may hear later of a commit than it could.
const LINGER: Duration = Duration::from_millis(1);

/// Holds back each request without entries for [`LINGER`], and leaves it out if another follows by then.
///
/// openraft sends one whenever the log is committed further, to each follower: "append nothing, and that is committed". The
/// next request says so too. A client that writes one thing after the other has every write announced twice without
/// this, and each message wakes up both ends. Nobody waits for the answer: openraft counts what a follower has, not the
/// answers that it gave, and the next answer says it all.
pub(super) fn without_superfluous<E: Env>(
    requests: impl Stream<Item = AppendEntriesRequest<TypeConfig<E>>> + Send + Unpin,
) -> impl Stream<Item = AppendEntriesRequest<TypeConfig<E>>> + Send {
    stream::unfold(requests, |mut requests| async move {
        let mut request = requests.next().await?;
        let deadline = rt::now::<E>() + LINGER;
        while request.entries.is_empty() {
            let left = deadline - rt::now::<E>().min(deadline);
            match rt::timeout::<E, _>(left, requests.next()).await {
                Some(Some(next)) => request = next,
                // The end, or nothing yet.
                _ => break,
            }
        }
        Some((request, requests))
    })
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::env::TokioEnv;
    use crate::raft::types::{Ballot, EntryId, Leader, LogEntry};

    type Request = AppendEntriesRequest<TypeConfig<TokioEnv>>;

    fn id(index: u64) -> EntryId {
        use openraft::vote::RaftLeaderId;
        EntryId { leader_id: Leader { term: 1, voted_for: 1 }.to_committed(), index }
    }

    fn request(entries: usize, commit: u64) -> Request {
        let entry = || LogEntry { log_id: id(commit + 1), payload: EntryPayload::Blank };
        Request {
            vote: Ballot::new_committed(1, 1),
            prev_log_id: Some(id(commit)),
            entries: std::iter::repeat_with(entry).take(entries).collect(),
            leader_commit: Some(id(commit)),
        }
    }

    /// What the first `count` requests that are sent say of the commit.
    async fn commits(count: usize, requests: Vec<Request>) -> Vec<u64> {
        let requests = stream::iter(requests).chain(stream::pending()).boxed();
        let sent = without_superfluous::<TokioEnv>(requests).take(count);
        sent.map(|request| request.leader_commit.map_or(0, |id| id.index)).collect().await
    }

    #[tokio::test]
    async fn a_commit_that_the_next_request_tells_of_is_not_told_alone() {
        assert_eq!(commits(2, vec![request(1, 4), request(0, 5), request(1, 6)]).await, [4, 6]);
        assert_eq!(commits(1, vec![request(0, 5), request(0, 6), request(0, 7)]).await, [7]);
    }

    #[tokio::test]
    async fn a_commit_that_nothing_follows_is_told() {
        assert_eq!(commits(2, vec![request(1, 4), request(0, 5)]).await, [4, 5]);
    }
}
