//! Frames of a client that its host has not taken yet, in their order.

use std::collections::VecDeque;
use std::sync::Arc;

use fltport_engine::wire::ToHost;

use crate::frames;
use crate::link::{ClientLink, Sent};

/// What is still to be sent. As long as the host reads, nothing ever is.
#[derive(Debug, Default)]
pub(crate) struct Unsent {
    packets: VecDeque<Waiting>,
    /// The number of the frame that was taken on last.
    last: u64,
}

#[derive(Debug)]
struct Waiting {
    frame: u64,
    /// The get that this packet posts, if that is what it does.
    get: Option<u64>,
    /// It asks the host to look at its memory.
    kick: bool,
    packet: frames::Packet,
    /// None for a frame without payload, for which nothing is made.
    payload: Option<Arc<Vec<u8>>>,
}

impl Unsent {
    /// Takes a frame on, behind those before it.
    pub(crate) fn push(&mut self, frame: &ToHost, payload: Vec<u8>) {
        self.last += 1;
        let get = match frame {
            ToHost::Get { get, .. } => Some(*get),
            _ => None,
        };
        let length = payload.len();
        let payload = (length != 0).then(|| Arc::new(payload));
        for packet in frames::packets(frame, length) {
            self.packets.push_back(Waiting {
                frame: self.last,
                get,
                kick: matches!(frame, ToHost::Kick),
                packet,
                payload: payload.clone(),
            });
        }
    }

    /// Takes a kick on, unless one waits already.
    pub(crate) fn push_kick(&mut self) {
        if !self.packets.iter().any(|waiting| waiting.kick) {
            self.push(&ToHost::Kick, Vec::new());
        }
    }

    /// Sends what the host takes. What came of the last try: `Full` means that the rest waits.
    pub(crate) fn flush(&mut self, link: &dyn ClientLink) -> Sent {
        while let Some(next) = self.packets.front() {
            let payload = next.payload.as_deref().map_or(&[][..], Vec::as_slice);
            let part = payload.get(next.packet.payload.clone());
            match link.send(next.packet.head(), part.unwrap_or_default()) {
                Sent::Done => {
                    self.packets.pop_front();
                }
                Sent::Full => return Sent::Full,
                Sent::Down => {
                    self.packets.clear();
                    return Sent::Down;
                }
            }
        }
        Sent::Done
    }

    /// Takes back the frame that posts a get, if it has not left. The host has never heard of that get then.
    pub(crate) fn take_back(&mut self, get: u64) -> bool {
        let before = self.packets.len();
        self.packets.retain(|waiting| waiting.get != Some(get));
        self.packets.len() < before
    }

    /// The number of the frame that was taken on last.
    pub(crate) const fn last(&self) -> u64 {
        self.last
    }

    /// Whether a frame of this number or one before it waits.
    pub(crate) fn waits(&self, frame: u64) -> bool {
        self.packets
            .front()
            .is_some_and(|waiting| waiting.frame <= frame)
    }
}
