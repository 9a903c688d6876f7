//! A quiet point: all clients ended, all connections over. Everything has to be back where it began.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::crew::Crew;
use crate::host::Host;
use crate::process::Usage;
use crate::sample::Quiet;
use crate::soak::{Soak, TOLERANCE};

/// What the host has before it has a port, and with a port that nobody is connected to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Baseline {
    pub(crate) without: Usage,
    pub(crate) with: Usage,
}

/// How much memory the host may have over that of its first quiet point.
const MEMORY_BOUND: u64 = 24 << 20;

/// How much more the last third of the quiet points may have than the first, on average.
const MEMORY_TREND: u64 = 4 << 20;

/// Quiet points before a trend can be seen.
const TREND_FROM: usize = 9;

/// The timer of a port, made with the first send that has a deadline and no thread.
const TIMER: usize = 1;

/// How long threads of callbacks stay after their last, at most.
const LINGER: Duration = Duration::from_secs(5);

/// Ends all clients, then the ports, and looks at what is left. Gives the memory, if all went well.
pub(crate) fn point(
    soak: &Soak,
    crew: &mut Crew,
    hosts: Vec<Host>,
    baseline: &Baseline,
) -> anyhow::Result<Option<Quiet>> {
    soak.step("ending the senders");
    soak.paused.store(true, Ordering::SeqCst);
    wait(soak, crew, |_| soak.busy.load(Ordering::SeqCst) == 0)?
        .unless(|| soak.broken("a sender's thread does not come back".into()));
    soak.step("ending the clients");
    crew.dismiss();
    wait(soak, crew, Crew::is_gone)?
        .unless(|| soak.broken(format!("clients do not end: {}", crew.describe())));
    soak.step("ending the connections");
    let settled = |host: &Host| {
        let (accepted, ended, live) = host.tally.read();
        accepted == ended && live == 0 && host.port.connections().is_empty()
    };
    wait(soak, crew, |_| hosts.iter().all(settled))?.unless(|| {
        soak.broken(format!("connections of nobody are left: {hosts:?}"));
    });
    soak.step("looking at descriptors and threads");
    // Ports that were closed have no listener any more.
    let most_threads = baseline.with.threads + (hosts.len() - 1) + hosts.len() * TIMER;
    let slack = 2 * (hosts.len() - 1);
    usage(soak, crew, "with a port", |now| {
        now.descriptors <= baseline.with.descriptors + slack && now.threads <= most_threads
    })?;
    soak.step("shutting down");
    for host in hosts {
        host.shutdown(soak);
    }
    let before = baseline.without;
    let now = usage(soak, crew, "without a port", |now| {
        now.descriptors == before.descriptors && now.threads == before.threads
    })?;
    Ok((!soak.is_broken()).then(|| Quiet {
        at: soak.started.elapsed(),
        memory: now.memory,
    }))
}

/// Whether the host keeps more and more.
pub(crate) fn look_at_memory(soak: &Soak, quiet: &[Quiet]) {
    let Some(first) = quiet.first() else { return };
    for point in quiet {
        if point.memory > first.memory + MEMORY_BOUND {
            soak.broken(format!(
                "{} bytes of memory at a quiet point, {} at the first",
                point.memory, first.memory
            ));
        }
    }
    if quiet.len() < TREND_FROM {
        return;
    }
    let third = quiet.len() / 3;
    let mean = |points: &[Quiet]| {
        points.iter().map(|point| point.memory).sum::<u64>() / points.len().max(1) as u64
    };
    let (early, late) = (mean(&quiet[..third]), mean(&quiet[quiet.len() - third..]));
    if late > early + MEMORY_TREND {
        soak.broken(format!(
            "memory grows: {early} bytes in the first third of the quiet points, {late} in the last"
        ));
    }
}

fn usage(
    soak: &Soak,
    crew: &mut Crew,
    when: &str,
    fine: impl Fn(&Usage) -> bool,
) -> anyhow::Result<Usage> {
    let mut last = Usage::now()?;
    let came = wait(soak, crew, |_| {
        last = Usage::now().unwrap_or(last);
        fine(&last)
    })?;
    came.unless(|| {
        soak.broken(format!(
            "at a quiet point {when} the host is left with {last:?}"
        ))
    });
    Ok(last)
}

struct Came(bool);

impl Came {
    fn unless(&self, not: impl FnOnce()) {
        if !self.0 {
            not();
        }
    }
}

/// Waits until `holds`, or longer than anything may take.
fn wait(
    soak: &Soak,
    crew: &mut Crew,
    mut holds: impl FnMut(&Crew) -> bool,
) -> anyhow::Result<Came> {
    let end = Instant::now() + TOLERANCE + LINGER + Duration::from_secs(5);
    while Instant::now() < end {
        crew.tend()?;
        for life in soak.lives() {
            life.look(soak);
        }
        if holds(crew) {
            return Ok(Came(true));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(Came(false))
}
