//! Several threads that ask over one SOCK_SEQPACKET, and several that answer: replies are handed to whoever asked by one
//! more thread, as a library over a socket does it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::Thread;

use anyhow::{Context as _, Result, ensure};
use fltbench_common::{Answer, Context, Figures, Meter};
use rustix::net::{Shutdown, SocketType, shutdown};

use crate::raw::{join, receive_all, send_all, start};

/// Where a sender waits for its reply.
#[derive(Default)]
struct Slot {
    thread: OnceLock<Thread>,
    answered: AtomicBool,
    reply: Mutex<Vec<u8>>,
}

/// Every sender asks and waits.
pub fn measure(context: &Context) -> Result<Figures> {
    let spec = &context.spec;
    let (other, socket) = start(context, SocketType::SEQPACKET)?;
    let slots: Vec<Slot> = (0..spec.senders).map(|_| Slot::default()).collect();
    let (socket, slots) = (&socket, slots.as_slice());
    std::thread::scope(|scope| {
        scope.spawn(move || hand_out(socket, slots, spec.size));
        let figures = Meter::threads(spec, context.clock, other.pid(), |sender| {
            let mut question = vec![7; spec.size];
            let number = u32::try_from(sender)?.to_le_bytes();
            let place = question.get_mut(..4).context("a question too short")?;
            place.copy_from_slice(&number);
            let slot = slots.get(sender).context("no such sender")?;
            let mut reply = Vec::with_capacity(spec.size);
            Ok(move || {
                slot.thread.get_or_init(std::thread::current);
                slot.answered.store(false, Ordering::Relaxed);
                send_all(socket, &question)?;
                while !slot.answered.load(Ordering::Acquire) {
                    std::thread::park();
                }
                let mut place = slot.reply.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::swap(&mut reply, &mut place);
                ensure!(reply.len() == spec.size, "a reply too short");
                Ok(())
            })
        });
        // Ends the thread that reads, which the scope waits for.
        shutdown(socket, Shutdown::Both)?;
        figures
    })
}

/// The demultiplexer.
fn hand_out(socket: &rustix::fd::OwnedFd, slots: &[Slot], size: usize) {
    let mut bytes = vec![0; size];
    while receive_all(socket, &mut bytes).is_ok() {
        let number = bytes
            .first_chunk()
            .map_or(0, |word| u32::from_le_bytes(*word));
        let Some(slot) = slots.get(number as usize) else {
            return;
        };
        let mut reply = slot.reply.lock().unwrap_or_else(PoisonError::into_inner);
        reply.clear();
        reply.extend_from_slice(&bytes);
        drop(reply);
        slot.answered.store(true, Ordering::Release);
        if let Some(thread) = slot.thread.get() {
            thread.unpark();
        }
    }
}

/// All receiving threads share the socket.
pub fn answer(answer: &Answer) -> Result<()> {
    let socket = join(answer, SocketType::SEQPACKET)?;
    let echo = || -> Result<()> {
        let mut bytes = vec![0; answer.spec.size];
        loop {
            receive_all(&socket, &mut bytes)?;
            send_all(&socket, &bytes)?;
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..answer.spec.receivers {
            scope.spawn(echo);
        }
        echo()
    })
}
