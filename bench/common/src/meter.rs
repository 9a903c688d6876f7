//! Counts what a closed loop does: first nothing, while the caches warm up, then everything for the measured time.

use std::collections::VecDeque;
use std::sync::{Barrier, OnceLock};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use rustix::process::Pid;

use crate::{Clock, Cpu, Figures, Histogram, PATIENCE, Spec};

/// The times of one loop.
#[derive(Clone, Debug)]
pub struct Meter {
    clock: Clock,
    warm_end: u64,
    end: u64,
    gap: Duration,
    histogram: Histogram,
    running: Option<(u64, Cpu)>,
    last: u64,
    peer: Option<Pid>,
}

impl Meter {
    /// One that starts its warm-up now. `peer` is the other process, whose processor time counts too.
    pub fn new(spec: &Spec, clock: Clock, peer: Option<Pid>) -> Self {
        let warm_end = clock.now() + clock.ticks(spec.warm_time());
        Self {
            clock,
            warm_end,
            end: warm_end + clock.ticks(spec.measured_time()),
            gap: Duration::from_micros(spec.gap),
            histogram: Histogram::new(),
            running: None,
            last: 0,
            peer,
        }
    }

    /// The time now.
    #[inline]
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Counts one operation; says whether there is time for more.
    #[inline]
    pub fn record(&mut self, begin: u64, end: u64) -> bool {
        if self.running.is_some() {
            self.histogram.record(end.saturating_sub(begin));
            self.last = end;
            return end < self.end;
        }
        self.wait_or_start(end)
    }

    /// The operation during which the warm-up ends is not counted.
    #[cold]
    fn wait_or_start(&mut self, end: u64) -> bool {
        if end >= self.warm_end {
            let cpu = Cpu::read(self.peer).unwrap_or_default();
            self.running = Some((self.now(), cpu));
        }
        true
    }

    /// Does `operation` again and again, for as long as the case lasts; a pause between them if the case has one. What it
    /// results in is dropped after the time is taken.
    ///
    /// # Errors
    ///
    /// The operation's.
    pub fn closed_loop<T>(&mut self, mut operation: impl FnMut() -> Result<T>) -> Result<()> {
        loop {
            if !self.gap.is_zero() {
                std::thread::sleep(self.gap);
            }
            let begin = self.now();
            let result = operation()?;
            let end = self.now();
            if !self.record(begin, end) {
                return Ok(());
            }
            drop(result);
        }
    }

    /// Keeps `window` questions in flight; answers come in the order of the questions.
    ///
    /// # Errors
    ///
    /// Those of asking and of waiting for an answer.
    pub fn windowed<T>(
        &mut self,
        window: usize,
        mut ask: impl FnMut() -> Result<T>,
        mut answered: impl FnMut(T) -> Result<()>,
    ) -> Result<()> {
        if window == 1 {
            return self.closed_loop(|| answered(ask()?));
        }
        let mut asked = VecDeque::with_capacity(window);
        for _ in 0..window {
            asked.push_back((self.now(), ask()?));
        }
        while let Some((begin, question)) = asked.pop_front() {
            answered(question)?;
            let end = self.now();
            if !self.record(begin, end) {
                break;
            }
            asked.push_back((end, ask()?));
        }
        Ok(())
    }

    /// What was measured.
    ///
    /// # Errors
    ///
    /// When nothing was, or the other process is gone.
    pub fn finish(self) -> Result<Figures> {
        let (start, before) = self.running.ok_or_else(|| anyhow!("nothing finished"))?;
        let after = Cpu::read(self.peer)?;
        self.figures(start, before, after)
    }

    fn figures(self, start: u64, before: Cpu, after: Cpu) -> Result<Figures> {
        ensure!(self.histogram.total() > 0, "nothing finished after warm-up");
        let nanos = self.last.saturating_sub(start) as f64 * self.clock.tick_nanos();
        Ok(Figures {
            messages: self.histogram.total(),
            histogram: self.histogram,
            tick_nanos: self.clock.tick_nanos(),
            elapsed: Duration::from_nanos(nanos as u64),
            host_cpu: after.host.saturating_sub(before.host),
            peer_cpu: after.peer.saturating_sub(before.peer),
            extra: Vec::new(),
        })
    }

    /// Several threads that each do an operation of their own again and again; `make` is given the thread's number.
    ///
    /// # Errors
    ///
    /// The operations', or as [`Self::finish`].
    pub fn threads<F: FnMut() -> Result<()>>(
        spec: &Spec,
        clock: Clock,
        peer: Option<Pid>,
        make: impl Fn(usize) -> Result<F> + Sync,
    ) -> Result<Figures> {
        if spec.senders == 1 {
            let mut operation = make(0)?;
            let mut meter = Self::new(spec, clock, peer);
            meter.closed_loop(&mut operation)?;
            return meter.finish();
        }
        // All threads must be there before the common time starts: this one lets them go.
        let (ready, go) = (
            Barrier::new(spec.senders + 1),
            Barrier::new(spec.senders + 1),
        );
        let common = OnceLock::new();
        std::thread::scope(|scope| {
            let (ready, go, make, common) = (&ready, &go, &make, &common);
            let one = move |thread| {
                let operation = make(thread);
                ready.wait();
                go.wait();
                let mut meter: Self = common.get().cloned().ok_or_else(|| anyhow!("no time"))?;
                meter.closed_loop(operation?)?;
                let (_, before) = meter.running.ok_or_else(|| anyhow!("nothing finished"))?;
                anyhow::Ok((meter.histogram, meter.last, before, Cpu::read(peer)?))
            };
            let threads: Vec<_> = (0..spec.senders)
                .map(|thread| scope.spawn(move || one(thread)))
                .collect();
            ready.wait();
            let mut all = Self::new(spec, clock, peer);
            common.get_or_init(|| all.clone());
            go.wait();
            // This thread sleeps: where the cores are full, it would be late to read any clock.
            let (mut before, mut after) = (Cpu::MAX, Cpu::default());
            for thread in threads {
                let end = thread.join().map_err(|_| anyhow!("a sender panicked"))??;
                let (histogram, last, started, ended) = end;
                all.histogram.merge(&histogram);
                all.last = all.last.max(last);
                before = before.min(started);
                after = after.max(ended);
            }
            let start = all.warm_end;
            all.figures(start, before, after)
        })
    }

    /// Spins until `done` says so, but not for ever.
    ///
    /// # Errors
    ///
    /// When the other side does nothing for [`PATIENCE`].
    #[inline]
    pub fn spin_until(mut done: impl FnMut() -> bool) -> Result<()> {
        for _ in 0..1 << 14 {
            if done() {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        let start = std::time::Instant::now();
        loop {
            for _ in 0..1 << 14 {
                if done() {
                    return Ok(());
                }
                std::hint::spin_loop();
            }
            ensure!(start.elapsed() < PATIENCE, "the other side does not answer");
        }
    }
}
