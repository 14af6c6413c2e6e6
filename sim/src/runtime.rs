//! [`SimRuntime`]: openraft's runtime on madsim.
//!
//! Tasks, timers and randomness are madsim's; channels, mutexes and watches are tokio's, which need no
//! tokio runtime. Two promises go beyond the trait:
//!
//! - polling a timer often costs nothing: madsim adds a timer at every poll of a pending sleep and
//!   never takes one out, so a loop that selects over a long timeout would drown in them. [`SimSleep`]
//!   registers once per waker;
//! - the bookkeeping of finished tasks is bounded: a madsim node remembers every task it ever spawned
//!   until somebody counts them, so [`SimRuntime`] has them counted now and then.
//!
//! A panic in a task ends the whole simulation instead of becoming a `JoinError`: in a test a panic is
//! always news. `spawn_blocking` runs its closure in place, since a thread would be beyond the seed's
//! control; [`crate::SimEnv`] models how long the disk takes.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use madsim::time::{Sleep, TimeHandle};
use openraft::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot, TokioWatch};

use crate::rng::SimRng;

/// Spawns between two prunings of madsim's task lists: rare enough to be free, often enough that the
/// lists stay in the kilobytes.
const PRUNE_EVERY: u32 = 4096;

thread_local! {
    static SPAWNS: Cell<u32> = const { Cell::new(0) };
}

/// A madsim simulation as an [`AsyncRuntime`].
///
/// Nodes use its associated functions, which act on the simulation they run in. A value of it is one
/// simulation with seed 0, and exists for openraft's own test suite: scenarios make a
/// [`madsim::runtime::Runtime`] with their seed.
pub struct SimRuntime(madsim::runtime::Runtime);

impl fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimRuntime")
    }
}

/// Runs one simulation of `seed` to the end of `main`, on a thread of its own because madsim seeds the
/// thread's hash maps.
///
/// # Panics
///
/// When anything in the simulation panics, or when nothing in it can ever happen again.
#[allow(
    clippy::disallowed_methods,
    reason = "the thread holds a whole simulation and is joined at once: nothing runs beside it"
)]
pub fn simulate<F>(seed: u64, main: impl FnOnce() -> F + Send + 'static) -> F::Output
where
    F: Future,
    F::Output: Send + 'static,
{
    let simulation = std::thread::spawn(move || {
        let runtime =
            madsim::runtime::Runtime::with_seed_and_config(seed, madsim::Config::default());
        runtime.block_on(async { main().await })
    });
    simulation.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A timer. See the [module documentation](self) for what it adds to madsim's.
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct SimSleep {
    sleep: Sleep,
    /// Whom the pending madsim timer will wake.
    registered: Option<Waker>,
}

impl SimSleep {
    /// Sleeps for `duration`, and at least 1 ms, like tokio.
    fn after(duration: Duration) -> Self {
        Self::from(madsim::time::sleep(duration))
    }

    /// Sleeps until exactly `deadline`, without the 1 ms floor, by the clock of `time`.
    pub(crate) fn until_exactly(time: &TimeHandle, deadline: Instant) -> Self {
        let mut sleep = time.sleep_until(deadline);
        Pin::new(&mut sleep).reset(deadline);
        Self::from(sleep)
    }

    /// The moment this timer fires.
    pub(crate) fn deadline(&self) -> Instant {
        self.sleep.deadline()
    }
}

impl From<Sleep> for SimSleep {
    fn from(sleep: Sleep) -> Self {
        Self { sleep, registered: None }
    }
}

impl Future for SimSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.sleep.is_elapsed() {
            return Poll::Ready(());
        }
        let known = self.registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if !known {
            self.registered = Some(cx.waker().clone());
            return Pin::new(&mut self.sleep).poll(cx);
        }
        Poll::Pending
    }
}

/// A future with a deadline. The future is polled first: when both are ready at once, its output wins.
#[must_use = "futures do nothing unless awaited"]
pub struct SimTimeout<F> {
    // Boxed because pinning a field in place takes unsafe code or another dependency.
    future: Pin<Box<F>>,
    sleep: SimSleep,
}

impl<F> fmt::Debug for SimTimeout<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimTimeout").field("sleep", &self.sleep).finish_non_exhaustive()
    }
}

impl<F: Future> Future for SimTimeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut self.sleep).poll(cx).map(|()| Err(Elapsed))
    }
}

/// The deadline passed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("deadline has elapsed")
    }
}

impl std::error::Error for Elapsed {}

impl AsyncRuntime for SimRuntime {
    type JoinError = madsim::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = madsim::task::JoinHandle<T>;
    type Sleep = SimSleep;
    /// madsim answers `Instant::now` with virtual time.
    type Instant = Instant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = SimTimeout<T>;
    type ThreadLocalRng = SimRng;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let spawns = SPAWNS.get() + 1;
        SPAWNS.set(spawns % PRUNE_EVERY);
        if spawns == PRUNE_EVERY {
            // Counting is what makes madsim forget finished tasks.
            madsim::runtime::Handle::current().metrics().num_tasks();
        }
        madsim::task::spawn(future)
    }

    fn sleep(duration: Duration) -> SimSleep {
        SimSleep::after(duration)
    }

    fn sleep_until(deadline: Instant) -> SimSleep {
        SimSleep::from(madsim::time::sleep_until(deadline))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> SimTimeout<F> {
        SimTimeout { future: Box::pin(future), sleep: SimSleep::after(duration) }
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Instant,
        future: F,
    ) -> SimTimeout<F> {
        SimTimeout { future: Box::pin(future), sleep: Self::sleep_until(deadline) }
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        join_error.is_panic()
    }

    fn thread_rng() -> SimRng {
        SimRng
    }

    type Mpsc = TokioMpsc;
    type Watch = TokioWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn new(_threads: usize) -> Self {
        Self(madsim::runtime::Runtime::new())
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    fn spawn_blocking<F, T>(work: F) -> impl Future<Output = io::Result<T>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        std::future::ready(Ok(work()))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use openraft::rt::testing::Suite;

    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the suite makes simulations of its own")]
    fn openrafts_runtime_suite_passes() {
        thread::spawn(Suite::<SimRuntime>::test_all).join().expect("the suite passes");
    }

    #[test]
    fn an_output_that_is_ready_at_the_deadline_wins() {
        let outcome = simulate(1, || async {
            let limit = Duration::from_millis(5);
            SimRuntime::timeout(limit, SimRuntime::sleep(limit)).await
        });
        assert_eq!(outcome, Ok(()));
    }
}
