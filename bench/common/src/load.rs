//! How busy the whole machine was, to tell the repetitions that somebody else disturbed.

use std::time::Duration;

/// Processor time that the machine has spent on anything, or has been denied by the machine below it. In steps of 10 ms.
pub fn system_busy() -> Duration {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal
    let busy = [0, 1, 2, 5, 6, 7].map(|place| ticks.get(place).copied().unwrap_or(0));
    Duration::from_millis(busy.iter().sum::<u64>() * 10)
}
