//! `fltctl demo` where it cannot succeed: it must say why, and leave nothing behind.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use crate::util::{STARTED, Stage, fltctl, run};

fn demo(stage: &Stage) -> Command {
    let mut demo = stage.command("demo");
    demo.arg("--daemon").arg(stage.path("bin/flthostd"));
    demo
}

fn scratch_folders(stage: &Stage) -> usize {
    let entries = stage.path("").read_dir().unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| name.starts_with("fltctl-demo-"))
        .count()
}

#[test]
fn a_host_that_denies_nothing_fails_the_demo() {
    let stage = Stage::new(&["listener", STARTED]);
    let (code, out, said) = run(&mut demo(&stage));
    assert_eq!(code, Some(1), "{out}{said}");
    assert!(
        out.contains("\nFAIL: the EICAR test file could be opened"),
        "{out}"
    );
    assert!(out.contains("got its first byte after"), "{out}");
    assert_eq!(scratch_folders(&stage), 0);
    assert!(stage.host_ends());
}

#[test]
fn the_scratch_directory_is_kept_if_wished() {
    let stage = Stage::new(&["listener", STARTED]);
    let (_, out, _) = run(demo(&stage).arg("--keep"));
    assert!(out.contains("kept: "), "{out}");
    assert_eq!(scratch_folders(&stage), 1);
}

#[test]
fn a_host_that_does_not_start_is_an_environment_error() {
    let stage = Stage::new(&["say flthostd: this kernel has no fanotify", "die 2"]);
    let (code, _, said) = run(&mut demo(&stage));
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.starts_with("flthostd: this kernel has no fanotify\n"),
        "{said}"
    );
    assert!(said.contains("FAIL"), "{said}");
    assert_eq!(scratch_folders(&stage), 0);
}

#[test]
fn a_host_that_is_never_ready_is_given_up() {
    let stage = Stage::new(&["listener"]);
    let (code, _, said) = run(&mut demo(&stage));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("not ready within 4.0 s"), "{said}");
    assert_eq!(scratch_folders(&stage), 0);
    assert!(stage.host_ends());
}

#[test]
fn without_privilege_it_says_what_to_type() {
    let mut command = fltctl();
    command.arg("demo").stdin(Stdio::null());
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let Ok(output) = command.output() else {
        println!("skipped: the program cannot be started as another user where it is");
        return;
    };
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("sudo /") || said.contains("run this as root: /"),
        "{said}"
    );
    assert!(said.trim_end().ends_with("fltctl demo"), "{said}");
}
