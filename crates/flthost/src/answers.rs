//! Answers that go out together.
//!
//! The kernel wakes everybody who waits in a group at each answer in it, and all but one of them go back to sleep. Several
//! answers in one system call find most of them awake already, so where many wait, answers are put together for as long
//! as the thread that writes them is busy with those before. Where few do, each is written by whoever has it.

use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::fanotify::{Group, Response};
use crate::pulse::{Pulse, gets_on};

/// What a group owes, and the answers that are to be written.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// Operations that were read and not answered.
    owed: AtomicUsize,
    /// A thread writes what is put together.
    is_written: AtomicBool,
    queue: Mutex<Queue>,
    filled: Condvar,
    written: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    answers: Vec<Answer>,
    /// The thread that writes has some in its hands.
    is_busy: bool,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) number: RawFd,
    pub(crate) response: Response,
    /// The kernel knows the operation by its number: it must not become another's before this is written.
    #[expect(dead_code, reason = "held, not looked at")]
    file: Arc<OwnedFd>,
}

/// How long the end of the process waits for the thread that writes, which waits for nothing itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// From so many waiting operations on, the thread that writes is worth being woken.
const MANY: usize = 8;

impl Answers {
    /// An operation was read.
    pub(crate) fn owe(&self) {
        self.owed.fetch_add(1, Ordering::Relaxed);
    }

    /// An operation is answered, or somebody else has it.
    pub(crate) fn settle(&self) {
        self.owed.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes an answer to be written with others; whether it did.
    pub(crate) fn take(
        &self,
        group: &Group,
        number: RawFd,
        response: Response,
        file: &Arc<OwnedFd>,
    ) -> bool {
        if !self.is_written.load(Ordering::Relaxed) || self.owed.load(Ordering::Relaxed) < MANY {
            return false;
        }
        let mut queue = self.lock();
        // Once more, with the queue in hand: it is written out when that ends.
        if !self.is_written.load(Ordering::Relaxed) {
            return false;
        }
        // From here on it is decided, whatever becomes of this process.
        group.decide(number, response);
        queue.answers.push(Answer {
            number,
            response,
            file: Arc::clone(file),
        });
        let is_first = queue.answers.len() == 1;
        drop(queue);
        if is_first {
            self.filled.notify_one();
        }
        true
    }

    /// Writes what is put together for as long as the process lives. `failed` is told how many answers nobody took.
    pub(crate) fn keep_writing(&self, group: &Group, pulse: &Pulse, failed: impl Fn(u64)) -> ! {
        let work = pulse.this_thread();
        let mut taken = Vec::new();
        self.is_written.store(true, Ordering::Relaxed);
        loop {
            let mut queue = self.lock();
            while queue.answers.is_empty() {
                queue = self
                    .filled
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut queue.answers, &mut taken);
            queue.is_busy = true;
            drop(queue);
            work.begin();
            failed(group.respond_together(&taken));
            self.lock().is_busy = false;
            self.written.notify_all();
            for answer in taken.drain(..) {
                drop(answer);
                self.settle();
                gets_on();
            }
            work.end();
        }
    }

    /// From now on each answer is written by whoever has it; what was put together is written here.
    pub(crate) fn end(&self, group: &Group) {
        let mut queue = self.lock();
        self.is_written.store(false, Ordering::Relaxed);
        group.respond_together(&queue.answers);
        queue.answers.drain(..).for_each(|_| self.settle());
        drop(queue);
        self.wait_for_writer();
    }

    /// Waits until what the thread that writes has in its hands is written.
    pub(crate) fn wait_for_writer(&self) {
        let queue = self.lock();
        let is_busy = |queue: &mut Queue| queue.is_busy;
        drop(self.written.wait_timeout_while(queue, PATIENCE, is_busy));
    }

    /// Takes the lock that answering needs, and gives it back.
    pub(crate) fn touch(&self) {
        drop(self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsFd, AsRawFd};
    use std::thread;

    use super::*;
    use crate::fanotify::{Class, Event, EventBuffer, Permission};
    use crate::fanotify_event::duplicate;

    const OPENERS: usize = 100;

    /// Threads that open a file, and whether each could.
    type Openers = Vec<thread::JoinHandle<bool>>;

    /// Many threads that open a file which this group asks about, and all of their operations.
    fn many() -> Option<(Arc<Group>, Openers, Vec<Permission>)> {
        let Ok(group) = Group::new(Class::PreContent) else {
            println!("skipped: no fanotify group");
            return None;
        };
        let group = Arc::new(group);
        let file = rustix::fs::memfd_create(c"answers", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        if group.mark_file(file.as_fd()).is_err() {
            println!("skipped: no permission events");
            return None;
        }
        let file = Arc::new(file);
        let opener = |_| {
            let file = Arc::clone(&file);
            thread::spawn(move || File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).is_ok())
        };
        let openers = (0..OPENERS).map(opener).collect();
        let mut buffer = EventBuffer::with_capacity(64);
        let mut all = Vec::new();
        while all.len() < OPENERS {
            let events = group.read(&mut buffer, Response::Deny).unwrap();
            all.extend(events.map(|event| match event {
                Event::Permission { permission, .. } => permission,
                other => panic!("{other:?}"),
            }));
            thread::yield_now();
        }
        Some((group, openers, all))
    }

    #[test]
    fn an_answer_that_nobody_takes_keeps_none_of_the_others_back() {
        let Some((group, openers, all)) = many() else {
            return;
        };
        let mut answers: Vec<Answer> = all
            .iter()
            .map(|permission| Answer {
                number: permission.file().as_raw_fd(),
                response: Response::Allow,
                file: Arc::clone(permission.shared_file()),
            })
            .collect();
        // In the middle, at the beginning of a system call, and at the end: numbers that nothing waits for.
        for place in [0, 30, 64, answers.len()] {
            let file = Arc::new(duplicate(group.as_fd().as_raw_fd()).unwrap());
            let (number, response) = (file.as_raw_fd(), Response::Allow);
            let answer = Answer {
                number,
                response,
                file,
            };
            answers.insert(place, answer);
        }
        assert_eq!(group.respond_together(&answers), 4);
        assert!(openers.into_iter().all(|opener| opener.join().unwrap()));
        drop(all);
    }

    #[test]
    fn many_answers_go_out_together_and_all_arrive_each_as_it_was_given() {
        let Some((group, openers, all)) = many() else {
            return;
        };
        let writer = Arc::clone(&group);
        thread::spawn(move || {
            let pulse = Pulse::new();
            writer
                .answers
                .keep_writing(&writer, &pulse, |failed| assert_eq!(failed, 0))
        });
        for (place, permission) in all.into_iter().enumerate() {
            let response = if place % 2 == 0 {
                Response::Allow
            } else {
                Response::Deny
            };
            assert_eq!(permission.answer(response).result, Ok(response));
            if place == OPENERS / 2 {
                group.answers.end(&group);
            }
        }
        let opened = openers.into_iter().filter_map(|opener| opener.join().ok());
        assert_eq!(opened.filter(|opened| *opened).count(), OPENERS / 2);
        // The writer counts when it has written.
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while group.answers.owed.load(Ordering::Relaxed) > 0 {
            assert!(std::time::Instant::now() < end);
            thread::yield_now();
        }
    }
}
