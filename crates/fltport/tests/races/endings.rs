//! The end of a connection, from either side, against replies, deliveries and sends. A connection for each round.

use std::sync::mpsc;

use fltport::{Client, ClientPort, limits};

use crate::aim::Aim;
use crate::common::LONG;
use crate::common::random::Random;
use crate::gets::send;
use crate::ledger::{Deed, End, Knows, Ledger, Outcomes, did, ended, message};
use crate::scene::{Host, LANES, Part, Scene, choices};

/// Connections that a host has room for: of each lane one, and some whose disconnect callback is still to run.
const ROOM: u32 = 1_000;

/// Plays `round` with each connection, in lanes, and compares.
fn rounds(
    scene: &Scene,
    knows: Knows,
    lane: impl Fn(&Host, &Ledger, usize, usize) + Sync,
) -> Outcomes {
    let host = scene.host(ROOM);
    let process = scene.start(0);
    let ledger = Ledger::new(scene.rounds);
    std::thread::scope(|scope| {
        for index in 0..LANES {
            let (host, ledger, lane) = (&host, &ledger, &lane);
            let count = (index..scene.rounds).step_by(LANES).count();
            scope.spawn(move || lane(host, ledger, index, count));
        }
    });
    ledger.wait();
    let outcomes = ledger.check(&scene.deeds(process, 0), knows);
    assert_eq!(host.shutdown(), scene.rounds);
    outcomes
}

/// Connects for each round, in lanes.
fn clients(part: &Part, round: impl Fn(&Part, Client, usize, &mut Random) + Sync) {
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let round = &round;
            scope.spawn(move || {
                let mut random = choices(lane);
                for number in part.lane(lane) {
                    if let Some(client) = part.try_connect(number) {
                        round(part, client, number, &mut random);
                    }
                }
            });
        }
    });
}

pub(crate) fn reply_host(scene: &Scene) {
    let aim = std::sync::Arc::new(Aim::new(50));
    let outcomes = rounds(scene, Knows::All, |host, ledger, lane, count| {
        let mut random = choices(lane);
        for _ in 0..count {
            let (number, port) = host.arrival();
            let (told, end) = mpsc::channel();
            port.ask_then(&message(number), 8, LONG, move |result| {
                told.send(result).unwrap();
            });
            aim.wait(&mut random);
            port.close();
            match ledger.asked(number, &end.recv().unwrap()) {
                End::Replied => aim.was_late(),
                _ => aim.was_early(),
            }
        }
    });
    assert!(ended(&outcomes, End::Replied) > 0);
    assert!(ended(&outcomes, End::Disconnected(true)) > 0);
    assert!(did(&outcomes, Deed::Gone) > 0);
}

pub(crate) fn reply_client(part: &Part) {
    clients(part, |part, client, _, _| part.deeds.drain(&client));
}

pub(crate) fn reply_own_host(scene: &Scene) {
    let outcomes = rounds(scene, Knows::Some, |host, ledger, _, count| {
        for _ in 0..count {
            let (number, port) = host.arrival();
            ledger.asked(number, &port.ask(&message(number), 8, LONG));
        }
    });
    assert!(ended(&outcomes, End::Replied) > 0);
    assert!(ended(&outcomes, End::Disconnected(true)) > 0);
    assert!(did(&outcomes, Deed::ReplyOk) > 0);
    assert!(did(&outcomes, Deed::Gone) > 0);
}

/// One thread replies, the other closes.
pub(crate) fn reply_own_client(part: &Part) {
    let aim = Aim::new(50);
    clients(part, |part, client, number, random| {
        let message = client.next_message().unwrap();
        std::thread::scope(|scope| {
            let replies = scope.spawn(|| part.deeds.answer(message).unwrap());
            aim.wait(random);
            if number % 2 == 0 {
                client.close();
            } else {
                client.hang_up();
            }
            match replies.join().unwrap() {
                Ok(()) => aim.was_late(),
                Err(_) => aim.was_early(),
            }
        });
    });
}

pub(crate) fn delivery_host(scene: &Scene) {
    let outcomes = rounds(scene, Knows::Some, |host, ledger, _, count| {
        for _ in 0..count {
            let (number, port) = host.arrival();
            send(&port, ledger, number, LONG);
        }
    });
    assert!(ended(&outcomes, End::Delivered) > 0);
    assert!(ended(&outcomes, End::Disconnected(false)) > 0);
    assert!(did(&outcomes, Deed::Got) > 0);
}

/// Posts a get, and closes about when its message comes.
pub(crate) fn delivery_client(part: &Part) {
    let aim = Aim::new(50);
    clients(part, |part, client, number, random| {
        let mut get = client.post_get(client.max_message() + limits::HEADER);
        aim.wait(random);
        let came = get.wait_within(std::time::Duration::ZERO);
        match number % 3 {
            0 => client.close(),
            1 => client.hang_up(),
            _ => drop(client),
        }
        let (came, before) = match came {
            Some(came) => (came, true),
            None => (get.wait(), false),
        };
        match came {
            Ok(message) => drop(part.deeds.answer(message)),
            Err(error) => assert_eq!(error, fltport::CallError::Disconnected),
        }
        if before {
            aim.was_late();
        } else {
            aim.was_early();
        }
    });
}

pub(crate) fn send_host(scene: &Scene) {
    let aim = Aim::new(50);
    let outcomes = rounds(scene, Knows::All, |host, ledger, lane, count| {
        let (other, ports) = mpsc::channel::<ClientPort>();
        std::thread::scope(|scope| {
            let aim = &aim;
            scope.spawn(move || {
                let mut random = choices(LANES + lane);
                for port in ports {
                    aim.wait(&mut random);
                    port.close();
                }
            });
            for _ in 0..count {
                let (number, port) = host.arrival();
                other.send(port.clone()).unwrap();
                match send(&port, ledger, number, LONG) {
                    End::Disconnected(_) => aim.was_early(),
                    _ => aim.was_late(),
                }
                // Both threads close: it is done once.
                port.close();
            }
            drop(other);
        });
    });
    for end in [End::Delivered, End::Replied, End::Disconnected(false)] {
        assert!(ended(&outcomes, end) > 0, "{end:?}");
    }
}

pub(crate) fn send_client(part: &Part) {
    clients(part, |part, client, _, _| part.deeds.drain(&client));
}
