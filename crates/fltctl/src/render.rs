//! Lines for people: a decision, an event, a summary.
//!
//! Names of files and processes and the words of scanners were chosen by others: whatever could steer a terminal or turn
//! its text around is escaped here, and nowhere else. Next rooms: `table.rs` for listings, `outlet.rs` for writing.

use std::fmt::Write as _;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Style};

use crate::event::{Decision, Event, Started, Tally};

/// How a piece of text is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As wished.
    Good,
    /// Refused.
    Bad,
    /// Worth a look.
    Doubtful,
    /// Beside the point.
    Faint,
}

/// The text, coloured if that is wished.
pub(crate) fn paint(text: &str, mood: Mood, colour: bool) -> String {
    if !colour {
        return text.to_owned();
    }
    let style = match mood {
        Mood::Good => AnsiColor::Green.on_default(),
        Mood::Bad => AnsiColor::Red.on_default().bold(),
        Mood::Doubtful => AnsiColor::Yellow.on_default(),
        Mood::Faint => Style::new().dimmed(),
    };
    format!("{style}{text}{style:#}")
}

/// One line for a decision: when, verdict, operation, file, process, why, how long.
pub(crate) fn decision(decision: &Decision, colour: bool) -> String {
    let time = decision.time_ms.map_or_else(|| " ".repeat(13), time_of_day);
    let (verdict, mood) = verdict(decision);
    let verdict = paint(&format!("{verdict:<10}"), mood, colour);
    let operation = escape(decision.operation.as_deref().unwrap_or("-"));
    let path = escape(
        decision
            .path
            .as_deref()
            .unwrap_or("(a file without a path)"),
    );
    let time = paint(&time, Mood::Faint, colour);
    let mut line = format!(
        "{time}  {verdict}  {operation:<5}  {path}{}  {}",
        worth(decision),
        process(decision)
    );
    // Writing to a string does not fail.
    write!(line, "  {}", why(decision)).ok();
    if let Some(micros) = decision.micros {
        let took = duration(Duration::from_micros(micros));
        write!(line, "  {}", paint(&took, Mood::Faint, colour)).ok();
    }
    line
}

/// One line for any event that people should see.
pub(crate) fn event(event: &Event, all: bool, colour: bool) -> Option<String> {
    let faint = |text: String| Some(paint(&text, Mood::Faint, colour));
    let alarm = |text: String| Some(paint(&text, Mood::Doubtful, colour));
    match event {
        Event::Decision(it) if all || !it.is_plain() => Some(decision(it, colour)),
        Event::Decision(_) | Event::Unknown => None,
        Event::Started(it) => faint(started(it)),
        Event::Service(it) => {
            let pid = it
                .pid
                .map_or_else(String::new, |pid| format!(" (process {pid})"));
            let text = format!("the scanner{pid}: {}", escape(&it.state));
            if it.state == "died" {
                alarm(text)
            } else {
                faint(text)
            }
        }
        Event::Worker(it) => {
            let settled = it.settled.unwrap_or(0);
            let state = escape(&it.state);
            alarm(format!(
                "the host's worker: {state}; {settled} operations decided by policy"
            ))
        }
        Event::Volume(it) => {
            let path = escape(&it.path);
            match (it.state.as_str(), it.reason.as_deref()) {
                ("guarded", _) => faint(format!("guarding {path} too, which is mounted there")),
                ("vanished", _) => faint(format!("{path} was unmounted")),
                ("refused", reason) => {
                    let reason = escape(reason.unwrap_or("the reason is not told"));
                    alarm(format!("{path} is NOT guarded: {reason}"))
                }
                (other, _) => alarm(format!("{path}: {}", escape(other))),
            }
        }
        Event::Mute(it) => {
            let whose = it.pid.map_or_else(String::new, |pid| {
                format!(" by the service with process {pid}")
            });
            let (rule, state) = (escape(&it.rule), escape(&it.state));
            alarm(format!("not asked about: {rule}: {state}{whose}"))
        }
        Event::Gap(it) => alarm(gap(it.lost)),
    }
}

