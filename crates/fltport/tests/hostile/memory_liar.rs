//! A host that lies to the library's client about memory, and in it: the client ends or errs, in time, and reads nothing
//! that is not there.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use fltport::{CallError, Client, Connector, NtStatus};
use fltport_engine::wire::{MessageHeader, ToClient, ToHost};
use zerocopy::IntoBytes;

use super::common::child::{Process, alone, next_line, say};
use super::common::look::maps;
use super::common::raw::Raw;
use super::common::stage::PROGRAMS;
use super::common::{NAME, descriptors, threads, until, watchdog_of};
use super::memory_gifts::GIFTS;
use super::memory_lies::{LIES, Liar, SLOW};

/// What a call waits at most, and when it has surely not ended in time.
const WAIT: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(4);

#[test]
fn memory_that_is_none_is_refused_or_done_without() {
    let _watchdog = watchdog_of("memory_that_is_none", Duration::from_secs(60));
    play_all(
        "memory_liar::memory_that_is_none_is_refused_or_done_without",
        "gifts",
        |liar, path| {
            for (what, _, ends) in GIFTS {
                let client = connect(path);
                let got = within(what, &client, |client| {
                    client
                        .next_message_within(SOON)
                        .map(|m| m.payload().to_vec())
                });
                println!("{what}: {got:?}");
                let expected = if *ends {
                    Err(CallError::Disconnected)
                } else {
                    Ok(b"frame".to_vec())
                };
                assert_eq!(got, expected, "{what}");
                drop(client);
                liar.hear("over");
            }
        },
    );
}

#[test]
fn words_that_lie_to_a_client_end_its_calls_in_time() {
    let _watchdog = watchdog_of("words_that_lie_to_a_client", Duration::from_secs(60));
    play_all(
        "memory_liar::words_that_lie_to_a_client_end_its_calls_in_time",
        "lies",
        |liar, path| {
            for (number, (what, _)) in LIES.iter().enumerate() {
                tell_one(liar, path, number, what);
            }
        },
    );
}

#[test]
fn what_a_host_promises_and_never_sends_is_not_waited_for_longer_than_asked() {
    let _watchdog = watchdog_of("what_a_host_promises", Duration::from_secs(60));
    let test =
        "memory_liar::what_a_host_promises_and_never_sends_is_not_waited_for_longer_than_asked";
    play_all(test, "slow", |liar, path| {
        let mut wrong = Vec::new();
        for (what, _) in SLOW {
            let client = connect(path);
            let (sender, result) = mpsc::channel();
            let caller = Arc::clone(&client);
            let thread = std::thread::spawn(move || sender.send(take_one(&caller)).unwrap());
            let got = result.recv_timeout(SOON);
            let got = got.map_err(|_| "it is not over in time");
            println!("{what}: {got:?}");
            let fits = |length: usize| length <= SMALL as usize - 16;
            match got {
                Ok(Ok((length, _))) if !fits(length) => wrong.push((*what, "longer than its get")),
                Ok(_) => {}
                Err(late) => wrong.push((*what, late)),
            }
            // The host hangs up: then it is over in any case.
            liar.tell("hang up");
            thread.join().unwrap();
            drop(client);
            liar.hear("over");
        }
        assert_eq!(wrong, []);
    });
}

/// Takes a message and replies, as far as the host lets it: the message's length, and what became of the reply.
fn take_one(client: &Client) -> Result<(usize, Result<(), CallError>), CallError> {
    let got = client.post_get(SMALL).wait_within(WAIT);
    let message = got.unwrap_or(Err(CallError::TimedOut))?;
    let length = message.payload().len();
    Ok((length, message.reply(&[1; 500])))
}

