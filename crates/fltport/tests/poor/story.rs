//! One story: a host and a client of which one or both lack something, and what has to hold.

use super::common::child::Process;
use super::common::look::maps;
use super::common::stage::Stage;
use super::common::until;

#[derive(Debug)]
pub(crate) struct Story {
    /// What the host goes without.
    pub(crate) host: Option<&'static str>,
    /// What the client goes without.
    pub(crate) client: Option<&'static str>,
    /// Whether there is memory all the same.
    pub(crate) memory: bool,
}

impl Story {
    /// The host goes without this.
    pub(crate) const fn at_host(what: &'static str, memory: bool) -> Self {
        Self {
            host: Some(what),
            client: None,
            memory,
        }
    }

    /// The client goes without this.
    pub(crate) const fn at_client(what: &'static str, memory: bool) -> Self {
        Self {
            host: None,
            client: Some(what),
            memory,
        }
    }

    /// Both go without this.
    pub(crate) const fn at_both(what: &'static str, memory: bool) -> Self {
        Self {
            host: Some(what),
            client: Some(what),
            memory,
        }
    }

    /// Plays these at the same time: they are asleep mostly.
    pub(crate) fn play_all(stories: &[Self]) {
        std::thread::scope(|scope| {
            for story in stories {
                scope.spawn(|| story.play());
            }
        });
    }

    fn play(&self) {
        println!("{self:?}");
        let [host, client] = [self.host, self.client].map(option);
        let stage = Stage::new(&[&host]);
        let worker = stage.program("client", &[&client]);
        let mapped = if self.memory { "2" } else { "0" };
        assert_eq!(worker.hear("mapped "), mapped);
        assert_eq!(worker.hear("mapped "), mapped);
        worker.hear("worked");
        // Said once, however many connections ask.
        let notices = stage.ask("notices");
        let lacks_memory = self.host.is_some() && !self.memory;
        assert_eq!(
            notices.contains("there is no memory"),
            lacks_memory,
            "{notices}"
        );
        assert!(!notices.contains(';'), "{notices}");
        killed(&stage, worker, self.memory, &format!("{self:?}"));
        survives(stage, &[&client, "waits"]);
    }
}

/// Tells a program what to go without.
fn option(lacks: Option<&str>) -> String {
    lacks.map_or_else(|| "lacks nothing".into(), |what| format!("lacks={what}"))
}

/// A client that has worked is killed while it owes a reply. `memory`: it has some.
pub(crate) fn killed(stage: &Stage, mut client: Process, memory: bool, story: &str) {
    client.hear("waits");
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| stage.ask("each 8 never"));
        client.hear("has one");
        let mapped = maps(client.id());
        client.kill();
        assert_eq!(mapped, if memory { 2 } else { 0 }, "{story}");
        assert_eq!(asked.join().unwrap(), "the connection is over", "{story}");
    });
    stage.check(story);
    until(story, || maps(stage.host()) == 0);
}

/// A client of this kind waits for a message, and its host is killed.
fn survives(stage: Stage, told: &[&str]) {
    let mut client = stage.program("client", told);
    client.hear("waits");
    until("it waits for a message", || {
        stage.ask("each-info").contains("gets: 1")
    });
    stage.kill();
    client.hear("over");
    assert!(client.wait().success());
}
