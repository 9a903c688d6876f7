//! Runs stories: one fresh backend each, several side by side, none of them able to stop the rest.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::backends::Kind;
use crate::case::Case;
use crate::world::World;

/// How a case went on a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it says.
    Pass,
    /// Otherwise.
    Fail(String),
    /// The backend cannot express it, for this reason.
    NotApplicable(&'static str),
}

/// The longest that one story may take. What takes longer hangs.
const STORY: Duration = Duration::from_secs(180);

/// Stories side by side: most of them wait.
const AT_ONCE: usize = 6;

/// Why a case cannot be told on a backend.
#[must_use]
pub fn lacks(case: &Case, kind: Kind) -> Option<&'static str> {
    case.needs.iter().find_map(|need| kind.lacks(*need))
}

/// Tells one case on one backend.
#[must_use]
pub fn run(case: &Case, kind: Kind) -> Outcome {
    if let Some(reason) = lacks(case, kind) {
        return Outcome::NotApplicable(reason);
    }
    let story = case.story;
    let (told, ended) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name(format!("{} {}", case.id, kind.name()))
        .spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(|| {
                let backend = kind.make().expect("the backend is made");
                story(&mut World::new(backend));
            }));
            told.send(result.map_err(|panic| said(&*panic))).ok();
        });
    if let Err(error) = thread {
        return Outcome::Fail(format!("no thread: {error}"));
    }
    match ended.recv_timeout(STORY) {
        Ok(Ok(())) => Outcome::Pass,
        Ok(Err(said)) => Outcome::Fail(said),
        // The thread stays behind; there is no way to end it.
        Err(RecvTimeoutError::Timeout) => Outcome::Fail(format!("not over after {STORY:?}")),
        Err(RecvTimeoutError::Disconnected) => Outcome::Fail("the story's thread died".into()),
    }
}

/// Tells many cases on many backends; `each` hears of every result as it comes.
pub fn run_all(
    cases: &[Case],
    kinds: &[Kind],
    each: impl Fn(&Case, Kind, &Outcome) + Sync,
) -> Vec<(Case, Kind, Outcome)> {
    let jobs: Vec<_> = cases
        .iter()
        .flat_map(|case| kinds.iter().map(move |kind| (*case, *kind)))
        .collect();
    let next = Mutex::new(jobs.iter());
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let job = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((case, kind)) = job else { return };
                    let outcome = run(case, *kind);
                    each(case, *kind, &outcome);
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    results.push((*case, *kind, outcome));
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("panicked").to_string()
}
