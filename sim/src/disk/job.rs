//! [`Job`]: work on a disk that was begun and is not done, for a power loss to strike in the midst of it.

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Poll, Waker};

use rand::Rng;

use super::{DiskIncarnation, FaultKind, SimDisk};
use crate::rng::draw_below;

/// Of so many power losses, one comes before the work that is under way has changed anything.
const UNTOUCHED_EVERY: u64 = 8;

/// Changes and syncs of the work under way up to the one that the power fails in: up to two to the power of one less, and
/// mostly few. An append to the log is a write and a sync.
const DOUBLINGS: u64 = 4;

/// Synchronous work, to be done once.
pub(crate) struct Job {
    incarnation: DiskIncarnation,
    work: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("incarnation", &self.incarnation).finish_non_exhaustive()
    }
}

impl Job {
    fn is_due(&self) -> bool {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Does it, unless that was done.
    pub(crate) fn run(&self) {
        let work = self.work.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(work) = work {
            work();
        }
    }
}

impl SimDisk {
    /// Begins `work`, which whoever gets this has to run when the time has come. A power loss before that may strike in
    /// the midst of it.
    pub(crate) fn begin(
        &self,
        incarnation: DiskIncarnation,
        work: impl FnOnce() + Send + 'static,
    ) -> Arc<Job> {
        let job = Arc::new(Job { incarnation, work: Mutex::new(Some(Box::new(work))) });
        let mut state = self.lock();
        state.jobs.retain(|job| job.strong_count() > 0);
        state.jobs.push(Arc::downgrade(&job));
        // Waking schedules a task and runs nothing: safe under the lock.
        state.job_watchers.drain(..).for_each(Waker::wake);
        job
    }

    /// Waits until work is under way that was not done.
    pub(crate) async fn busy(&self) {
        poll_fn(|cx| {
            if !self.jobs_under_way().is_empty() {
                return Poll::Ready(());
            }
            self.lock().job_watchers.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn jobs_under_way(&self) -> Vec<Arc<Job>> {
        let state = self.lock();
        if !state.live || state.powerless {
            return Vec::new();
        }
        let jobs = state.jobs.iter().filter_map(Weak::upgrade);
        jobs.filter(|job| job.incarnation.0 == state.incarnation && job.is_due()).collect()
    }

    /// The power is about to fail: does some of what is under way.
    ///
    /// A job is run at one moment of simulated time, so that without this hardly any power loss would find a write that
    /// was not synced.
    pub(crate) fn interrupt(&self, rng: &mut impl Rng) {
        let jobs = self.jobs_under_way();
        let most = 1 << draw_below(rng, DOUBLINGS);
        let operations = 1 + draw_below(rng, most);
        if jobs.is_empty() || draw_below(rng, UNTOUCHED_EVERY) == 0 {
            return;
        }
        self.trace.record(format_args!("disk interrupt {} {operations}", self.host));
        self.fail_after(operations, FaultKind::PowerLoss);
        for job in jobs {
            job.run();
        }
    }
}
