//! Taking turns at what takes long.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::Semaphore;

/// Who renders long answers takes turns with all others who do.
///
/// A node is one thread, and what is ready to go on there waits in one queue. Were everybody in it who renders a
/// quarter of a megabyte, a heartbeat would wait for all of them, at each of the steps that it takes; so all but one wait
/// outside. (Five hundred connections that asked for a thousand brokers in a closed loop made followers elect another leader.)
#[derive(Clone, Debug)]
pub(super) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Turns {
    /// Does `work`, which should take a millisecond or so, and lets all who are ready go on before the next turn.
    pub(super) async fn take<T>(&self, work: impl FnOnce() -> T) -> T {
        // It is never closed.
        let _turn = self.0.acquire().await;
        let done = work();
        yield_now().await;
        done
    }
}

async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::poll;

    use super::Turns;

    #[tokio::test]
    async fn a_turn_ends_when_all_others_could_go_on() {
        let (turns, done) = (Turns::default(), Cell::new(0));
        let work = || done.set(done.get() + 1);
        let mut first = Box::pin(turns.take(work));
        let mut second = Box::pin(turns.take(work));
        // All that are ready in one round.
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        assert_eq!(done.get(), 1);
        assert!(poll!(&mut first).is_ready() && poll!(&mut second).is_pending());
        assert_eq!(done.get(), 2);
        assert!(poll!(&mut second).is_ready());
    }

    #[tokio::test]
    async fn whoever_gives_up_gives_its_turn_to_others() {
        let turns = Turns::default();
        let mut first = Box::pin(turns.take(|| ()));
        assert!(poll!(&mut first).is_pending());
        drop(first);
        turns.take(|| ()).await;
    }
}
