//! Two hosts that fight for one name: one has it at a time, a living one keeps it, and the name of a dead one is free.

use std::path::Path;
use std::time::Duration;

use fltport::{ClientPort, NtStatus, Peer, list_ports};
use fltport::{ConnectError, Connector, ListenError, PortHandler, ServerPort};

use super::common::child::{Process, next_line, say};
use super::common::random::Random;
use super::common::stage::PROGRAMS;
use super::common::{NAME, builder, watchdog_of};

const ROUNDS: usize = 150;

#[test]
fn of_two_hosts_that_fight_for_a_name_one_wins_each_round() {
    let _watchdog = watchdog_of("two_hosts_that_fight", Duration::from_secs(120));
    let directory = tempfile::tempdir().unwrap();
    let start = || {
        let told = [directory.path().to_str().unwrap()];
        Process::start(PROGRAMS, "fighter", &told, |_| ()).unwrap()
    };
    let mut random = Random::new();
    let mut fighters = [start(), start()];
    let mut kills = 0;
    for round in 0..ROUNDS {
        fighters.iter_mut().for_each(|fighter| fighter.tell("take"));
        let outcomes = [fighters[0].hear("took "), fighters[1].hear("took ")];
        let winners = outcomes.iter().filter(|outcome| *outcome == "it").count();
        assert_eq!(winners, 1, "round {round}: {outcomes:?}");
        let winner = usize::from(outcomes[1] == "it");
        assert_eq!(outcomes[1 - winner], "nothing", "round {round}");
        assert_serves(directory.path(), fighters[winner].id());
        if random.below(3) > 0 {
            fighters[winner].tell("give");
            fighters[winner].hear("gave");
            assert_nobody(directory.path());
            continue;
        }
        // Its socket stays behind, and the other takes the name over, once it is dead and not before.
        kills += 1;
        fighters[1 - winner].tell("take");
        assert_eq!(fighters[1 - winner].hear("took "), "nothing");
        assert_serves(directory.path(), fighters[winner].id());
        fighters[winner].kill();
        assert_nobody(directory.path());
        assert!(directory.path().join("Test.port").exists());
        fighters[1 - winner].tell("take");
        assert_eq!(fighters[1 - winner].hear("took "), "it", "round {round}");
        assert_serves(directory.path(), fighters[1 - winner].id());
        fighters[1 - winner].tell("give");
        fighters[1 - winner].hear("gave");
        fighters[winner] = start();
    }
    println!("{ROUNDS} rounds, {kills} winners killed");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_host_killed_while_it_takes_a_name_leaves_it_to_the_next() {
    let _watchdog = watchdog_of("a_host_killed_while_it_takes", Duration::from_secs(120));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let mut random = Random::new();
    for round in 0..100 {
        let told = [path.to_str().unwrap(), "over and over"];
        let mut fighter = Process::start(PROGRAMS, "fighter", &told, |_| ()).unwrap();
        fighter.hear("fighting");
        std::thread::sleep(Duration::from_micros(random.below(2_000) as u64));
        fighter.kill();
        let port = builder(path, NAME).listen(Named).unwrap();
        assert_serves(path, std::process::id());
        drop(port);
        let left: Vec<_> = std::fs::read_dir(path).unwrap().flatten().collect();
        // A socket that was bound and not yet published has the dead process's id in its name, and harms nobody.
        let harmless = |entry: &std::fs::DirEntry| {
            let name = entry.file_name().into_string().unwrap();
            let harmless = name.starts_with(&format!(".new-{}-", fighter.id()));
            std::fs::remove_file(entry.path()).unwrap();
            harmless
        };
        assert!(left.iter().all(harmless), "round {round}: {left:?}");
    }
}

fn assert_serves(directory: &Path, host: u32) {
    let client = Connector::new().directory(directory).connect(NAME, b"");
    assert_eq!(
        client.unwrap().send(b"who", 16).unwrap(),
        host.to_string().into_bytes()
    );
    assert!(list_ports(Some(directory)).unwrap()[0].served);
}

fn assert_nobody(directory: &Path) {
    let connected = Connector::new().directory(directory).connect(NAME, b"");
    assert!(
        matches!(connected, Err(ConnectError::NotFound { .. })),
        "{connected:?}"
    );
}

/// A host that says who it is.
struct Named;

impl PortHandler for Named {
    type Connection = ();

    fn connect(&self, _: ClientPort, _: &Peer, _: &[u8]) -> Result<(), NtStatus> {
        Ok(())
    }

    fn message(
        &self,
        (): &(),
        _: fltport::Caller,
        _: &[u8],
        output: &mut [u8],
    ) -> Result<usize, fltport::Refusal> {
        let id = std::process::id().to_string();
        output[..id.len()].copy_from_slice(id.as_bytes());
        Ok(id.len())
    }
}

/// Plays one of the hosts.
pub(crate) fn play(told: &[String]) {
    let take = || builder(Path::new(&told[0]), NAME).listen(Named);
    if told.len() > 1 {
        say("fighting");
        loop {
            drop::<ServerPort>(take().unwrap());
        }
    }
    let mut port: Option<ServerPort> = None;
    while let Some(line) = next_line() {
        if line == "give" {
            port = None;
            say("gave");
            continue;
        }
        match take() {
            Ok(taken) => {
                port = Some(taken);
                say("took it");
            }
            Err(ListenError::Taken(_)) => say("took nothing"),
            Err(other) => say(&format!("took no end of trouble: {other}")),
        }
    }
    drop(port);
}
