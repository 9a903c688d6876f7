//! What is known of the machine, for whoever reads the figures elsewhere.

use std::fs::read_to_string;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The machine, at the start of the run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Of the first core.
    pub model: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// How the clock of the cores is governed.
    pub governor: String,
    /// What an idle core does.
    pub idle: String,
    /// It runs on another machine.
    pub is_virtual: bool,
    /// Seconds since 1970.
    pub started: u64,
}

impl Machine {
    /// Asks the kernel.
    pub fn look() -> Self {
        let processors = read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = processors.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split_once(':'));
            value.map_or("unknown", |(_, value)| value.trim())
        };
        let one_line = |path: &str| read_to_string(path).map(|text| text.trim().to_owned());
        let none = |_| "none".to_owned();
        let started = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            model: field("model name").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: one_line("/proc/sys/kernel/osrelease").unwrap_or_else(none),
            governor: one_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
                .unwrap_or_else(none),
            idle: one_line("/sys/devices/system/cpu/cpuidle/current_driver").unwrap_or_else(none),
            is_virtual: field("flags")
                .split_whitespace()
                .any(|flag| flag == "hypervisor"),
            started: started.map_or(0, |time| time.as_secs()),
        }
    }

    /// One line for tables and charts.
    pub fn line(&self) -> String {
        let kind = if self.is_virtual { ", virtual" } else { "" };
        let kernel = self.kernel.split('-').next().unwrap_or_default();
        format!("{}, {} cores{kind}, Linux {kernel}", self.model, self.cores)
    }

    /// The day of the run.
    pub fn date(&self) -> String {
        let (year, month, day) = civil(self.started / 86_400);
        format!("{year:04}-{month:02}-{day:02}")
    }
}

/// Year, month and day of so many days after the first of 1970.
fn civil(mut days: u64) -> (u64, usize, u64) {
    let leaps =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    while days >= 365 + u64::from(leaps(year)) {
        days -= 365 + u64::from(leaps(year));
        year += 1;
    }
    let february = 28 + u64::from(leaps(year));
    for (month, length) in (1..).zip([31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
        if days < length {
            return (year, month, days + 1);
        }
        days -= length;
    }
    (year, 12, 31)
}

#[cfg(test)]
mod tests {
    use super::civil;

    #[test]
    fn days_have_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_453), (2025, 12, 31));
    }
}
