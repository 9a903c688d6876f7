//! What is done beside the answers: rules whose time is over are taken out, programs that were replaced are looked at
//! again, and changes are told of. One thread does it, which may wait.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::events::{Event, Events, MuteChange};
use crate::mutes::{Entry, Mutes};
use crate::opener::id_of;
use crate::rule::Subject;

/// Something that is to be told.
#[derive(Debug)]
pub(super) struct News {
    pub(super) state: &'static str,
    pub(super) entry: Arc<Entry>,
}

/// Between two looks at programs: openers bring about that one is looked at.
const PAUSE: Duration = Duration::from_millis(20);

impl Mutes {
    /// Keeps the rules in order for as long as the process lives.
    pub(crate) fn keep(&self, events: &Events) -> ! {
        loop {
            let (news, entries, stale) = self.next_work();
            for news in news {
                events.tell(&Event::Mute(MuteChange::new(news.state, &news.entry)));
            }
            if stale {
                entries.iter().for_each(|entry| entry.look_again());
                thread::sleep(PAUSE);
            }
        }
    }

    /// Waits until there is something to do.
    fn next_work(&self) -> (Vec<News>, Arc<Vec<Arc<Entry>>>, bool) {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            state.drop_where("ended", |entry| entry.rule.is_over(now));
            if state.stale || !state.news.is_empty() {
                let news = state.news.drain(..).collect();
                let stale = std::mem::take(&mut state.stale);
                return (news, Arc::clone(&state.entries), stale);
            }
            let end = state
                .entries
                .iter()
                .filter_map(|entry| entry.rule.expires)
                .min();
            state = match end {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(end) => {
                    let left = end.saturating_duration_since(now);
                    self.changed
                        .wait_timeout(state, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }
}

impl Entry {
    /// Finds out which file the rule's program is now, if that is wanted. May wait for a filesystem.
    fn look_again(&self) {
        // Before the look: what is found out of date after it is looked at again.
        if !self.stale.swap(false, Ordering::Relaxed) {
            return;
        }
        if let Subject::Process(path, _) = &self.rule.subject {
            let found = id_of(path);
            *self.program.lock().unwrap_or_else(PoisonError::into_inner) = found;
        }
    }
}

impl super::State {
    /// Takes rules out, and has that told.
    pub(super) fn drop_where(&mut self, state: &'static str, gone: impl Fn(&Entry) -> bool) {
        if !self.entries.iter().any(|entry| gone(entry)) {
            return;
        }
        let (out, left) = self
            .entries
            .iter()
            .map(Arc::clone)
            .partition(|entry: &Arc<Entry>| gone(entry));
        let out: Vec<_> = out;
        self.entries = Arc::new(left);
        self.news
            .extend(out.into_iter().map(|entry| News { state, entry }));
    }
}
