//! Other programs of this machine that answer for files: another scanner, another host. Both have to allow an open, and
//! each may wait for the other; whoever looks for the reason of a slow or denied open should not have to guess it.
//!
//! Only `/proc` is looked at, for a bounded time: no file of a filesystem that anybody guards is opened. Nothing here is in
//! the way of an answer.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Dev, makedev};
use serde_json::{Value, json};

use crate::mounts::{Mount, MountList};

/// Those that were found.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    list: Vec<Neighbour>,
    /// Whether every process could be looked at; otherwise there may be more.
    complete: bool,
}

/// A process that holds a group which may answer, and is not of this host.
#[derive(Debug)]
struct Neighbour {
    pid: u32,
    program: String,
    /// Where this host and that program have marks on the same filesystem.
    shared: Vec<PathBuf>,
}

/// What a group has marks on.
#[derive(Debug, Default, PartialEq, Eq)]
struct Marks {
    devices: BTreeSet<Dev>,
    mounts: BTreeSet<u64>,
}

/// Says who else answers, if somebody does: for a host that starts. Nothing of this host runs yet but this process.
pub(crate) fn warn<'a>(guards: impl IntoIterator<Item = (&'a Path, Dev)>, say: impl FnOnce(&str)) {
    let own = std::process::id();
    let found = look(&guards.into_iter().collect::<Vec<_>>(), |pid| pid == own);
    if let Some(words) = found.words() {
        say(&words);
    }
}

/// Who else answers now, for the status; who asks often is told what was found a moment ago. `supervisor` is 0 where there
/// is none any more.
pub(crate) fn list<'a>(
    guards: impl IntoIterator<Item = (&'a Path, Dev)>,
    supervisor: u32,
) -> Value {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((when, value)) = &*last
        && when.elapsed() < FRESH
    {
        return value.clone();
    }
    let own = std::process::id();
    // Workers that linger are the supervisor's too, and a scanner that is being started is this process's.
    let is_ours = |pid| {
        let is_one = |pid| pid == own || (supervisor != 0 && pid == supervisor);
        is_one(pid) || parent(pid).is_some_and(is_one)
    };
    let guards: Vec<_> = guards.into_iter().collect();
    let value = look(&guards, is_ours).to_value();
    *last = Some((Instant::now(), value.clone()));
    value
}

/// What was found last: a status may be asked for many times a second.
static LAST: Mutex<Option<(Instant, Value)>> = Mutex::new(None);

/// How long that is as good as new.
const FRESH: Duration = Duration::from_secs(1);

fn look(guards: &[(&Path, Dev)], is_ours: impl Fn(u32) -> bool) -> Neighbours {
    let end = Instant::now() + LIMIT;
    let mut found = Neighbours {
        list: Vec::new(),
        complete: true,
    };
    let Ok(processes) = fs::read_dir("/proc") else {
        found.complete = false;
        return found;
    };
    let numbers = processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for pid in numbers {
        if found.list.len() >= MOST || Instant::now() > end {
            found.complete = false;
            break;
        }
        let Some(marks) = marks_of(pid, end, &mut found.complete) else {
            continue;
        };
        // A worker beside its supervisor is no other program.
        let is_named = |pid: u32| found.list.iter().any(|other| other.pid == pid);
        if is_ours(pid) || parent(pid).is_some_and(is_named) {
            continue;
        }
        found.list.push(Neighbour {
            pid,
            program: program(pid),
            shared: shared(guards, &marks),
        });
    }
    found
}