/// Takes a message and replies, as far as the host lets it.
fn tell_one(liar: &Process, path: &str, number: usize, what: &str) {
    let client = connect(path);
    let got = within(what, &client, take_one);
    println!("{number} {what}: {got:?}");
    // The connection is over, or as good as before.
    within(what, &client, |client| {
        client
            .next_message_within(Duration::from_millis(10))
            .map(drop)
            .ok();
        Ok(())
    })
    .unwrap();
    drop(client);
    liar.hear("over");
}

/// Bytes of the get that is lied to.
const SMALL: u32 = 1 << 16;

/// Runs a test in a process of its own, whose descriptors, threads and maps are as before afterwards.
fn play_all(test: &str, what: &str, play: impl FnOnce(&mut Process, &str)) {
    alone(test, || {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        let mut liar = Process::start(PROGRAMS, "memory-liar", &[path, what], |_| ()).unwrap();
        liar.hear("listening");
        let before = (descriptors(), threads());
        play(&mut liar, path);
        until("nothing is left", || {
            descriptors() <= before.0 && threads() <= before.1 && maps(std::process::id()) == 0
        });
    });
}

fn connect(path: &str) -> Arc<Client> {
    Arc::new(Connector::new().directory(path).connect(NAME, b"").unwrap())
}

/// What a call gives; it has to give something.
fn within<T: Send + 'static>(
    what: &str,
    client: &Arc<Client>,
    call: impl FnOnce(&Client) -> Result<T, CallError> + Send + 'static,
) -> Result<T, CallError> {
    let (sender, result) = mpsc::channel();
    let client = Arc::clone(client);
    let thread = std::thread::spawn(move || {
        sender.send(call(&client)).ok();
    });
    let result = result.recv_timeout(2 * SOON);
    let result = result.unwrap_or_else(|_| panic!("{what}: the call panics or never ends"));
    thread.join().unwrap();
    result
}

/// Plays the host, for one client after the other.
pub(crate) fn play(told: &[String]) {
    let listener = Raw::listen_below(Path::new(&told[0]));
    say("listening");
    if told[1] == "gifts" {
        for (_, give, ends) in GIFTS {
            let raw = greet(&listener);
            assert_eq!(next(&raw), Some(ToHost::Attach));
            give(&raw);
            while let Some(frame) = next(&raw) {
                if let (ToHost::Get { get, .. }, false) = (frame, *ends) {
                    raw.tell(&message(get, 5), b"frame");
                }
            }
            say("over");
        }
        return;
    }
    let slow = told[1] == "slow";
    let lies = if slow { SLOW } else { LIES };
    for (_, tell) in lies {
        let raw = greet(&listener);
        let mut liar = Liar::new(raw);
        liar.await_get();
        tell(&mut liar);
        liar.wake();
        if slow {
            next_line();
            rustix::net::shutdown(&liar.raw, rustix::net::Shutdown::Both).unwrap();
        }
        // Whatever comes is answered by nothing, until the client goes.
        liar.raw.assert_ended();
        say("over");
    }
}

pub(crate) fn greet(listener: &Raw) -> Raw {
    let raw = listener.accept();
    raw.packet().unwrap();
    let accepted = ToClient::Connected {
        status: NtStatus::SUCCESS,
        max_message: 1 << 20,
    };
    assert!(raw.tell(&accepted, b""));
    raw
}

pub(crate) fn next(raw: &Raw) -> Option<ToHost> {
    Some(ToHost::parse(&raw.packet()?).unwrap().0)
}

/// Says that these files are memory.
pub(crate) fn give(raw: &Raw, layout: u32, first_id: u64, files: &[OwnedFd]) {
    let frame = ToClient::Attached {
        status: NtStatus::SUCCESS,
        layout,
        first_id,
    };
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let header = frame.header();
    if files.is_empty() {
        raw.tell(&frame, b"");
    } else {
        raw.bytes_with(header.as_bytes(), &files);
    }
}

pub(crate) const fn message(get: u64, length: u32) -> ToClient {
    ToClient::Message {
        get,
        header: MessageHeader::new(0, 0),
        remaining: None,
        attachment: false,
        length,
    }
}
