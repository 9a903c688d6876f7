//! The verdict cache and joined questions: what they save, and each way in which they might let something through.
//! Needs root.

mod common;
#[path = "common/memory_stores.rs"]
mod memory_stores;

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::crowd::{self, Crowd};
use common::host::{Host, SOON, Service, allow, name, until};
use common::{Place, overlay, run, text};
use fltport::protocol::file::{Answer, Verdict};
use fltport::{Client, Message};
use memory_stores::{Stored, truncate};
use rustix::time::{ClockId, clock_gettime};
use zerocopy::IntoBytes;

#[test]
fn crowd() {
    crowd::run();
}

#[test]
fn stores() {
    memory_stores::run();
}

/// A service that judges by content, says so, and counts: what has `bad` in it is denied.
struct Judge {
    asked: Arc<AtomicU64>,
    _service: Service,
}

impl Judge {
    fn new(host: &Host) -> Self {
        Self::slow(host, |_| {})
    }

    /// As [`Self::new`]; after it has read a file, and before it answers, this happens.
    fn slow(host: &Host, between: impl Fn(&Message) + Send + 'static) -> Self {
        let asked = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&asked);
        let service = host.serve(move |_, question| {
            count.fetch_add(1, Ordering::Relaxed);
            let content = content(&question);
            between(&question);
            let verdict = if content.contains("bad") {
                Verdict::Deny
            } else {
                Verdict::Allow
            };
            let answer = Answer::new(verdict, "").of_content_only();
            question.reply(answer.as_bytes()).ok();
        });
        Self {
            asked,
            _service: service,
        }
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

/// Reads the question's file by position.
fn content(question: &Message) -> String {
    let mut bytes = [0; 64];
    let length = rustix::io::pread(question.attachment().unwrap(), &mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

/// Waits until the last change to a file is old enough for the cache.
fn age(path: &Path) {
    use std::os::unix::fs::MetadataExt;
    let file = fs::metadata(path).unwrap();
    until("the file is old enough", || {
        let now = clock_gettime(ClockId::Realtime);
        let nanos = now.tv_nsec - file.ctime_nsec();
        (now.tv_sec - file.ctime()) * 1_000_000_000 + nanos > 1_050_000_000
    });
}

fn opens(path: &Path) -> bool {
    File::open(path).is_ok()
}

const STRICT: [&str; 1] = ["--strict"];

/// Whether the kernel may keep verdicts here. That the host is right about it has a test in `start.rs`.
fn kept(host: &Host) -> bool {
    let missing = host.status()["missing"].to_string();
    !missing.contains("keeps no verdicts")
}

#[test]
fn a_clean_file_is_asked_about_once_until_it_changes() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    age(&file);
    for mode in ["kernel", "worker", "off"] {
        let host = Host::start(&place, &["--strict", "--cache", mode]);
        let judge = Judge::new(&host);
        for _ in 0..5 {
            assert!(opens(&file));
        }
        assert_eq!(judge.asked(), if mode == "off" { 5 } else { 1 }, "{mode}");
        // The second open was on its way before the kernel knew, or it was not; the worker's cache counts every later one.
        let (cached, in_kernel) = (host.count("cached"), host.count("in_kernel"));
        match mode {
            "kernel" if !kept(&host) => assert_eq!((cached, in_kernel), (4, 0)),
            "kernel" => assert!(cached <= 1 && in_kernel == 1, "{cached}, {in_kernel}"),
            "worker" => assert_eq!((cached, in_kernel), (4, 0)),
            _ => assert_eq!((cached, in_kernel), (0, 0)),
        }
    }
    let host = Host::start(&place, &STRICT);
    let judge = Judge::new(&host);
    assert!(opens(&file));
    fs::write(&file, "bad").unwrap();
    assert!(!opens(&file) && !opens(&file));
    assert!(judge.asked() >= 3);
    drop((judge, host));
    fs::write(&file, "content").unwrap();
}

#[test]
fn the_kernel_keeps_only_files_that_root_alone_can_write_to() {
    let Some(place) = Place::new() else { return };
    let (roots, others, open_to_all) = (place.file("a"), place.file("b"), place.file("c"));
    chown(&others, Some(61_000), None).unwrap();
    fs::set_permissions(&open_to_all, PermissionsExt::from_mode(0o666)).unwrap();
    age(&open_to_all);
    let host = Host::start(&place, &STRICT);
    let _judge = Judge::new(&host);
    let seen = || host.status()["operations"]["opens"].as_u64().unwrap();
    let of_roots = if kept(&host) { 0 } else { 4 };
    for (file, more) in [(&roots, of_roots), (&others, 4), (&open_to_all, 4)] {
        assert!(opens(file) && opens(file)); // the second may still be on its way to both groups
        let before = seen();
        for _ in 0..4 {
            assert!(opens(file));
        }
        assert_eq!(seen() - before, more, "{}", file.display());
    }
}

#[test]
fn a_late_writer_ends_what_was_found_before_he_wrote() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    age(&file);
    let host = Host::start(&place, &STRICT);
    // It writes when the service has read, and is gone when it answers.
    let late = file.clone();
    let written = AtomicU64::new(0);
    let judge = Judge::slow(&host, move |_| {
        if written.fetch_add(1, Ordering::Relaxed) == 0 {
            // By truncation, which asks nobody.
            truncate(&late, 3);
        }
    });
    assert!(opens(&file));
    let before = judge.asked();
    assert!(opens(&file));
    assert_eq!(judge.asked(), before + 1, "kept although somebody wrote");
}

#[test]
fn a_store_through_a_mapping_is_no_way_past_the_cache() {
    let Some(place) = Place::new() else { return };
    for (name, owner) in [("roots", 0), ("users", 61_000)] {
        let file = place.file(name);
        chown(&file, Some(owner), None).unwrap();
        age(&file);
        let host = Host::start(&place, &STRICT);
        let _judge = Judge::new(&host);
        assert!(opens(&file) && opens(&file));
        // A process maps the file, looks at it first (so that its pages are there), stores, and holds on; or lets go.
        for holds in [true, false] {
            let stored = Stored::by(&file, holds);
            // What only root can store is root's own business.
            if owner != 0 {
                assert!(!opens(&file), "a mapping's store went past (held: {holds})");
            }
            drop(stored);
            fs_write_quietly(&file, "con");
            age(&file);
            assert!(opens(&file));
        }
    }
}

/// Puts content back by a process that is asked about like any other.
fn fs_write_quietly(path: &Path, content: &str) {
    // Not readable as bad while it is opened: it is truncated first.
    truncate(path, 0);
    write_into(path, content);
}

/// Writes at the start of a file, by a process of its own; leaves the rest as it is.
fn write_into(path: &Path, content: &str) {
    let script = r#"printf %s "$1" 1<>"$0""#;
    assert!(run("sh", ["-c", script, text(path), content]));
}

#[test]
fn a_file_that_takes_the_name_of_a_clean_one_is_another_file() {
    let Some(place) = Place::new() else { return };
    let (file, other) = (place.file("file"), place.root.join("other"));
    fs::write(&other, "bad").unwrap();
    age(&other);
    let host = Host::start(&place, &STRICT);
    let _judge = Judge::new(&host);
    assert!(opens(&file) && opens(&file));
    fs::rename(&other, &file).unwrap();
    assert!(!opens(&file));
    fs::remove_file(&file).unwrap();
}

#[test]
fn what_changed_a_moment_ago_is_not_kept() {
    use std::os::unix::fs::MetadataExt;
    let Some(place) = Place::new() else { return };
    let file = place.file("new");
    let host = Host::start(&place, &["--strict", "--cache", "worker"]);
    let judge = Judge::new(&host);
    // On a machine that is too busy to ask twice within a second, once more.
    until("two opens within a second of a change", || {
        truncate(&file, 3);
        let before = judge.asked();
        assert!(opens(&file) && opens(&file));
        let asked = judge.asked() - before;
        let changed = fs::metadata(&file).unwrap();
        let now = clock_gettime(ClockId::Realtime);
        let age =
            (now.tv_sec - changed.ctime()) * 1_000_000_000 + now.tv_nsec - changed.ctime_nsec();
        if age < 1_000_000_000 {
            assert_eq!(asked, 2);
        }
        age < 1_000_000_000
    });
}

#[test]
fn the_end_of_a_service_and_new_rules_empty_the_cache() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    age(&file);
    let host = Host::start(&place, &STRICT);
    let judge = Judge::new(&host);
    assert!(opens(&file) && opens(&file));
    assert_eq!(judge.asked(), 1);
    let client: &Client = &judge._service.client;
    let forget = fltport::protocol::file::Request::forget();
    client.send(forget.as_bytes(), 8).unwrap();
    assert!(opens(&file) && opens(&file));
    assert_eq!(judge.asked(), 2);
    drop(judge);
    until("it is gone", || host.status()["services"] == 0);
    assert!(
        !opens(&file),
        "nobody has found it clean who is still there"
    );
    let judge = Judge::new(&host);
    assert!(opens(&file));
    assert_eq!(judge.asked(), 1);
}

