//! The filter's end of one connection, [`Core`] itself, over a link that takes everything; and the client's end of its memory.

use std::sync::{Arc, PoisonError};

use fltport_engine::NtStatus;
use fltport_engine::server::Credentials;
use fltport_engine::wire::{ToClient, ToHost};

use crate::driver::{Core, MessageCall, Outgoing, Owner, Sender};
use crate::driver_plane::Plane;
use crate::link::{HostLink, Sent};
use crate::plane::client::{ClientPlane, Slot, Taken, Tell, Woken};
use crate::plane::host::HostPlane;
use crate::plane::layout::{self, Record, client_word, host_word};
use crate::plane::memory_region::Region;
use crate::plane::replying::Replied;
use crate::plane::waiting::Memory;
use crate::sync::{Instant, Ordering};
use crate::sys::Attachment;
use crate::timer::Timer;
use crate::{ClientPort, Peer, Timeout};

/// What was sent to the client. No checker's lock: it is only taken under that of the core, or when all is over.
#[derive(Clone, Debug, Default)]
pub(super) struct Frames(Arc<std::sync::Mutex<Vec<ToClient>>>);

impl Frames {
    /// What a reply was told.
    pub(super) fn told(&self, number: u64) -> Option<NtStatus> {
        self.find(|frame| match frame {
            ToClient::ReplyDone { reply, status } if *reply == number => Some(*status),
            _ => None,
        })
        .pop()
    }

    /// What there is to say of each frame.
    pub(super) fn find<R>(&self, what: impl Fn(&ToClient) -> Option<R>) -> Vec<R> {
        let frames = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        frames.iter().filter_map(what).collect()
    }
}

#[derive(Debug)]
struct Link(Frames);

impl HostLink for Link {
    fn send(&mut self, head: &[u8], payload: &[u8], _: &[Arc<Attachment>]) -> Sent {
        let packet = [head, payload].concat();
        let frame = ToClient::parse(&packet).unwrap().0;
        let mut frames = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        frames.push(frame);
        Sent::Done
    }

    fn want_writable(&mut self, _: bool) {}

    fn close(&mut self) {}
}

/// A filter without callbacks.
#[derive(Default)]
struct Filter(Timer);

impl Owner for Filter {
    fn run_message(&self, _: Arc<Core>, _: MessageCall) {}
    fn run_disconnect(&self, _: Arc<Core>) {}
    fn notice(&self, _: crate::way::Notice) {}
    fn release_slot(&self) {}
    fn severed(&self, _: &Arc<Core>) {}
    fn ended(&self, _: &Core) {}
    fn timer(&self) -> &Timer {
        &self.0
    }
    fn shares_memory(&self) -> bool {
        false
    }
    fn spins(&self) -> bool {
        false
    }
}

/// A connection, and what its client is sent.
pub(super) fn connected() -> (Arc<Core>, Frames) {
    let frames = Frames::default();
    let peer = Peer {
        pid: 1,
        credentials: Credentials::default(),
        bits: 64,
        #[cfg(target_os = "linux")]
        socket: std::sync::Weak::new(),
    };
    let link = Box::new(Link(frames.clone()));
    let core = Arc::new(Core::new(Arc::<Filter>::default(), link, peer, 1, MOST));
    core.connect_returned(NtStatus::SUCCESS, None);
    (core, frames)
}

/// Bytes of the longest message.
const MOST: u32 = 100;

/// Both ends of a connection that has memory.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    pub(super) core: Arc<Core>,
    pub(super) client: Arc<ClientPlane>,
    pub(super) frames: Frames,
}

impl Ends {
    pub(super) fn new() -> Self {
        let (core, frames) = connected();
        // As far as the first waiters: no model needs more.
        let host = Region::heap(layout::get_word(0) + 4096);
        let client = Region::heap(layout::waiter_word(4));
        use_shared_words(&host, &client);
        let (host_too, client_too) = (host.share(), client.share());
        let plane = HostPlane::over(Memory::new(host, client, false), MOST, 0);
        for waiter in 0..4 {
            plane.memory.quits.take(waiter);
        }
        let first_id = plane.first_id;
        let client = ClientPlane::new(host_too, client_too, first_id, MOST, false);
        let mut inner = core.lock();
        inner.engine.handle_link_matches(layout::FRAMED_IDS);
        core.set_memory(&plane.memory);
        inner.plane = Plane::On(Box::new(plane));
        core.settle(inner);
        let client = Arc::new(client);
        Self {
            core,
            client,
            frames,
        }
    }

    /// The filter's end, as filters have it.
    pub(super) fn port(&self) -> ClientPort {
        ClientPort::new(Arc::clone(&self.core))
    }

    /// Posts a get.
    pub(super) fn post(&self) -> Slot {
        let (slot, tell) = self.client.post(MOST, false).unwrap();
        self.tell(tell);
        slot
    }

