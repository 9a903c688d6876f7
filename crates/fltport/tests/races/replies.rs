//! Replies against the sender's deadline, and against each other.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use fltport::{Client, NtStatus, Timeout};

use crate::aim::{Aim, spin};
use crate::common::LONG;
use crate::common::random::Random;
use crate::ledger::{Deed, End, Knows, Ledger, did, ended, message, number, reply};
use crate::scene::{LANES, Part, Scene, choices};

pub(crate) fn deadline_host(scene: &Scene) {
    let host = scene.host(1);
    let process = scene.start(0);
    let (_, port) = host.arrival();
    let ledger = Ledger::new(scene.rounds);
    let aim = Aim::new(100);
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let (port, ledger, aim) = (&port, &ledger, &aim);
            scope.spawn(move || {
                let mut random = choices(lane);
                for number in (lane..scene.rounds).step_by(LANES) {
                    let timeout = Timeout::After(aim.draw(&mut random));
                    let result = port.ask(&message(number), 8, timeout);
                    if ledger.asked(number, &result) == End::Replied {
                        aim.was_late();
                    } else {
                        aim.was_early();
                    }
                }
            });
        }
    });
    port.close();
    let outcomes = ledger.check(&scene.deeds(process, 0), Knows::All);
    host.shutdown();
    assert!(ended(&outcomes, End::Replied) > 0);
    assert!(ended(&outcomes, End::TimedOut(true)) > 0);
    assert!(did(&outcomes, Deed::NoWaiter) > 0);
}

pub(crate) fn deadline_client(part: &Part) {
    let client = part.connect(0);
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| part.deeds.drain(&client));
        }
    });
    part.deeds.drain(&client);
}

pub(crate) fn two_host(scene: &Scene) {
    let host = scene.host(1);
    let process = scene.start(0);
    let (_, port) = host.arrival();
    let ledger = Ledger::new(scene.rounds);
    // Which of the two threads was received.
    let winners: Vec<AtomicUsize> = (0..scene.rounds).map(|_| AtomicUsize::new(0)).collect();
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let (port, ledger, winners) = (&port, &ledger, &winners);
            scope.spawn(move || {
                for number in (lane..scene.rounds).step_by(LANES) {
                    let mut result = port.ask(&message(number), 9, LONG);
                    if let Ok(reply) = &mut result {
                        let winner = reply.bytes.pop().expect("who it was");
                        winners[number].store(winner.into(), Ordering::SeqCst);
                    }
                    assert_eq!(ledger.asked(number, &result), End::Replied);
                }
            });
        }
    });
    port.close();
    let deeds = scene.deeds(process, 0);
    let outcomes = ledger.check(&deeds, Knows::All);
    host.shutdown();
    // One of two loses. The last losers may find the connection closed: their question is answered, and the host goes on.
    let gone = did(&outcomes, Deed::Gone);
    assert_eq!(did(&outcomes, Deed::NoWaiter) + gone, scene.rounds);
    assert!(
        gone <= PAIRS,
        "{gone} replies were lost with the connection"
    );
    let mut told = vec![2; scene.rounds];
    for (number, deed) in deeds {
        if deed == Deed::FirstWins {
            told[number] = 1;
        }
    }
    let received: Vec<_> = winners.iter().map(|w| w.load(Ordering::SeqCst)).collect();
    assert!(told == received, "the reply of the loser was received");
    assert!(told.contains(&1) && told.contains(&2));
}

/// Pairs of threads that reply.
const PAIRS: usize = 2;

/// Pairs of threads: both reply to a message that one of them got, at the same time.
pub(crate) fn two_client(part: &Part) {
    let client = part.connect(0);
    std::thread::scope(|scope| {
        for _ in 0..PAIRS {
            scope.spawn(|| pair(part, &client));
        }
    });
}

fn pair(part: &Part, client: &Client) {
    let met = Barrier::new(2);
    let asked = Mutex::new(None);
    let reply_as = |thread: u8, random: &mut Random| {
        met.wait();
        spin(Duration::from_nanos(random.next() % 30_000));
        let (number, id) = (*asked.lock().unwrap())?;
        let bytes = [&reply(number)[..], &[thread]].concat();
        Some((number, client.reply_to(id, NtStatus::SUCCESS, &bytes)))
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = choices(1);
            while let Some((number, result)) = reply_as(2, &mut random) {
                part.deeds.replied(number, result).ok();
                met.wait();
            }
        });
        let mut random = choices(2);
        while let Ok(message) = client.next_message() {
            let number = number(message.payload());
            part.deeds.note(number, Deed::Got);
            *asked.lock().unwrap() = Some((number, message.detach()));
            let (number, result) = reply_as(1, &mut random).expect("it was just asked");
            if part.deeds.replied(number, result).is_ok() {
                part.deeds.note(number, Deed::FirstWins);
            }
            met.wait();
        }
        *asked.lock().unwrap() = None;
        met.wait();
    });
}
