//! A connection that several processes hold: it lasts until the last of them is gone, and ends once.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use fltport_engine::wire::ToHost;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use rustix::process::{Pid, Signal};
use std::io::IoSliceMut;

use super::common::child::{Process, say, wait_for_the_end};
use super::common::raw::Raw;
use super::common::stage::{PROGRAMS, Stage};
use super::common::watchdog_of;

#[test]
fn a_connection_lasts_until_its_last_holder_is_gone() {
    let _watchdog = watchdog_of("a_connection_lasts", Duration::from_secs(60));
    let stage = Stage::new(&[]);
    let mut passing = stage.program("passing", &["a child"]);
    let holder: i32 = passing.hear("held by ").parse().unwrap();
    passing.kill();
    stage.assert_serves();
    assert_eq!(
        stage.state().live,
        2,
        "it ended with the process that made it"
    );
    assert_eq!(stage.ask("each 8 15000"), "held");
    let holder = Pid::from_raw(holder).unwrap();
    rustix::process::kill_process(holder, Signal::KILL).unwrap();
    stage.check("a child that keeps the connection");
    stage.finish();
}

#[test]
fn a_connection_that_was_passed_on_belongs_to_who_has_it() {
    let _watchdog = watchdog_of("a_connection_that_was_passed_on", Duration::from_secs(60));
    let stage = Stage::new(&[]);
    for taker_dies in [true, false] {
        let mut taking = stage.program("taking", &[]);
        taking.hear("listening");
        let mut passing = stage.program("passing", &["another"]);
        taking.hear("has it");
        if taker_dies {
            // The one that made it still has it.
            taking.kill();
            stage.assert_serves();
            assert_eq!(stage.state().live, 2);
            passing.kill();
        } else {
            passing.kill();
            stage.assert_serves();
            assert_eq!(stage.ask("each 8 15000"), "held");
            taking.kill();
        }
        stage.check("a connection that was passed on");
    }
    stage.finish();
}

#[test]
fn a_connection_on_its_way_to_nobody_lasts_as_long_as_its_way() {
    let _watchdog = watchdog_of("a_connection_on_its_way", Duration::from_secs(60));
    let stage = Stage::new(&[]);
    let mut passing = stage.program("passing", &["nobody"]);
    passing.hear("on its way");
    stage.assert_serves();
    assert_eq!(stage.state().live, 2);
    passing.kill();
    stage.check("a connection on its way");
    stage.finish();
}

/// Makes a connection and gives it to whom it was told.
pub(crate) fn play_passing(told: &[String]) {
    let raw = Raw::greeted_below(Path::new(&told[0]), b"");
    match told[1].as_str() {
        "a child" => {
            let copy = raw.0.try_clone().unwrap();
            let holder = Process::start(PROGRAMS, "holder", &[], |command| {
                command.stdin(copy);
            });
            let holder = holder.unwrap();
            holder.hear("has it");
            say(&format!("held by {}", holder.id()));
            wait_for_the_end();
        }
        "another" => {
            let to = connect_to_pass(Path::new(&told[0]));
            assert!(to.bytes_with(b"!", &[raw.as_fd()]));
            wait_for_the_end();
        }
        _ => {
            let (one, _other) = rustix::net::socketpair(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )
            .unwrap();
            assert!(Raw(one.try_clone().unwrap()).bytes_with(b"!", &[raw.as_fd()]));
            drop(raw);
            say("on its way");
            wait_for_the_end();
        }
    }
}

/// Has a connection as its standard input, and no other tie to who made it.
pub(crate) fn play_holder() {
    hold(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
}

/// Takes a connection that is passed to it.
pub(crate) fn play_taking(told: &[String]) {
    let path = Path::new(&told[0]).join("pass");
    std::fs::remove_file(&path).ok();
    let listener = Raw(socket());
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    say("listening");
    let from = listener.accept();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0; 1];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(&from, &mut parts, &mut control, flags).unwrap();
    let passed = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => files.last(),
        _ => None,
    });
    hold(passed.unwrap());
}

/// Uses a connection that another process made: the host knows who speaks. Answers questions until it is over.
fn hold(socket: OwnedFd) {
    let raw = Raw(socket);
    assert!(raw.ask(1, "who"));
    let answer = raw.packet().unwrap();
    assert!(answer.ends_with(std::process::id().to_string().as_bytes()));
    assert!(raw.frame(&ToHost::Get { get: 1, size: 64 }, b""));
    say("has it");
    let id = raw.message();
    raw.reply(id, b"held");
    raw.assert_ended();
}

fn connect_to_pass(directory: &Path) -> Raw {
    let socket = socket();
    let address = SocketAddrUnix::new(directory.join("pass")).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    Raw(socket)
}

fn socket() -> OwnedFd {
    let kind = SocketType::SEQPACKET;
    rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
}
