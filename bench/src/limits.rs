//! What the machine itself takes: nobody who hands a message from one process to another is faster. Two processes, as
//! in every other case, and nothing between them but one word of memory, a futex or two eventfds.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};
use fltbench_common::{Answer, Context, Figures, Meter, Other, SharedMap};
use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::futex;

/// Runs the limit that the case names, on the asking side.
pub fn measure(context: &Context) -> Result<Figures> {
    match context.spec.kind.as_str() {
        "limit-spin" => spin(context, 0),
        "limit-copy" => spin(context, context.spec.size),
        "limit-futex" => futex_words(context),
        "limit-eventfd" => eventfds(context),
        "limit-memcpy" => memcpy(context),
        other => bail!("no limit is called {other}"),
    }
}

/// The answering side.
pub fn answer(answer: &Answer) -> Result<()> {
    match answer.spec.kind.as_str() {
        "limit-spin" => spin_answer(answer, 0),
        "limit-copy" => spin_answer(answer, answer.spec.size),
        "limit-futex" => futex_answer(answer),
        "limit-eventfd" => eventfd_answer(),
        other => bail!("no limit is called {other}"),
    }
}

/// The word with the number of the question, and that of its answer.
const TO: usize = 0;
const FROM: usize = 1;

/// Both sides spin on a word. With bytes: each side copies them in and the other side out, four copies in all.
fn spin(context: &Context, size: usize) -> Result<Figures> {
    let map = SharedMap::new(2 * size)?;
    let other = Other::start(&context.spec, &map.path())?;
    let (to, from) = (map.word(TO), map.word(FROM));
    let mut bytes = vec![7; size];
    let mut number = 0u32;
    let mut meter = Meter::new(&context.spec, context.clock, other.pid());
    meter.closed_loop(|| {
        number = number.wrapping_add(1);
        map.copy_in(0, &bytes)?;
        to.store(number, Ordering::Release);
        Meter::spin_until(|| from.load(Ordering::Acquire) == number)?;
        map.copy_out(size, &mut bytes)
    })?;
    meter.finish()
}

fn spin_answer(answer: &Answer, size: usize) -> Result<()> {
    let map = SharedMap::open(Path::new(&answer.endpoint))?;
    let (to, from) = (map.word(TO), map.word(FROM));
    let mut bytes = vec![0; size];
    let mut number = 0u32;
    loop {
        let mut next = number;
        Meter::spin_until(|| {
            next = to.load(Ordering::Acquire);
            next != number
        })?;
        number = next;
        map.copy_out(0, &mut bytes)?;
        map.copy_in(size, &bytes)?;
        from.store(number, Ordering::Release);
    }
}

/// Both sides sleep on a word of memory that the other one changes.
fn futex_words(context: &Context) -> Result<Figures> {
    let map = SharedMap::new(0)?;
    let other = Other::start(&context.spec, &map.path())?;
    let (to, from) = (map.word(TO), map.word(FROM));
    let mut number = 0u32;
    let mut meter = Meter::new(&context.spec, context.clock, other.pid());
    meter.closed_loop(|| {
        let before = number;
        number = number.wrapping_add(1);
        to.store(number, Ordering::Release);
        futex::wake(to, futex::Flags::empty(), 1)?;
        sleep_while(from, before)
    })?;
    meter.finish()
}

fn futex_answer(answer: &Answer) -> Result<()> {
    let map = SharedMap::open(Path::new(&answer.endpoint))?;
    let (to, from) = (map.word(TO), map.word(FROM));
    let mut number = 0u32;
    loop {
        sleep_while(to, number)?;
        number = to.load(Ordering::Acquire);
        from.store(number, Ordering::Release);
        futex::wake(from, futex::Flags::empty(), 1)?;
    }
}

fn sleep_while(word: &AtomicU32, value: u32) -> Result<()> {
    while word.load(Ordering::Acquire) == value {
        match futex::wait(word, futex::Flags::empty(), value, None) {
            Ok(()) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for a futex"),
        }
    }
    Ok(())
}

/// Both sides sleep in a read of an eventfd.
fn eventfds(context: &Context) -> Result<Figures> {
    let (to, from) = (
        eventfd(0, EventfdFlags::CLOEXEC)?,
        eventfd(0, EventfdFlags::CLOEXEC)?,
    );
    let ends = (to.try_clone()?, from.try_clone()?);
    let other = Other::start_with(&context.spec, "", Some(ends.0), Some(ends.1))?;
    let mut value = [0; 8];
    let mut meter = Meter::new(&context.spec, context.clock, other.pid());
    meter.closed_loop(|| {
        rustix::io::write(&to, &1u64.to_ne_bytes())?;
        rustix::io::read(&from, &mut value)?;
        Ok(())
    })?;
    meter.finish()
}

/// Its eventfds are its standard input and output.
fn eventfd_answer() -> Result<()> {
    let (to, from) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    let mut value = [0; 8];
    loop {
        rustix::io::read(to, &mut value)?;
        rustix::io::write(from, &1u64.to_ne_bytes())?;
    }
}

/// One copy of the bytes within this process.
fn memcpy(context: &Context) -> Result<Figures> {
    let map = SharedMap::new(context.spec.size)?;
    let bytes = vec![7; context.spec.size];
    let mut meter = Meter::new(&context.spec, context.clock, None);
    meter.closed_loop(|| map.copy_in(0, &bytes))?;
    meter.finish()
}