    /// What has become of a get.
    pub(super) fn take(&self, slot: Slot) -> Taken {
        self.client.take(slot, MOST)
    }

    /// Waits for the end of a get.
    pub(super) fn wait(&self, slot: Slot) -> Taken {
        self.wait_until(slot, None)
    }

    /// Waits for the end of a get, or `deadline`: then it is withdrawn.
    pub(super) fn wait_until(&self, slot: Slot, deadline: Option<Instant>) -> Taken {
        loop {
            match self.client.wait(slot, deadline) {
                Woken::Over => return self.take(slot),
                Woken::Nudged => {}
                Woken::Late | Woken::Ended => {
                    self.client.withdraw(slot);
                    return self.take(slot);
                }
            }
        }
    }

    /// The next message's number and bytes.
    pub(super) fn next(&self) -> Option<(u64, Vec<u8>)> {
        message(self.wait(self.post()))
    }

    /// Replies through memory.
    pub(super) fn reply(&self, id: u64, bytes: &[u8]) -> NtStatus {
        match self.client.reply(id, NtStatus::SUCCESS, bytes) {
            Replied::Done(status, tell) => {
                self.tell(tell);
                status
            }
            Replied::ByFrame => unreachable!("every reply of these has room"),
        }
    }

    /// Replies by a frame, as `number`.
    pub(super) fn reply_by_frame(&self, number: u64, id: u64, bytes: &[u8]) -> NtStatus {
        let frame = ToHost::Reply {
            reply: number,
            message_id: id,
            status: NtStatus::SUCCESS,
            length: u32::try_from(bytes.len()).unwrap(),
        };
        let core = &self.core;
        core.handle_frame(frame, bytes.to_vec(), None).unwrap();
        self.frames.told(number).unwrap()
    }

    fn tell(&self, tell: Tell) {
        match tell {
            Tell::Nothing => {}
            Tell::Kick => self
                .core
                .handle_frame(ToHost::Kick, Vec::new(), None)
                .unwrap(),
            Tell::Full(_) => unreachable!("no model fills the ring"),
        }
    }

    /// A question that was put before, as its function is told.
    pub(super) fn ask_then(&self, timeout: Timeout, told: impl FnOnce(Answer) + Send + 'static) {
        let message = Outgoing {
            body: crate::body::Body::from_bytes(b"?".to_vec()),
            reply: Some(10),
            timeout,
        };
        self.core.send(message, Sender::Calls(Box::new(told)));
    }
}

/// How a question ended.
pub(super) type Answer = fltport_engine::output::Outcome<crate::body::Body>;

/// The number and the bytes of a message, if that is what was taken.
pub(super) fn message(taken: Taken) -> Option<(u64, Vec<u8>)> {
    match taken {
        Taken::Message {
            header, payload, ..
        } => Some((header.message_id, payload.as_slice().to_vec())),
        _ => None,
    }
}

/// Loom follows a word from its first use on, which is this.
fn use_shared_words(host: &Region, client: &Region) {
    use host_word as h;
    let record = |get| {
        let record = Record::of(get);
        (record.ready()..record.payload() + 8).step_by(8)
    };
    let control = [
        h::ENDED,
        h::READ,
        h::KICK,
        h::HEAD,
        h::HOME,
        h::CORE,
        h::PACE,
    ];
    for offset in control.into_iter().chain(record(0)).chain(record(1)) {
        host.load(offset, Ordering::Relaxed);
    }
    use client_word as c;
    let waiter =
        |waiter| (layout::waiter_word(waiter)..layout::reply_payload(waiter) + 8).step_by(8);
    let gets = (0..layout::GETS).map(layout::get_word);
    let control = [c::PACE, c::LATE, c::HOME, c::CORE].into_iter();
    let ring = (0..4).map(layout::ring_entry);
    for offset in control
        .chain(ring)
        .chain(gets)
        .chain(waiter(1))
        .chain(waiter(2))
    {
        client.load(offset, Ordering::Relaxed);
    }
}

/// Tries a model in all orders, or in all with up to so many preemptions.
#[cfg(loom)]
pub(super) fn check(preemptions: Option<usize>, model: fn()) {
    super::parts::exhaust(preemptions, model);
}

/// Tries a model in drawn orders.
#[cfg(all(shuttle, not(loom)))]
pub(super) fn check(_: Option<usize>, model: fn()) {
    super::scene::explore(model);
}

/// Runs a model with threads of the system, which sleep on its words: for Miri, and for the system's own part.
#[cfg(not(any(loom, shuttle)))]
pub(super) fn check(_: Option<usize>, model: fn()) {
    if crate::sys::fill_memory(&[crate::sync::AtomicU64::new(0)]).is_err() {
        println!("skipped: this system cannot fill memory before it is used (Linux 5.14 can)");
        return;
    }
    for _ in 0..if cfg!(miri) { 1 } else { 200 } {
        model();
    }
}
