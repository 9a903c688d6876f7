//! Messages one after the other, with gets posted ahead, so that the filter finds one for each of several messages at once.

use std::collections::VecDeque;
use std::iter::FusedIterator;

use fltport_engine::limits;

use crate::client::Client;
use crate::error::CallError;
use crate::message::Message;
use crate::plane::layout;
use crate::posted::PostedGet;

/// The messages of a connection, of [`Client::messages`]. Ends when the connection does, after what was delivered before.
///
/// They come in the order in which the filter found these gets for them, and none waits behind a get that is still posted. A
/// message that was on its way to a get which was dropped comes before those that are not delivered yet.
///
/// What is delivered to it is this thread's to answer: a message that waits in one of its gets behind a slow one is not
/// seen by others. Dropping it withdraws its gets; a message that was on its way goes to another get, or to the next one.
#[derive(Debug)]
#[must_use = "gets are posted while it is used"]
pub struct Messages<'a> {
    client: &'a Client,
    ahead: usize,
    /// In the order of their posting, which is that of their messages: all are of the same size, and all are in memory or
    /// all at the host. Between those two there is no order, and whoever waits in one is not woken by the other.
    gets: VecDeque<PostedGet>,
    over: bool,
}

impl<'a> Messages<'a> {
    pub(crate) fn new(client: &'a Client, ahead: usize) -> Self {
        Self {
            client,
            ahead: ahead.clamp(1, limits::GETS_PER_CONNECTION),
            // More than these are rare, and grow it.
            gets: VecDeque::with_capacity(ahead.clamp(1, layout::GETS)),
            over: false,
        }
    }

    /// Posts gets up to the number that was asked for, or as many as can be where the others are.
    fn post(&mut self) {
        while self.gets.len() < self.ahead {
            let Some(get) = self.client.post_behind(self.gets.back(), self.ahead) else {
                return;
            };
            self.gets.push_back(get);
        }
    }
}

impl Iterator for Messages<'_> {
    type Item = Result<Message, CallError>;

    /// Blocks until a message comes. An error that is not the end of the connection is followed by further messages.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if !self.over {
                self.post();
            }
            let message = self.gets.pop_front()?.wait();
            if !matches!(message, Err(CallError::Disconnected)) {
                return Some(message);
            }
            // A sender that was quicker than the one before it may have delivered to one of the others.
            self.over = true;
        }
    }
}

impl FusedIterator for Messages<'_> {}
