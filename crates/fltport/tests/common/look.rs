//! What a process has: descriptors, threads and memory, as the kernel counts them.

use std::fs;

/// What a process has at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// Open descriptors.
    pub(crate) descriptors: usize,
    /// Threads that are there for good.
    pub(crate) threads: usize,
    /// Threads that run callbacks: they stay for some seconds after their work.
    pub(crate) callbacks: usize,
    /// Bytes of heap and stacks that are in memory.
    pub(crate) memory: usize,
}

/// Looks at the process `pid`. One that is gone has nothing.
pub(crate) fn look(pid: u32) -> Look {
    let threads = threads(pid);
    let callbacks = threads.iter().filter(|name| is_callback(name)).count();
    Look {
        descriptors: descriptors(pid).len(),
        threads: threads.len() - callbacks,
        callbacks,
        memory: memory(pid),
    }
}

/// What each open descriptor is of.
pub(crate) fn descriptors(pid: u32) -> Vec<String> {
    let folder = fs::read_dir(format!("/proc/{pid}/fd"));
    let entries = folder.into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    names.map(|name| name.display().to_string()).collect()
}

/// The names of the threads.
fn threads(pid: u32) -> Vec<String> {
    let folder = fs::read_dir(format!("/proc/{pid}/task"));
    let entries = folder.into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok());
    names.map(|name| name.trim().to_string()).collect()
}

fn is_callback(name: &str) -> bool {
    // The kernel keeps 15 bytes of a name: fltport-connect, fltport-message.
    name.starts_with("fltport-connect") || name.starts_with("fltport-message")
}

/// Bytes of memory that belong to nobody else: what a file holds too is not counted.
fn memory(pid: u32) -> usize {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Anonymous:"));
    let kilobytes = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
    kilobytes.map_or(0, |number| number.trim().parse::<usize>().unwrap() << 10)
}

/// Pieces of a connection's memory that a process has mapped.
pub(crate) fn maps(pid: u32) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    maps.lines()
        .filter(|line| line.contains("memfd:fltport"))
        .count()
}

/// What this process has computed so far.
pub(crate) fn own_cpu_time() -> std::time::Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let nanos = u32::try_from(time.tv_nsec).unwrap();
    std::time::Duration::new(u64::try_from(time.tv_sec).unwrap(), nanos)
}

/// Lets this process open as many files, if it may.
pub(crate) fn allow_descriptors(count: u64) -> bool {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|current| current >= count) {
        return true;
    }
    let maximum = now.maximum.map(|most| most.max(count));
    let wanted = Rlimit {
        current: Some(count),
        maximum,
    };
    setrlimit(Resource::Nofile, wanted).is_ok()
}
