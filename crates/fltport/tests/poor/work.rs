//! What has to go on whatever a system lacks: a client that is asked and asks, waits in vain, and notices ends.

use std::path::Path;
use std::time::{Duration, Instant};

use fltport::{CallError, Client, Way};

use super::common::child::{next_line, say, wait_for_the_end};
use super::common::look::{maps, own_cpu_time};
use super::common::stage::{Stage, connect};
use super::common::{LIMIT, descriptors, until};
use super::lack;

/// Questions with their answers, and as many requests with theirs.
pub(crate) const ROUNDS: usize = 200;

/// How long waits in vain are, as requests say it.
const WAIT: Duration = Duration::from_millis(300);

/// What a wait may compute, on either side: a tenth of what it would if it were awake.
pub(crate) const ASLEEP: Duration = Duration::from_millis(30);

/// What a wait may take longer on a loaded machine.
pub(crate) const TOLERANCE: Duration = Duration::from_secs(3);

/// Plays the client: `told` is the directory, then options.
///
/// * `once`: one connection before the last one, and not two.
/// * `waits`: the last connection only, on which it waits for whatever comes.
/// * `pause`: says when it is connected, and when it has worked, and goes on when it is told.
/// * `left=`: has so many descriptors left while it works.
pub(crate) fn play(told: &[String]) {
    let directory = Path::new(&told[0]);
    let is_told = |what: &str| told.iter().any(|option| option == what);
    let left = told.iter().find_map(|text| text.strip_prefix("left="));
    let left = left.map(|text| text.parse().unwrap());
    let times = match (is_told("waits"), is_told("once")) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 2,
    };
    let before = descriptors();
    for _ in 0..times {
        let client = connect(directory, b"").unwrap();
        if is_told("pause") {
            pause("connected");
        }
        let taken = left.map(lack::leave_descriptors);
        work(&client);
        drop(taken);
        let mapped = maps(std::process::id());
        assert_eq!(client.way() == Way::Memory, mapped > 0, "{}", client.way());
        say(&format!("mapped {mapped}"));
        close_by_filter(&client);
        drop(client);
        // But for the one that notices the end of hosts.
        until("no descriptor is left", || descriptors() <= before + 1);
    }
    say("worked");
    if is_told("pause") {
        pause("paused");
    }
    let client = connect(directory, b"").unwrap();
    say("waits");
    if let Ok(message) = client.next_message() {
        say("has one");
        wait_for_the_end();
        drop(message);
    }
    assert!(matches!(
        client.next_message(),
        Err(CallError::Disconnected)
    ));
    say("over");
}

/// Says this, and goes on when it is told.
fn pause(what: &str) {
    say(what);
    assert_eq!(next_line().as_deref(), Some("go on"));
}

/// Questions of all lengths, and waits in vain.
pub(crate) fn work(client: &Client) {
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            for (question, reply) in (0..ROUNDS).map(lengths) {
                let request = format!("ask {question} 15000 {reply}");
                let answer = client.send(request.as_bytes(), 1 << 20).unwrap();
                assert!(answer == vec![b'a'; reply], "{request}: {}", answer.len());
            }
        });
        for (question, reply) in (0..ROUNDS).map(lengths) {
            let message = client.next_message_within(LIMIT).unwrap();
            assert!(message.payload() == vec![7; question]);
            message.reply(&vec![b'a'; reply]).unwrap();
        }
        asked.join().unwrap();
    });
    for request in ["ask 8 300", "then 8 300"] {
        wait_for_a_reply_that_does_not_come(client, request);
    }
    asleep(client, "a message that no get takes", || {
        let answer = client.send(b"ask 8 300", 64).unwrap();
        assert_eq!(
            answer,
            b"the deadline passed before anybody took the message"
        );
    });
    asleep(client, "a get that no message comes for", || {
        let message = client.next_message_within(WAIT);
        assert!(matches!(message, Err(CallError::TimedOut)), "{message:?}");
    });
}

fn wait_for_a_reply_that_does_not_come(client: &Client, request: &str) {
    std::thread::scope(|scope| {
        let (waiting, waits) = std::sync::mpsc::channel();
        let asked = scope.spawn(move || {
            asleep(client, request, || {
                waiting.send(()).unwrap();
                let answer = client.send(request.as_bytes(), 64).unwrap();
                assert_eq!(answer, b"the deadline passed before the reply");
            });
        });
        waits.recv().unwrap();
        let message = client.next_message_within(LIMIT).unwrap();
        asked.join().unwrap();
        let late = message.reply(b"late");
        assert!(matches!(late, Err(CallError::NoWaiter)), "{late:?}");
    });
}

/// Lengths of a question and of its reply: such as need no room of their own, and a block of each size on either side.
fn lengths(round: usize) -> (usize, usize) {
    let all = [
        (8, 6),
        (190, 100),
        (8, 3_000),
        (4_000, 6),
        (5_000, 60_000),
        (70_000, 6),
        (8, 200_000),
    ];
    all[round % all.len()]
}

/// A wait of [`WAIT`], which keeps to that and which neither side spends awake.
fn asleep(client: &Client, what: &str, wait: impl FnOnce()) {
    let before = (host_cpu_time(client), own_cpu_time());
    let start = Instant::now();
    wait();
    let took = start.elapsed();
    let own = own_cpu_time() - before.1;
    let host = host_cpu_time(client) - before.0;
    assert!(took >= WAIT && took < WAIT + TOLERANCE, "{what}: {took:?}");
    assert!(host < ASLEEP, "{what}: the host has computed for {host:?}");
    assert!(own < ASLEEP, "{what}: the client has computed for {own:?}");
}

/// What the host of a stage has computed so far.
pub(crate) fn cpu_time(stage: &Stage) -> Duration {
    Duration::from_nanos(stage.ask("cpu").parse().unwrap())
}

fn host_cpu_time(client: &Client) -> Duration {
    let nanos = String::from_utf8(client.send(b"cpu", 64).unwrap()).unwrap();
    Duration::from_nanos(nanos.parse().unwrap())
}

/// The filter ends the connection while a thread waits for a message.
fn close_by_filter(client: &Client) {
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| client.next_message());
        client.send(b"close", 0).ok();
        let ended = waits.join().unwrap();
        assert!(matches!(ended, Err(CallError::Disconnected)), "{ended:?}");
    });
}
