//! A host whose log is on a full disk answers and guards as before, and says afterwards what was lost. Needs root.

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use common::host::{Host, command, judge, opens, try_open, until};
use common::{Place, run, text};

/// A tiny filesystem, full.
struct Full(PathBuf);

impl Full {
    fn new(place: &Place) -> Option<Self> {
        let point = place.outside("log");
        if !run(
            "mount",
            ["-t", "tmpfs", "-o", "size=16k", "none", text(&point)],
        ) {
            println!("skipped: cannot mount a tmpfs");
            return None;
        }
        let full = Self(point);
        let mut filler = File::create(full.filler()).unwrap();
        while filler.write(&[0; 4096]).is_ok() {}
        Some(full)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        run("umount", ["-l", text(&self.0)]);
    }
}

fn bytes(log: &Path) -> u64 {
    fs::metadata(log).unwrap().len()
}

#[test]
fn a_full_disk_behind_the_log_costs_words_and_nothing_else() {
    let Some(place) = Place::new() else { return };
    let Some(full) = Full::new(&place) else {
        return;
    };
    let (good, bad) = (place.file("good"), place.file("bad"));
    let log = File::options().append(true).create(true).open(full.log());
    let ports = place.outside("ports");
    let mut command = command(&ports);
    command.args(["--no-scanner", "--strict", "--guard", text(&place.root)]);
    let mut host = Host::logging(&mut command, ports, log.unwrap());
    let answers = |host: &Host| {
        let _service = host.serve(|_, question| judge(question));
        assert!(opens(&good));
        let (denied, took) = try_open(&bad);
        assert!(denied.is_err() && took < common::host::SOON, "{took:?}");
    };
    answers(&host);
    // The supervisor says that a worker has ended, and finds no room for that.
    for _ in 0..2 {
        let old = host.worker();
        host.kill_worker();
        host.next_worker(old);
        answers(&host);
    }
    assert_eq!(bytes(&full.log()), 0, "it was not full");
    full.make_room();
    let old = host.worker();
    host.kill_worker();
    host.next_worker(old);
    answers(&host);
    let said = || fs::read_to_string(full.log()).unwrap();
    until("it is said", || said().contains("the worker ended"));
    assert!(
        said().starts_with("flthostd: lines lost here: 2\n"),
        "{}",
        said()
    );
    host.cut_lifeline();
    assert!(host.ended().success());
}
