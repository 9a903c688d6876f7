//! The host dies, its client survives.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fltport::{Client, ConnectError};

use super::common::child::{Process, alone};
use super::common::random::Random;
use super::common::stage::{connect, start_host};
use super::common::{descriptors, threads, until, watchdog_of};
use super::service::{Account, Watcher, serve};

/// Steps of the host program; the last ones come when it is let go.
const STEPS: &[&str] = &[
    "connect",
    "connected",
    "ask",
    "asked",
    "message",
    "answered",
    "closing",
    "closed",
    "disconnect",
    "disconnected",
    "end",
    "ended",
];

const TEST: &str = "hosts::hosts_killed_at_every_step_end_every_call_of_their_clients";

#[test]
fn hosts_killed_at_every_step_end_every_call_of_their_clients() {
    let _watchdog = watchdog_of(TEST, Duration::from_secs(180));
    alone(TEST, || {
        let directory = tempfile::tempdir().unwrap();
        let mut random = Random::new();
        let (mut answers, start) = (0, std::time::Instant::now());
        let before = (descriptors(), threads());
        for round in 0..super::rounds() {
            let death = Death::draw(&mut random);
            let story = format!("round {round}: {death:?}");
            let account = play_one(directory.path(), &death, &story);
            account.assert_true(&story, true);
            answers += account.count();
            until("nothing is left here", || {
                descriptors() <= before.0 && threads() <= before.1
            });
        }
        println!("{answers} replies accepted in all, {:?}", start.elapsed());
        assert!(answers > 0);
    });
}

/// When a host dies: at a step that it has passed so often, or after a time.
#[derive(Debug)]
struct Death {
    step: Option<&'static str>,
    passes: usize,
    delay: Duration,
    /// Its port keeps to packets.
    packets: bool,
}

impl Death {
    fn draw(random: &mut Random) -> Self {
        let step = (random.below(3) < 2).then(|| *random.one_of::<&str>(STEPS));
        let passes = match step {
            None | Some("end" | "ended") => 0,
            Some("connect" | "connected" | "disconnect" | "disconnected") => random.below(3),
            Some("closing" | "closed") => random.below(2),
            Some(_) => random.below(30),
        };
        let delay = Duration::from_micros(random.below(8_000) as u64);
        Self {
            step,
            passes,
            delay,
            packets: random.below(2) == 0,
        }
    }

    /// It comes when the host is let go.
    fn is_at_the_end(&self) -> bool {
        matches!(self.step, Some("end" | "ended"))
    }
}

/// A host lives and dies, over the socket and the lock that the one before has left. What both sides say of replies.
fn play_one(directory: &Path, death: &Death, story: &str) -> Account {
    let passes = death.passes;
    let die = death.step.map(|step| format!("die={step}/{passes}"));
    let packets = death.packets.then_some("packets");
    let options = ["loud"].into_iter().chain(packets).chain(die.as_deref());
    let options: Vec<&str> = options.collect();
    let mut host = start_host(directory, &options);
    let account = Quiet::default();
    std::thread::scope(|scope| {
        let dies = scope.spawn(|| live(&mut host, death));
        // For as long as the host lives, and once more when it is dead.
        let mut by_filter = false;
        while let Some(client) = connected(directory, story) {
            serve(&client, &account, 15, by_filter);
            assert!(!client.is_connected());
            by_filter = !by_filter;
        }
        dies.join().unwrap();
    });
    let mut account = account
        .0
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    host.last_words().iter().for_each(|word| account.hear(word));
    account
}

/// Waits until the host is dead, and sees to it that it dies.
fn live(host: &mut Process, death: &Death) {
    use std::os::unix::process::ExitStatusExt;
    if death.step.is_none() {
        std::thread::sleep(death.delay);
        return host.kill();
    }
    if death.is_at_the_end() {
        std::thread::sleep(death.delay);
        host.let_go();
    }
    assert_eq!(host.wait().signal(), Some(9));
}

/// A connection, or none because the host is dead or about to be.
fn connected(directory: &Path, story: &str) -> Option<Client> {
    match connect(directory, b"work") {
        Ok(client) => Some(client),
        Err(ConnectError::NotFound { .. } | ConnectError::Disconnected) => None,
        Err(ConnectError::Refused(_)) => None,
        Err(other) => panic!("{story}: {other}"),
    }
}

/// Takes everything down itself: it survives.
#[derive(Default)]
struct Quiet(Mutex<Account>);

impl Quiet {
    fn hear(&self, word: &str) {
        self.0.lock().unwrap().hear(word);
    }
}

impl Watcher for Quiet {
    fn step(&self, _: &str) {}

    fn replies(&self, id: &str) {
        self.hear(&format!("reply {id}"));
    }

    fn accepted(&self, id: &str) {
        self.hear(&format!("ok {id}"));
    }
}
