//! Deliveries of messages that have waited for a get, or whose sender no thread waits for: the engine decides, under the
//! connection's lock, and they are carried out here.

use fltport_engine::NtStatus;
use fltport_engine::exchange;
use fltport_engine::gets::{Delivery, Gets, Offer, Refusal};
use fltport_engine::wire::MessageHeader;

use super::host::{HostPlane, NoRoom, Published, Reserved};
use super::layout::{self, At, Place};
use super::waiters::Async;
use super::waiting::Ticket;
use crate::body::Body;
use crate::clock;
use crate::driver::Sender;
use crate::driver_plane::Asked;

/// The words of gets, for the engine: none, where there is no memory.
pub(crate) struct Words<'a>(pub(crate) Option<&'a mut HostPlane>);

impl Gets<Body, Sender> for Words<'_> {
    fn deliver(&mut self, get: u64, offer: Offer<Body, Sender>) -> Delivery<Body, Sender> {
        match &mut self.0 {
            Some(plane) => plane.deliver(get, offer),
            None => Delivery::Framed(offer),
        }
    }

    fn refuse(&mut self, get: u64, needed: u32) -> Refusal {
        match &mut self.0 {
            Some(plane) => plane.fail_get(get, NtStatus::BUFFER_TOO_SMALL, needed),
            None => Refusal::Framed,
        }
    }
}

impl HostPlane {
    /// Delivers a message that has waited for a get.
    fn deliver(&mut self, token: u64, mut offer: Offer<Body, Sender>) -> Delivery<Body, Sender> {
        // Before a long message is copied for nothing.
        if !self.is_posted(token) {
            return Delivery::Withdrawn(offer);
        }
        let elsewhere = matches!(offer.sender, Sender::Calls(_));
        let Ok(reserved) = self.reserve(token, offer.body.bytes.len(), offer.reply, elsewhere)
        else {
            return self.deliver_by_frame(token, offer);
        };
        let deadline = clock::absolute(offer.deadline);
        let file = offer.body.attachment.clone();
        let published = self
            .memory
            .publish(&reserved, &offer.body.bytes, deadline, file.is_some());
        if published == Published::Withdrawn {
            self.undo(reserved);
            return Delivery::Withdrawn(offer);
        }
        self.say(reserved.get, token, published);
        if let Some(file) = file {
            self.after.files.push((token, file));
        }
        if let Sender::Waits(slot) = &offer.sender {
            slot.keep(std::mem::take(&mut offer.body.bytes));
        }
        Delivery::Done(self.hand_over(reserved.ticket, offer))
    }

    /// The get is in memory but the message is not, or the other way round.
    fn deliver_by_frame(
        &mut self,
        token: u64,
        offer: Offer<Body, Sender>,
    ) -> Delivery<Body, Sender> {
        let ticket = offer.reply.map(|capacity| self.ticket(capacity));
        let short = matches!(ticket, Some(Err(NoRoom)));
        let ticket = ticket.and_then(Result::ok);
        let header = exchange::header(offer.reply.zip(ticket.as_ref().map(Ticket::id)));
        if let Some(ticket) = &ticket {
            let elsewhere = matches!(offer.sender, Sender::Calls(_));
            self.memory.announce(ticket, elsewhere);
        }
        let Some(get) = layout::get_of(token) else {
            return self.announced(ticket, short, header, offer);
        };
        let known = &mut self.gets[get % layout::GETS];
        known.queued = false;
        let reserved = Reserved {
            get,
            generation: known.generation,
            block: None,
            ticket,
        };
        let at = At::Frame;
        let place = Place { at, file: false };
        let published = self.memory.publish_at(&reserved, 0, place, 0);
        if published == Published::Withdrawn {
            self.undo(reserved);
            return Delivery::Withdrawn(offer);
        }
        self.say(get, token, published);
        self.announced(reserved.ticket, short, header, offer)
    }

    fn announced(
        &mut self,
        ticket: Option<Ticket>,
        short: bool,
        header: MessageHeader,
        mut offer: Offer<Body, Sender>,
    ) -> Delivery<Body, Sender> {
        if short {
            // No waiter is left here: the engine has its own, and the reply comes by a frame.
            return Delivery::Framed(offer);
        }
        let deadline = offer.deadline;
        let body = std::mem::take(&mut offer.body);
        Delivery::Announced {
            header,
            deadline,
            body,
            delivered: self.hand_over(ticket, offer),
        }
    }

    /// From here on the sender waits for its reply. One that wants none comes back.
    fn hand_over(&mut self, ticket: Option<Ticket>, offer: Offer<Body, Sender>) -> Option<Sender> {
        let Some(ticket) = ticket else {
            return Some(offer.sender);
        };
        match offer.sender {
            Sender::Waits(slot) => slot.deliver(Asked {
                ticket,
                awake: false,
            }),
            Sender::Calls(call) => {
                let call = Async::new(call, offer.key, offer.deadline);
                self.waiters.set_call(&ticket, call);
            }
        }
        None
    }
}
