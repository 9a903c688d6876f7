use clap::Parser as _;

use super::*;

fn here(terminal: bool) -> Surroundings {
    Surroundings {
        executable: PathBuf::from("/opt/fltport/fltctl"),
        process: 12,
        terminal,
        colour: terminal,
        width: terminal.then_some(80),
    }
}

fn resolve(typed: &[&str], terminal: bool) -> anyhow::Result<Request> {
    let typed = ["fltctl"].iter().chain(typed);
    Request::resolve(Args::try_parse_from(typed)?, &here(terminal))
}

fn resolve_guard(typed: &[&str], terminal: bool) -> Guard {
    match resolve(typed, terminal).unwrap() {
        Request::Guard(guard) => guard,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_guard_tells_its_host_everything_that_was_typed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    let path = path.to_str().unwrap();
    let typed = [
        "guard",
        path,
        "--rules",
        path,
        "--strict",
        "--deadline-ms",
        "300",
        "--remote",
        "--port-directory",
        "/run/x",
    ];
    let arguments = resolve_guard(&typed, true).host.arguments();
    let expected = [
        "--instance",
        "guard-12",
        "--guard",
        path,
        "--rules",
        path,
        "--deadline-ms",
        "300",
        "--port-directory",
        "/run/x",
        "--strict",
        "--remote",
        "--lifeline",
    ];
    assert_eq!(arguments, expected);
}

#[test]
fn what_was_not_typed_is_left_to_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    let path = path.to_str().unwrap();
    let guard = resolve_guard(&["guard", path, path], true);
    let expected = ["--instance", "guard-12", "--guard", path, "--lifeline"];
    assert_eq!(guard.host.arguments(), expected);
    assert_eq!(guard.host.events_port(), r"\fltport\guard-12\events");
}

#[test]
fn what_comes_after_two_dashes_is_the_hosts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let guard = resolve_guard(&["guard", path, "--", "--service", "av@400000"], true);
    let arguments = guard.host.arguments();
    assert!(arguments.ends_with(&["--lifeline".into(), "--service".into(), "av@400000".into()]));
}

#[test]
fn the_daemons_are_those_beside_this_program() {
    let Request::Demo(demo) = resolve(&["demo"], true).unwrap() else {
        panic!("not a demo")
    };
    assert_eq!(demo.host.programs.host, Path::new("/opt/fltport/flthostd"));
    assert_eq!(demo.host.instance, "demo-12");
}

#[test]
fn people_get_lines_and_programs_get_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let view = |typed: &[&str], terminal| resolve_guard(typed, terminal).view;
    assert_eq!(view(&["guard", path], false), View::Json);
    assert_eq!(view(&["guard", path, "--json"], true), View::Json);
    let lines = View::Human {
        all: true,
        colour: true,
    };
    assert_eq!(view(&["guard", path, "--all"], true), lines);
}

#[test]
fn a_missing_directory_is_named_with_advice() {
    let error = resolve(&["guard", "/no/such/place"], true).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("/no/such/place"), "{text}");
    assert!(text.contains("directory that exists"), "{text}");
}

#[test]
fn a_file_is_no_directory_to_guard() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = resolve(&["guard", file.path().to_str().unwrap()], true).unwrap_err();
    assert!(error.to_string().contains("not a directory"), "{error}");
}

#[test]
fn strict_and_monitor_exclude_each_other() {
    assert!(resolve(&["guard", "/", "--strict", "--monitor"], true).is_err());
    assert!(resolve(&["guard", "/", "--deadline-ms", "0"], true).is_err());
    assert!(resolve(&["guard"], true).is_err());
}
