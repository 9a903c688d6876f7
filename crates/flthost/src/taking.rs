//! The next host's side of a handover: its supervisor takes what guards, and its first worker what waits.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;

use crate::config::Config;
use crate::fanotify::{Defaults, Event, Operation, Watch};
use crate::filesystem::Filesystem;
use crate::guarded::Guarded;
use crate::handover::{Frame, Waiting, Wire};
use crate::marks::Target;
use crate::pair::{Pair, Role};
use crate::start::{Held, StartError, notifier};
use crate::supervisor_memory::Journal;

/// Operations that an older host has read, with their files, and what keeps their numbers free until a worker has put them
/// there.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    pending: Vec<(Waiting, OwnedFd)>,
    fillers: Vec<OwnedFd>,
    /// The old host's standard error.
    words: Option<OwnedFd>,
}

/// Takes everything over from the host of this name.
pub(crate) fn take_over(config: &Config, descriptors: u32) -> Result<(Held, Handed), StartError> {
    let failed = |error| StartError::System("cannot take over from the host that runs", error);
    let wire = Wire::connect(config).map_err(failed)?;
    let mut taken = take(&wire, config, descriptors).map_err(failed)?;
    wire.send(&Frame::Taken, &[]).map_err(failed)?;
    // From here on this is that host, and says things where that one did. Whoever started this one has seen all there was
    // to see.
    if let Some(words) = taken.1.words.take() {
        rustix::stdio::dup2_stderr(&words).ok();
    }
    // Until the old worker is gone its ports have their names.
    match wire.receive() {
        Ok((Frame::Gone, _)) => Ok(taken),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(taken),
        Err(error) => Err(failed(error)),
        Ok(_) => Err(failed(io::ErrorKind::InvalidData.into())),
    }
}

fn take(wire: &Wire, config: &Config, descriptors: u32) -> io::Result<(Held, Handed)> {
    let journal = Journal::new(usize::try_from(descriptors).unwrap_or(0))?;
    let mut held = Held {
        guarded: Vec::new(),
        pairs: Vec::new(),
        notifier: notifier(config).map_err(io::Error::other)?,
        first_spare: 0,
        journal,
        descriptors,
    };
    let mut handed = Handed::default();
    wire.send(&Frame::Hello, &[])?;
    loop {
        let (frame, files) = wire.receive()?;
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        match (frame, <[OwnedFd; 2]>::try_from(files)) {
            (
                Frame::Room {
                    numbers,
                    first_spare,
                },
                _,
            ) => {
                handed.fillers = fill(numbers.min(descriptors))?;
                held.first_spare = usize::try_from(first_spare).map_err(|_| invalid())?;
            }
            (Frame::Pair { slow, spare }, Ok([triage, questions])) => {
                let place = held.pairs.len();
                journal.set_spare(place, spare);
                let spare_pair = place >= held.first_spare;
                // This host may take remote filesystems in where the old one did not.
                let slow = slow || spare_pair && config.remote;
                let pair = Pair::from_fds(place, journal, triage, questions, slow, spare_pair);
                held.pairs.push(Arc::new(pair));
            }
            (Frame::Guard { pair, path }, Ok([dir, watch])) => {
                let place = usize::try_from(pair).map_err(|_| invalid())?;
                let pair = Arc::clone(held.pairs.get(place).ok_or_else(invalid)?);
                let target = Target::from_fd(dir, path).map_err(io::Error::other)?;
                if let Some(filesystem) = Filesystem::of(&target) {
                    pair.filesystem.get_or_init(|| filesystem);
                }
                held.guarded.push(Guarded {
                    target,
                    pair,
                    watch: Watch::from_fd(watch),
                    notifier: held.notifier.clone(),
                });
            }
            (Frame::Pending(waiting), Err(files)) => {
                let file = files.into_iter().next().ok_or_else(invalid)?;
                handed.pending.push((waiting, file));
            }
            (Frame::Words, Err(files)) => {
                let words = files.into_iter().next().ok_or_else(invalid)?;
                handed.words = Some(words);
            }
            (Frame::End, _) => break,
            _ => return Err(invalid()),
        }
    }
    check(&held, config)?;
    Ok((held, handed))
}

/// A handover changes programs and policies, not what is guarded.
fn check(held: &Held, config: &Config) -> io::Result<()> {
    let mut ours: Vec<_> = config
        .guards
        .iter()
        .map(std::fs::canonicalize)
        .collect::<Result<_, _>>()?;
    let mut theirs: Vec<_> = held
        .guarded
        .iter()
        .map(|guarded| guarded.target.path().to_path_buf())
        .collect();
    ours.sort();
    theirs.sort();
    if ours == theirs {
        return Ok(());
    }
    let list = |paths: &[std::path::PathBuf]| {
        let paths: Vec<_> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        paths.join(", ")
    };
    Err(io::Error::other(format!(
        "it guards {}, and this one was told to guard {}",
        list(&theirs),
        list(&ours)
    )))
}

/// Takes all free descriptor numbers below this, so that nothing else gets them.
fn fill(room: u32) -> io::Result<Vec<OwnedFd>> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let mut fillers = vec![rustix::fs::open("/dev/null", flags, Mode::empty())?];
    while let Some(last) = fillers.last() {
        if u32::try_from(last.as_raw_fd()).unwrap_or(0) >= room {
            break;
        }
        let next = rustix::io::fcntl_dupfd_cloexec(last, 3)?;
        fillers.push(next);
    }
    Ok(fillers)
}

impl Handed {
    /// Puts every operation's file under its number, and gives each as an event. What cannot be put there is answered.
    pub(crate) fn place(self, held: &Held, defaults: Defaults) -> Vec<(Arc<Pair>, Role, Event)> {
        drop(self.fillers);
        let placed = self.pending.into_iter().filter_map(|(waiting, file)| {
            let place = usize::try_from(waiting.group).ok()?;
            let role = if place % 2 == 0 {
                Role::Triage
            } else {
                Role::Questions
            };
            let pair = held.pairs.get(place / 2)?;
            let group = pair.group(role);
            let operation = if waiting.exec {
                Operation::Exec
            } else {
                Operation::Open
            };
            let put = rustix::io::fcntl_dupfd_cloexec(&file, waiting.number);
            match put.ok().filter(|put| put.as_raw_fd() == waiting.number) {
                Some(file) => {
                    let pid = Pid::from_raw(waiting.pid);
                    let event = Event::handed_over(group, file, operation, pid, defaults);
                    Some((Arc::clone(pair), role, event))
                }
                None => {
                    // Something of this process has the number: the operation is answered as after a crash.
                    group
                        .respond(waiting.number, defaults.of(Some(operation)))
                        .ok();
                    None
                }
            }
        });
        placed.collect()
    }
}
