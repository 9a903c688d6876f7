//! A filesystem whose daemon hangs blocks only itself, whatever the worker has to do with it. Needs root, FUSE and python3.

mod common;

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use common::fuse::Fuse;
use common::host::{Faithful, Host, command, kill, opens, start_opener, try_open, until};
use common::server::{self, Manner, Server};
use common::{Place, outcome, text};
use rustix::process::Signal;

#[test]
fn server() {
    server::run();
}

/// A host that guards a tmpfs and a FUSE filesystem. Put away from first to last: whatever hangs goes on when the daemon
/// ends, and then the host can end.
struct Scene {
    fuse: Fuse,
    servers: Vec<Server>,
    host: Host,
    service: Option<Faithful>,
    place: Place,
}

impl Scene {
    fn new(arguments: impl Fn(&Place, &Fuse) -> Vec<String>) -> Option<Self> {
        let place = Place::lasting(60)?;
        for name in ["good", "bad"] {
            place.file(name);
        }
        let fuse = Fuse::mount(&place, Path::new("/dev/null"))?;
        let ports = place.outside("ports");
        let mut command = command(&ports);
        command.args(["--no-scanner", "--strict"]);
        command.args(["--guard", text(&place.root), "--guard", text(&fuse.root)]);
        let host = Host::run(command.args(arguments(&place, &fuse)), ports);
        Some(Self {
            fuse,
            servers: Vec::new(),
            host,
            service: None,
            place,
        })
    }

    /// With a service that judges.
    fn judged(arguments: impl Fn(&Place, &Fuse) -> Vec<String>) -> Option<Self> {
        let mut scene = Self::new(arguments)?;
        scene.judge();
        Some(scene)
    }

    fn judge(&mut self) {
        self.service = Some(Faithful::new(&self.host));
        until("a service judges", || opens(&self.place.root.join("good")));
    }

    fn start_opener(&self, name: &str) -> Child {
        start_opener(&self.fuse.file(name))
    }

    fn opens(&self, name: &str) -> bool {
        opens(&self.fuse.file(name))
    }
}

fn none(_: &Place, _: &Fuse) -> Vec<String> {
    Vec::new()
}

/// Does this again and again until a worker that is stuck would have been noticed and killed.
fn until_it_would_be_noticed(mut what: impl FnMut()) {
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        what();
    }
}

const QUICK: Duration = Duration::from_millis(500);

/// Checks for a while that other filesystems are served as if nothing was.
fn serves(scene: &Scene) {
    let worker = scene.host.worker();
    let mut longest = Duration::ZERO;
    until_it_would_be_noticed(|| {
        let (result, took) = try_open(&scene.place.root.join("good"));
        result.unwrap();
        longest = longest.max(took);
        assert!(!opens(&scene.place.root.join("bad")));
    });
    println!("others were served in {longest:?} at most");
    assert!(longest < QUICK, "{longest:?}");
    assert_eq!(scene.host.worker(), worker, "{}", scene.host.said());
}

#[test]
fn a_daemon_that_hangs_in_an_open_holds_up_only_its_own_files() {
    let Some(scene) = Scene::judged(none) else {
        return;
    };
    assert!(scene.opens("fine"));
    let mut opener = scene.start_opener("hang-open");
    scene.fuse.hangs();
    serves(&scene);
    assert!(opener.try_wait().unwrap().is_none());
    scene.fuse.signal(Signal::CONT);
    outcome(opener).unwrap();
    assert!(scene.opens("fine") && !scene.opens("bad"));
}