/// What a process has marks on by groups that may answer; nothing if it has no such group, or cannot be looked at.
fn marks_of(pid: u32, end: Instant, complete: &mut bool) -> Option<Marks> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let mut all: Option<Marks> = None;
    for entry in descriptors.flatten() {
        if Instant::now() > end {
            *complete = false;
            break;
        }
        let is_group = fs::read_link(entry.path())
            .is_ok_and(|target| target.as_os_str() == OsStr::new("anon_inode:[fanotify]"));
        if !is_group {
            continue;
        }
        let number = entry.file_name();
        let about = Path::new("/proc").join(pid.to_string()).join("fdinfo");
        let Ok(about) = File::open(about.join(number)) else {
            continue;
        };
        let Some(marks) = Marks::read(BufReader::new(about.take(BYTES))) else {
            continue;
        };
        let all = all.get_or_insert_default();
        all.devices.extend(marks.devices);
        all.mounts.extend(marks.mounts);
    }
    all
}

impl Marks {
    /// Reads what the kernel says of a group; nothing if it is one that is only told.
    ///
    /// # References
    /// proc_pid_fdinfo(5), "fanotify".
    fn read(lines: impl BufRead) -> Option<Self> {
        let mut marks = None;
        for line in lines.split(b'\n').map_while(Result::ok) {
            let Some(line) = line.strip_prefix(b"fanotify ") else {
                continue;
            };
            if let Some(flags) = hex(line, b"flags:") {
                let class =
                    flags & u64::from(libc::FAN_CLASS_CONTENT | libc::FAN_CLASS_PRE_CONTENT);
                if class == 0 {
                    return None;
                }
                marks = Some(Self::default());
            }
            let Some(marks) = &mut marks else {
                continue;
            };
            marks.mounts.extend(hex(line, b"mnt_id:"));
            // As the kernel keeps it: twenty bits of minor number.
            let device = hex(line, b"sdev:").and_then(|device| {
                let (major, minor) = (device >> 20, device & 0xf_ffff);
                Some(makedev(major.try_into().ok()?, minor.try_into().ok()?))
            });
            marks.devices.extend(device);
        }
        marks
    }
}

/// The number of a field, which stands at the beginning of a line or behind a space.
fn hex(line: &[u8], field: &[u8]) -> Option<u64> {
    let mut fields = line.split(|byte| *byte == b' ');
    let text = fields.find_map(|text| text.strip_prefix(field))?;
    u64::from_str_radix(str::from_utf8(text).ok()?, 16).ok()
}

/// The guarded places whose filesystems have marks of the other program, too: the directories themselves, and what is mounted
/// below them.
fn shared(guards: &[(&Path, Dev)], marks: &Marks) -> Vec<PathBuf> {
    let mounts = MountList::open().and_then(|mut list| list.read());
    let mounts = mounts.unwrap_or_default();
    let is_marked = |mount: &&Mount| marks.mounts.contains(&mount.id);
    let by_mount: Vec<Dev> = mounts.iter().filter(is_marked).map(|m| m.device).collect();
    let has = |device: Dev| marks.devices.contains(&device) || by_mount.contains(&device);
    let places = guards.iter().filter(|(_, device)| has(*device));
    let is_below = |mount: &&Mount| {
        let mut guards = guards.iter();
        guards.any(|(path, _)| mount.point.starts_with(path) && mount.point != *path)
    };
    let below = mounts.iter().filter(is_below).filter(|m| has(m.device));
    places
        .map(|(path, _)| path.to_path_buf())
        .chain(below.map(|mount| mount.point.clone()))
        .take(MOST)
        .collect()
}

/// A process's own name. Its command line is in its memory, which whoever holds that can keep others from.
fn program(pid: u32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(name.trim_ascii_end())
        .escape_default()
        .collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name may have anything in it, and stands in brackets.
    let behind = stat.rsplit(|byte| *byte == b')').next()?;
    let mut fields = behind.split(u8::is_ascii_whitespace).skip(1);
    str::from_utf8(fields.nth(1)?).ok()?.parse().ok()
}

