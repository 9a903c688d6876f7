//! Where a thread that has sent a message waits for the end of its send.

use std::sync::PoisonError;
use std::time::Duration;

use fltport_engine::Deadline;
use fltport_engine::output::Outcome;

use crate::body::Body;
use crate::clock;
use crate::driver_plane::Asked;
use crate::sync::{Condvar, Mutex};

/// Where a blocked sender waits for the end of its send.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    news: Mutex<Option<News>>,
    ended: Condvar,
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