#[test]
fn a_daemon_is_never_asked_about_the_attributes_of_its_files_by_who_has_to_go_on() {
    // To mark a file asks its filesystem.
    let muted = |_: &Place, _: &Fuse| ["--mute", "process=/usr/bin/head"].map(String::from).into();
    let Some(scene) = Scene::judged(muted) else {
        return;
    };
    let head = |name: &str| {
        let mut head = std::process::Command::new("head");
        let status = head
            .args(["-c", "1", text(&scene.fuse.file(name))])
            .status();
        assert!(status.unwrap().success());
    };
    head("bad-fail-attr");
    head("bad-fail-attr");
    assert!(!scene.opens("bad-fail-attr"));
    assert!(!scene.opens("bad-fail-attr"));
    let worker = scene.host.worker();
    head("hang-attr");
    assert!(scene.opens("hang-attr"));
    assert_eq!(scene.host.worker(), worker);
}

#[test]
fn a_worker_that_dies_inside_a_hung_filesystem_is_followed_by_one_that_serves_the_others() {
    let Some(scene) = Scene::judged(none) else {
        return;
    };
    let worker = scene.host.worker();
    let opener = scene.start_opener("hang-open");
    scene.fuse.hangs();
    let start = Instant::now();
    kill(worker, Signal::KILL);
    scene.host.next_worker(worker);
    until("it serves", || opens(&scene.place.root.join("good")));
    let took = start.elapsed();
    println!("the others were served again after {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(lingers(worker), "it is inside the filesystem");
    serves(&scene);
    // What comes meanwhile gets what policy has for the death of workers, as soon as the filesystem lets it be seen.
    let second = scene.start_opener("fine");
    scene.fuse.signal(Signal::CONT);
    outcome(opener).unwrap_err();
    outcome(second).ok();
    until("the dead worker is gone", || !lingers(worker));
    until("the filesystem is served again", || scene.opens("fine"));
    assert!(!scene.opens("bad"));
}

/// Whether a process is not gone, which may have ended but for a thread.
fn lingers(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

#[test]
fn a_daemon_that_stops_while_a_service_has_its_file_holds_up_nobody_else() {
    let Some(mut scene) = Scene::new(|place, _| {
        // Triage answers there: the only service is held up.
        let root = text(&place.root).into();
        vec!["--deadline-ms=1000".into(), "--exclude".into(), root]
    }) else {
        return;
    };
    // A process of its own, which cannot end while it has the file.
    scene.servers.push(Server::start(&scene.host, Manner::Hold));
    let opener = scene.start_opener("fine");
    until("the service has it", || {
        scene.host.count("with_services") == 1
    });
    scene.fuse.signal(Signal::STOP);
    // The deadline denies it, and the worker closes the file, or would like to.
    until("it is decided", || scene.host.count("pending") == 0);
    let worker = scene.host.worker();
    let good = scene.place.root.join("good");
    until_it_would_be_noticed(|| {
        let (result, took) = try_open(&good);
        result.unwrap();
        assert!(took < QUICK, "{took:?}");
    });
    assert_eq!(scene.host.worker(), worker, "{}", scene.host.said());
    scene.fuse.signal(Signal::CONT);
    outcome(opener).unwrap_err();
}

#[test]
fn a_daemon_that_hangs_in_a_close_holds_up_nobody_else() {
    // Triage allows its files, and closes them.
    let excluded = |_: &Place, fuse: &Fuse| vec!["--exclude".into(), text(&fuse.root).into()];
    let Some(scene) = Scene::judged(excluded) else {
        return;
    };
    let opener = scene.start_opener("hang-close");
    scene.fuse.hangs();
    serves(&scene);
    scene.fuse.signal(Signal::CONT);
    outcome(opener).unwrap();
}

#[test]
fn decisions_are_told_while_a_daemon_hangs_in_a_close() {
    let Some(mut scene) = Scene::new(none) else {
        return;
    };
    let events = scene.host.listen();
    // Decided by policy, without a service: the log holds the file last.
    outcome(scene.start_opener("hang-close")).unwrap_err();
    scene.fuse.hangs();
    assert!(!opens(&scene.place.root.join("good")));
    assert_eq!(events.decision("good")["verdict"], "deny");
    scene.judge();
    serves(&scene);
    scene.fuse.signal(Signal::CONT);
}
