//! Gets against the sender's deadline, and against their own withdrawal. Half of the messages want a reply.

use std::sync::atomic::{AtomicUsize, Ordering};

use fltport::{CallError, Client, ClientPort, Timeout, limits};

use crate::aim::Aim;
use crate::common::LONG;
use crate::common::random::Random;
use crate::ledger::{End, Knows, Ledger, ended, message};
use crate::scene::{LANES, Part, Scene, choices};

/// Sends a message; every second one is a question.
pub(crate) fn send(port: &ClientPort, ledger: &Ledger, number: usize, timeout: Timeout) -> End {
    if number % 2 == 0 {
        ledger.notified(number, &port.notify(&message(number), timeout))
    } else {
        ledger.asked(number, &port.ask(&message(number), 8, timeout))
    }
}

pub(crate) fn deadline_host(scene: &Scene) {
    let host = scene.host(1);
    let process = scene.start(0);
    let (_, port) = host.arrival();
    let ledger = Ledger::new(scene.rounds);
    // One for messages, one for questions.
    let aims = [Aim::new(100), Aim::new(100)];
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let (port, ledger, aims) = (&port, &ledger, &aims);
            scope.spawn(move || {
                let mut random = choices(lane);
                for number in (lane..scene.rounds).step_by(LANES) {
                    let aim = &aims[number % 2];
                    let timeout = Timeout::After(aim.draw(&mut random));
                    match send(port, ledger, number, timeout) {
                        End::TimedOut(_) => aim.was_early(),
                        _ => aim.was_late(),
                    }
                }
            });
        }
    });
    port.close();
    let outcomes = ledger.check(&scene.deeds(process, 0), Knows::All);
    host.shutdown();
    for end in [End::Delivered, End::Replied, End::TimedOut(false)] {
        assert!(ended(&outcomes, end) > 0, "{end:?}");
    }
}

/// Gets that come and go, so that there is not always one.
pub(crate) fn deadline_client(part: &Part) {
    let client = part.connect(0);
    std::thread::scope(|scope| {
        for lane in 0..2 {
            let client = &client;
            scope.spawn(move || {
                let mut random = choices(lane);
                let gap = Aim::new(40);
                loop {
                    gap.wait(&mut random);
                    match client.next_message_within(gap.draw(&mut random)) {
                        Ok(message) => drop(part.deeds.answer(message)),
                        Err(CallError::TimedOut) => {}
                        Err(_) => return,
                    }
                }
            });
        }
    });
    part.deeds.drain(&client);
}

pub(crate) fn withdrawn_host(scene: &Scene) {
    let host = scene.host(1);
    let process = scene.start(0);
    let (_, port) = host.arrival();
    let ledger = Ledger::new(scene.rounds);
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let (port, ledger) = (&port, &ledger);
            scope.spawn(move || {
                for number in (lane..scene.rounds).step_by(LANES) {
                    let end = send(port, ledger, number, LONG);
                    assert!(matches!(end, End::Delivered | End::Replied), "{end:?}");
                }
            });
        }
    });
    port.close();
    ledger.check(&scene.deeds(process, 0), Knows::All);
    host.shutdown();
}

/// Gets that are withdrawn about when their message comes, in each way there is.
pub(crate) fn withdrawn_client(part: &Part) {
    let client = part.connect(0);
    let (came, went) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for (lane, way) in [cancelled, dropped, waited_for].into_iter().enumerate() {
            let (client, came, went) = (&client, &came, &went);
            scope.spawn(move || {
                let mut random = choices(lane);
                let aim = Aim::new(20);
                loop {
                    match way(client, &aim, &mut random) {
                        Ok(message) => {
                            came.fetch_add(1, Ordering::Relaxed);
                            aim.was_late();
                            part.deeds.answer(message);
                        }
                        Err(CallError::Disconnected) => return,
                        Err(_) => {
                            went.fetch_add(1, Ordering::Relaxed);
                            aim.was_early();
                        }
                    }
                }
            });
        }
    });
    part.deeds.drain(&client);
    let (came, went) = (came.into_inner(), went.into_inner());
    // What did not come to a get of these threads came to one that another message had been meant for, and was left over.
    assert!(came + went >= part.rounds, "{came} {went}");
    assert!(came > 0 && went > 0, "{came} {went}");
}

type Got = Result<fltport::Message, CallError>;

fn cancelled(client: &Client, aim: &Aim, random: &mut Random) -> Got {
    let get = client.post_get(client.max_message() + limits::HEADER);
    aim.wait(random);
    get.cancel()
}

fn dropped(client: &Client, aim: &Aim, random: &mut Random) -> Got {
    let mut get = client.post_get(client.max_message() + limits::HEADER);
    aim.wait(random);
    // A message that came before is taken; one that comes now goes to another get.
    get.wait_within(std::time::Duration::ZERO)
        .unwrap_or(Err(CallError::TimedOut))
}

fn waited_for(client: &Client, aim: &Aim, random: &mut Random) -> Got {
    client.next_message_within(aim.draw(random))
}
