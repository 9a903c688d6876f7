//! A client that stops in the middle (SIGSTOP), at each step: it holds up nobody, and goes on or dies as any other.

use std::path::Path;
use std::time::Duration;

use fltport::NtStatus;
use fltport_engine::wire::{ToClient, ToHost};
use rustix::process::Signal;

use super::common::child::{Process, next_line, say};
use super::common::raw::{PART, Raw, request};
use super::common::stage::Stage;
use super::common::{until, watchdog_of};
use super::sequence::answer;

/// What the client does before it is stopped, and after.
type Steps = (&'static str, fn(&Path) -> Raw, fn(&Raw));

const STEPS: &[Steps] = &[
    (
        "the connect callback runs",
        |at| Raw::greeting_below(at, b"door"),
        |raw| assert_eq!(raw.status(), Some(NtStatus::SUCCESS)),
    ),
    ("a get is posted", with_a_get, |raw| {
        let id = raw.message();
        assert_eq!(raw.reply(id, b"late"), NtStatus::FLT_NO_WAITER_FOR_REPLY);
    }),
    (
        "a message is taken",
        |at| {
            let raw = with_a_get(at);
            say("posted");
            assert_eq!(raw.message(), 1);
            raw
        },
        |raw| assert_eq!(raw.reply(1, b"answer"), NtStatus::SUCCESS),
    ),
    (
        "half a reply is sent",
        |at| {
            let raw = with_a_get(at);
            say("posted");
            let reply = ToHost::Reply {
                reply: 1,
                message_id: raw.message(),
                status: NtStatus::SUCCESS,
                length: u32::try_from(PART + 4).unwrap(),
            };
            assert!(raw.frame(&reply, &[b'r'; PART]));
            raw
        },
        |raw| {
            assert!(raw.frame(&ToHost::Chunk { length: 4 }, b"rest"));
            // Longer than its sender can take: it gets what fits.
            raw.next(|frame| match frame {
                ToClient::ReplyDone { status, .. } => {
                    assert_eq!(status, NtStatus::BUFFER_OVERFLOW);
                    Some(())
                }
                _ => None,
            });
        },
    ),
    (
        "half a request is sent",
        |at| {
            let raw = Raw::greeted_below(at, b"");
            let length = u32::try_from(PART + 4).unwrap();
            assert!(raw.frame(&request(1, length), &[b'r'; PART]));
            raw
        },
        |raw| {
            assert!(raw.frame(&ToHost::Chunk { length: 4 }, b"rest"));
            answer(raw, 1);
        },
    ),
    (
        "it does not read",
        |at| {
            let raw = Raw::greeted_below(at, b"");
            for get in 1..=200 {
                assert!(raw.frame(&ToHost::Get { get, size: 1 << 20 }, b""));
            }
            raw
        },
        |raw| {
            // What was promised comes, and then the connection works.
            assert!(raw.ask(7, "who"));
            answer(raw, 7);
        },
    ),
    (
        "its writing half is closed",
        |at| {
            let raw = with_a_get(at);
            rustix::net::shutdown(&raw, rustix::net::Shutdown::Write).unwrap();
            raw
        },
        Raw::assert_ended,
    ),
    ("it has not greeted", Raw::connect_below, Raw::assert_ended),
];

#[test]
fn a_stopped_client_holds_up_nobody() {
    let _watchdog = watchdog_of("a_stopped_client_holds_up_nobody", Duration::from_secs(120));
    let stage = Stage::new(&[]);
    for (step, _, _) in STEPS {
        for killed in [false, true] {
            let story = format!("{step}, {}", if killed { "killed" } else { "goes on" });
            println!("{story}");
            let mut client = stage.program("stopped", &[step]);
            play_one(&stage, step, &mut client, killed);
            stage.check(&story);
            stage.ask("shut");
        }
    }
    stage.finish();
}

fn play_one(stage: &Stage, step: &str, client: &mut Process, killed: bool) {
    let blocked = ["a message is taken", "half a reply is sent"].contains(&step);
    std::thread::scope(|scope| {
        let asked = blocked.then(|| {
            client.hear("posted");
            scope.spawn(|| stage.ask("each 8 15000"))
        });
        client.hear("there");
        client.stop();
        match step {
            // The message is delivered, and nobody answers in time.
            "a get is posted" => {
                assert_eq!(
                    stage.ask("each 8 200"),
                    "the deadline passed before the reply"
                );
            }
            // Its senders time out, and so does whoever comes when its socket is full.
            "it does not read" => until("no more is handed out", || {
                let ended = stage.ask("each 200000 20");
                assert!(ended.starts_with("the deadline passed"), "{ended}");
                ended.ends_with("before anybody took the message")
            }),
            _ => {}
        }
        stage.assert_serves_meanwhile(step);
        if killed {
            client.kill();
        } else {
            stage.ask("open");
            client.signal(Signal::CONT);
            client.tell("go on");
            client.hear("over");
        }
        if let Some(asked) = asked {
            let ended = asked.join().unwrap();
            let expected = match (killed, step) {
                (true, _) => "the connection is over",
                (_, "a message is taken") => "answer",
                _ => "the reply was longer than the 64 bytes asked for and was cut",
            };
            assert_eq!(ended, expected);
        }
    });
    stage.ask("open");
    if !killed {
        client.let_go();
        assert!(client.wait().success());
    }
}

/// The client's part.
pub(crate) fn play(told: &[String]) {
    let (_, before, after) = STEPS.iter().find(|(step, _, _)| *step == told[1]).unwrap();
    let raw = before(Path::new(&told[0]));
    say("there");
    next_line().unwrap();
    after(&raw);
    say("over");
    next_line();
}

fn with_a_get(at: &Path) -> Raw {
    let raw = Raw::greeted_below(at, b"");
    assert!(raw.frame(
        &ToHost::Get {
            get: 1,
            size: 4_096
        },
        b""
    ));
    // The host has taken it once this is answered.
    assert!(raw.ask(9, "who"));
    answer(&raw, 9);
    raw
}
