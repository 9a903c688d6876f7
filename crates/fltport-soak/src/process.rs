//! What /proc says of this process.

use anyhow::Context as _;

/// What the host uses at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Resident bytes.
    pub(crate) memory: u64,
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
}

impl Usage {
    pub(crate) fn now() -> anyhow::Result<Self> {
        let pages = std::fs::read_to_string("/proc/self/statm").context("cannot read statm")?;
        let pages: u64 = pages
            .split_whitespace()
            .nth(1)
            .and_then(|pages| pages.parse().ok())
            .context("statm says something else")?;
        let page = u64::try_from(rustix::param::page_size())?;
        Ok(Self {
            memory: pages * page,
            descriptors: count("/proc/self/fd")?,
            threads: count("/proc/self/task")?,
        })
    }
}

/// What the open descriptors of this process are, in order.
pub(crate) fn descriptors() -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").context("cannot list /proc/self/fd")? {
        let path = entry?.path();
        // The one for looking is gone by the time it is looked at, or is this folder.
        let target = std::fs::read_link(&path).unwrap_or_default();
        // What a process has once it has had a connection with memory: it notices the death of hosts, whose it is not.
        let watcher = target.as_os_str() == "anon_inode:[eventpoll]";
        if !target.ends_with("fd") && !watcher {
            let number = path.file_name().unwrap_or_default().to_string_lossy();
            all.push(format!("{number}: {}", target.display()));
        }
    }
    all.sort();
    Ok(all)
}

/// Processor time that this process and its ended children took, in seconds.
pub(crate) fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u32 = after
        .split_whitespace()
        .skip(11)
        .take(4)
        .filter_map(|field| field.parse::<u32>().ok())
        .sum();
    let each = u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100);
    f64::from(ticks) / f64::from(each)
}

fn count(folder: &str) -> anyhow::Result<usize> {
    Ok(std::fs::read_dir(folder)
        .with_context(|| format!("cannot list {folder}"))?
        .count())
}
