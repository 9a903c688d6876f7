//! Filters of somebody else's that never come back end the worker, and no opener waits for them; and what the supervisor
//! does meanwhile, it does without allocating or opening anything. Needs root.
//!
//! Without the usual harness: run with `GUARD` set this program is a host with such filters.

mod common;
#[path = "common/memory_count.rs"]
mod memory_count;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::host::{Host, allow, kill, opens, try_open, until};
use common::{Place, text, words_of_eio};
use flthost::config::Config;
use flthost::{Altitude, Filter, Operation, Pre, say, supervisor};
use rustix::process::Signal;

#[global_allocator]
static ALLOCATOR: memory_count::Counting = memory_count::Counting;

fn main() {
    let Some(guard) = std::env::var_os("GUARD") else {
        each("a filter that blocks a reader is ended", blocked_readers);
        each("a filter that holds a lock is ended", held_locks);
        each("a filter that blocks an answer is ended", blocked_answers);
        each("operations come to triage first", triage_first);
        each("the supervisor allocates and opens nothing", nothing_new);
        return;
    };
    memory_count::share();
    supervisor::run(&config(guard)).unwrap();
    let count = memory_count::count();
    drop(std::hint::black_box(vec![0; 100]));
    assert_eq!(memory_count::count(), count + 1, "nothing was counted");
    say(format_args!("the supervisor allocated {count} times"));
}

fn each(name: &str, test: fn(&Place)) {
    if let Some(place) = Place::lasting(60) {
        test(&place);
        println!("{name}: ok");
    }
}

/// Blocks where the file's name says so. Above the filter that asks.
#[derive(Default)]
struct Stubborn {
    lock: Arc<Mutex<()>>,
    /// Whether operations on these files came to triage last.
    seen: Mutex<HashMap<u64, bool>>,
}

impl Filter for Stubborn {
    fn name(&self) -> &str {
        "stubborn"
    }

    fn altitude(&self) -> Altitude {
        Altitude(360_000)
    }

    fn pre_operation(&self, operation: &Operation) -> Pre {
        let path = operation.path().map(|path| path.path.clone());
        let path = path.unwrap_or_default();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match (&*name, operation.is_repeated()) {
            ("block-in-triage", false) | ("block-in-questions", true) => block(),
            ("hold-a-lock", _) => {
                let lock = Arc::clone(&self.lock);
                thread::spawn(move || {
                    let _held = lock.lock();
                    block();
                });
            }
            ("arm", _) => memory_count::arm(),
            ("order", repeated) => {
                let inode = operation.stamp().unwrap().id.inode;
                let before = self.seen.lock().unwrap().insert(inode, !repeated);
                if before.unwrap_or(false) != repeated {
                    say("the wrong order");
                }
            }
            _ => drop(self.lock.lock()),
        }
        Pre::Pass
    }
}

/// Below the filter that asks: is called by whoever brings the answer.
struct Below;

impl Filter for Below {
    fn name(&self) -> &str {
        "below"
    }

    fn altitude(&self) -> Altitude {
        Altitude(100_000)
    }

    fn pre_operation(&self, operation: &Operation) -> Pre {
        if operation
            .path()
            .is_some_and(|path| path.path.ends_with("block-below"))
        {
            block();
        }
        Pre::Pass
    }
}

fn block() -> ! {
    loop {
        thread::park();
    }
}

fn config(guard: OsString) -> Config {
    let mut config = Config::guarding([guard]);
    config.instance = Some("test".into());
    config.port_directory = std::env::var_os("PORTS").map(Into::into);
    config.lifeline = true;
    config.restarts = 5;
    config.policies.set("crash=EIO").unwrap();
    config.policies.set("no_service=allow").unwrap();
    config.policies.deadline = Duration::from_secs(60);
    config.filters = vec![Arc::new(Stubborn::default()), Arc::new(Below)];
    config
}

fn start(place: &Place) -> Host {
    let ports = place.outside("ports");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env("GUARD", text(&place.root)).env("PORTS", &ports);
    Host::run(&mut command, ports)
}

/// Opens a file whose opening blocks the worker: it is to be ended by policy, and the next worker to come.
fn is_ended(host: &Host, file: &Path) {
    let worker = host.worker();
    let (result, took) = try_open(file);
    println!("{} took {took:?}", file.display());
    assert!(result.unwrap_err().contains(words_of_eio()));
    assert!(took < Duration::from_secs(4), "{took:?}");
    host.says("is stuck");
    host.next_worker(worker);
}

fn blocked_readers(place: &Place) {
    let files = ["block-in-triage", "block-in-questions"].map(|name| place.file(name));
    let innocent = place.file("innocent");
    let host = start(place);
    for file in &files {
        let _service = host.serve(|_, question| allow(question));
        is_ended(&host, file);
        assert!(opens(&innocent));
    }
}

fn held_locks(place: &Place) {
    let (lock, innocent) = (place.file("hold-a-lock"), place.file("innocent"));
    let host = start(place);
    assert!(opens(&lock)); // by itself it is not held up, but all others are from now on
    is_ended(&host, &innocent);
    assert!(opens(&innocent));
}

fn blocked_answers(place: &Place) {
    let (file, innocent) = (place.file("block-below"), place.file("innocent"));
    let host = start(place);
    let service = host.serve(|_, question| allow(question));
    is_ended(&host, &file);
    assert!(opens(&innocent));
    drop(service);
}

fn triage_first(place: &Place) {
    let files: Vec<_> = (0..50).map(|n| place.file(&format!("{n}/order"))).collect();
    let host = start(place);
    for file in &files {
        fs::read(file).unwrap();
    }
    assert!(!host.said().contains("wrong order"));
}

fn nothing_new(place: &Place) {
    let (arm, file) = (place.file("arm"), place.file("file"));
    let mut host = start(place);
    let open = || {
        let all = fs::read_dir(format!("/proc/{}/fd", host.supervisor())).unwrap();
        let mut all: Vec<_> = all
            .map(|entry| fs::read_link(entry.unwrap().path()).unwrap())
            .map(|target| target.display().to_string())
            // Those that belong to a worker; each has its own.
            .filter(|target| !target.contains("[pidfd]") && !target.starts_with("pipe:"))
            .filter(|target| !target.starts_with("/proc/"))
            .collect();
        all.sort();
        all
    };
    let before = open();
    assert!(opens(&arm));
    for _ in 0..4 {
        let worker = host.worker();
        host.kill_worker();
        host.next_worker(worker);
    }
    let worker = host.worker();
    kill(worker, Signal::STOP);
    host.says("is stuck");
    host.next_worker(worker);
    assert_eq!(open(), before);
    host.kill_worker();
    host.says("by policy from now on");
    for _ in 0..20 {
        assert!(!opens(&file));
    }
    assert_eq!(open(), before);
    kill(host.supervisor(), Signal::USR1);
    until("it ends", || host.ended().success());
    host.says("the supervisor allocated");
    assert!(host.said().contains("allocated 0 times"), "{}", host.said());
}