impl Neighbours {
    /// One line about those that share a filesystem; nothing if there is nobody. The others are in the status.
    fn words(&self) -> Option<String> {
        let named = |other: &Neighbour| {
            // More of them are in the status.
            let place = other.shared.first()?;
            let place = String::from_utf8_lossy(place.as_os_str().as_bytes());
            Some(format!(
                "{} (pid {}), on the filesystem of {}",
                other.program,
                other.pid,
                place.escape_debug()
            ))
        };
        let names: Vec<_> = self.list.iter().filter_map(named).collect();
        let more = if self.complete {
            ""
        } else {
            ", and perhaps others"
        };
        match names.as_slice() {
            [] => None,
            [one] if self.complete => Some(format!(
                "another program answers for files too: {one}: both have to allow, and each may wait for the other"
            )),
            all => Some(format!(
                "other programs answer for files too: {}{more}: all have to allow, and each may wait for the others",
                all.join("; ")
            )),
        }
    }

    fn to_value(&self) -> Value {
        let row = |other: &Neighbour| {
            let shared: Vec<_> = other
                .shared
                .iter()
                .map(|path| path.to_string_lossy())
                .collect();
            json!({ "pid": other.pid, "program": other.program, "shared": shared })
        };
        let programs: Vec<_> = self.list.iter().map(row).collect();
        json!({ "programs": programs, "complete": self.complete })
    }
}

/// Time for all processes of a machine: some ten thousand descriptors take a twentieth of this.
const LIMIT: Duration = Duration::from_millis(500);

/// Programs that are named, and places of each.
const MOST: usize = 16;

/// What is read about one group: some thousand marks. The filesystems are the same again by then.
const BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: &[u8] = b"pos:\t0\nflags:\t02\nfanotify flags:15 event-flags:8000\n\
        fanotify sdev:800001 mflags:0 mask:10000 ignored_mask:0\n\
        fanotify mnt_id:1f mflags:0 mask:10000 ignored_mask:0\n\
        fanotify ino:42 sdev:1b mflags:0 mask:10000 ignored_mask:0 fhandle-bytes:c f_handle:99\n";

    #[test]
    fn what_may_answer_is_read_with_all_its_marks_and_what_is_only_told_is_not() {
        let marks = Marks::read(CONTENT).unwrap();
        let devices = [makedev(0, 0x1b), makedev(8, 1)];
        assert_eq!(marks.devices, BTreeSet::from(devices));
        assert_eq!(marks.mounts, BTreeSet::from([0x1f]));
        for other in [
            &b"pos:\t0\nfanotify flags:11 event-flags:0\nfanotify sdev:1 mask:10000\n"[..],
            b"fanotify sdev:1 mask:10000\n",
            b"inotify wd:1 ino:2 sdev:1\n",
            b"",
        ] {
            assert_eq!(Marks::read(other), None);
        }
    }

    #[test]
    fn one_line_names_everybody_and_nobody_is_no_line() {
        let one = |pid, shared: &[&str]| Neighbour {
            pid,
            program: "clamonacc".to_owned(),
            shared: shared.iter().map(PathBuf::from).collect(),
        };
        let mut found = Neighbours {
            list: Vec::new(),
            complete: true,
        };
        assert_eq!(found.words(), None);
        found.list.push(one(6, &[]));
        assert_eq!(found.words(), None, "it is elsewhere");
        found.list.push(one(7, &["/x"]));
        assert_eq!(
            found.words().unwrap(),
            "another program answers for files too: clamonacc (pid 7), on the filesystem of /x: \
             both have to allow, and each may wait for the other"
        );
        found.list.push(one(8, &["/srv/a\nb", "/x"]));
        found.complete = false;
        let words = found.words().unwrap();
        assert!(
            words.contains(
                r"clamonacc (pid 8), on the filesystem of /srv/a\nb, and perhaps others:"
            ),
            "{words}"
        );
    }

    #[test]
    fn the_parent_of_this_process_is_found() {
        let parent_id = std::os::unix::process::parent_id();
        assert_eq!(parent(std::process::id()), Some(parent_id));
    }
}
