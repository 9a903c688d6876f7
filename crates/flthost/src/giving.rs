//! The old host's side of a handover: the worker stops reading, gives away everything, and ends when the next host has it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::config::Config;
use crate::fanotify_event::duplicate;
use crate::handover::{Door, Frame, Waiting, Wire};
use crate::reader::Readers;
use crate::say::say;
use crate::start::Held;
use crate::supervisor_memory::Owed;

/// Time for readers to finish what they have in their hands.
const HALT: Duration = Duration::from_millis(500);

/// Between two tries to let somebody in. What fails there, as a rule for want of descriptors, fails again at once.
const PAUSE: Duration = Duration::from_secs(1);

/// Waits for the next host, as often as it takes, and gives it everything; it waits to hear that this one is gone. Nothing:
/// nobody can come.
pub(crate) fn keep_door(config: &Config, held: &Held, readers: &Readers) -> Option<Wire> {
    let door = match Door::open(config) {
        Ok(door) => door,
        Err(error) => {
            say(format_args!("no other host can take over: {error}"));
            return None;
        }
    };
    loop {
        // It ends with the process, also in the middle of a pause.
        let wire = let_in(|| door.next(), || thread::sleep(PAUSE));
        match give(&wire, held, readers) {
            Ok(()) => return Some(wire),
            Err(error) => {
                // Nothing has changed hands: this host goes on.
                readers.halt.go_on();
                say(format_args!(
                    "a handover has failed, and this host goes on: {error}"
                ));
            }
        }
    }
}

/// Tries to let somebody in until that succeeds, with a pause after each failure; only the first of them is said.
fn let_in<T>(mut next: impl FnMut() -> io::Result<T>, mut pause: impl FnMut()) -> T {
    let mut said = false;
    loop {
        match next() {
            Ok(wire) => return wire,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    say(format_args!(
                        "nobody can take over for now; it is tried again every second: {error}"
                    ));
                }
                pause();
            }
        }
    }
}

fn give(wire: &Wire, held: &Held, readers: &Readers) -> io::Result<()> {
    if wire.receive()?.0 != Frame::Hello {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let running = readers.running.load(Ordering::Relaxed);
    let groups = 2 * held.pairs.len();
    if !readers.halt.stop(running, HALT) {
        // What is inside a hung filesystem has read nothing yet, and dies there with this process.
        let inside = (0..groups).filter(|place| held.journal.is_inside(*place));
        if !readers
            .halt
            .stop(running.saturating_sub(inside.count()), Duration::ZERO)
        {
            let text = "a thread that reads operations does not stop; try again";
            return Err(io::Error::other(text));
        }
    }
    let room = held.journal.highest().saturating_add(1);
    let room = Frame::Room {
        numbers: room,
        first_spare: u32::try_from(held.first_spare).unwrap_or(u32::MAX),
    };
    wire.send(&room, &[])?;
    for (place, pair) in held.pairs.iter().enumerate() {
        let spare = held.journal.spare(place);
        wire.send(
            &Frame::Pair {
                slow: pair.slow,
                spare,
            },
            &[pair.triage.as_fd(), pair.questions.as_fd()],
        )?;
    }
    for guarded in &held.guarded {
        let place = held
            .pairs
            .iter()
            .position(|pair| Arc::ptr_eq(pair, &guarded.pair));
        let frame = Frame::Guard {
            pair: u32::try_from(place.unwrap_or(0)).unwrap_or(0),
            path: guarded.target.path().to_path_buf(),
        };
        wire.send(&frame, &[guarded.target.as_fd(), guarded.watch.as_fd()])?;
    }
    wire.send(&Frame::Words, &[rustix::stdio::stderr()])?;
    let given = take_pending(held);
    let sent = send_pending(wire, &given);
    if sent.is_err() {
        decide(held, &given);
    } else {
        held.journal.hand_over();
        #[expect(
            clippy::disallowed_methods,
            reason = "descriptors only: closing one of a hung filesystem would wait, and this process ends"
        )]
        std::mem::forget(given);
    }
    sent
}

/// Takes what is pending out of this worker's hands: none of its threads can answer it from here on.
fn take_pending(held: &Held) -> Vec<(i32, Owed, OwnedFd)> {
    let noted = held
        .journal
        .numbers()
        .filter(|number| held.journal.is_noted(*number));
    noted
        .filter_map(|number| {
            // First: whoever answers closes afterwards, so if nobody has by the time it is taken, this was the file.
            let file = duplicate(number).ok()?;
            let (number, owed) = held.journal.take(number)?;
            Some((number, owed, file))
        })
        .collect()
}

fn send_pending(wire: &Wire, pending: &[(i32, Owed, OwnedFd)]) -> io::Result<()> {
    for (number, owed, file) in pending {
        let waiting = Waiting {
            number: *number,
            group: u32::try_from(owed.group).unwrap_or(u32::MAX),
            exec: owed.exec,
            pid: owed.pid,
        };
        wire.send(&Frame::Pending(waiting), &[file.as_fd()])?;
    }
    wire.send(&Frame::End, &[])?;
    match wire.receive()?.0 {
        Frame::Taken => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The next host has failed with them, and those who had them here cannot answer any more.
fn decide(held: &Held, pending: &[(i32, Owed, OwnedFd)]) {
    let groups = held.groups();
    for (number, owed, _) in pending {
        if let Some(group) = groups.get(owed.group) {
            // Whoever waited may have been killed.
            group.respond(*number, owed.response).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_that_does_not_open_is_tried_again_after_a_pause() {
        let (mut tries, mut pauses) = (0, 0);
        let next = || {
            tries += 1;
            match tries {
                1..=3 => Err(rustix::io::Errno::MFILE.into()),
                _ => Ok(tries),
            }
        };
        assert_eq!(let_in(next, || pauses += 1), 4);
        assert_eq!(pauses, 3);
    }
}
