//! Races that a client can win: with the lock released, with the socket full, with words that never stand still.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fltport::{Outbound, Timeout};
use fltport_engine::wire::ToHost;

use super::common::memory_layout as layout;
use super::common::memory_raw::Memory;
use super::common::random::Random;
use super::common::raw::Raw;
use super::common::stage::Stage;
use super::common::{Handler, Host, LIMIT, watchdog_of};
use super::memory::check;

/// How long a client keeps at it.
const WHILE: Duration = Duration::from_secs(1);

/// Longer than any end may take on a loaded machine, and shorter than what a hang is.
const SOON: Duration = Duration::from_secs(3);

/// More than a ring for each get.
const MANY: u64 = 16 * layout::RING;

#[test]
fn gets_that_are_in_the_ring_and_never_posted_keep_no_sender_beyond_its_deadline() {
    let _watchdog = watchdog_of("gets_that_are_never_posted", Duration::from_secs(60));
    let stage = Stage::new(&[]);
    for question in ["each 8 100", "each 1000000 100"].repeat(3) {
        let memory = Memory::at(stage.directory());
        let fill = || {
            let head = memory.host.load(layout::HEAD);
            for number in head..head + 16 {
                let entry = layout::numbered(layout::posted(number % 64, 1 << 20), number);
                memory.client.store(layout::ring_entry(number), entry);
            }
        };
        // From the first look on.
        fill();
        let over = AtomicBool::new(false);
        let asked = Instant::now();
        let (took, seen) = std::thread::scope(|scope| {
            // One of them is always awake.
            for _ in 0..3 {
                scope.spawn(|| {
                    while !over.load(Ordering::SeqCst) && asked.elapsed() < SOON {
                        fill();
                    }
                });
            }
            let asked = Instant::now();
            let ended = stage.ask(question);
            let took = asked.elapsed();
            let seen = memory.host.load(layout::HEAD);
            println!("{question}: {ended} after {took:?}, {seen} entries");
            over.store(true, Ordering::SeqCst);
            (took, seen)
        });
        // A sender looks at each get once, perhaps, and then waits as everybody does.
        assert!(
            took < SOON && seen < MANY,
            "{question}: {took:?}, {seen} entries"
        );
        stage.assert_serves();
        drop(memory);
        check(&stage, question);
    }
}

#[test]
fn nonsense_in_the_ring_ends_the_connection_whoever_finds_it() {
    let _watchdog = watchdog_of("nonsense_in_the_ring", Duration::from_secs(60));
    let stage = Stage::new(&[]);
    for finder in ["each 8 50", "each-then 8 50", "each-info"] {
        let mut memory = Memory::at(stage.directory());
        memory.push(64);
        stage.ask(finder);
        // Whoever comes next acts on it.
        let lives = memory.answer(1, "who").is_some();
        assert!(!lives, "{finder}: the lie is forgotten");
        check(&stage, finder);
    }
}

#[test]
fn a_client_that_reads_no_frames_makes_the_host_keep_no_files() {
    let _watchdog = watchdog_of("a_client_that_reads_no_frames", Duration::from_secs(60));
    let stage = Stage::new(&[]);
    for (what, marks) in [("files", 0), ("files and bells", layout::BELL)] {
        let mut memory = Memory::at(stage.directory());
        let over = AtomicBool::new(false);
        let most = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    for get in 0..layout::GETS {
                        let word = memory.client.load(layout::get_word(get));
                        if word & 7 != layout::POSTED {
                            memory.post_sized(get, 4096, marks);
                        }
                    }
                    std::thread::yield_now();
                }
            });
            let mut most = 0;
            for _ in 0..20 {
                stage.ask("each-files 100 20");
                most = most.max(stage.look().descriptors);
            }
            over.store(true, Ordering::SeqCst);
            most
        });
        assert!(
            most < stage.before().descriptors + 100,
            "{what}: {most} descriptors at the host"
        );
        drop(memory);
        check(&stage, what);
    }
}

#[test]
fn a_number_of_late_replies_is_the_clients_and_adds_up_to_nothing_bad() {
    let _watchdog = watchdog_of("a_number_of_late_replies", Duration::from_secs(60));
    let stage = Stage::new(&[]);
    let memory = Memory::at(stage.directory());
    let nobody = ToHost::Reply {
        reply: 1,
        // The engine's own count.
        message_id: u64::MAX,
        status: fltport::NtStatus::SUCCESS,
        length: 0,
    };
    assert!(memory.raw.frame(&nobody, b""));
    memory.client.store(layout::LATE, u64::MAX);
    let told = memory.answer(1, "info").unwrap();
    // What it says is cut to what this client takes.
    assert!(
        told.starts_with("ConnectionInfo"),
        "the callback panicked: {told}"
    );
    drop(memory);
    check(&stage, "late replies");
}

/// A client may withdraw a get, and post it again, while the host writes a message for it. What it is given afterwards is
/// whole: the memory of a message is nobody else's until it was taken.
#[test]
fn messages_are_whole_although_gets_are_withdrawn_and_posted_again() {
    let _watchdog = watchdog_of("messages_are_whole", Duration::from_secs(60));
    const LENGTH: usize = 60_000;
    const GETS: usize = 16;
    let host = Host::with(Handler::default(), |builder| builder);
    let mut memory = Memory::of(Raw::greeted(&host)).unwrap();
    let filter = host.log.next_port();
    let over = AtomicBool::new(false);
    let (mut whole, mut withdrawn) = (0, 0);
    std::thread::scope(|scope| {
        for byte in 1..4 {
            let (filter, over) = (&filter, &over);
            scope.spawn(move || {
                let bytes = vec![byte; LENGTH];
                while !over.load(Ordering::SeqCst) {
                    let message = Outbound::new(&bytes);
                    filter.notify(message, Timeout::after(SOON)).ok();
                }
            });
        }
        let mut random = Random::new();
        let end = Instant::now() + WHILE;
        let mut torn = None;
        // So many that no sender waits for one: it takes one at once.
        (0..GETS).for_each(|get| memory.post_sized(get, 1 << 20, 0));
        while Instant::now() < end && torn.is_none() {
            let get = random.below(GETS);
            let posted = layout::word(layout::POSTED, memory.generations[get]);
            let cancelled = layout::word(layout::CANCELLED, memory.generations[get]);
            let word = memory.client.word(layout::get_word(get));
            if word
                .compare_exchange(posted, cancelled, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
            {
                withdrawn += 1;
            } else {
                // What is in it is this side's until it is posted again.
                let (at, length) = memory.place(get);
                assert_eq!(length, LENGTH);
                let mut words = (at..at + length).step_by(1000);
                let first = memory.host.load(at);
                whole += 1;
                torn = words.find(|at| memory.host.load(*at) != first);
            }
            while memory.tail - memory.host.load(layout::HEAD) >= layout::RING {
                memory.kick();
                std::thread::yield_now();
            }
            memory.post_sized(get, 1 << 20, 0);
        }
        over.store(true, Ordering::SeqCst);
        // Nobody waits for a get any more.
        memory.raw.frame(&ToHost::Close, b"");
        println!("{whole} messages, {withdrawn} gets withdrawn");
        assert_eq!(torn, None, "after {whole} messages");
    });
    let end = Instant::now() + LIMIT;
    while host.log.disconnects() == 0 {
        assert!(Instant::now() < end);
        std::thread::yield_now();
    }
    host.shutdown();
}
