//! The contract between the driver and whatever carries frames: a socket, or queues in memory.
//!
//! A link carries packets in order and whole, or it is down. It never blocks the host: what does not fit is kept by
//! [`Outbox`] and the engine is told to hand out nothing more. It knows no rules of ports. A data plane in shared memory
//! takes the questions (gets, messages, replies) away from the link; handshake, requests, attachments and the end of
//! the connection stay here.

use std::collections::VecDeque;
use std::sync::Arc;

use fltport_engine::wire::ToClient;

use crate::body::Caller;
use crate::frames;
use crate::sync::Instant;
use crate::sys::Attachment;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is with the peer.
    Done,
    /// The peer has to read first.
    Full,
    /// The peer is gone.
    Down,
}

/// The host's way to one client.
pub(crate) trait HostLink: Send + std::fmt::Debug {
    /// Sends one packet, or says that it cannot be sent now. Never blocks.
    fn send(&mut self, head: &[u8], payload: &[u8], files: &[Arc<Attachment>]) -> Sent;
    /// Asks to be told, by a call of the driver's `handle_writable`, when a packet fits again.
    fn want_writable(&mut self, wanted: bool);
    /// Ends the link. What was sent can still be read by the peer.
    fn close(&mut self);
}

/// One packet as it came.
#[derive(Debug)]
pub(crate) struct Packet {
    /// Bytes of the buffer that it fills.
    pub(crate) length: usize,
    /// Who sent it, where the link knows.
    pub(crate) caller: Option<Caller>,
    /// The open files that came with it.
    pub(crate) files: Vec<Attachment>,
}

/// What a look at a link gives.
#[derive(Debug)]
pub(crate) enum Received {
    /// A packet.
    Packet(Packet),
    /// Nothing for now.
    Empty,
    /// The other side is gone, or sent what no peer of this protocol sends.
    Down,
}

/// A client's way to its host.
pub(crate) trait ClientLink: Send + Sync + std::fmt::Debug {
    /// Sends one packet, or says that it cannot be sent now. Never blocks.
    fn send(&self, head: &[u8], payload: &[u8]) -> Sent;
    /// Takes one packet into `buffer`. Never blocks.
    fn receive(&self, buffer: &mut [u8]) -> Received;
    /// Waits until there is something to take, or room to send if `writing`, or `deadline`. `false`: nothing happened.
    fn wait(&self, writing: bool, deadline: Option<Instant>) -> bool;
    /// Ends the link.
    fn close(&self);
    /// Whether descriptors of memory can come with a packet.
    fn carries_memory(&self) -> bool;
    /// What to poll for something to take.
    #[cfg(target_os = "linux")]
    fn descriptor(&self) -> std::os::fd::BorrowedFd<'_>;
}

/// What waits to be sent to one client: at most one message, and the short answers to what it asked before.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// `None` once it is closed: an ended connection keeps no descriptor, however long its filter remembers it.
    link: Option<Box<dyn HostLink>>,
    waiting: VecDeque<Waiting>,
    /// To be closed once nothing waits.
    closing: bool,
}

#[derive(Debug)]
struct Waiting {
    packet: frames::Packet,
    payload: Arc<Vec<u8>>,
    files: Vec<Arc<Attachment>>,
}

impl Outbox {
    pub(crate) fn new(link: Box<dyn HostLink>) -> Self {
        Self {
            link: Some(link),
            waiting: VecDeque::new(),
            closing: false,
        }
    }

    /// Sends a frame as far as possible. `false`: nothing more until the link is writable.
    pub(crate) fn send(
        &mut self,
        frame: &ToClient,
        payload: Vec<u8>,
        files: Vec<Arc<Attachment>>,
    ) -> bool {
        if self.link.is_none() || self.closing {
            return true;
        }
        let payload = Arc::new(payload);
        let mut files = files;
        for packet in frames::packets(frame, payload.len()) {
            let waiting = Waiting {
                packet,
                payload: Arc::clone(&payload),
                files: std::mem::take(&mut files),
            };
            self.waiting.push_back(waiting);
        }
        self.flush()
    }

    /// The link can take packets again. `false`: still not all.
    pub(crate) fn handle_writable(&mut self) -> bool {
        let empty = self.flush();
        if let Some(link) = self.link.as_mut().filter(|_| empty) {
            link.want_writable(false);
        }
        empty
    }

    /// Sends what waits. `false`: nothing more until the link is writable.
    fn flush(&mut self) -> bool {
        let Some(link) = &mut self.link else {
            return true;
        };
        while let Some(next) = self.waiting.front() {
            let payload = next
                .payload
                .get(next.packet.payload.clone())
                .unwrap_or_default();
            match link.send(next.packet.head(), payload, &next.files) {
                Sent::Done => {
                    self.waiting.pop_front();
                }
                Sent::Full => {
                    link.want_writable(true);
                    return false;
                }
                // Also one that closed only its reading half. What it sent is still read, then the connection ends.
                Sent::Down => {
                    self.close_now();
                    return true;
                }
            }
        }
        if self.closing {
            self.close_now();
        }
        true
    }

    /// Whether something waits: then the peer is not read either, so that it cannot make more wait.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Closes the link once what waits is sent: it was promised. Nothing more is taken.
    pub(crate) fn close(&mut self) {
        self.closing = true;
        self.flush();
    }

    /// Closes the link whatever waits.
    pub(crate) fn close_now(&mut self) {
        self.waiting.clear();
        if let Some(mut link) = self.link.take() {
            link.close();
        }
    }
}
