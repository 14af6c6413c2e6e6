//! Shares one round of work among all who ask for it at the same time.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::env::{Env, rt};

/// At most one round runs at a time, and every caller gets the result of a round that *began after* the
/// call: who asks while one is running waits for the next. That is what makes it fit for reads that must
/// not miss what was committed before they were asked.
#[derive(Debug)]
pub(super) struct Coalesce<T> {
    waiting: Arc<Mutex<Waiting<T>>>,
}

#[derive(Debug)]
struct Waiting<T> {
    callers: Vec<oneshot::Sender<T>>,
    running: bool,
}

impl<T> Default for Coalesce<T> {
    fn default() -> Self {
        Self { waiting: Arc::new(Mutex::new(Waiting { callers: Vec::new(), running: false })) }
    }
}

fn lock<T>(waiting: &Mutex<Waiting<T>>) -> MutexGuard<'_, Waiting<T>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Clone + Default + Send + 'static> Coalesce<T> {
    /// The result of the next round of `work`; the default when the round panicked.
    pub(super) async fn join<E: Env, F>(&self, work: impl Fn() -> F + Send + 'static) -> T
    where
        F: Future<Output = T> + Send,
    {
        let (sender, receiver) = oneshot::channel();
        let start = {
            let mut waiting = lock(&self.waiting);
            waiting.callers.push(sender);
            !std::mem::replace(&mut waiting.running, true)
        };
        if start {
            let waiting = Arc::clone(&self.waiting);
            // A task of its own: the caller that started the round may give up, the others must not lose it.
            drop(rt::spawn::<E, _>(async move {
                let mut runner = Runner { waiting: &waiting, done: false };
                while let Some(callers) = runner.next() {
                    let result = work().await;
                    for caller in callers {
                        drop(caller.send(result.clone()));
                    }
                }
            }));
        }
        receiver.await.unwrap_or_default()
    }
}

/// Whoever runs the rounds.
struct Runner<'a, T> {
    waiting: &'a Mutex<Waiting<T>>,
    done: bool,
}

impl<T> Runner<'_, T> {
    /// Whom the next round is for; `None`, and nothing is running any more, when nobody waits.
    fn next(&mut self) -> Option<Vec<oneshot::Sender<T>>> {
        let mut waiting = lock(self.waiting);
        waiting.running = !waiting.callers.is_empty();
        self.done = !waiting.running;
        waiting.running.then(|| std::mem::take(&mut waiting.callers))
    }
}

impl<T> Drop for Runner<'_, T> {
    fn drop(&mut self) {
        if !self.done {
            // A round panicked. Those who wait get nothing, and whoever comes next begins anew.
            *lock(self.waiting) = Waiting { callers: Vec::new(), running: false };
        }
    }
}
