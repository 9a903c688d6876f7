//! Many openers in one helper process: this test program again, run with only its test `crowd`. It is a process of its
//! own because it may have to be killed while its threads wait for the kernel.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Openers that run. Dropping them kills them.
pub(crate) struct Crowd {
    child: Child,
    input: Option<ChildStdin>,
}

impl Crowd {
    /// So many threads that each open `path` once, or, if that is a directory, one of its files.
    pub(crate) fn once(path: &Path, threads: usize) -> Self {
        Self::start(path, threads, "once")
    }

    /// So many threads that open all files of the directory `path` again and again.
    pub(crate) fn looping(path: &Path, threads: usize) -> Self {
        Self::start(path, threads, "loop")
    }

    fn start(path: &Path, threads: usize, how: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crowd", "--nocapture"])
            .env("CROWD_PATH", path)
            .env("CROWD_THREADS", threads.to_string())
            .env("CROWD_HOW", how)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        Self { child, input }
    }

    /// Tells loops to end, waits for all openers, and gives what they saw.
    pub(crate) fn finish(mut self) -> Seen {
        self.input = None;
        let mut output = String::new();
        let mut pipe = self.child.stdout.take().unwrap();
        pipe.read_to_string(&mut output).unwrap();
        let line = output.split("CROWD ").nth(1).expect("openers hang");
        let value: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
        Seen(value)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What openers saw.
#[derive(Debug)]
pub(crate) struct Seen(Value);

impl Seen {
    pub(crate) fn opened(&self) -> u64 {
        self.0["opened"].as_u64().unwrap()
    }

    /// Opened files whose name begins with `bad`.
    pub(crate) fn bad(&self) -> u64 {
        self.0["bad"].as_u64().unwrap()
    }

    pub(crate) fn failed(&self, errno: i32) -> u64 {
        self.0["failed"][errno.to_string()].as_u64().unwrap_or(0)
    }

    pub(crate) fn all_failed(&self) -> u64 {
        let failed = self.0["failed"].as_object().unwrap();
        failed.values().filter_map(Value::as_u64).sum()
    }

    pub(crate) fn longest(&self) -> Duration {
        Duration::from_millis(self.0["longest"].as_u64().unwrap())
    }
}

#[derive(Default)]
struct Notes {
    opened: u64,
    bad: u64,
    failed: BTreeMap<i32, u64>,
    longest: Duration,
}

/// The body of the test `crowd`.
pub(crate) fn run() {
    let Some(path) = std::env::var_os("CROWD_PATH").map(PathBuf::from) else {
        return;
    };
    // Whatever happens, this process does not stay.
    thread::spawn(|| {
        thread::sleep(Duration::from_secs(90));
        std::process::abort();
    });
    let threads: usize = std::env::var("CROWD_THREADS").unwrap().parse().unwrap();
    let looping = std::env::var("CROWD_HOW").unwrap() == "loop";
    let files: Vec<PathBuf> = if path.is_dir() {
        let entries = fs::read_dir(&path).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    } else {
        vec![path]
    };
    let end = AtomicBool::new(!looping);
    let notes: Vec<Notes> = thread::scope(|scope| {
        let openers: Vec<_> = (0..threads)
            .map(|number| {
                let (files, end) = (&files, &end);
                thread::Builder::new()
                    .stack_size(64 << 10)
                    .spawn_scoped(scope, move || open_all(files, number, end))
                    .unwrap()
            })
            .collect();
        std::io::stdin().read_to_end(&mut Vec::new()).ok();
        end.store(true, Ordering::Relaxed);
        openers
            .into_iter()
            .map(|opener| opener.join().unwrap())
            .collect()
    });
    let mut failed = BTreeMap::new();
    for (errno, count) in notes.iter().flat_map(|notes| &notes.failed) {
        *failed.entry(errno.to_string()).or_insert(0) += count;
    }
    let value = json!({
        "opened": notes.iter().map(|notes| notes.opened).sum::<u64>(),
        "bad": notes.iter().map(|notes| notes.bad).sum::<u64>(),
        "failed": failed,
        "longest": notes.iter().map(|notes| notes.longest).max().unwrap_or_default().as_millis(),
    });
    println!("CROWD {value}");
}

fn open_all(files: &[PathBuf], number: usize, end: &AtomicBool) -> Notes {
    let mut notes = Notes::default();
    for file in files.iter().cycle().skip(number) {
        let start = Instant::now();
        let result = File::open(file);
        notes.longest = notes.longest.max(start.elapsed());
        match result {
            Ok(_) => {
                notes.opened += 1;
                notes.bad += u64::from(
                    file.file_name()
                        .unwrap()
                        .as_encoded_bytes()
                        .starts_with(b"bad"),
                );
            }
            Err(error) => {
                *notes
                    .failed
                    .entry(error.raw_os_error().unwrap())
                    .or_insert(0) += 1
            }
        }
        if end.load(Ordering::Relaxed) {
            break;
        }
    }
    notes
}
