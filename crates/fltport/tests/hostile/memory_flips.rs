//! A client whose other threads change words for as long as the host asks: each question ends, in time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::common::memory_layout as layout;
use super::common::memory_map::Map;
use super::common::memory_raw::Memory;
use super::common::random::Random;
use super::common::stage::Stage;
use super::common::watchdog_of;
use super::memory::{check, cpu_time};

/// Longer than any end may take on a loaded machine.
const SOON: Duration = Duration::from_secs(5);

/// What changes all the time, until it is enough.
type Flip = (&'static str, fn(&Map, &mut Random));

const FLIPS: &[Flip] = &[
    ("a waiter's mark that it sleeps", |map, _| {
        flip(map, layout::ASLEEP);
    }),
    ("a waiter's other marks", |map, random| {
        flip(map, *random.one_of(&[layout::BELL, layout::NUDGED]));
    }),
    ("a waiter claimed and not", |map, _| {
        flip(map, layout::WAITING ^ layout::REPLYING);
    }),
    ("a reply that is there and not", |map, random| {
        map.store(layout::reply_head(1), random.next());
        flip(map, layout::WAITING ^ layout::REPLIED);
    }),
    ("a reply's length", |map, random| {
        map.store(
            layout::reply_head(1),
            *random.one_of(&[0, 8 << 32, 64 << 32, u64::MAX]),
        );
        step(map, layout::WAITING, layout::REPLIED);
    }),
    ("the get", |map, random| {
        let bits = map.load(layout::get_word(0));
        map.store(layout::get_word(0), bits & !0x77 | random.next() & 0x77);
    }),
    ("the ring", |map, random| {
        let entry = random.next() & (1 << 17 | 0x7F | u64::from(u32::MAX) << 32);
        let number = random.next() & 0x3FF;
        map.store(layout::ring_entry(number), layout::numbered(entry, number));
        map.store(layout::CLIENT_CORE, random.next() & 3);
        map.store(layout::CLIENT_PACE, random.next() & 0xFFFF);
        map.store(layout::CLIENT_HOME, random.next() & 3);
    }),
    ("any word", |map, random| {
        let words = [
            layout::CLIENT_CORE,
            layout::CLIENT_PACE,
            layout::LATE,
            layout::ring_entry(random.next()),
            layout::get_word(random.below(2)),
            layout::waiter_word(1 + random.below(2)),
            layout::reply_head(1),
        ];
        let bits = map.load(*random.one_of(&words)) ^ 1 << random.below(64);
        map.store(*random.one_of(&words), bits);
    }),
];

/// Changes bits of the first waiter's word that is in use.
fn flip(map: &Map, bits: u64) {
    let word = map.word(layout::waiter_word(1));
    let used = |now: u64| (matches!(now & 7, 1..=3)).then_some(now ^ bits);
    word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, used)
        .ok();
}

fn step(map: &Map, from: u64, to: u64) {
    let word = map.word(layout::waiter_word(1));
    let step = |now: u64| (now & 7 == from).then_some(now & !7 | to);
    word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, step)
        .ok();
}

#[test]
fn questions_end_in_time_while_words_change() {
    let _watchdog = watchdog_of("questions_end_in_time", Duration::from_secs(100));
    let stage = Stage::new(&[]);
    for (number, (what, change)) in FLIPS.iter().enumerate() {
        let mut random = Random::new();
        for _ in 0..number {
            random.next();
        }
        let end = Instant::now() + Duration::from_millis(700);
        let (mut asked, mut connections) = (0, 0);
        let mut most = Duration::ZERO;
        let cpu = cpu_time(stage.host());
        while Instant::now() < end {
            connections += 1;
            let mut memory = Memory::at(stage.directory());
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let (map, over) = (memory.client, &over);
                let mut random = random.clone();
                scope.spawn(move || {
                    while !over.load(Ordering::SeqCst) {
                        change(&map, &mut random);
                    }
                });
                while Instant::now() < end {
                    // From itself and from elsewhere, by a thread that waits and by one that is called.
                    memory.post(0);
                    memory.raw.ask(1, "ask 8 10");
                    memory.post(1);
                    memory.raw.ask(2, "then 8 10");
                    let start = Instant::now();
                    stage.ask("each 300 10");
                    let lives = memory.answers_or_end(&[1, 2]);
                    most = most.max(start.elapsed());
                    asked += 3;
                    if !lives {
                        break;
                    }
                }
                over.store(true, Ordering::SeqCst);
            });
            random.next();
        }
        let cpu = cpu_time(stage.host()) - cpu;
        println!("{what}: {asked} asked on {connections}, {most:?} at most, {cpu} hundredths");
        assert!(most < SOON, "{what}: {most:?}");
        check(&stage, what);
    }
    stage.finish();
}
