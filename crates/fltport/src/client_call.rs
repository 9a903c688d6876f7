//! One call of a client's thread or task: where its end is put, and how whoever waits for it is woken.
//!
//! It knows neither the host nor the engine; [`crate::client_driver`] makes calls and ends them.

use std::sync::PoisonError;
use std::task::Waker;
#[cfg(feature = "tokio")]
use std::task::{Context, Poll};
use std::time::Duration;

use fltport_engine::NtStatus;
use fltport_engine::wire::MessageHeader;

use crate::error::CallError;
use crate::payload::Payload;
use crate::sync::thread::{self, Thread};
use crate::sync::{Instant, Mutex, MutexGuard};
use crate::sys::Attachment;

/// A call that somebody waits for.
#[derive(Debug, Default)]
pub(crate) struct Call {
    state: Mutex<CallState>,
}

#[derive(Debug, Default)]
struct CallState {
    ended: Option<Ended>,
    thread: Option<Thread>,
    waker: Option<Waker>,
    /// It has ended, or nobody waits any more: a message that comes all the same is for another get.
    over: bool,
}

/// How a call ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Message(Delivered),
    Done {
        status: NtStatus,
        needed: u32,
        bytes: Vec<u8>,
    },
}

/// A message as it came.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) header: MessageHeader,
    pub(crate) payload: Payload,
    pub(crate) attachment: Option<Attachment>,
    pub(crate) deadline: Option<Until>,
}

/// When the sender of a message stops waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    At(Instant),
    /// On the clock that both sides have, in nanoseconds. Looked at only when somebody asks: a reading of the clock costs as
    /// much as the message.
    Nanos(u64),
}

impl Until {
    pub(crate) fn instant(self) -> Option<Instant> {
        match self {
            Self::At(at) => Some(at),
            Self::Nanos(nanos) => {
                let now = Instant::now();
                let system = crate::clock::system_nanos();
                let passed = Duration::from_nanos(system.saturating_sub(nanos));
                let left = Duration::from_nanos(nanos.saturating_sub(system));
                now.checked_add(left)?.checked_sub(passed)
            }
        }
    }
}

/// Tasks that are to be woken once no lock is held: what a waker does, and who it calls, is not known here.
#[derive(Debug, Default)]
pub(crate) struct Wakes(Vec<Waker>);

impl Wakes {
    pub(crate) fn add(&mut self, waker: Option<Waker>) {
        self.0.extend(waker);
    }

    pub(crate) fn wake(self) {
        self.0.into_iter().for_each(Waker::wake);
    }
}

/// What travels in the client's books.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    pub(crate) bytes: Vec<u8>,
    pub(crate) attachment: Option<Attachment>,
    pub(crate) remaining: Option<Duration>,
}

impl fltport_engine::output::Body for Incoming {
    fn length(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }
}

impl Incoming {
    /// The message, whose deadline begins to run here.
    pub(crate) fn into_delivered(self, header: MessageHeader) -> Delivered {
        let deadline = self
            .remaining
            .and_then(|left| Instant::now().checked_add(left))
            .map(Until::At);
        Delivered {
            header,
            payload: self.bytes.into(),
            attachment: self.attachment,
            deadline,
        }
    }
}

impl Call {
    /// Whether the call has ended, for a task: registers its waker if not.
    #[cfg(feature = "tokio")]
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<Ended> {
        let waker = context.waker().clone();
        let mut state = self.state();
        if let Some(ended) = state.ended.take() {
            return Poll::Ready(ended);
        }
        let before = state.waker.replace(waker);
        drop(state);
        drop(before);
        Poll::Pending
    }

    /// The task that was registered waits no more.
    #[cfg(feature = "tokio")]
    pub(crate) fn forget_waker(&self) {
        let waker = self.state().waker.take();
        drop(waker);
    }

    /// The end of the call, if it has come.
    pub(crate) fn take(&self) -> Option<Ended> {
        self.state().ended.take()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state().ended.is_some()
    }

    /// This thread is to be unparked at the end.
    pub(crate) fn wake_this_thread(&self) {
        self.state().thread = Some(thread::current());
    }

    /// Nobody waits any more. Gives the end, if it came before.
    pub(crate) fn give_up(&self) -> Option<Ended> {
        let mut state = self.state();
        state.over = true;
        state.ended.take()
    }

    /// Ends the call, or gives its end back if it has ended before or nobody waits for it.
    pub(crate) fn finish(&self, ended: Ended) -> Option<Ended> {
        let mut wakes = Wakes::default();
        let refused = self.finish_later(ended, &mut wakes);
        wakes.wake();
        refused
    }

    /// As [`Self::finish`], for whoever holds a lock: the task that waits is still to be woken.
    pub(crate) fn finish_later(&self, ended: Ended, wakes: &mut Wakes) -> Option<Ended> {
        let mut state = self.state();
        if state.over {
            return Some(ended);
        }
        state.over = true;
        state.ended = Some(ended);
        let (thread, waker) = (state.thread.take(), state.waker.take());
        drop(state);
        thread.into_iter().for_each(|thread| thread.unpark());
        wakes.add(waker);
        None
    }

    fn state(&self) -> MutexGuard<'_, CallState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ended {
    /// With this status, and nothing else.
    pub(crate) const fn done(status: NtStatus) -> Self {
        Self::Done {
            status,
            needed: 0,
            bytes: Vec::new(),
        }
    }

    /// The end of a reply.
    pub(crate) fn into_reply(self) -> Result<(), CallError> {
        match self {
            Self::Done {
                status: NtStatus::SUCCESS,
                ..
            } => Ok(()),
            Self::Done {
                status: NtStatus::BUFFER_OVERFLOW,
                ..
            } => Err(CallError::ReplyTooLong),
            Self::Done { status, needed, .. } => Err(CallError::from_status(status, needed)),
            Self::Message(_) => Err(CallError::Disconnected),
        }
    }

    /// The end of a get.
    pub(crate) fn into_message(self) -> Result<Delivered, CallError> {
        match self {
            Self::Message(message) => Ok(message),
            Self::Done { status, needed, .. } => Err(CallError::from_status(status, needed)),
        }
    }
}

#[cfg(all(test, feature = "tokio", not(any(loom, shuttle))))]
mod tests {
    use std::sync::{Arc, Weak};
    use std::task::{Context, Wake, Waker};

    use super::Call;

    struct Looks(Weak<Call>);

    impl Wake for Looks {
        fn wake(self: Arc<Self>) {}
    }

    impl Drop for Looks {
        fn drop(&mut self) {
            self.0.upgrade().into_iter().for_each(|call| {
                assert!(!call.has_ended());
            });
        }
    }

    #[test]
    fn a_waker_that_is_replaced_or_forgotten_may_look_at_its_call() {
        let call = Arc::new(Call::default());
        for _ in 0..2 {
            let waker = Waker::from(Arc::new(Looks(Arc::downgrade(&call))));
            assert!(call.poll(&Context::from_waker(&waker)).is_pending());
        }
        call.forget_waker();
    }
}
