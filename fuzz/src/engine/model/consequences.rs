//! What follows by itself from what was done: messages meet gets, requests meet callbacks, frames meet the client, and
//! ends bring other ends about.

use fltport_engine::sim::Bytes;
use fltport_engine::time::{Deadline, Instant};
use fltport_engine::wire::MessageHeader;
use fltport_engine::{NtStatus, WallTime, limits};

use super::{CallEnd, CallKind, ClientPhase, Frame, Meanwhile, Model, Phase, SendEnd, Sender};

impl Model {
    /// Everything that can happen by itself: messages to gets, requests to callbacks, frames to the client.
    pub(super) fn settle(&mut self) {
        while !self.blocked && self.phase == Phase::Connected && self.serve_one() {}
        while !self.blocked
            && self.running.len() < limits::RUNNING_PER_CONNECTION
            && !self.queued.is_empty()
        {
            let request = self.queued.remove(0);
            self.running.push(request);
        }
        while self.reads && !self.pipe.is_empty() {
            let frame = self.pipe.remove(0);
            self.arrives(frame);
        }
    }

    /// The first sender that can be served is; or the first that must tells a get that it is too small.
    fn serve_one(&mut self) -> bool {
        for sender in self.senders.iter_mut().filter(|sender| sender.id.is_none()) {
            let length = u32::try_from(sender.bytes.len()).unwrap_or(u32::MAX);
            let fits = self.gets.iter().position(|(_, size)| *size >= 16 + length);
            if let Some(at) = fits {
                let (get, _) = self.gets.remove(at);
                let header = match sender.reply {
                    None => MessageHeader::new(0, 0),
                    Some(capacity) => {
                        self.ids += 1;
                        MessageHeader::new(capacity + 16, self.ids)
                    }
                };
                let message = CallEnd::Message(header, Bytes(sender.bytes.clone()));
                self.pipe.push(Frame::Ends(get, message));
                self.blocked = !self.reads;
                if sender.reply.is_some() {
                    sender.id = Some(self.ids);
                } else {
                    let name = sender.name;
                    let end = SendEnd {
                        status: NtStatus::SUCCESS,
                        delivered: true,
                        reply: None,
                    };
                    self.senders.retain(|sender| sender.name != name);
                    self.sends_ended.push((name, end));
                }
                return true;
            }
            if !sender.told && !self.gets.is_empty() {
                sender.told = true;
                let (get, _) = self.gets.remove(0);
                let end = CallEnd::Done(NtStatus::BUFFER_TOO_SMALL, 16 + length, None);
                self.pipe.push(Frame::Ends(get, end));
                return true;
            }
        }
        false
    }

    /// Ends every send whose time is over.
    pub(super) fn expire(&mut self) {
        let (nanos, ticks) = (
            Instant::from_nanos(self.nanos),
            WallTime::from_ticks(self.ticks),
        );
        let late = |sender: &Sender| match sender.deadline {
            Deadline::At(at) => at <= nanos,
            Deadline::AtWall(at) => at <= ticks,
            Deadline::Never => false,
        };
        while let Some(at) = self.senders.iter().position(late) {
            self.give_up(at, NtStatus::TIMEOUT);
        }
    }

    /// A sender waits no longer; if its message was taken, the client is told.
    pub(super) fn give_up(&mut self, at: usize, status: NtStatus) {
        let sender = self.senders.remove(at);
        let end = SendEnd {
            status,
            delivered: sender.id.is_some(),
            reply: None,
        };
        self.sends_ended.push((sender.name, end));
        self.pipe.extend(sender.id.map(Frame::Abandoned));
    }

    /// All sends and gets end, and requests whose callbacks have not begun.
    pub(super) fn end_all(&mut self) {
        for sender in std::mem::take(&mut self.senders) {
            let delivered = sender.id.is_some();
            let end = SendEnd {
                status: NtStatus::PORT_DISCONNECTED,
                delivered,
                reply: None,
            };
            self.sends_ended.push((sender.name, end));
        }
        for (get, _) in std::mem::take(&mut self.gets) {
            self.tell(get, NtStatus::PORT_DISCONNECTED);
        }
        for request in std::mem::take(&mut self.queued) {
            self.tell(request.name, NtStatus::PORT_DISCONNECTED);
        }
    }

    /// The client's end is closed: the disconnect callback follows the last message callback.
    pub(super) fn client_gone(&mut self) {
        match self.phase {
            Phase::Connecting(_) if !self.accepted => {
                self.phase = Phase::Connecting(Meanwhile::Closed);
                self.end_all();
            }
            Phase::Connecting(_) | Phase::Connected | Phase::Severed => {
                self.end_all();
                self.phase = Phase::Draining;
                self.notify_when_drained();
            }
            Phase::Draining | Phase::Notifying | Phase::Ended => {}
        }
    }

    pub(super) fn notify_when_drained(&mut self) {
        if self.phase == Phase::Draining && self.running.is_empty() {
            self.phase = Phase::Notifying;
            self.disconnects += 1;
        }
    }

    pub(super) fn release(&mut self) {
        if std::mem::take(&mut self.holds_slot) {
            self.releases += 1;
        }
    }

    /// Says to the client how a call of it ended.
    pub(super) fn tell(&mut self, name: u64, status: NtStatus) {
        self.pipe
            .push(Frame::Ends(name, CallEnd::Done(status, 0, None)));
    }

    /// The client takes a frame off its transport.
    fn arrives(&mut self, frame: Frame) {
        if let Frame::Connected(status) = frame {
            self.connected = Some(status);
            if status == NtStatus::SUCCESS {
                self.client = ClientPhase::Open;
            }
        }
        if matches!(self.client, ClientPhase::Nobody | ClientPhase::Closed) {
            return;
        }
        match frame {
            Frame::Connected(_) => {}
            Frame::Abandoned(id) => self.abandoned.push(id),
            Frame::Disconnected => {
                if self.client == ClientPhase::Open {
                    self.client = ClientPhase::Told;
                }
                let (over, left) = std::mem::take(&mut self.calls)
                    .into_iter()
                    .partition(|(_, kind)| *kind != CallKind::Request);
                self.calls = left;
                let over: Vec<(u64, CallKind)> = over;
                for (name, _) in over {
                    let end = CallEnd::Done(NtStatus::PORT_DISCONNECTED, 0, None);
                    self.calls_ended.push((name, end));
                }
            }
            Frame::Ends(name, end) => {
                if let Some(at) = self.calls.iter().position(|(call, _)| *call == name) {
                    self.calls.remove(at);
                    self.calls_ended.push((name, end));
                }
            }
        }
    }
}
