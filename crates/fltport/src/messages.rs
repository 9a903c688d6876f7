//! Messages one after the other, with gets posted ahead, so that the filter finds one for each of several messages at once.

use std::collections::VecDeque;
use std::iter::FusedIterator;

use crate::client::Client;
use crate::error::CallError;
use crate::message::Message;
use crate::posted::PostedGet;

/// The messages of a connection, of [`Client::messages`]. Ends when the connection does.
///
/// What is delivered to it is this thread's to answer: a message that waits in one of its gets behind a slow one is not
/// seen by others. Dropping it withdraws its gets; a message that was on its way goes to another get, or to the next one.
#[derive(Debug)]
#[must_use = "gets are posted while it is used"]
pub struct Messages<'a> {
    client: &'a Client,
    ahead: usize,
    /// In the order of their posting, which is that of their messages: all are of the same size.
    gets: VecDeque<PostedGet>,
    over: bool,
}

impl<'a> Messages<'a> {
    pub(crate) fn new(client: &'a Client, ahead: usize) -> Self {
        let ahead = ahead.max(1);
        Self {
            client,
            ahead,
            gets: VecDeque::with_capacity(ahead),
            over: false,
        }
    }
}

impl Iterator for Messages<'_> {
    type Item = Result<Message, CallError>;

    /// Blocks until a message comes. An error that is not the end of the connection is followed by further messages.
    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        while self.gets.len() < self.ahead {
            self.gets.push_back(self.client.post_whole());
        }
        let message = self.gets.pop_front()?.wait();
        if matches!(message, Err(CallError::Disconnected)) {
            self.over = true;
            self.gets.clear();
            return None;
        }
        Some(message)
    }
}

impl FusedIterator for Messages<'_> {}
