//! What stands in the place of the standard library under shuttle: its lock and its scheduler, with a condition variable and
//! parking of our own, because shuttle's have no time.
//!
//! Nothing here wakes without a reason, so that a wake-up that is lost stays lost and ends the model as a deadlock. Only
//! which of several waiters a `notify_one` wakes is drawn by the checker.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, LockResult, PoisonError};
use std::time::Duration;

use shuttle::future::batch_semaphore::{BatchSemaphore, Fairness};
use shuttle::rand::Rng as _;

pub(crate) use shuttle::sync::atomic::{AtomicU64, Ordering};

pub(crate) use super::locks::{Mutex, MutexGuard};
pub(crate) use super::sleepers as futex;
use super::virtual_time;
pub(crate) use super::virtual_time::{Instant, start};

thread_local! {
    /// Of the model that runs on this thread of the system.
    static WORLD: RefCell<World> = RefCell::default();
}

#[derive(Default)]
struct World {
    beds: BTreeMap<usize, Arc<Bed>>,
    sleepers: BTreeMap<u64, Sleeper>,
    next_sleeper: u64,
    /// The model is over: every wait with a limit reaches it.
    run_out: bool,
}

/// Who waits with a limit, and how it is woken when that has come.
struct Sleeper {
    end: Instant,
    wake: Box<dyn Fn()>,
}

/// Where one thread sleeps. More permits than wake-ups are harmless: who wakes looks why.
#[derive(Debug)]
struct Bed {
    permits: BatchSemaphore,
    woken: std::sync::Mutex<bool>,
}

impl Bed {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            permits: BatchSemaphore::new(0, Fairness::StrictlyFair),
            woken: std::sync::Mutex::new(false),
        })
    }

    /// Wakes who sleeps here, or will.
    fn wake(&self) {
        *lock(&self.woken) = true;
        self.permits.release(1);
    }

    /// Sleeps until woken, or until `end`. Says whether it was woken.
    fn sleep(&self, end: Option<Instant>) -> bool {
        loop {
            if std::mem::take(&mut *lock(&self.woken)) {
                return true;
            }
            if end.is_some_and(|end| end <= Instant::now()) {
                return false;
            }
            self.permits.acquire_blocking(1).ok();
        }
    }
}

/// Begins a model on this thread.
pub(crate) fn begin() {
    WORLD.take();
}

/// Moves the clock. Waits that end by this may go on in any order with everything else.
pub(crate) fn advance(wait: Duration) {
    let now = Instant::now() + wait;
    step();
    virtual_time::set(now);
    loop {
        let due = WORLD.with_borrow_mut(|world| {
            let due = world.sleepers.iter().find(|(_, s)| s.end <= now);
            let due = due.map(|(number, _)| *number);
            due.and_then(|number| world.sleepers.remove(&number))
        });
        let Some(due) = due else { return };
        (due.wake)();
    }
}

/// The model is over: threads that linger go home.
pub(crate) fn run_out() {
    WORLD.with_borrow_mut(|world| world.run_out = true);
    advance(Duration::from_secs(1 << 20));
}

/// Waits by `sleep`, to be woken by `wake` at `end`.
fn until<R>(end: Option<Instant>, wake: impl Fn() + 'static, sleep: impl FnOnce() -> R) -> R {
    let Some(end) = end else { return sleep() };
    if WORLD.with_borrow(|world| world.run_out) && end > Instant::now() {
        virtual_time::set(end);
    }
    let number = WORLD.with_borrow_mut(|world| {
        let number = world.next_sleeper;
        world.next_sleeper += 1;
        let wake = Box::new(wake);
        world.sleepers.insert(number, Sleeper { end, wake });
        number
    });
    let result = sleep();
    WORLD.with_borrow_mut(|world| world.sleepers.remove(&number));
    result
}

/// A point at which the checker may let another thread run. What follows it happens at once.
fn step() {
    shuttle::thread::sleep(Duration::ZERO);
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nobody holds it across a step of the checker, so it is always free.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Waiters = Arc<std::sync::Mutex<VecDeque<Arc<Bed>>>>;

#[derive(Debug, Default)]
pub(crate) struct Condvar {
    waiters: Waiters,
}

#[derive(Debug)]
pub(crate) struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub(crate) const fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notify_one(&self) {
        step();
        let bed = {
            let mut waiters = lock(&self.waiters);
            match waiters.len() {
                0 | 1 => waiters.pop_front(),
                several => waiters.remove(shuttle::rand::thread_rng().gen_range(0..several)),
            }
        };
        bed.iter().for_each(|bed| bed.wake());
    }

    pub(crate) fn notify_all(&self) {
        step();
        let beds = std::mem::take(&mut *lock(&self.waiters));
        beds.iter().for_each(|bed| *lock(&bed.woken) = true);
        beds.iter().for_each(|bed| bed.wake());
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        Ok(self.wait_until(guard, None).0)
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        limit: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let end = Instant::now() + limit;
        let (guard, woken) = self.wait_until(guard, Some(end));
        Ok((guard, WaitTimeoutResult(!woken)))
    }

    fn wait_until<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        end: Option<Instant>,
    ) -> (MutexGuard<'a, T>, bool) {
        let bed = Bed::new();
        lock(&self.waiters).push_back(Arc::clone(&bed));
        let (waiters, late) = (Arc::clone(&self.waiters), Arc::clone(&bed));
        // A wait whose time has come takes no notice that is meant for another.
        let leave = move || lock(&waiters).retain(|other| !Arc::ptr_eq(other, &late));
        let (leave, alarm, ringing) = (leave.clone(), leave, Arc::clone(&bed));
        let wake = move || {
            alarm();
            ringing.permits.release(1);
        };
        let sleep = |guard: MutexGuard<'a, T>| {
            guard.released(|| {
                let woken = bed.sleep(end);
                leave();
                woken
            })
        };
        until(end, wake, || sleep(guard))
    }
}

pub(crate) mod thread {
    use std::sync::Arc;
    use std::time::Duration;

    pub(crate) use shuttle::thread::{Builder, spawn, yield_now};

    use super::{Bed, Instant, WORLD};

    #[derive(Clone, Debug)]
    pub(crate) struct Thread {
        id: usize,
        bed: Arc<Bed>,
    }

    impl Thread {
        pub(crate) const fn id(&self) -> usize {
            self.id
        }

        pub(crate) fn unpark(&self) {
            super::step();
            self.bed.wake();
        }
    }

    pub(crate) fn current() -> Thread {
        let id = shuttle::thread::current().id().into();
        let bed = WORLD.with_borrow_mut(|world| {
            let bed = world.beds.entry(id).or_insert_with(Bed::new);
            Arc::clone(bed)
        });
        Thread { id, bed }
    }

    pub(crate) fn park() {
        current().bed.sleep(None);
    }

    pub(crate) fn park_timeout(limit: Duration) {
        let end = Instant::now() + limit;
        let bed = current().bed;
        let ringing = Arc::clone(&bed);
        let wake = move || ringing.permits.release(1);
        super::until(Some(end), wake, || bed.sleep(Some(end)));
    }

    /// Whoever sleeps for a while lets that while pass.
    pub(crate) fn sleep(limit: Duration) {
        super::advance(limit);
        yield_now();
    }
}
