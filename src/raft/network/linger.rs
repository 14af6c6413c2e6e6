//! Saves messages that the next one makes superfluous.

use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use openraft::AsyncRuntime;
use openraft::raft::AppendEntriesRequest;
use openraft_rt::Select3;
use tokio::sync::watch;

use crate::env::{Env, rt};
use crate::raft::types::TypeConfig;

/// Which commits are waited for at followers: all up to an index.
#[derive(Clone, Debug)]
pub(super) struct Wanted(watch::Sender<u64>);

impl Default for Wanted {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Wanted {
    /// Somebody waits at a follower to hear that all up to `index` is committed.
    pub(super) fn raise(&self, index: u64) {
        self.0.send_if_modified(|wanted| index > std::mem::replace(wanted, index.max(*wanted)));
    }
}

/// Holds back each announcement of a commit for `linger`, and leaves it out if another request follows by then.
///
/// openraft sends one to each follower whenever the log is committed further: "append nothing, and all up to here is
/// committed". The next request says so too. Without this every write of a client that makes one after the other is told
/// of twice, and each message wakes up both ends. Only who reads at a follower waits for an announcement, which is sent
/// at once when that is `wanted`.
///
/// openraft takes the next answer for one to what was left out as well, and believes that its leadership was confirmed
/// when that was held back. So it would if both had been sent, before the second was answered: nothing relies on that
/// time here (see `node::leadership`).
pub(super) fn without_superfluous<E, S>(
    requests: S,
    wanted: &Wanted,
    linger: Duration,
) -> impl Stream<Item = AppendEntriesRequest<TypeConfig<E>>> + Send + use<E, S>
where
    E: Env,
    S: Stream<Item = AppendEntriesRequest<TypeConfig<E>>> + Send + Unpin,
{
    let start = (requests, wanted.0.subscribe(), 0);
    stream::unfold(start, move |(mut requests, mut wanted, mut told)| async move {
        let mut request = requests.next().await?;
        let mut lingering = None;
        // What tells of nothing new is a probe, whose answer openraft waits for.
        while request.entries.is_empty()
            && committed(&request) > told
            && *wanted.borrow_and_update() <= told
        {
            let lingering = lingering.get_or_insert_with(|| Box::pin(rt::sleep::<E>(linger)));
            let changed = Box::pin(wanted.changed());
            match E::Runtime::select3(lingering.as_mut(), requests.next(), changed).await {
                Select3::First(()) | Select3::Second(None) => break,
                Select3::Second(Some(next)) => request = next,
                Select3::Third(_) => {}
            }
        }
        told = committed(&request).max(told);
        Some((request, (requests, wanted, told)))
    })
}

fn committed<E: Env>(request: &AppendEntriesRequest<TypeConfig<E>>) -> u64 {
    request.leader_commit.map_or(0, |commit| commit.index)
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures_util::poll;
    use openraft::EntryPayload;
    use openraft::vote::RaftLeaderId;

    use super::*;
    use crate::env::TokioEnv;
    use crate::raft::types::{Ballot, EntryId, Leader, LogEntry};

    type Request = AppendEntriesRequest<TypeConfig<TokioEnv>>;

    fn id(index: u64) -> EntryId {
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

    /// Longer than any test runs.
    const LONG: Duration = Duration::from_hours(1);

    fn sent(
        requests: Vec<Request>,
        wanted: &Wanted,
        linger: Duration,
    ) -> impl Stream<Item = u64> + Unpin {
        let requests = stream::iter(requests).chain(stream::pending()).boxed();
        let sent = without_superfluous::<TokioEnv, _>(requests, wanted, linger);
        sent.map(|request| committed(&request)).boxed()
    }

    /// The commits that are told of at once, of `requests` that are all there and followed by nothing.
    async fn told(requests: Vec<Request>, wanted: &Wanted) -> Vec<u64> {
        let mut sent = sent(requests, wanted, LONG);
        let mut told = Vec::new();
        while let Poll::Ready(commit) = poll!(sent.next()) {
            told.extend(commit);
        }
        told
    }

    #[tokio::test]
    async fn a_commit_that_the_next_request_tells_of_is_not_told_alone() {
        let nobody = Wanted::default();
        let requests = vec![request(1, 4), request(0, 5), request(1, 6)];
        assert_eq!(told(requests, &nobody).await, [4, 6]);
        let requests = vec![request(0, 5), request(0, 6), request(1, 7)];
        assert_eq!(told(requests, &nobody).await, [7]);
    }

    #[tokio::test]
    async fn a_commit_that_nothing_follows_is_told_in_the_end() {
        let (requests, nobody) =
            (vec![request(1, 4), request(0, 5), request(0, 6)], Wanted::default());
        assert_eq!(told(requests.clone(), &nobody).await, [4]);
        let sent = sent(requests, &nobody, Duration::from_millis(1));
        assert_eq!(sent.take(2).collect::<Vec<_>>().await, [4, 6]);
    }

    #[tokio::test]
    async fn a_request_that_tells_of_nothing_new_is_sent_at_once() {
        let requests = vec![request(1, 4), request(0, 4), request(1, 5)];
        assert_eq!(told(requests, &Wanted::default()).await, [4, 4, 5]);
    }

    #[tokio::test]
    async fn a_commit_that_is_waited_for_is_told_at_once() {
        let wanted = Wanted::default();
        wanted.raise(5);
        // What comes after all that is waited for is held back again.
        let requests = vec![request(0, 4), request(0, 5), request(0, 6), request(1, 7)];
        assert_eq!(told(requests, &wanted).await, [4, 5, 7]);

        let mut sent = sent(vec![request(0, 5), request(0, 6)], &wanted, LONG);
        assert_eq!(sent.next().await, Some(5));
        assert!(poll!(sent.next()).is_pending(), "it was not held back");
        wanted.raise(6);
        assert!(poll!(sent.next()).is_ready(), "it is held back still");
    }
}
