//! Memory that connections take, from counters that everybody changes: rough, and good enough for many at once.

use anyhow::{Context, Result};
use rustix::process::Pid;

/// Kernel memory of the whole system, shared memory, page tables, and what both processes have for themselves.
///
/// # Errors
///
/// When the other process is gone.
pub fn memory_kib(other: Option<Pid>) -> Result<f64> {
    let system = std::fs::read_to_string("/proc/meminfo")?;
    let names = ["Slab:", "Shmem:", "PageTables:", "KernelStack:"];
    let mut sum: f64 = names.iter().map(|name| field(&system, name)).sum();
    let pid = other.context("the other process is gone")?;
    for path in [
        "/proc/self/status".to_owned(),
        format!("/proc/{}/status", pid.as_raw_nonzero()),
    ] {
        let status = std::fs::read_to_string(path)?;
        // Mapped shared memory is in the system's counter already.
        sum += field(&status, "RssAnon:") + field(&status, "RssFile:");
    }
    Ok(sum)
}

fn field(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0.0)
}
