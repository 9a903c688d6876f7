//! `fltctl guard`: a filter host in the foreground, and what it tells.
//!
//! Three parties, none of which waits for another: the host decides, the follower reads its events, outlets write them
//! (`outlet.rs`). This thread only waits for the end: a signal, or the host's. Then it ends the host and sums up.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::Outcome;
use crate::event::{Event, Tally};
use crate::follow::{Follower, News};
use crate::host::{End, Host, Woken};
use crate::outlet::{self, Outlet};
use crate::privilege;
use crate::render;
use crate::request::{Guard, View};
use crate::signals::Signals;

/// Guards until a signal comes or the host ends.
pub(super) fn run(request: &Guard) -> anyhow::Result<Outcome> {
    let programs = &request.host.programs;
    if !programs.stand_in {
        privilege::ensure_may_guard()?;
    }
    programs.ensure_host_exists()?;
    let signals = Signals::catch()?;
    let screen = Arc::new(Screen::new(request.view));
    let result = guard(request, &signals, &screen);
    // Where an error came before the sum.
    screen.lines.finish(FLUSH_LIMIT);
    screen.notices.finish(FLUSH_LIMIT);
    result
}

fn guard(request: &Guard, signals: &Signals, screen: &Arc<Screen>) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    let for_host = Arc::clone(screen);
    let mut host = Host::start(&request.host, move |line| {
        for_host.notices.offer(render::escape(&line));
    })?;
    let for_events = Arc::clone(screen);
    let follower = Follower::start(
        request.host.port_directory.clone(),
        request.host.events_port(),
        move |news| for_events.take(&news),
    );
    let woken = wait(&mut host, signals, screen, &follower)?;
    follower.expect_end();
    let end = host.end(END_LIMIT)?;
    follower.finish(FLUSH_LIMIT);
    // What finds no room even now is lost, and part of the sum.
    screen.lines.finish(FLUSH_LIMIT);
    let was_ready = screen.board().ready;
    if !was_ready && woken == Woken::Ended {
        bail!("flthostd ended before it guarded anything ({})", end);
    }
    for line in screen.summary(start.elapsed()) {
        screen.notices.offer(line);
    }
    Ok(match (woken, end) {
        (Woken::Ended, End::Exited(status)) if status.code() == Some(HANDED_OVER) => {
            screen.say("another flthostd has taken over; it goes on guarding, without this view");
            Outcome::Yes
        }
        (Woken::Ended, _) => {
            screen.say(&format!(
                "flthostd ended by itself ({end}); nothing is guarded any more"
            ));
            Outcome::No
        }
        (_, End::Exited(status)) if status.success() => Outcome::Yes,
        _ => {
            screen.say(&format!("flthostd did not end in order ({})", end));
            Outcome::No
        }
    })
}

/// Waits for the end; says so if the beginning takes long.
fn wait(
    host: &mut Host,
    signals: &Signals,
    screen: &Screen,
    follower: &Follower,
) -> io::Result<Woken> {
    let woken = host.wait(signals, SLOW_START)?;
    if woken != Woken::Timeout {
        return Ok(woken);
    }
    if !screen.board().ready {
        let last = follower.last_error();
        let why = last.map_or_else(String::new, |error| format!(" (its events: {error})"));
        screen.say(&format!(
            "flthostd is still marking directories or starting its scanner{why}"
        ));
    }
    loop {
        let woken = host.wait(signals, A_DAY)?;
        if woken != Woken::Timeout {
            return Ok(woken);
        }
    }
}

/// What is shown, and what was counted.
#[derive(Debug)]
struct Screen {
    view: View,
    /// Standard output.
    lines: Outlet,
    /// Standard error.
    notices: Arc<Outlet>,
    board: Mutex<Board>,
}

#[derive(Debug, Default)]
struct Board {
    tally: Tally,
    /// Whether the host has said that it guards.
    ready: bool,
}

impl Screen {
    fn new(view: View) -> Self {
        let notice_gap = |lost| format!("({lost} lines lost here)").into_bytes();
        let notices = Arc::new(Outlet::start(io::stderr(), notice_gap, |_| ()));
        let gap = match view {
            View::Json => |lost| format!(r#"{{"event":"gap","lost":{lost}}}"#).into_bytes(),
            View::Human { .. } => |lost| render::gap(lost).into_bytes(),
        };
        let teller = Arc::clone(&notices);
        let failed = move |error: &io::Error| {
            let what = match error.kind() {
                io::ErrorKind::BrokenPipe => "standard output is closed".to_owned(),
                _ => format!("cannot write to standard output ({error})"),
            };
            let process = std::process::id();
            teller.offer(if outlet::is_full(error) {
                format!("fltctl: {what}; the guard goes on, and lines wait for room or are counted")
            } else {
                format!(
                    "fltctl: {what}; the guard goes on in silence until Ctrl-C or: kill {process}"
                )
            });
        };
        Self {
            view,
            lines: Outlet::start(io::stdout(), gap, failed),
            notices,
            board: Mutex::default(),
        }
    }

    fn take(&self, news: &News<'_>) {
        match news {
            News::Event(bytes) => self.show(bytes),
            News::Away => self.say("lost the connection to the host's events; connecting again"),
            News::Back => self.say("connected to the host's events again"),
            News::StillAway(error) => {
                self.say(&format!("no events for a while ({error}); trying on"))
            }
        }
    }

    fn show(&self, bytes: &[u8]) {
        let event = Event::parse(bytes);
        let is_first = {
            let mut board = self.board();
            board.tally.count(&event);
            let started = matches!(event, Event::Started(_));
            started && !std::mem::replace(&mut board.ready, true)
        };
        match self.view {
            View::Json => self.lines.offer(one_line(bytes)),
            View::Human { all, colour } => {
                if let Some(line) = render::event(&event, all, colour) {
                    self.lines.offer(line);
                }
                if is_first {
                    let hint = if all { HINT_ALL } else { HINT };
                    self.lines
                        .offer(render::paint(hint, render::Mood::Faint, colour));
                }
            }
        }
    }

    fn say(&self, text: &str) {
        self.notices
            .offer(format!("fltctl: {}", render::escape(text)));
    }

    fn summary(&self, lasted: Duration) -> Vec<String> {
        let board = self.board();
        let lost = board.tally.lost.saturating_add(self.lines.lost());
        render::summary(&board.tally, lost, lasted)
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The JSON text as it came, in one line: between its values an end of line means nothing.
fn one_line(bytes: &[u8]) -> Vec<u8> {
    let blank = |&byte: &u8| {
        if matches!(byte, b'\n' | b'\r') {
            b' '
        } else {
            byte
        }
    };
    bytes.trim_ascii_end().iter().map(blank).collect()
}

const HINT: &str =
    "Ctrl-C ends. Shown is what is denied or cannot be decided; --all shows everything.";

const HINT_ALL: &str = "Ctrl-C ends.";

/// How a host ends that another has taken everything over from.
const HANDED_OVER: i32 = 4;

/// For marking directories and starting the scanner, before something is said.
const SLOW_START: Duration = Duration::from_secs(5);

/// For the host to close its groups, before it is killed.
const END_LIMIT: Duration = Duration::from_secs(5);

/// For what is still queued when everything is over.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// A wait without a limit of its own, by the day.
const A_DAY: Duration = Duration::from_secs(86_400);
