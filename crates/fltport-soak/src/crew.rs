//! The client processes: started, stopped, continued, killed, started anew; and the books of those that are gone.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use crate::life::Life;
use crate::random::Random;
use crate::record;
use crate::soak::{Soak, TOLERANCE};

#[derive(Debug)]
pub(crate) struct Crew {
    soak: Arc<Soak>,
    random: Random,
    /// Microseconds between two requests of a client.
    gap: u64,
    most: usize,
    members: Vec<Member>,
    dead: Vec<Dead>,
    pub(crate) kills: u64,
    next_kill: Instant,
    next_stop: Instant,
}

#[derive(Debug)]
struct Member {
    child: Child,
    life: Arc<Life>,
    stopped_until: Option<Instant>,
    killed: bool,
}

/// A client that is gone, and whose books are still to be checked.
#[derive(Debug)]
struct Dead {
    life: Arc<Life>,
    since: Instant,
}

impl Crew {
    pub(crate) fn new(soak: &Arc<Soak>, most: usize, gap: u64, random: Random) -> Self {
        Self {
            soak: Arc::clone(soak),
            random,
            gap,
            most,
            members: Vec::new(),
            dead: Vec::new(),
            kills: 0,
            next_kill: Instant::now(),
            next_stop: Instant::now(),
        }
    }

    /// Lets time pass: starts who is missing, harms somebody now and then, checks the dead.
    pub(crate) fn work(&mut self) -> anyhow::Result<()> {
        // A few at a time: a machine that starts all at once does nothing else meanwhile.
        for _ in 0..4 {
            if self.members.len() < self.most {
                self.start()?;
            }
        }
        let now = Instant::now();
        if now >= self.next_kill {
            self.next_kill = now + self.random.millis(100, 1_300);
            self.kill();
        }
        if now >= self.next_stop {
            self.next_stop = now + self.random.millis(200, 1_800);
            self.stop();
        }
        self.tend()
    }

    /// Continues who was stopped long enough, collects who has ended, checks the dead.
    pub(crate) fn tend(&mut self) -> anyhow::Result<()> {
        let mut left = Vec::new();
        for mut member in std::mem::take(&mut self.members) {
            if member
                .stopped_until
                .is_some_and(|end| end <= Instant::now())
            {
                member.signal(Signal::CONT);
                member.stopped_until = None;
            }
            match member.child.try_wait()? {
                Some(status) => self.bury(member, status),
                None => left.push(member),
            }
        }
        self.members = left;
        self.check()
    }

    /// Tells all clients to end.
    pub(crate) fn dismiss(&mut self) {
        for member in &mut self.members {
            member.child.stdin = None;
            if member.stopped_until.take().is_some() {
                member.signal(Signal::CONT);
            }
        }
    }

    /// Whether all are gone and their books are in order.
    pub(crate) fn is_gone(&self) -> bool {
        self.members.is_empty() && self.dead.is_empty()
    }

    pub(crate) fn describe(&self) -> String {
        let ids = |member: &Member| member.child.id().to_string();
        format!(
            "processes {:?} live, {} without checked books",
            self.members.iter().map(ids).collect::<Vec<_>>(),
            self.dead.len()
        )
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let life = Arc::new(Life::new(self.soak.number()));
        self.soak.add_life(&life);
        let said = File::create(self.path(life.number(), "said"))?;
        let child = Command::new(std::env::current_exe()?)
            .arg("client")
            .arg("--directory")
            .arg(&self.soak.directory)
            .arg("--journal")
            .arg(self.path(life.number(), "journal"))
            .args(["--life", &life.number().to_string()])
            .args(["--seed", &self.random.next().to_string()])
            .args(["--gap", &self.gap.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .context("cannot start a client")?;
        self.soak.count("soak: started a client");
        self.members.push(Member {
            child,
            life,
            stopped_until: None,
            killed: false,
        });
        Ok(())
    }

    fn pick(&mut self) -> Option<&mut Member> {
        let index = self.random.below(self.members.len() as u64);
        self.members.get_mut(usize::try_from(index).unwrap_or(0))
    }

    fn kill(&mut self) {
        if let Some(member) = self.pick() {
            member.signal(Signal::KILL);
            member.killed = true;
            self.kills += 1;
            self.soak.count("soak: killed a client");
        }
    }

    fn stop(&mut self) {
        let wait = match self.random.weighted(&[60, 35, 5]) {
            0 => self.random.millis(1, 100),
            1 => self.random.millis(100, 3_000),
            _ => self.random.millis(3_000, 8_000),
        };
        if let Some(member) = self.pick() {
            member.signal(Signal::STOP);
            member.stopped_until = Some(Instant::now() + wait);
            self.soak.count("soak: stopped a client for a while");
        }
    }

    fn bury(&mut self, member: Member, status: ExitStatus) {
        let number = member.life.number();
        let said = self.path(number, "said");
        let words = std::fs::read_to_string(&said).unwrap_or_default();
        if !words.is_empty() || !(member.killed || status.success()) {
            self.soak.broken(format!(
                "client {number} ended with {status} and said: {words}"
            ));
        }
        std::fs::remove_file(said).ok();
        self.dead.push(Dead {
            life: member.life,
            since: Instant::now(),
        });
    }

    fn check(&mut self) -> anyhow::Result<()> {
        let mut left = Vec::new();
        for dead in std::mem::take(&mut self.dead) {
            let number = dead.life.number();
            let in_time = dead.since.elapsed() < TOLERANCE + Duration::from_secs(2);
            if !dead.life.close() && in_time {
                left.push(dead);
                continue;
            }
            if !in_time {
                self.soak.broken(format!(
                    "client {number} is gone, and not everything of it has ended: {:?}",
                    dead.life.under_way()
                ));
            }
            let journal = self.path(number, "journal");
            let records = record::read(&journal)?;
            for record in &records {
                self.soak.count_of_client(record.event.name());
            }
            dead.life.check(&records, &self.soak);
            self.soak.remove_life(number);
            std::fs::remove_file(journal).ok();
        }
        self.dead = left;
        Ok(())
    }

    fn path(&self, life: u64, what: &str) -> PathBuf {
        self.soak.directory.join(format!("client-{life}.{what}"))
    }
}

impl Member {
    /// It is a child that was not waited for, so the id is its own.
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).ok();
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for member in &mut self.members {
            member.child.kill().ok();
            member.child.wait().ok();
        }
    }
}
