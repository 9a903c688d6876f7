//! Threads of the worker, and its end where one of them cannot go on.

use std::{io, thread};

use crate::say::say;

/// Starts a thread that nobody waits for.
///
/// # Errors
/// In words.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(body);
    thread.map(drop).map_err(|error| no_thread(&error))
}

/// That a thread cannot be started, in words.
pub(crate) fn no_thread(error: &io::Error) -> String {
    format!("cannot start a thread: {error}")
}

/// Makes a panic of any thread the end of this process. A thread that answers operations and ends alone would leave
/// them waiting; the supervisor, which sees only processes, decides them and starts the next worker.
pub(crate) fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        say(panic);
        std::process::abort();
    }));
}

/// Ends this process because a part of it can do its work no more; the supervisor goes on as after a crash.
pub(crate) fn fail(why: impl std::fmt::Display) -> ! {
    say(why);
    std::process::abort()
}
