//! A service as it should be, with every step of it named: answers what it is asked, sends requests, closes, again.

use std::collections::BTreeMap;
use std::sync::Mutex;

use fltport::{CallError, Client};

/// What a service tells of its steps, and of its replies before and after they are accepted.
pub(crate) trait Watcher: Sync {
    fn step(&self, name: &str);
    fn replies(&self, id: &str);
    fn accepted(&self, id: &str);
}

/// Serves until the connection is over. After `most` messages it ends it, by itself or by asking the filter to.
pub(crate) fn serve(client: &Client, watcher: &impl Watcher, most: usize, by_filter: bool) {
    let taken = Mutex::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while answer_one(client, watcher) {
                    let mut taken = taken.lock().unwrap();
                    *taken += 1;
                    if *taken != most {
                        continue;
                    }
                    drop(taken);
                    watcher.step("closing");
                    if by_filter {
                        client.send(b"close", 0).ok();
                    } else {
                        client.close();
                    }
                    watcher.step("closed");
                }
            });
        }
        scope.spawn(|| {
            loop {
                watcher.step("sending");
                match client.send(b"request", 16) {
                    Ok(answer) => assert_eq!(answer, b"request"),
                    Err(CallError::Disconnected) => return,
                    Err(other) => panic!("{other}"),
                }
                watcher.step("sent");
            }
        });
    });
}

/// Takes a message and answers it with itself. `false`: the connection is over.
fn answer_one(client: &Client, watcher: &impl Watcher) -> bool {
    watcher.step("getting");
    let message = match client.next_message() {
        Ok(message) => message,
        Err(CallError::Disconnected) => return false,
        Err(other) => panic!("{other}"),
    };
    watcher.step("taken");
    let id = String::from_utf8(message.payload().to_vec()).unwrap();
    watcher.replies(&id);
    watcher.step("replying");
    match message.reply(id.as_bytes()) {
        Ok(()) => watcher.accepted(&id),
        Err(CallError::Disconnected) => return false,
        Err(other) => panic!("{id}: {other}"),
    }
    watcher.step("replied");
    true
}

/// The replies of a service, and what became of the questions, both by asker.
#[derive(Default)]
pub(crate) struct Account {
    replied: BTreeMap<u64, Vec<u64>>,
    accepted: BTreeMap<u64, Vec<u64>>,
    got: BTreeMap<u64, Vec<u64>>,
}

impl Account {
    /// Takes down a word of either side; other words say nothing of replies.
    pub(crate) fn hear(&mut self, word: &str) {
        let Some((kind, id)) = word.split_once([' ', ':']) else {
            return;
        };
        let of = match kind {
            "reply" => &mut self.replied,
            "ok" => &mut self.accepted,
            "got" => &mut self.got,
            "wrong" => panic!("{word}"),
            _ => return,
        };
        let (asker, number) = id.split_once('.').unwrap();
        let numbers = of.entry(asker.parse().unwrap()).or_default();
        numbers.push(number.parse().unwrap());
    }

    /// Each accepted reply reached its sender, and no sender got one that nobody gave. Where the host was killed, each
    /// sender may have died with one that had reached it.
    pub(crate) fn assert_true(&self, story: &str, host_killed: bool) {
        for (asker, got) in &self.got {
            let replied = self.replied.get(asker).map_or(&[][..], |all| all);
            let foreign = got.iter().find(|number| !replied.contains(number));
            assert_eq!(
                foreign, None,
                "{story}: {asker} got a reply that nobody gave"
            );
        }
        for (asker, accepted) in &self.accepted {
            let got = self.got.get(asker).map_or(&[][..], |all| all);
            let lost = accepted.iter().filter(|number| !got.contains(number));
            let lost: Vec<_> = lost.collect();
            let last = accepted.iter().max();
            let allowed = host_killed && lost.len() == 1 && Some(lost[0]) == last;
            assert!(
                lost.is_empty() || allowed,
                "{story}: {asker} lost accepted replies {lost:?}"
            );
        }
    }

    /// Replies that were accepted.
    pub(crate) fn count(&self) -> usize {
        self.accepted.values().map(Vec::len).sum()
    }
}
