//! What the filter sends: questions and messages of all lengths and deadlines, and what each end has to look like.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use fltport::{ClientPort, NtStatus, Outbound, Reply, SendError, Timeout, WallTime, limits};

use crate::bytes::{self, HEAD, Salt};
use crate::life::{End, Life, Send};
use crate::random::Random;
use crate::request::NEGATIVE;
use crate::soak::{Soak, Target};

/// Threads that send; some of them wait for their replies, so there are more than would be needed.
pub(crate) const THREADS: u64 = 16;

/// Files that are attached to messages: their number is their content.
const FILES: u64 = 4;

/// Bytes of each of them.
pub(crate) const FILE_LENGTH: usize = 40_000;

/// Makes the files that are attached.
pub(crate) fn files(soak: &Soak) -> anyhow::Result<Vec<Arc<OwnedFd>>> {
    let file = |number: u64| {
        let path = soak.directory.join(format!("attached-{number}"));
        std::fs::write(&path, bytes::make(Salt::File, number, FILE_LENGTH))?;
        anyhow::Ok(Arc::new(OwnedFd::from(File::open(path)?)))
    };
    (1..=FILES)
        .map(file)
        .collect::<anyhow::Result<_>>()
        .context("cannot make the files to attach")
}

/// Sends until the soak is over, `gap` apart on average.
pub(crate) fn run(soak: &Arc<Soak>, files: &[Arc<OwnedFd>], gap: Duration, mut random: Random) {
    while !soak.over.load(Ordering::SeqCst) {
        // Now and then many at once.
        let burst = if random.per_mille(3) { 40 } else { 1 };
        for _ in 0..burst {
            soak.busy.fetch_add(1, Ordering::SeqCst);
            if !soak.paused.load(Ordering::SeqCst)
                && let Some(target) = soak.target(random.next())
            {
                send(soak, &target, files, &mut random);
            }
            soak.busy.fetch_sub(1, Ordering::SeqCst);
        }
        std::thread::sleep(random.around(gap * burst));
    }
}

/// Asks with a short deadline, from inside a callback.
pub(crate) fn ask_back(soak: &Arc<Soak>, port: &ClientPort, life: &Arc<Life>, random: &mut Random) {
    let mut plan = Plan::draw(random, false);
    plan.set_timeout(Timeout::After(random.millis(1, 50)));
    let message = plan.message(soak);
    let Some(sent) = Sent::begin(soak, life, &plan) else {
        return;
    };
    let result = match plan.reply {
        Some(capacity) => port.ask(&message, capacity, plan.timeout),
        None => port.notify(&message, plan.timeout).map(|()| NO_REPLY),
    };
    sent.end(result);
}

fn send(soak: &Arc<Soak>, target: &Target, files: &[Arc<OwnedFd>], random: &mut Random) {
    let port = &target.port;
    if random.per_mille(1) {
        soak.count("filter: closed a connection");
        target.slot.leave();
        return port.close();
    }
    let waits = random.per_mille(500);
    let mut plan = Plan::draw(random, waits);
    if random.per_mille(30) && plan.length >= HEAD {
        plan.file = random.between(1, FILES + 1);
    }
    let bytes = plan.message(soak);
    let Some(sent) = Sent::begin(soak, &target.life, &plan) else {
        return;
    };
    let mut message = Outbound::new(&bytes);
    let file = usize::try_from(plan.file).unwrap_or(0);
    if let Some(file) = file.checked_sub(1).and_then(|index| files.get(index)) {
        message = message.attach(Arc::clone(file));
    }
    if waits {
        let result = match plan.reply {
            Some(capacity) => port.ask(message, capacity, plan.timeout),
            None => port.notify(message, plan.timeout).map(|()| NO_REPLY),
        };
        return sent.end(result);
    }
    let pending = match plan.reply {
        Some(capacity) => port.ask_then(message, capacity, plan.timeout, |result| sent.end(result)),
        None => port.notify_then(message, plan.timeout, |result| {
            sent.end(result.map(|()| NO_REPLY));
        }),
    };
    if random.per_mille(40) {
        if random.per_mille(500) {
            std::thread::sleep(random.micros(10, 1_000));
        }
        soak.count("filter: cancelled a send");
        pending.cancel();
    }
}

const NO_REPLY: Reply = Reply {
    status: NtStatus::SUCCESS,
    bytes: Vec::new(),
};

/// What is to be sent.
#[derive(Clone, Copy, Debug)]
struct Plan {
    number: u64,
    length: usize,
    file: u64,
    reply: Option<u32>,
    timeout: Timeout,
    limit: Option<Duration>,
}

impl Plan {
    /// `waits`: by a thread, which is not to be held for long.
    fn draw(random: &mut Random, waits: bool) -> Self {
        let mut plan = Self {
            number: 0,
            length: length(random),
            file: 0,
            reply: None,
            timeout: Timeout::Never,
            limit: None,
        };
        if random.per_mille(750) {
            plan.reply = u32::try_from(length(random)).ok();
        }
        if random.per_mille(2) {
            plan.length = limits::MESSAGE_DEFAULT as usize + 1;
        }
        let longer = if waits { 0 } else { 1 };
        plan.set_timeout(
            match random.weighted(&[80, 220, 400, 200, 50, 70 * longer, 30 * longer]) {
                0 => Timeout::poll(),
                1 => Timeout::After(random.micros(100, 5_000)),
                2 => Timeout::After(random.millis(50, 500)),
                3 => Timeout::After(random.millis(500, 2_000)),
                4 => {
                    let now = SystemTime::now().duration_since(UNIX_EPOCH);
                    let wait = random.millis(0, 1_000);
                    Timeout::At(WallTime::from_unix(now.unwrap_or_default() + wait))
                }
                5 => Timeout::After(Duration::from_secs(60)),
                _ => Timeout::Never,
            },
        );
        plan
    }