#[test]
fn an_answer_that_depends_on_who_asks_is_kept_for_nobody() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    age(&file);
    let host = Host::start(&place, &STRICT);
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    let _service = host.serve(move |_, question| {
        count.fetch_add(1, Ordering::Relaxed);
        allow(question);
    });
    let seen = Crowd::once(&file, 20).finish();
    assert_eq!(seen.opened(), 20);
    assert_eq!(asked.load(Ordering::Relaxed), 20);
}

#[test]
fn fifty_openers_of_one_file_are_one_question() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    age(&file);
    let host = Host::start(&place, &["--strict", "--cache", "worker"]);
    let asked = Arc::new(AtomicU64::new(0));
    let service = host.connect();
    let openers = Crowd::once(&file, 50);
    let first = service.next_message().unwrap();
    until("all wait", || host.count("pending") == 50);
    let answer = Answer::new(Verdict::Allow, "").of_content_only();
    first.reply(answer.as_bytes()).unwrap();
    let count = Arc::clone(&asked);
    let service = Arc::new(service);
    let own = Arc::clone(&service);
    let rest = thread::spawn(move || {
        while let Ok(question) = own.next_message() {
            count.fetch_add(1, Ordering::Relaxed);
            allow(question);
        }
    });
    assert_eq!(openers.finish().opened(), 50);
    assert_eq!(asked.load(Ordering::Relaxed), 0, "more than one question");
    service.close();
    rest.join().unwrap();
}

