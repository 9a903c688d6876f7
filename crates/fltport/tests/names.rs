//! Port names as files: who gets one, who gives it back, and what a hostile folder cannot do.
#![cfg(target_os = "linux")]

mod common;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Barrier;

use common::child::{Process, role, say, wait_for_the_end};
use common::{Handler, Host, NAME, builder, round_trip, until, watchdog};
use fltport::{ConnectError, Connector, ListenError, NtStatus, ServerPort, list_ports};

fn listen(directory: &Path, name: &str) -> Result<ServerPort, ListenError> {
    builder(directory, name).listen(Handler::default())
}

fn connect(directory: &Path, name: &str) -> Result<fltport::Client, ConnectError> {
    Connector::new().directory(directory).connect(name, b"")
}

fn code(result: Result<fltport::Client, ConnectError>) -> u32 {
    result.unwrap_err().hresult().0
}

#[test]
fn a9_b3_a_name_that_could_leave_the_directory_is_refused_on_both_sides() {
    let directory = tempfile::tempdir().unwrap();
    let long = format!("\\{}", "x".repeat(300));
    for (name, status) in [
        ("", NtStatus::OBJECT_NAME_INVALID),
        ("\\", NtStatus::OBJECT_NAME_INVALID),
        ("Test", NtStatus::OBJECT_PATH_SYNTAX_BAD),
        ("\\..", NtStatus::OBJECT_NAME_INVALID),
        ("\\a\\..\\..\\b", NtStatus::OBJECT_NAME_INVALID),
        ("\\a/b", NtStatus::OBJECT_NAME_INVALID),
        ("\\a\0b", NtStatus::OBJECT_NAME_INVALID),
        ("\\a\\", NtStatus::OBJECT_NAME_INVALID),
        (&long, NtStatus::NAME_TOO_LONG),
    ] {
        let error = listen(directory.path(), name).unwrap_err();
        assert_eq!(error.status(), status, "{name:?}");
        assert!(error.to_string().contains("port name"), "{error}");
        let error = connect(directory.path(), name).unwrap_err();
        assert_eq!(error.hresult(), status.to_hresult(), "{name:?}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a3_a_port_without_room_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let port = builder(directory.path(), NAME).max_connections(0);
    let error = port.listen(Handler::default()).unwrap_err();
    assert_eq!(error.status(), NtStatus::INVALID_PARAMETER);
    let port = builder(directory.path(), NAME).max_message((16 << 20) + 1);
    assert!(port.listen(Handler::default()).is_err());
}

#[test]
fn a5_a7_a_name_of_a_living_host_is_taken_in_any_case() {
    let host = Host::new();
    for name in [r"\Test", r"\TEST", r"\test"] {
        let error = listen(host.directory.path(), name).unwrap_err();
        assert!(matches!(error, ListenError::Taken(_)), "{error}");
        assert_eq!(error.status(), NtStatus::OBJECT_NAME_COLLISION);
    }
    host.assert_well();
    host.shutdown();
}

#[test]
fn the_name_of_a_killed_host_is_taken_over() {
    let _watchdog = watchdog("the_name_of_a_killed_host_is_taken_over");
    if let Some((_, told)) = role() {
        let _port = listen(Path::new(&told[0]), &told[1]).unwrap();
        say("listening");
        return wait_for_the_end();
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let test = "the_name_of_a_killed_host_is_taken_over";
    let mut host = Process::start(test, "host", &[path, r"\TEST"], |_| ()).unwrap();
    host.hear("listening");
    assert!(list_ports(Some(directory.path())).unwrap()[0].served);
    assert!(listen(directory.path(), NAME).is_err());
    host.kill();
    assert!(directory.path().join("TEST.port").exists());
    assert!(!list_ports(Some(directory.path())).unwrap()[0].served);
    assert_eq!(code(connect(directory.path(), r"\TEST")), 0x8007_0002);

    let _port = listen(directory.path(), NAME).unwrap();
    connect(directory.path(), NAME).unwrap();
    let entries = list_ports(Some(directory.path())).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].name.as_str(), entries[0].served), (NAME, true));
}

