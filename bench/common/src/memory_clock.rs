//! Clocks: the processor's cycle counter for round trips of a hundred nanoseconds, and the processor time of this and
//! of another process.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::Pid;

/// A clock that costs little to read. It counts in ticks of its own.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    ticks_per_nano: f64,
    counter: bool,
}

impl Clock {
    /// The cycle counter where it counts at one speed whatever the core does, or else the system's clock.
    pub fn calibrate() -> Self {
        let counter = cfg!(target_arch = "x86_64")
            && std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| {
                ["constant_tsc", "nonstop_tsc"]
                    .iter()
                    .all(|flag| text.split_whitespace().any(|word| word == *flag))
            });
        let mut clock = Self {
            origin: Instant::now(),
            ticks_per_nano: 1.0,
            counter,
        };
        if counter {
            let (start, ticks) = (Instant::now(), clock.now());
            std::thread::sleep(Duration::from_millis(5));
            let (end, last) = (Instant::now(), clock.now());
            clock.ticks_per_nano = (last - ticks) as f64 / (end - start).as_nanos() as f64;
        }
        clock
    }

    /// The time now, in ticks.
    #[inline]
    pub fn now(&self) -> u64 {
        if self.counter {
            cycles()
        } else {
            self.origin.elapsed().as_nanos() as u64
        }
    }

    /// How many ticks a time is.
    pub fn ticks(&self, time: Duration) -> u64 {
        (time.as_nanos() as f64 * self.ticks_per_nano) as u64
    }

    /// Nanoseconds in one tick.
    pub fn tick_nanos(&self) -> f64 {
        1.0 / self.ticks_per_nano
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn cycles() -> u64 {
    use std::arch::x86_64::{_mm_lfence, _rdtsc};
    // Or the counter is read before the load that the measured operation ends with has its value.
    // SAFETY: every x86-64 has it; it does nothing but wait.
    unsafe { _mm_lfence() };
    // SAFETY: reads a register; every x86-64 has it, and Linux leaves it open to programs.
    unsafe { _rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn cycles() -> u64 {
    0
}

/// Processor time that this process and the other one of the case have used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// Of this process.
    pub host: Duration,
    /// Of the other.
    pub peer: Duration,
}

impl Cpu {
    /// Later than any other.
    pub(crate) const MAX: Self = Self {
        host: Duration::MAX,
        peer: Duration::MAX,
    };

    /// The earlier of each.
    pub(crate) fn min(self, other: Self) -> Self {
        Self {
            host: self.host.min(other.host),
            peer: self.peer.min(other.peer),
        }
    }

    /// The later of each.
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            host: self.host.max(other.host),
            peer: self.peer.max(other.peer),
        }
    }

    /// Reads both clocks.
    ///
    /// # Errors
    ///
    /// When the other process is gone.
    pub fn read(peer: Option<Pid>) -> Result<Self> {
        let host = of_clock(libc::CLOCK_PROCESS_CPUTIME_ID)?;
        let peer = match peer {
            Some(pid) => of_clock(clock_of(pid)?)?,
            None => Duration::ZERO,
        };
        Ok(Self { host, peer })
    }
}

fn clock_of(pid: Pid) -> Result<libc::clockid_t> {
    let mut clock = 0;
    // SAFETY: writes one clockid_t to the place given, which is one.
    let error = unsafe { libc::clock_getcpuclockid(pid.as_raw_nonzero().get(), &raw mut clock) };
    ensure!(error == 0, "the other process is gone");
    Ok(clock)
}

fn of_clock(clock: libc::clockid_t) -> Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes one timespec to the place given, which is one.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    ensure!(result == 0, "the other process is gone");
    Ok(Duration::new(
        u64::try_from(time.tv_sec)?,
        u32::try_from(time.tv_nsec)?,
    ))
}
