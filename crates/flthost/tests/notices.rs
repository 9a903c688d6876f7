//! What filters are told after the fact, through a whole host with a filter of the test's own. Needs root.
//!
//! Without the usual harness, because a host can only be forked off a process of one thread: run with `GUARD` set this
//! program is a host whose filter writes down what it is told.

mod common;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::host::{Host, opens, try_open, until};
use common::{Place, open, run, text};
use flthost::config::Config;
use flthost::fanotify::{Notifier, RawNotice};
use flthost::{Altitude, ContextKey, Contexts, Filter, Notice, Operation, Pre, supervisor};
use serde_json::{Value, json};

fn main() {
    if let Some(guard) = std::env::var_os("GUARD") {
        supervisor::run(&config(guard)).unwrap();
        return;
    }
    let stories: [Story; 8] = [
        ("everything is told", everything_is_told),
        ("a tree is told", a_tree_is_told_also_where_it_grows),
        (
            "a restart is told",
            a_restart_of_the_worker_is_told_as_a_loss,
        ),
        ("a volume is told", what_is_mounted_later_is_told_too),
        ("contexts end", a_files_context_ends_with_its_last_name),
        (
            "slow filters",
            a_slow_filter_holds_up_nobody_and_learns_of_its_loss,
        ),
        ("nobody wants", nothing_is_told_where_nobody_wants_it),
        ("the queue ends", a_full_queue_is_told),
    ];
    for (name, story) in stories {
        let Some(place) = Place::new() else { return };
        story(&place);
        println!("{name}: ok");
    }
}