#[test]
fn of_many_that_race_for_a_name_exactly_one_gets_it() {
    let _watchdog = watchdog("of_many_that_race_for_a_name_exactly_one_gets_it");
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..20 {
        let barrier = Barrier::new(4);
        let ports: Vec<_> = std::thread::scope(|scope| {
            let racers: Vec<_> = [r"\Test", r"\TEST", r"\test", r"\Test"]
                .into_iter()
                .map(|name| {
                    scope.spawn(|| {
                        barrier.wait();
                        listen(directory.path(), name)
                    })
                })
                .collect();
            racers.into_iter().map(|r| r.join().unwrap()).collect()
        });
        let won = ports.iter().filter(|port| port.is_ok()).count();
        assert_eq!(won, 1, "{ports:?}");
        assert_eq!(list_ports(Some(directory.path())).unwrap().len(), 1);
    }
}

#[test]
fn a19_a_name_can_be_taken_again_at_once_a_hundred_times() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..100 {
        let port = listen(directory.path(), NAME).unwrap();
        port.close();
        let next = listen(directory.path(), NAME).unwrap();
        drop((port, next));
    }
    assert_eq!(list_ports(Some(directory.path())).unwrap(), []);
}

#[test]
fn a_link_in_place_of_a_port_or_a_folder_is_not_followed() {
    let real = Host::new();
    let port = real.directory.path().join("Test.port");
    let directory = tempfile::tempdir().unwrap();
    symlink(&port, directory.path().join("Link.port")).unwrap();
    symlink(real.directory.path(), directory.path().join("Folder")).unwrap();
    symlink(real.directory.path(), directory.path().join("whole")).unwrap();

    let linked = connect(directory.path(), r"\Link");
    assert!(
        matches!(linked, Err(ConnectError::NotAPort(_))),
        "{linked:?}"
    );
    let below = connect(directory.path(), r"\Folder\Test");
    assert!(matches!(below, Err(ConnectError::NotAPort(_))), "{below:?}");
    connect(&directory.path().join("whole"), NAME).unwrap_err();

    let on_link = listen(directory.path(), r"\link");
    assert!(
        matches!(on_link, Err(ListenError::NotAPort(_))),
        "{on_link:?}"
    );
    listen(directory.path(), r"\Folder\Other").unwrap_err();
    listen(&directory.path().join("whole"), r"\Other").unwrap_err();
    assert!(directory.path().join("Link.port").is_symlink());
    assert!(!real.directory.path().join("Other.port").exists());
    real.assert_well();
}

#[test]
fn b4_a_file_that_is_no_port_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("Test.port");
    std::fs::write(&file, "mine").unwrap();
    let connected = connect(directory.path(), NAME);
    assert!(
        matches!(&connected, Err(ConnectError::NotAPort(_))),
        "{connected:?}"
    );
    let listening = listen(directory.path(), NAME).unwrap_err();
    assert!(
        matches!(&listening, ListenError::NotAPort(_)),
        "{listening}"
    );
    assert_eq!(listening.status(), NtStatus::OBJECT_NAME_COLLISION);
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    // A socket of another kind is no port either.
    std::fs::remove_file(&file).unwrap();
    let _stream = UnixListener::bind(&file).unwrap();
    let connected = connect(directory.path(), NAME);
    assert!(
        matches!(&connected, Err(ConnectError::NotAPort(_))),
        "{connected:?}"
    );
}

#[test]
fn paths_and_names_longer_than_a_socket_address_work() {
    let directory = tempfile::tempdir().unwrap();
    let mut path: PathBuf = directory.path().into();
    for _ in 0..3 {
        path.push("d".repeat(100));
        std::fs::create_dir(&path).unwrap();
    }
    for name in [NAME.to_string(), format!("\\{}", "n".repeat(230))] {
        let _port = listen(&path, &name).unwrap();
        connect(&path, &name).unwrap();
        assert_eq!(list_ports(Some(&path)).unwrap()[0].name, name);
    }
}

