//! Work that is begun in order and then goes on side by side.

use std::future::{Future, poll_fn};
use std::task::Poll;

use futures_util::{Stream, StreamExt, future};
use tokio::task::unconstrained;

/// Does `work` on what is `queued`, on up to `depth` items at once, and returns the results in the order of the
/// items. What `work` does before it waits for the first time is done in that order too.
///
/// [`buffered`](StreamExt::buffered) by itself orders results only, and openraft paid for it:
///
/// 1. A leader sends two appends, one behind the other. Their receiver is busy: by the time that it begins on them
///    its task has used up what tokio lets a task do in one turn, and neither enters Raft's queue.
/// 2. In the next turn both try again, the second before the first, for tokio wakes such waiters last come first.
/// 3. Raft refuses the second, whose predecessor it does not have, and accepts the first.
/// 4. The leader hears, in the order in which it sent them, that the first is on the follower's disk and then that
///    the follower does not have it. With debug assertions openraft panics ("follower log reversion is not
///    allowed"); without them it only sends again all that was under way.
///
/// So each piece of work is begun, out of tokio's budget, before the next is looked at. What remains is that it
/// waits because there is no room in Raft's queue: that has 65,536 places, more than there are calls under way.
pub(super) fn in_order<T, F: Future>(
    queued: impl Stream<Item = T>,
    depth: usize,
    mut work: impl FnMut(T) -> F,
) -> impl Stream<Item = F::Output> {
    queued.then(move |item| begin(work(item))).buffered(depth)
}

/// Begins `work`, and returns the rest of it.
async fn begin<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let mut work = Box::pin(future::maybe_done(unconstrained(work)));
    poll_fn(|context| Poll::Ready(work.as_mut().poll(context).is_ready())).await;
    async move {
        work.as_mut().await;
        work.as_mut().take_output().expect("it was waited for")
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};
    use tokio::sync::mpsc;

    use super::in_order;

    /// Far more than the 128 things that tokio lets a task do in one turn.
    const ITEMS: usize = 1_000;

    /// Appends reached a follower's Raft in another order than that in which they were sent, and the leader
    /// panicked: once in a dozen runs of tests that make a node catch up while others write.
    #[tokio::test]
    async fn work_is_begun_in_order_by_a_task_that_has_to_yield() {
        let (sender, mut receiver) = mpsc::channel(ITEMS);
        let work = |item| {
            let sender = sender.clone();
            async move {
                sender.send(item).await.expect("room");
                item
            }
        };
        let results: Vec<_> = in_order(stream::iter(0..ITEMS), 64, work).collect().await;
        assert!(results.into_iter().eq(0..ITEMS));
        let mut begun = Vec::new();
        assert_eq!(receiver.recv_many(&mut begun, ITEMS).await, ITEMS);
        assert!(begun.iter().copied().eq(0..ITEMS), "begun in another order: {begun:?}");
    }
}
