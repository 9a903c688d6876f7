//! What clients with memory share here: the stage's check, and that no memory is left mapped at the host.

use super::client::Story;
use super::common::look::maps;
use super::common::stage::Stage;
use super::common::until;

/// Plays each story in a process of its own, killed or let go in turn.
pub(crate) fn every(stage: &Stage, stories: &[Story]) {
    for (number, (name, _)) in stories.iter().enumerate() {
        let start = std::time::Instant::now();
        let mut client = stage.program("client", &[name]);
        client.hear("done");
        stage.assert_serves_meanwhile(name);
        if number % 2 == 0 {
            client.kill();
        } else {
            client.let_go();
            assert!(client.wait().success());
        }
        stage.ask("open");
        check(stage, name);
        stage.ask("shut");
        println!("{name}: {:?}", start.elapsed());
    }
}

/// The one check after every story; and the memory of its connections is gone.
pub(crate) fn check(stage: &Stage, story: &str) {
    stage.check(story);
    until(story, || maps(stage.host()) == 0);
}

/// What a process has computed so far, in hundredths of a second.
pub(crate) fn cpu_time(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    fields[11..13]
        .iter()
        .map(|field| field.parse::<u64>().unwrap())
        .sum()
}
