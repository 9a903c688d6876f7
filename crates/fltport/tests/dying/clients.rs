//! The client dies, the host survives.

use std::path::Path;
use std::time::Duration;

use fltport::NtStatus;
use fltport_engine::wire::{ToClient, ToHost};
use rustix::net::Shutdown;

use super::common::child::say;
use super::common::deadly::Deadly;
use super::common::random::Random;
use super::common::raw::{PART, Raw, hello, request};
use super::common::stage::{Stage, connect_when_free};
use super::common::watchdog_of;
use super::service::{Account, Watcher, serve};

/// Steps of the library's client.
const STEPS: &[&str] = &[
    "connecting",
    "connected",
    "getting",
    "taken",
    "replying",
    "replied",
    "sending",
    "sent",
    "closing",
    "closed",
    "dropped",
];

/// Steps between two packets.
const RAW_STEPS: &[&str] = &[
    "not greeted",
    "half a greeting",
    "greeting",
    "accepted",
    "get posted",
    "get withdrawn",
    "message taken",
    "half a reply",
    "reply not judged",
    "reply judged",
    "half a request",
    "request not answered",
    "request answered",
    "half closed",
];

#[test]
fn clients_killed_at_every_step_leave_nothing() {
    let _watchdog = watchdog_of("clients_killed_at_every_step", Duration::from_secs(180));
    let mut random = Random::new();
    for options in [&[][..], &["packets"]] {
        kill_clients_of(options, super::rounds() / 2, &mut random);
    }
}

fn kill_clients_of(options: &[&str], rounds: usize, random: &mut Random) {
    let stage = Stage::new(options);
    let (mut answers, start) = (0, std::time::Instant::now());
    for round in 0..rounds {
        let told = match random.below(3) {
            0 => format!("{}/{}", random.one_of::<&str>(STEPS), random.below(8)),
            1 => format!("{}/0", random.one_of::<&str>(RAW_STEPS)),
            _ => String::from("whenever"),
        };
        let mut victim = stage.program("victim", &[&told]);
        if told == "whenever" {
            victim.hear("working");
            std::thread::sleep(Duration::from_micros(random.below(6_000) as u64));
            victim.kill();
        } else {
            let status = victim.wait();
            use std::os::unix::process::ExitStatusExt;
            assert_eq!(status.signal(), Some(9), "round {round}: {told}: {status}");
        }
        let mut account = Account::default();
        victim
            .last_words()
            .iter()
            .for_each(|word| account.hear(word));
        let story = format!("round {round} {options:?}: killed at {told}");
        stage.check(&story);
        stage
            .ask("words")
            .split(' ')
            .for_each(|word| account.hear(word));
        account.assert_true(&story, false);
        answers += account.count();
    }
    println!("{answers} replies accepted in all, {:?}", start.elapsed());
    assert!(answers > 0);
    stage.finish();
}

/// The client's part, until it is dead.
pub(crate) fn play(told: &[String]) {
    let at = Path::new(&told[0]);
    let deadly = Deadly::told(&told[1]);
    if RAW_STEPS.iter().any(|step| told[1].starts_with(step)) {
        play_raw(at, &deadly);
        return;
    }
    for round in 0.. {
        deadly.step("connecting");
        let client = connect_when_free(at, b"work");
        deadly.step("connected");
        say("working");
        serve(&client, &Loud(&deadly), 20, round % 2 == 1);
        drop(client);
        deadly.step("dropped");
    }
}

/// Says what it does, for those who survive it.
struct Loud<'a>(&'a Deadly);

impl Watcher for Loud<'_> {
    fn step(&self, name: &str) {
        self.0.step(name);
    }

    fn replies(&self, id: &str) {
        say(&format!("reply {id}"));
    }

    fn accepted(&self, id: &str) {
        say(&format!("ok {id}"));
    }
}

/// Once through a whole connection, packet by packet.
fn play_raw(at: &Path, deadly: &Deadly) {
    let half = |frame: ToHost, rest: u32, raw: &Raw, step: &str, payload: &[u8]| {
        raw.frame(&frame, &payload[..PART]);
        deadly.step(step);
        raw.frame(&ToHost::Chunk { length: rest }, &payload[PART..]);
    };
    let long = u32::try_from(PART + 4).unwrap();
    let raw = Raw::connect_below(at);
    deadly.step("not greeted");
    // A context that the host does not know: it asks only when it is told to.
    half(hello(long), 4, &raw, "half a greeting", &[b'c'; PART + 4]);
    deadly.step("greeting");
    assert_eq!(raw.status(), Some(NtStatus::SUCCESS));
    deadly.step("accepted");
    raw.frame(&ToHost::Get { get: 1, size: 100 }, b"");
    deadly.step("get posted");
    raw.frame(&ToHost::CancelGet { get: 1 }, b"");
    deadly.step("get withdrawn");
    raw.frame(&ToHost::Get { get: 2, size: 100 }, b"");
    raw.ask(1, "ask 8 15000");
    let message_id = raw.message();
    deadly.step("message taken");
    let reply = ToHost::Reply {
        reply: 1,
        message_id,
        status: NtStatus::SUCCESS,
        length: long,
    };
    half(reply, 4, &raw, "half a reply", &[b'r'; PART + 4]);
    deadly.step("reply not judged");
    raw.next(|frame| matches!(frame, ToClient::ReplyDone { .. }).then_some(()));
    deadly.step("reply judged");
    half(
        request(2, long),
        4,
        &raw,
        "half a request",
        &[b'q'; PART + 4],
    );
    deadly.step("request not answered");
    raw.next(|frame| matches!(frame, ToClient::RequestDone { request: 2, .. }).then_some(()));
    deadly.step("request answered");
    rustix::net::shutdown(&raw, Shutdown::Write).unwrap();
    deadly.step("half closed");
}