#[test]
fn whoever_comes_after_a_change_does_not_share_an_older_answer() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    age(&file);
    let host = Host::start(&place, &STRICT);
    let service = host.connect();
    let first = Crowd::once(&file, 1);
    let question = service.next_message().unwrap();
    assert_eq!(name(&question), "file");
    truncate(&file, 3);
    let second = Crowd::once(&file, 1);
    until("it waits too", || host.count("pending") == 2);
    let answer = Answer::new(Verdict::Allow, "").of_content_only();
    question.reply(answer.as_bytes()).unwrap();
    assert_eq!(first.finish().opened(), 1);
    let again = service.next_message().unwrap();
    again
        .reply(Answer::new(Verdict::Deny, "").as_bytes())
        .unwrap();
    assert_eq!(second.finish().opened(), 0);
}

#[test]
fn a_writer_beneath_an_overlay_is_seen() {
    let Some(place) = Place::lasting(60) else {
        return;
    };
    let (lower, upper, work) = (
        place.outside("lower"),
        place.dir("upper"),
        place.dir("work"),
    );
    let merged = place.outside("merged");
    let file = place.file("upper/file");
    age(&file);
    if !overlay(&lower, &upper, &work, &merged) {
        return;
    }
    let host = Host::start(&place, &STRICT);
    let _judge = Judge::new(&host);
    assert!(opens(&file) && opens(&file));
    // Written to through the overlay, behind the back of the inode that was found clean.
    write_into(&merged.join("file"), "bad");
    let opened = opens(&file);
    drop(host);
    run("umount", [text(&merged)]);
    assert!(!opened);
}

#[test]
fn a_service_gets_more_time_for_a_question_once() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let host = Host::start(
        &place,
        &["--strict", "--deadline-ms", "400", "--more-time-ms", "5000"],
    );
    let service = host.connect();
    let opener = Crowd::once(&file, 1);
    let question = service.next_message().unwrap();
    let asked: fltport::protocol::file::Question =
        fltport::protocol::read(question.payload()).unwrap();
    assert!(asked.remaining() <= Duration::from_millis(400));
    let more = fltport::protocol::file::Request::more_time(asked.id, 4_000);
    let left = service.send(more.as_bytes(), 8).unwrap();
    let left = u64::from_ne_bytes(left.try_into().unwrap());
    assert!((3_000..=4_400).contains(&left), "{left}");
    service.send(more.as_bytes(), 8).unwrap_err();
    // Well after the first deadline.
    until("the deadline is over", || asked.remaining().is_zero());
    allow(question);
    assert_eq!(opener.finish().opened(), 1);
    // Without a wish the deadline counts.
    let other = place.root.join("file");
    let opener = Crowd::once(&other, 1);
    let question = service.next_message().unwrap();
    let seen = opener.finish();
    assert_eq!(seen.opened(), 0);
    assert!(seen.longest() < Duration::from_millis(1_400), "{seen:?}");
    drop(question);
}