/// One behaviour, with what it is called.
type Story = (&'static str, fn(&Place));

/// Writes down what it is told, one line of JSON each, unless there is a file that says wait.
struct Scribe {
    notes: PathBuf,
    wait: PathBuf,
    /// Files that were opened.
    files: Contexts<()>,
}

impl Filter for Scribe {
    fn name(&self) -> &str {
        "scribe"
    }

    fn altitude(&self) -> Altitude {
        Altitude(360_000)
    }

    fn pre_operation(&self, operation: &Operation) -> Pre {
        if let Some(key) = ContextKey::file(operation) {
            self.files.get_or_insert_with(key, || ());
        }
        Pre::Pass
    }

    fn wants_notices(&self) -> bool {
        true
    }

    fn post_operation(&self, notice: &Notice) {
        while self.wait.exists() {
            thread::sleep(Duration::from_millis(2));
        }
        self.files.forget_removed(notice);
        let text = |text: Option<&OsStr>| text.map(|text| text.to_string_lossy().into_owned());
        if text(notice.name()).is_some_and(|name| name.starts_with("unnoted")) {
            return;
        }
        let line = json!({
            "kind": format!("{:?}", notice.kind()),
            "directory": notice.is_directory(),
            "pid": notice.pid().map(|pid| pid.as_raw_nonzero().get()),
            "name": text(notice.name()),
            "path": notice.path(),
            "old": text(notice.old_name()),
            "old_path": notice.old_path(),
            "target": notice.target().is_some(),
            "gone": notice.is_target_gone(),
            "files": self.files.len(),
        });
        let mut notes = File::options()
            .create(true)
            .append(true)
            .open(&self.notes)
            .unwrap();
        writeln!(notes, "{line}").unwrap();
    }
}

fn config(guard: OsString) -> Config {
    let folder = PathBuf::from(std::env::var_os("FOLDER").unwrap());
    let mut config = Config::guarding([guard]).filter(Scribe {
        notes: folder.join("notes"),
        wait: folder.join("wait"),
        files: Contexts::new(100),
    });
    config.instance = Some("test".into());
    config.port_directory = Some(folder);
    config.lifeline = true;
    config
}

/// A host whose filter takes notes.
struct Noted {
    host: Host,
    folder: PathBuf,
}

impl Noted {
    fn start(place: &Place, guard: &Path) -> Self {
        let folder = place.outside("ports");
        fs::remove_file(folder.join("notes")).ok();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env("GUARD", text(guard)).env("FOLDER", &folder);
        let host = Host::run(&mut command, folder.clone());
        Self { host, folder }
    }

    fn notes(&self) -> Vec<Value> {
        let notes = fs::read_to_string(self.folder.join("notes")).unwrap_or_default();
        let whole = notes.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits for a note of this kind about this name.
    fn told(&self, kind: &str, name: &str) -> Value {
        let mut found = None;
        until(&format!("{kind} {name}"), || {
            let mut notes = self.notes().into_iter();
            found = notes.find(|note| note["kind"] == kind && note["name"] == name);
            found.is_some()
        });
        found.unwrap()
    }

    fn lost(&self) -> usize {
        let notes = self.notes();
        notes.iter().filter(|note| note["kind"] == "Lost").count()
    }
}

fn everything_is_told(place: &Place) {
    let dir = place.dir("dir");
    let noted = Noted::start(place, &place.root);
    let (file, moved) = (place.root.join("a file"), dir.join("moved"));
    fs::write(&file, "content").unwrap();
    let created = noted.told("Create", "a file");
    assert_eq!(created["pid"], std::process::id());
    assert_eq!(created["directory"], false);
    assert_eq!(created["path"], text(&file));
    noted.told("CloseWrite", "a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    noted.told("Attributes", "a file");
    fs::rename(&file, &moved).unwrap();
    let renamed = noted.told("Rename", "moved");
    assert_eq!(renamed["path"], text(&moved));
    assert_eq!(renamed["old"], "a file");
    assert_eq!(renamed["old_path"], text(&file));
    fs::remove_file(&moved).unwrap();
    let removed = noted.told("Delete", "moved");
    assert_eq!(
        (&removed["target"], &removed["gone"]),
        (&true.into(), &true.into())
    );
    fs::create_dir(dir.join("sub")).unwrap();
    assert_eq!(noted.told("Create", "sub")["directory"], true);
    fs::rename(&dir, place.root.join("other")).unwrap();
    noted.told("Rename", "other");
    assert!(noted.host.status()["notices"]["told"].as_u64().unwrap() >= 7);
    assert_eq!(noted.host.status()["notices"]["lost"], 0);
}

fn a_tree_is_told_also_where_it_grows(place: &Place) {
    let tree = place.dir("tree");
    place.file("outside/file");
    let noted = Noted::start(place, &tree);
    fs::create_dir_all(tree.join("new/deep")).unwrap();
    let mut round = 0;
    until("a new directory is told of", || {
        round += 1;
        fs::write(tree.join(format!("new/deep/{round}")), "").unwrap();
        noted.notes().iter().any(|note| {
            note["kind"] == "Create"
                && note["path"]
                    .as_str()
                    .is_some_and(|path| path.contains("new/deep/"))
        })
    });
    place.file("outside/unseen");
    fs::rename(place.root.join("outside/file"), tree.join("moved in")).unwrap();
    let moved = noted.told("Rename", "moved in");
    assert_eq!(moved["old"], Value::Null); // where it was is nobody's business
    assert!(noted.notes().iter().all(|note| note["name"] != "unseen"));
}

fn a_restart_of_the_worker_is_told_as_a_loss(place: &Place) {
    let noted = Noted::start(place, &place.root);
    place.file("before");
    noted.told("Create", "before");
    assert_eq!(noted.lost(), 0);
    noted.host.kill_worker();
    until("the next worker tells of the loss", || noted.lost() == 1);
    place.file("after");
    noted.told("Create", "after");
}

fn what_is_mounted_later_is_told_too(place: &Place) {
    let point = place.dir("tree/point");
    let noted = Noted::start(place, &place.root.join("tree"));
    assert!(run("mount", ["-t", "tmpfs", "none", text(&point)]));
    let mut round = 0;
    until("what is mounted is told of", || {
        round += 1;
        let file = point.join(format!("file {round}"));
        fs::write(&file, "").unwrap();
        noted.notes().iter().any(|note| {
            let path = note["path"].as_str().unwrap_or_default();
            note["kind"] == "Create" && Path::new(path).starts_with(&point)
        })
    });
    until("it can be unmounted", || run("umount", [text(&point)]));
}

fn a_files_context_ends_with_its_last_name(place: &Place) {
    let (file, other) = (place.file("file"), place.file("other"));
    let link = place.root.join("link");
    fs::hard_link(&file, &link).unwrap();
    let noted = Noted::start(place, &place.root);
    assert!(opens(&file) && opens(&other) && opens(&link));
    fs::remove_file(&file).unwrap();
    assert_eq!(noted.told("Delete", "file")["files"], 2);
    fs::remove_file(&link).unwrap();
    assert_eq!(noted.told("Delete", "link")["files"], 1);
}

fn a_slow_filter_holds_up_nobody_and_learns_of_its_loss(place: &Place) {
    let file = place.file("file");
    let noted = Noted::start(place, &place.root);
    fs::write(noted.folder.join("wait"), "").unwrap();
    // More than the kernel keeps and the host has read before it had to wait. None of them is an open.
    let most = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap();
    let most: usize = most.trim().parse().unwrap();
    if most > 100_000 {
        return println!("skipped: the system's queue is too long to be filled");
    }
    for number in 0..most + 1_000 {
        fs::create_dir(place.root.join(format!("unnoted{number}"))).unwrap();
    }
    let (result, took) = try_open(&file);
    assert!(result.is_ok() && took < Duration::from_secs(2), "{took:?}");
    fs::remove_file(noted.folder.join("wait")).unwrap();
    until("the filter learns of the loss", || noted.lost() == 1);
    assert_eq!(noted.host.status()["notices"]["lost"], 1);
    place.file("afterwards");
    noted.told("Create", "afterwards");
}

fn nothing_is_told_where_nobody_wants_it(place: &Place) {
    let host = Host::start(place, &[]);
    assert!(opens(&place.file("file")));
    assert_eq!(host.status()["notices"], Value::Null);
}

fn a_full_queue_is_told(place: &Place) {
    let notifier = Notifier::new().unwrap();
    notifier.mark_filesystem(open(&place.root).as_fd()).unwrap();
    let most = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap();
    let most: usize = most.trim().parse().unwrap();
    if most > 100_000 {
        return println!("skipped: the system's queue is too long to be filled");
    }
    for number in 0..most + 1 {
        fs::create_dir(place.root.join(number.to_string())).unwrap();
    }
    let mut notices = Vec::new();
    while notifier.read(&mut notices).unwrap() {}
    assert_eq!(notices.len(), most + 1);
    assert_eq!(notices.last(), Some(&RawNotice::lost()));
}
