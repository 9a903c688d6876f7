//! The order of events in a measurement of memory: the other process is told when to make its connections, and says
//! when it has them.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Result, ensure};
use fltbench_common::{Answer, Context, Figures, Other, memory_kib};
use rustix::pipe::{PipeFlags, pipe_with};

/// The asking side's ends of the other process's standard input and output.
pub struct Gate {
    tell: OwnedFd,
    told: OwnedFd,
}

impl Gate {
    /// Starts the other process with this gate.
    fn start(context: &Context, endpoint: &str) -> Result<(Other, Self)> {
        let (input, tell) = pipe_with(PipeFlags::CLOEXEC)?;
        let (told, output) = pipe_with(PipeFlags::CLOEXEC)?;
        let other = Other::start_with(&context.spec, endpoint, Some(input), Some(output))?;
        Ok((other, Self { tell, told }))
    }

    fn wait(&self) -> Result<()> {
        ensure!(
            rustix::io::read(&self.told, &mut [0; 1])? == 1,
            "the other process is gone"
        );
        Ok(())
    }

    /// In the other process: makes one connection at once, the case's number of them when told to, and keeps them.
    pub fn hold<T>(answer: &Answer, mut make: impl FnMut(usize) -> Result<T>) -> Result<()> {
        let mut held = vec![make(0)?];
        loop {
            rustix::io::write(rustix::stdio::stdout(), &[1])?;
            if rustix::io::read(rustix::stdio::stdin(), &mut [0; 1])? == 0 {
                return Ok(());
            }
            for number in 1..=answer.spec.window {
                held.push(make(number)?);
            }
        }
    }
}

/// Measures what the connections of the case take; `accept` is called for each, on this side.
pub fn idle_connections(
    context: &Context,
    endpoint: &str,
    mut accept: impl FnMut(usize) -> Result<()>,
) -> Result<Figures> {
    let settle = || std::thread::sleep(Duration::from_millis(100));
    let (other, gate) = Gate::start(context, endpoint)?;
    accept(0)?;
    gate.wait()?;
    settle();
    let before = memory_kib(other.pid())?;
    rustix::io::write(&gate.tell, &[1])?;
    for number in 1..=context.spec.window {
        accept(number)?;
    }
    gate.wait()?;
    settle();
    let after = memory_kib(other.pid())?;
    let each = (after - before) / context.spec.window as f64;
    Ok(Figures::only("kib_per_connection", each))
}
