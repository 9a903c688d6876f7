//! Where a thread that has sent a message waits for the end of its send.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use fltport_engine::Deadline;
use fltport_engine::output::Outcome;

use crate::body::Body;
use crate::clock;
use crate::driver_plane::Asked;
use crate::sync::{Condvar, Mutex, MutexGuard};

/// Where a blocked sender waits for the end of its send.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    news: Mutex<Option<News>>,
    ended: Condvar,
    /// A buffer for the next message that has to wait.
    spare: Mutex<Vec<u8>>,
}

/// A longer buffer is not kept.
const SPARE: usize = 64 << 10;

/// Places that a thread keeps: it may have several asks under way.
#[cfg(not(all(test, any(loom, shuttle))))]
const KEPT: usize = 64;

// A model's objects must not outlive it.
#[cfg(not(all(test, any(loom, shuttle))))]
thread_local! {
    /// Where this thread has waited before: whoever asks over and over makes nothing for it.
    static SLOTS: std::cell::RefCell<Vec<Arc<Slot>>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// What a blocked sender learns.
#[derive(Debug)]
pub(crate) enum News {
    /// Its send is over.
    Ended(Outcome<Body>),
    /// Its message was delivered through memory: its reply will be there.
    Delivered(Asked),
}

/// How far apart looks at the wall clock are for an absolute deadline: somebody may set it.
const WALL_SLICE: Duration = Duration::from_millis(200);

impl Slot {
    /// A place where nobody waits.
    #[cfg(not(all(test, any(loom, shuttle))))]
    pub(crate) fn take_one() -> Arc<Self> {
        let kept = SLOTS.try_with(|slots| slots.borrow_mut().pop());
        kept.ok().flatten().unwrap_or_default()
    }

    #[cfg(all(test, any(loom, shuttle)))]
    pub(crate) fn take_one() -> Arc<Self> {
        Arc::default()
    }

    /// The wait there is over: its news has come, and nobody else will bring any.
    #[cfg(not(all(test, any(loom, shuttle))))]
    pub(crate) fn give_back(self: Arc<Self>) {
        // A thread that ends keeps nothing.
        SLOTS
            .try_with(|slots| {
                let mut slots = slots.borrow_mut();
                if slots.len() < KEPT {
                    slots.push(self);
                }
            })
            .ok();
    }

    #[cfg(all(test, any(loom, shuttle)))]
    pub(crate) fn give_back(self: Arc<Self>) {}

    /// A copy of these bytes, in the buffer that was used before.
    pub(crate) fn copy(&self, bytes: &[u8]) -> Vec<u8> {
        let mut copy = std::mem::take(&mut *self.spare());
        copy.clear();
        copy.extend_from_slice(bytes);
        copy
    }

    /// The copy is needed no more.
    pub(crate) fn keep(&self, copy: Vec<u8>) {
        if copy.capacity() <= SPARE {
            *self.spare() = copy;
        }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<u8>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn finish(&self, outcome: Outcome<Body>) {
        self.tell(News::Ended(outcome));
    }

    pub(crate) fn deliver(&self, asked: Asked) {
        self.tell(News::Delivered(asked));
    }

    /// The news, if there is some.
    pub(crate) fn take(&self) -> Option<News> {
        self.news
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn tell(&self, news: News) {
        *self.news.lock().unwrap_or_else(PoisonError::into_inner) = Some(news);
        self.ended.notify_one();
    }

    /// Waits for news. When the deadline has passed, `expire` makes the engine see it, which ends the send one way
    /// or the other.
    pub(crate) fn wait(&self, deadline: Deadline, expire: impl Fn()) -> News {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = false;
        loop {
            if let Some(news) = news.take() {
                return news;
            }
            let now = clock::now();
            let passed = deadline.passed(now);
            if passed && !told {
                drop(news);
                expire();
                told = true;
                news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            // If the engine has been told and there is no outcome, another thread is about to bring it: no use in asking on.
            let left = if passed {
                Some(WALL_SLICE)
            } else if matches!(deadline, Deadline::AtWall(_)) {
                deadline.remaining(now).map(|left| left.min(WALL_SLICE))
            } else {
                deadline.remaining(now)
            };
            told = false;
            news = match left {
                None => self
                    .ended
                    .wait(news)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    self.ended
                        .wait_timeout(news, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }
}
