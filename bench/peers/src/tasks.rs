//! Closed loops of asynchronous libraries: both sides have a tokio runtime of one thread, and each question in flight is
//! a task.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use fltbench_common::{Context, Figures, Meter, Other};
use tokio::task::{JoinSet, LocalSet};

/// Runs a future to its end on this thread.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Tasks of the libraries themselves run there too; nothing else has a thread.
    LocalSet::new().block_on(&runtime, future)
}

/// Asks as often as the case wants at a time; `make` makes whatever asks one question after another. What that results in
/// is dropped after the time is taken.
pub async fn measure<A, F, T>(
    context: &Context,
    other: &Other,
    make: impl Fn() -> A,
) -> Result<Figures>
where
    T: 'static,
    A: FnMut() -> F + 'static,
    F: Future<Output = Result<T>> + 'static,
{
    let spec = &context.spec;
    let meter = Meter::new(spec, context.clock, other.pid());
    let pause = std::time::Duration::from_micros(spec.gap);
    let meter = Rc::new(RefCell::new(meter));
    let mut tasks = JoinSet::new();
    for _ in 1..spec.window {
        tasks.spawn_local(ask(Rc::clone(&meter), make(), pause));
    }
    // The first asks from here: one question in flight needs no task.
    ask(Rc::clone(&meter), make(), pause).await?;
    // Whoever else is still waiting has nothing to add; but the meter is shared with them.
    tasks.shutdown().await;
    let meter = Rc::into_inner(meter).context("somebody still measures")?;
    meter.into_inner().finish()
}

async fn ask<T, F: Future<Output = Result<T>>>(
    meter: Rc<RefCell<Meter>>,
    mut ask: impl FnMut() -> F,
    pause: std::time::Duration,
) -> Result<()> {
    loop {
        if !pause.is_zero() {
            // As the others do it: a thread that sleeps, not a runtime's timer of whole milliseconds.
            std::thread::sleep(pause);
        }
        let begin = meter.borrow().now();
        let result = ask().await?;
        let end = meter.borrow().now();
        if !meter.borrow_mut().record(begin, end) {
            return Ok(());
        }
        drop(result);
    }
}
