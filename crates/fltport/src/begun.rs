//! Asks that have begun and are waited for later, so that one thread has several under way without a callback.

use std::sync::Arc;

use fltport_engine::NtStatus;
use fltport_engine::output::{Outcome, SendKey};

use crate::body::{Body, Reply};
use crate::client_port::{finish, finish_into};
use crate::clock::Limit;
use crate::driver::Core;
use crate::driver_plane::{Asked, Direct};
use crate::error::SendError;
use crate::slot::{News, Slot};

/// An ask that is under way, of [`crate::ClientPort::begin_ask`]. Its time runs from there: a message that waits for a get is
/// withdrawn when it is over. Once the message is delivered, the time bounds how long [`Self::wait`] waits: a reply that is there
/// by then is taken, also a late one.
///
/// Dropping it gives the ask up, as if its time had run out.
#[derive(Debug)]
#[must_use = "an ask that is dropped is given up"]
pub struct BegunAsk {
    core: Arc<Core>,
    limit: Limit,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// A get has its message.
    Asked(Asked),
    /// Its message waits for a get.
    Waits(Arc<Slot>, SendKey),
    Over,
}

impl BegunAsk {
    pub(crate) fn at_once(core: Arc<Core>, direct: Direct, limit: Limit) -> Self {
        let stage = match direct {
            Direct::Asked(asked) => Stage::Asked(asked),
            // An ask wants a reply, so this does not happen.
            Direct::Delivered => Stage::Over,
        };
        Self { core, limit, stage }
    }

    pub(crate) const fn waiting(
        core: Arc<Core>,
        slot: Arc<Slot>,
        key: SendKey,
        limit: Limit,
    ) -> Self {
        let stage = Stage::Waits(slot, key);
        Self { core, limit, stage }
    }

    /// Waits for the reply, as [`crate::ClientPort::ask`] does.
    ///
    /// # Errors
    /// As [`crate::ClientPort::ask`].
    pub fn wait(mut self) -> Result<Reply, SendError> {
        finish(self.end(None))
    }

    /// As [`Self::wait`], with the reply written to `reply`, as [`crate::ClientPort::ask_into`] does. What does not fit is
    /// lost, if that is shorter than the capacity that was asked for.
    ///
    /// # Errors
    /// As [`crate::ClientPort::ask_into`].
    pub fn wait_into(mut self, reply: &mut [u8]) -> Result<(NtStatus, usize), SendError> {
        let outcome = self.end(Some(&mut *reply));
        finish_into(outcome, reply)
    }

    fn end(&mut self, into: Option<&mut [u8]>) -> Outcome<Body> {
        let asked = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Asked(asked) => asked,
            Stage::Waits(slot, _) => {
                let expire = || self.core.handle_timeout();
                let news = slot.wait(self.limit.deadline(), expire);
                slot.give_back();
                match news {
                    News::Ended(outcome) => return outcome,
                    News::Delivered(asked) => asked,
                }
            }
            // Nobody can wait twice.
            Stage::Over => return Outcome::Cancelled { delivered: false },
        };
        self.core.wait_for_reply(asked, self.limit, into)
    }
}

impl Drop for BegunAsk {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Asked(asked) => self.core.forget_reply(asked),
            Stage::Waits(slot, key) => {
                self.core.cancel(key);
                // It may have been delivered before that.
                if let Some(News::Delivered(asked)) = slot.take() {
                    self.core.forget_reply(asked);
                }
            }
            Stage::Over => {}
        }
    }
}