    fn set_timeout(&mut self, timeout: Timeout) {
        self.timeout = timeout;
        self.limit = match timeout {
            Timeout::After(wait) => Some(wait),
            // The wall clock may be set; what is looked at is that it ends.
            Timeout::At(_) => Some(Duration::from_secs(1)),
            Timeout::Never => None,
        };
    }

    /// Gives it a number, and makes its bytes.
    fn message(&mut self, soak: &Soak) -> Vec<u8> {
        self.number = soak.number();
        bytes::with_head(Salt::Message, self.number, self.file, self.length)
    }
}

fn length(random: &mut Random) -> usize {
    let length = match random.weighted(&[30, 400, 350, 205, 15]) {
        0 => random.below(HEAD as u64),
        1 => random.between(HEAD as u64, 256),
        2 => random.between(256, 4_096),
        3 => random.between(4_096, 65_536),
        _ => random.between(65_536, u64::from(limits::MESSAGE_DEFAULT) + 1),
    };
    usize::try_from(length).unwrap_or(0)
}

/// A send that is written down and has not ended.
struct Sent {
    soak: Arc<Soak>,
    life: Arc<Life>,
    plan: Plan,
}

impl Sent {
    fn begin(soak: &Arc<Soak>, life: &Arc<Life>, plan: &Plan) -> Option<Self> {
        let send = Send {
            started: Instant::now(),
            limit: plan.limit,
            tiny: plan.length < HEAD,
            end: None,
        };
        life.begin(plan.number, send).then(|| Self {
            soak: Arc::clone(soak),
            life: Arc::clone(life),
            plan: *plan,
        })
    }

    fn end(self, result: Result<Reply, SendError>) {
        let Self { soak, life, plan } = &self;
        let timed_out = matches!(result, Err(SendError::TimedOut { .. }));
        let (end, what) = self.judge(result);
        soak.count(what);
        let took = life.end(plan.number, end, soak);
        if let Timeout::After(wait) = plan.timeout
            && timed_out
            && took < wait
        {
            soak.broken(format!(
                "send {} timed out after {took:?} of {wait:?}",
                plan.number
            ));
        }
    }

    /// What the end means for the books; a reply's bytes are looked at here.
    fn judge(&self, result: Result<Reply, SendError>) -> (End, &'static str) {
        let has_had = |delivered| {
            if delivered {
                End::Unanswered
            } else {
                End::Undelivered
            }
        };
        let too_long = self.plan.length > limits::MESSAGE_DEFAULT as usize;
        match result {
            Ok(_) if self.plan.reply.is_none() => (End::Delivered, "filter: message delivered"),
            Ok(reply) => {
                let what = match reply.status {
                    NtStatus::SUCCESS => "filter: question answered",
                    NEGATIVE => "filter: question answered with no",
                    NtStatus::CANCELLED if reply.bytes.is_empty() => "filter: question dropped",
                    other => {
                        self.broken(&format!("was answered with {other}"));
                        "filter: question answered strangely"
                    }
                };
                (End::Replied(self.reply_length(&reply)), what)
            }
            Err(SendError::ReplyTooLong(reply)) => {
                let length = self.reply_length(&reply);
                if Some(length) != self.plan.reply {
                    self.broken(&format!("got a cut reply of {length} bytes"));
                }
                (End::Cut(length), "filter: reply too long")
            }
            Err(SendError::TimedOut { delivered: true }) => {
                (End::Unanswered, "filter: timed out before the reply")
            }
            Err(SendError::TimedOut { delivered: false }) => {
                (End::Undelivered, "filter: timed out before delivery")
            }
            Err(SendError::Disconnected { delivered }) => {
                (has_had(delivered), "filter: send ended by the end")
            }
            Err(SendError::Cancelled { delivered }) => {
                (has_had(delivered), "filter: send ended by cancelling")
            }
            Err(SendError::Refused(NtStatus::INVALID_PARAMETER)) if too_long => {
                (End::Undelivered, "filter: message over the limit")
            }
            Err(other) => {
                self.broken(&format!("ended with {other:?}"));
                (End::Undelivered, "filter: send ended strangely")
            }
        }
    }

    fn reply_length(&self, reply: &Reply) -> u32 {
        let number = if self.plan.length < HEAD {
            0
        } else {
            self.plan.number
        };
        let length = u32::try_from(reply.bytes.len()).unwrap_or(u32::MAX);
        if !bytes::are(Salt::Reply, number, &reply.bytes) || Some(length) > self.plan.reply {
            self.broken(&format!("got {length} bytes that nobody replied"));
        }
        length
    }

    fn broken(&self, what: &str) {
        self.soak
            .broken(format!("send {} {what}: {:?}", self.plan.number, self.plan));
    }
}