#[test]
fn nothing_is_kept_of_a_filesystem_that_may_come_back_otherwise() {
    let Some(place) = Place::new() else { return };
    let point = place.dir("point");
    let host = Host::start(&place, &["--strict"]);
    let judge = Judge::new(&host);
    assert!(run("mount", ["-t", "tmpfs", "none", text(&point)]));
    let file = point.join("file");
    until("it is guarded", || {
        let before = judge.asked();
        fs::write(&file, "content").unwrap();
        judge.asked() > before
    });
    age(&file);
    let before = judge.asked();
    assert!(opens(&file) && opens(&file));
    assert_eq!(judge.asked(), before + 2);
}

#[test]
fn whoever_breaks_a_lease_of_the_host_does_not_end_it() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let host = Host::start(&place, &STRICT);
    let _judge = Judge::new(&host);
    let worker = host.worker();
    let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    let blocked = u64::from_str_radix(blocked.unwrap().trim(), 16).unwrap();
    assert_ne!(blocked & (1 << (libc::SIGIO - 1)), 0);
    // Truncation breaks leases, and raises no question.
    let path = file.clone();
    let breaker = thread::spawn(move || (0..20_000).for_each(|_| truncate(&path, 10)));
    while !breaker.is_finished() {
        opens(&file);
    }
    breaker.join().unwrap();
    assert_eq!(host.worker(), worker);
}

#[test]
fn what_the_kernel_could_not_keep_at_once_is_offered_to_it_again() {
    let Some(place) = Place::lasting(60) else {
        return;
    };
    let file = place.file("file");
    age(&file);
    let host = Host::start(&place, &STRICT);
    if !kept(&host) {
        return println!("skipped: this kernel keeps no verdicts");
    }
    let worker = host.worker();
    host.kill_worker();
    host.next_worker(worker);
    // For its first seconds nothing is kept by the kernel: nobody knows what the last one has sent on its way.
    let judge = Judge::new(&host);
    assert!(opens(&file));
    assert_eq!((judge.asked(), host.count("in_kernel")), (1, 0));
    let end = Instant::now() + 2 * SOON;
    while host.count("in_kernel") == 0 {
        assert!(Instant::now() < end && opens(&file));
    }
    assert_eq!(judge.asked(), 1);
    let before = host.count("opens");
    assert!(opens(&file));
    assert_eq!(host.count("opens"), before);
}

#[test]
fn a_file_that_root_gives_to_somebody_is_kept_by_the_kernel_no_longer() {
    let Some(place) = Place::new() else { return };
    let [other, given, opened_up] = ["other", "given", "opened_up"].map(|name| place.file(name));
    age(&opened_up);
    let host = Host::start(&place, &STRICT);
    if !kept(&host) {
        return println!("skipped: this kernel keeps no verdicts");
    }
    let judge = Judge::new(&host);
    for file in [&other, &given, &opened_up] {
        assert!(opens(file) && opens(file));
    }
    assert_eq!((judge.asked(), host.count("in_kernel")), (3, 3));
    chown(&given, Some(61_000), None).unwrap();
    fs::set_permissions(&opened_up, PermissionsExt::from_mode(0o666)).unwrap();
    for file in [&given, &opened_up] {
        // It is told of that, and not asked: so it takes a moment.
        until("its opens are seen", || {
            let before = host.count("opens");
            assert!(opens(file));
            host.count("opens") > before
        });
        drop(Stored::by(file, false));
        assert!(!opens(file), "{}", file.display());
    }
    // The others are kept as before.
    let before = host.count("opens");
    assert!(opens(&other));
    assert_eq!((host.count("opens"), host.count("in_kernel")), (before, 3));
}
