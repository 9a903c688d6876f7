//! Open files that a client attaches, by the thousand and of every kind: none stays with the host, and none is opened.
//!
//! From Linux 6.16 on the kernel refuses them at the client's send. The second test takes that away from its host, so
//! that what older kernels do is shown as well.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use fltport_engine::wire::{ToClient, ToHost};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::client::{Story, twice};
use super::common::raw::{PART, Raw, SCM_MAX_FD, hello, request};
use super::common::stage::Stage;
use super::common::watchdog_of;

#[test]
fn attached_files_never_stay() {
    let _watchdog = watchdog_of("attached_files_never_stay", Duration::from_secs(120));
    let stage = Stage::new(&[]);
    twice(&stage, STORIES);
    stage.finish();
}

#[test]
fn attached_files_never_stay_where_no_socket_can_refuse_them() {
    let _watchdog = watchdog_of("attached_files_older", Duration::from_secs(120));
    let stage = Stage::new(&["rights"]);
    twice(&stage, STORIES);
    twice(&stage, OLDER);
    stage.finish();
}

pub(crate) const STORIES: &[Story] = &[
    ("one file of each kind", |at| {
        for (kind, file) in kinds() {
            let raw = Raw::greeted_below(at, b"");
            let sent = raw.frame_with(&ToHost::Get { get: 1, size: 100 }, &[file.as_fd()]);
            assert_dropped(&raw, sent, kind);
        }
        Vec::new()
    }),
    ("thousands of files", |at| {
        let file = File::open("/proc/self/status").unwrap();
        let files = vec![file.as_fd(); SCM_MAX_FD];
        for _ in 0..40 {
            let raw = Raw::greeted_below(at, b"");
            let sent = raw.frame_with(&ToHost::CancelGet { get: 1 }, &files);
            assert_dropped(&raw, sent, "as many as fit");
        }
        Vec::new()
    }),
    ("thousands of files that nobody has read yet", |at| {
        // Queued before the host looks: it has other things to do.
        let file = File::open("/proc/self/status").unwrap();
        let files = vec![file.as_fd(); SCM_MAX_FD];
        let raws: Vec<_> = (0..30).map(|_| Raw::greeted_below(at, b"")).collect();
        for raw in &raws {
            for _ in 0..10 {
                raw.frame_with(&ToHost::CancelGet { get: 1 }, &files);
            }
        }
        raws
    }),
    ("a file with each part of a greeting and a frame", |at| {
        let file = File::open("/proc/self/exe").unwrap();
        let file = [file.as_fd()];
        let raw = Raw::connect_below(at);
        let sent = raw.frame_with(&hello(0), &file);
        if sent {
            raw.assert_ended();
        }
        let raw = Raw::greeted_below(at, b"");
        let length = u32::try_from(2 * PART).unwrap();
        assert!(raw.frame(&request(1, length), &[0; PART]));
        let part = ToHost::Chunk {
            length: u32::try_from(PART).unwrap(),
        };
        let bytes = [zerocopy::IntoBytes::as_bytes(&part.header()), &[0; PART]].concat();
        if raw.bytes_with(&bytes, &file) {
            raw.assert_ended();
        }
        Vec::new()
    }),
    ("a file with garbage, and with nothing", |at| {
        let file = File::open("/proc/self/exe").unwrap();
        for bytes in [&b"?"[..], b""] {
            let raw = Raw::greeted_below(at, b"");
            if raw.bytes_with(bytes, &[file.as_fd()]) {
                raw.assert_ended();
            }
        }
        Vec::new()
    }),
    ("its own connection", |at| {
        // A socket in its own queue keeps itself alive, until the kernel finds the ring.
        let raw = Raw::greeted_below(at, b"");
        let sent = raw.frame_with(&ToHost::CancelGet { get: 1 }, &[raw.as_fd()]);
        assert_dropped(&raw, sent, "itself");
        Vec::new()
    }),
];

/// What shows that the second test's host really is as on an older kernel.
pub(crate) const OLDER: &[Story] = &[("files that the kernel lets through", |at| {
    let file = File::open("/proc/self/exe").unwrap();
    for count in [1, 2, SCM_MAX_FD] {
        let raw = Raw::greeted_below(at, b"");
        let files = vec![file.as_fd(); count];
        assert!(raw.frame_with(&ToHost::CancelGet { get: 1 }, &files));
        raw.assert_ended();
    }
    Vec::new()
})];

/// The kernel has refused the packet, and the connection goes on; or the host has refused it, and it is over.
fn assert_dropped(raw: &Raw, sent: bool, kind: &str) {
    if sent {
        return raw.assert_ended();
    }
    assert!(raw.ask(1, "who"), "{kind}");
    assert!(matches!(raw.answer(), Some(ToClient::RequestDone { .. })));
}

fn kinds() -> Vec<(&'static str, OwnedFd)> {
    let (pipe, other) = rustix::pipe::pipe().unwrap();
    let (one, two) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let path = OFlags::PATH | OFlags::CLOEXEC;
    let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC);
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC);
    let process = rustix::process::pidfd_open(
        rustix::process::getpid(),
        rustix::process::PidfdFlags::empty(),
    );
    vec![
        ("a pipe to read", pipe),
        ("a pipe to write", other),
        ("a socket", one),
        ("its peer", two),
        ("a listening socket", tcp.into()),
        ("a file of /proc", file("/proc/self/mem")),
        ("a folder", file("/proc/self/fd")),
        ("a device", file("/dev/null")),
        (
            "a path",
            rustix::fs::open("/", path, Mode::empty()).unwrap(),
        ),
        ("a set of events", epoll.unwrap()),
        ("a counter", event.unwrap()),
        ("a process", process.unwrap()),
        (
            "memory",
            rustix::fs::memfd_create("memory", MemfdFlags::CLOEXEC).unwrap(),
        ),
    ]
}

fn file(path: impl AsRef<Path>) -> OwnedFd {
    File::open(path).unwrap().into()
}