#[test]
fn names_have_folders_and_a_listing_shows_them() {
    let directory = tempfile::tempdir().unwrap();
    let _one = listen(directory.path(), r"\fltport\control").unwrap();
    let _two = listen(directory.path(), r"\Test").unwrap();
    connect(directory.path(), r"\fltport\control").unwrap();
    assert_eq!(
        code(connect(directory.path(), r"\other\control")),
        0x8007_0003
    );
    assert_eq!(
        code(connect(directory.path(), r"\fltport\events")),
        0x8007_0002
    );
    let names = list_ports(Some(directory.path())).unwrap();
    let names: Vec<_> = names.into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, [r"\Test", r"\fltport\control"]);
    let nowhere = directory.path().join("nowhere");
    assert_eq!(list_ports(Some(&nowhere)).unwrap(), []);
    assert_eq!(code(connect(&nowhere, NAME)), 0x8007_0002);
}

#[test]
fn only_its_own_user_can_hold_a_name_against_its_next_host() {
    let directory = tempfile::tempdir().unwrap();
    let _port = listen(directory.path(), NAME).unwrap();
    let lock = directory.path().join("test.lock").metadata().unwrap();
    assert_eq!(lock.permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_foreign_listener_is_refused_unless_trusted() {
    let _watchdog = watchdog("a_foreign_listener_is_refused_unless_trusted");
    const STRANGER: u32 = 4_000_001;
    if let Some((_, told)) = role() {
        let _port = listen(Path::new(&told[0]), NAME).unwrap();
        say("listening");
        return wait_for_the_end();
    }
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: only root can become somebody else");
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let path = directory.path().to_str().unwrap();
    let test = "a_foreign_listener_is_refused_unless_trusted";
    let impostor = Process::start(test, "impostor", &[path], |command| {
        use std::os::unix::process::CommandExt;
        command.uid(STRANGER).gid(STRANGER);
    });
    let Ok(impostor) = impostor else {
        return println!("skipped: other users cannot run this test binary");
    };
    impostor.hear("listening");
    let connected = connect(directory.path(), NAME);
    let refused = matches!(
        &connected,
        Err(ConnectError::ForeignListener { uid: STRANGER })
    );
    assert!(refused, "{connected:?}");
    let trusting = Connector::new().directory(directory.path());
    trusting.trust_user(STRANGER).connect(NAME, b"").unwrap();
}

#[test]
fn j1_j2_j3_closing_a_port_frees_its_name_and_leaves_its_connections() {
    let _watchdog = watchdog("j1_j2_j3_closing_a_port_frees_its_name");
    let host = Host::new();
    let client = host.connect();
    let filter = host.log.next_port();
    host.port.close();
    host.port.close();
    assert_eq!(code(host.connector().connect(NAME, b"")), 0x8007_0002);
    round_trip(&filter, &client);
    assert_eq!(host.log.disconnects(), 0);

    let second = Handler::default();
    let log = std::sync::Arc::clone(&second.log);
    let port = builder(host.directory.path(), NAME).listen(second).unwrap();
    let other = host.connect();
    round_trip(&log.next_port(), &other);
    round_trip(&filter, &client);
    drop(client);
    until("the old callbacks ran", || host.log.disconnects() == 1);
    assert_eq!(log.disconnects(), 0);
    port.shutdown();
    host.shutdown();
}

#[test]
fn connects_that_race_with_a_close_succeed_or_find_no_port() {
    let _watchdog = watchdog("connects_that_race_with_a_close_succeed_or_find_no_port");
    for _ in 0..50 {
        let host = Host::new();
        let barrier = Barrier::new(9);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    barrier.wait();
                    match host.connector().connect(NAME, b"") {
                        Ok(client) => assert!(client.is_connected()),
                        Err(error) => assert_eq!(error.hresult().0, 0x8007_0002, "{error:?}"),
                    }
                });
            }
            barrier.wait();
            host.port.close();
        });
        host.shutdown();
    }
}

#[test]
fn a_host_removes_nothing_that_is_not_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let first = listen(directory.path(), NAME).unwrap();
    // Somebody cleans up with a broad hand, and another host takes the name meanwhile.
    std::fs::remove_file(directory.path().join("test.lock")).unwrap();
    let _second = listen(directory.path(), NAME).unwrap();
    drop(first);
    connect(directory.path(), NAME).unwrap();
}