/// What is said in the place of lost lines.
pub(crate) fn gap(lost: u64) -> String {
    format!("({lost} events were lost here; what they told of was decided all the same)")
}

/// Who or what decided, in its own words.
pub(crate) fn why(decision: &Decision) -> String {
    let cause = escape(decision.cause.as_deref().unwrap_or("cause not told"));
    match decision.reason.as_deref() {
        Some(reason) if !reason.is_empty() => format!("{cause}: {}", escape(reason)),
        _ => cause,
    }
}

/// What stands behind a path that is not simply the file's path on the host.
fn worth(decision: &Decision) -> String {
    let said = match decision.path_validity.as_deref() {
        None | Some("plain") => return String::new(),
        Some("other_namespace") => "as another mount namespace shows it",
        Some("layer") => "inside a layer",
        Some("overlay") => "on an overlay",
        Some("unlinked") => "its last path",
        Some(other) => return format!(" ({})", escape(other)),
    };
    format!(" ({said})")
}

/// The process that asked: `cat[55]`.
pub(crate) fn process(decision: &Decision) -> String {
    let name = escape(decision.process.as_deref().unwrap_or("?"));
    decision
        .pid
        .map_or_else(|| name.clone(), |pid| format!("{name}[{pid}]"))
}

/// What happened in all, in a few lines.
pub(crate) fn summary(tally: &Tally, lost: u64, lasted: Duration) -> Vec<String> {
    let Tally {
        asked,
        allowed,
        denied,
        would_deny,
        by_cause,
        ..
    } = tally;
    let took = duration(lasted);
    let mut lines = vec![format!(
        "asked {asked} in {took}: {allowed} allowed, {denied} denied"
    )];
    if *would_deny > 0 {
        lines.push(format!(
            "{would_deny} would have been denied without --monitor"
        ));
    }
    if !by_cause.is_empty() {
        let causes: Vec<_> = by_cause
            .iter()
            .map(|(cause, count)| format!("{} {count}", escape(cause)))
            .collect();
        lines.push(format!("by cause: {}", causes.join(", ")));
    }
    if lost > 0 {
        lines.push(format!(
            "{lost} lines lost: the output or this program was too slow"
        ));
    }
    lines
}

/// A duration as people say it.
pub(crate) fn duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}

/// The time of day in UTC: `07:41:12.345Z`.
fn time_of_day(time_ms: u64) -> String {
    let (seconds, ms) = (time_ms / 1000, time_ms % 1000);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// The text, with everything escaped that could steer a terminal or make its text read otherwise than it is.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || misleads(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Characters that are not seen themselves: marks of direction, joiners, line separators, tags.
fn misleads(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{e0000}'..='\u{e0fff}')
}

fn verdict(decision: &Decision) -> (String, Mood) {
    if let Some(held_back) = &decision.would_be {
        let mood = if decision.means_allow() {
            Mood::Good
        } else {
            Mood::Doubtful
        };
        return (format!("would {}", escape(held_back)), mood);
    }
    let mood = match (decision.means_allow(), decision.is_plain()) {
        (true, true) => Mood::Good,
        (true, false) => Mood::Doubtful,
        (false, _) => Mood::Bad,
    };
    (escape(&decision.verdict), mood)
}

fn started(started: &Started) -> String {
    let guards: Vec<_> = started
        .guards
        .iter()
        .map(|guard| match guard.directories {
            Some(1) => format!("{} (1 directory)", escape(&guard.path)),
            Some(count) => format!("{} ({count} directories)", escape(&guard.path)),
            None => escape(&guard.path),
        })
        .collect();
    let mut line = format!("guarding {}", guards.join(", "));
    if let Some(limit) = started.deadline_ms {
        write!(line, "; verdicts within {limit} ms").ok();
    }
    let mode = match (started.strict, started.monitor) {
        (_, true) => "; monitor mode: nothing is denied",
        (true, _) => "; strict: what cannot be decided is denied",
        _ => "",
    };
    line + mode
}

#[cfg(test)]
mod tests;
