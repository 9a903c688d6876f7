//! What is said about a panic: one line, and not for every file that causes one.
//!
//! For the log of a service whose input is hostile: YARA-X may panic on odd files, the [`Engine`](fltscan::Engine) lives
//! on, and who can send one such file can send a million. Not for recovery; that is in the library.

use std::io::Write as _;
use std::panic::{self, PanicHookInfo};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Replaces the panic hook of the process by one that writes a single line, a few times a minute at most.
pub(crate) fn report_briefly() {
    panic::set_hook(Box::new(|info| {
        let rate = RATE.lock();
        let passes = rate
            .unwrap_or_else(PoisonError::into_inner)
            .pass(Instant::now());
        if let Some(unsaid) = passes {
            // A log that is gone must not turn one panic into two, which would abort.
            writeln!(std::io::stderr(), "{}", describe(info, unsaid)).ok();
        }
    }));
}

fn describe(info: &PanicHookInfo<'_>, unsaid: u64) -> String {
    let thread = thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let place = info.location().map(ToString::to_string);
    let place = place.as_deref().unwrap_or("an unknown place");
    let message = one_line(info.payload_as_str().unwrap_or("no message"));
    let more = match unsaid {
        0 => String::new(),
        count => format!(" ({count} earlier panics not shown)"),
    };
    format!("fltscand: panic in thread {name} at {place}: {message}{more}")
}

/// The message may quote the file that caused it.
fn one_line(message: &str) -> String {
    let shown = message.chars().take(LONGEST_MESSAGE);
    shown
        .map(|c| if c.is_control() { '\u{FFFD}' } else { c })
        .collect()
}

/// How many panics were shown of late.
#[derive(Debug)]
struct Rate {
    /// When the current window began.
    since: Option<Instant>,
    shown: u32,
    unsaid: u64,
}

impl Rate {
    /// Whether one more may be shown now, and how many were not since the last that was.
    fn pass(&mut self, now: Instant) -> Option<u64> {
        let fresh = self
            .since
            .is_none_or(|since| now.saturating_duration_since(since) >= WINDOW);
        if fresh {
            self.since = Some(now);
            self.shown = 0;
        }
        if self.shown == MOST_IN_WINDOW {
            self.unsaid = self.unsaid.saturating_add(1);
            return None;
        }
        self.shown += 1;
        Some(std::mem::take(&mut self.unsaid))
    }
}

static RATE: Mutex<Rate> = Mutex::new(Rate {
    since: None,
    shown: 0,
    unsaid: 0,
});

/// Enough to see that it is not one bad file but many.
const MOST_IN_WINDOW: u32 = 5;

const WINDOW: Duration = Duration::from_secs(60);

/// Characters of a message that help; the rest is a dump of data.
const LONGEST_MESSAGE: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_panics_a_minute_are_shown_and_the_others_are_counted() {
        let mut rate = Rate {
            since: None,
            shown: 0,
            unsaid: 0,
        };
        let start = Instant::now();
        for _ in 0..MOST_IN_WINDOW {
            assert_eq!(rate.pass(start), Some(0));
        }
        for _ in 0..3 {
            assert_eq!(rate.pass(start + WINDOW / 2), None);
        }
        assert_eq!(rate.pass(start + WINDOW), Some(3));
        assert_eq!(rate.pass(start + WINDOW), Some(0));
    }

    #[test]
    fn a_message_is_one_line_of_bounded_length() {
        assert_eq!(one_line("a\nb\x1b[2J"), "a\u{FFFD}b\u{FFFD}[2J");
        assert_eq!(one_line(&"ä".repeat(9000)).chars().count(), LONGEST_MESSAGE);
    }
}
