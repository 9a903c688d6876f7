//! Questions through memory allocate nothing once both sides are warm: counted over all threads of a process that has both
//! ends, so the port's own thread and whatever it starts count too.
#![cfg(target_os = "linux")]

mod common;
#[path = "common/memory_count.rs"]
mod memory_count;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::child::alone;
use common::{Handler, Host, LONG, NAME, watchdog_of};
use fltport::{BegunAsk, Client, ClientPort, Message, NtStatus};
use memory_count::{Counting, allocations};

#[global_allocator]
static COUNTING: Counting = Counting;

/// Rounds that are counted, of all senders together.
const ROUNDS: usize = 10_000;

/// How often they are counted at most.
const TURNS: usize = 4;

/// Rounds before that, after which all pages, buffers and lists are as long as they ever get.
const WARM: usize = 2_000;

/// Longest message here: one that has a block of 64 KiB to itself.
const LONGEST: usize = 64 << 10;

/// How messages are taken.
#[derive(Clone, Copy, Debug)]
enum Taking {
    Get,
    Next,
    Ahead(usize),
}

/// One steady state.
#[derive(Clone, Copy, Debug)]
struct Case {
    size: usize,
    spins: bool,
    senders: usize,
    receivers: usize,
    taking: Taking,
    /// Asks that each sender has under way; with one, it asks and waits in one call.
    under_way: usize,
    /// Senders ask when a get is posted, and not before.
    patient: bool,
}

/// One sender, one receiver, one question at a time.
const ONE: Case = Case {
    size: 64,
    spins: true,
    senders: 1,
    receivers: 1,
    taking: Taking::Next,
    under_way: 1,
    patient: false,
};

#[test]
fn questions_one_after_the_other_allocate_nothing() {
    play("questions_one_after_the_other_allocate_nothing", || {
        for taking in [Taking::Get, Taking::Next] {
            each(Case { taking, ..ONE });
        }
    });
}

#[test]
fn sixteen_questions_at_a_time_allocate_nothing() {
    play("sixteen_questions_at_a_time_allocate_nothing", || {
        each(Case {
            taking: Taking::Ahead(16),
            under_way: 16,
            ..ONE
        });
    });
}

#[test]
fn questions_that_find_a_get_allocate_nothing() {
    play("questions_that_find_a_get_allocate_nothing", || {
        for taking in [Taking::Get, Taking::Next, Taking::Ahead(16)] {
            each(Case {
                taking,
                patient: true,
                ..ONE
            });
        }
    });
}

/// With so many gets ahead that each sender finds one.
#[test]
fn two_senders_that_find_gets_allocate_nothing() {
    play("two_senders_that_find_gets_allocate_nothing", || {
        each(Case {
            senders: 2,
            receivers: 2,
            taking: Taking::Ahead(16),
            ..ONE
        });
    });
}

#[test]
fn two_senders_and_two_receivers_allocate_nothing() {
    play("two_senders_and_two_receivers_allocate_nothing", || {
        each(Case {
            senders: 2,
            receivers: 2,
            ..ONE
        });
    });
}

/// Plays in a process where nobody else allocates.
fn play(name: &'static str, cases: impl FnOnce()) {
    let _watchdog = watchdog_of(name, Duration::from_secs(120));
    alone(name, cases);
}

/// Of each size, awake and asleep. All are played before the first that fails is told.
fn each(case: Case) {
    let mut found = Vec::new();
    for size in [64, 4096, LONGEST] {
        for spins in [true, false] {
            let case = Case {
                size,
                spins,
                ..case
            };
            let (count, places) = count(case);
            println!("{count} allocations in {ROUNDS} rounds of {case:?}");
            if count > 0 {
                println!("of the first, these many come from here: {places:#?}");
                found.push((case, count));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// Allocations in the steady state: in the best of a few times so many rounds. What is made when something happens for the first
/// time may be made at any time, such as a thread's place when it has to wait; what messages need is made each time.
fn count(case: Case) -> (usize, BTreeMap<String, usize>) {
    let host = Host::with(Handler::default(), |builder| builder.spin(case.spins));
    let connector = host.connector().spin(case.spins);
    let client = connector.connect(NAME, b"").unwrap();
    let filter = host.log.next_port();
    let gate = Barrier::new(case.senders + 1);
    let over = AtomicBool::new(false);
    let counted = std::thread::scope(|scope| {
        for _ in 0..case.receivers {
            scope.spawn(|| receive(&client, case));
        }
        for _ in 0..case.senders {
            scope.spawn(|| {
                let mut sender = Sender::new(&filter, case);
                sender.ask(WARM / case.senders);
                gate.wait();
                // Only now it counts.
                while !over.load(Ordering::SeqCst) {
                    gate.wait();
                    sender.ask(ROUNDS / case.senders);
                    gate.wait();
                    gate.wait();
                }
            });
        }
        gate.wait();
        let mut least = (usize::MAX, BTreeMap::new());
        for turn in 1..=TURNS {
            let counted = allocations(|| {
                gate.wait();
                gate.wait();
            });
            if counted.0 < least.0 {
                least = counted;
            }
            over.store(least.0 == 0 || turn == TURNS, Ordering::SeqCst);
            gate.wait();
            if over.load(Ordering::SeqCst) {
                break;
            }
        }
        filter.close();
        least
    });
    host.shutdown();
    counted
}

/// Answers each message with as many bytes, until the connection is over.
fn receive(client: &Client, case: Case) {
    let answer = vec![b'a'; case.size];
    let reply = |message: Message| {
        assert_eq!(message.payload().len(), case.size);
        message.reply(&answer).unwrap();
    };
    let size = u32::try_from(case.size + 16).unwrap();
    match case.taking {
        Taking::Get => std::iter::from_fn(|| client.get(size).ok()).for_each(reply),
        Taking::Next => std::iter::from_fn(|| client.next_message().ok()).for_each(reply),
        Taking::Ahead(ahead) => client.messages(ahead).flatten().for_each(reply),
    }
}

/// A thread that asks, and what it needs for that.
struct Sender<'a> {
    filter: &'a ClientPort,
    under_way: usize,
    patient: bool,
    question: Vec<u8>,
    reply: Vec<u8>,
    begun: VecDeque<BegunAsk>,
}

impl<'a> Sender<'a> {
    fn new(filter: &'a ClientPort, case: Case) -> Self {
        Self {
            filter,
            under_way: case.under_way,
            patient: case.patient,
            question: vec![b'q'; case.size],
            reply: vec![0; case.size],
            begun: VecDeque::with_capacity(case.under_way),
        }
    }

    fn ask(&mut self, rounds: usize) {
        let Self {
            filter,
            question,
            reply,
            begun,
            patient,
            ..
        } = self;
        let expected = (NtStatus::SUCCESS, question.len());
        if self.under_way == 1 {
            for _ in 0..rounds {
                while *patient && filter.info().gets == 0 {
                    std::thread::yield_now();
                }
                let answered = filter.ask_into(&*question, reply, LONG).unwrap();
                assert_eq!(answered, expected);
            }
            return;
        }
        let capacity = u32::try_from(reply.len()).unwrap();
        for _ in 0..rounds {
            if begun.len() == self.under_way {
                let answered = begun.pop_front().unwrap().wait_into(reply).unwrap();
                assert_eq!(answered, expected);
            }
            begun.push_back(filter.begin_ask(&*question, capacity, LONG).unwrap());
        }
        for ask in begun.drain(..) {
            assert_eq!(ask.wait_into(reply).unwrap(), expected);
        }
    }
}
