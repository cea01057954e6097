//! A thread for what takes seconds when the configuration is large: reading it, building its Snapshot, freeing the old
//! one.
//!
//! It yields to the threads that serve. Niceness is per thread on Linux (`setpriority(2)` with a thread's id, against
//! POSIX, which means the process), may always be raised, and unlike `SCHED_IDLE` leaves a reload its share on a machine
//! that never idles: at nice 19 a thread gets 15 parts where a thread that serves gets 1,024.

use std::any::Any;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{SyncSender, sync_channel};

use tokio::sync::oneshot;

/// How nice the thread is.
const NICE: i32 = 19;
/// Works that may wait: a reload takes one step after the other, and freeing is asked for twice a second.
const WAITING: usize = 16;

type Work = Box<dyn FnOnce() + Send>;

/// The thread. It ends after this has been dropped.
pub(super) struct Background(SyncSender<Work>);

impl Background {
    /// Starts it.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub(super) fn start() -> io::Result<Self> {
        let (sender, works) = sync_channel::<Work>(WAITING);
        std::thread::Builder::new().name("background".to_owned()).spawn(move || {
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
            works.into_iter().for_each(|work| work());
        })?;
        Ok(Self(sender))
    }

    /// Does this work there, and gives what comes of it. A panic there is one here.
    pub(super) fn run<T, W>(&self, work: W) -> impl Future<Output = T> + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let (done, result) = oneshot::channel::<Result<T, Box<dyn Any + Send>>>();
        self.send(Box::new(move || {
            let _ = done.send(catch_unwind(AssertUnwindSafe(work)));
        }));
        async move {
            match result.await {
                Ok(Ok(value)) => value,
                Ok(Err(panic)) => resume_unwind(panic),
                // The thread takes every work to its end, and each answers.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Drops this there.
    pub(super) fn free(&self, garbage: impl Send + 'static) {
        self.send(Box::new(move || drop(garbage)));
    }

    fn send(&self, work: Work) {
        // Better done here than not at all.
        if let Err(full) = self.0.try_send(work) {
            let (std::sync::mpsc::TrySendError::Full(work) | std::sync::mpsc::TrySendError::Disconnected(work)) = full;
            work();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says on which thread it was dropped.
    struct Witness(SyncSender<Option<String>>);

    impl Drop for Witness {
        fn drop(&mut self) {
            let _ = self.0.send(std::thread::current().name().map(str::to_owned));
        }
    }

    #[tokio::test]
    async fn work_is_done_there_and_its_result_comes_back() {
        let background = Background::start().expect("a thread");
        let nice = || rustix::process::getpriority_process(Some(rustix::thread::gettid())).ok();
        let before = nice();
        assert_eq!(
            background.run(move || (std::thread::current().name().map(str::to_owned), nice())).await,
            (Some("background".to_owned()), Some(NICE))
        );
        assert_eq!(nice(), before, "this thread is as it was");
        let (sender, dropped) = sync_channel(1);
        background.free(Witness(sender));
        assert_eq!(dropped.recv().ok().flatten().as_deref(), Some("background"));
    }

    #[tokio::test]
    #[should_panic(expected = "there")]
    async fn a_panic_there_is_one_here() {
        let background = Background::start().expect("a thread");
        background.run(|| panic!("there")).await;
    }
}
