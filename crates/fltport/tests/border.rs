//! A hostile client over the real socket. Whatever it sends, its own connection ends, and nothing else does.
#![cfg(target_os = "linux")]

mod common;

use std::fs::File;
use std::os::fd::AsFd;

use common::child::alone;
use common::raw::{PART, Raw, hello, request};
use common::{Handler, Host, descriptors, until, watchdog};
use fltport::{NtStatus, limits};
use fltport_engine::wire::{FRAME_HEADER, FRAME_MAX, ToClient, ToHost};
use zerocopy::IntoBytes;

type Attack = (&'static str, fn(&Raw));

/// Runs each attack on a connection of its own, and looks after each whether the host is well.
fn every(attacks: &[Attack], open: impl Fn(&Host) -> Raw) {
    let host = Host::new();
    host.assert_well();
    until("the callbacks are over", || {
        host.log.disconnects() == host.log.connects()
    });
    let before = descriptors();
    for (name, attack) in attacks {
        println!("{name}");
        let raw = open(&host);
        attack(&raw);
        raw.assert_ended();
        host.assert_well();
    }
    until("every connection had its disconnect callback", || {
        host.log.disconnects() == host.log.connects()
    });
    until("no descriptor is left over", || descriptors() <= before);
    host.shutdown();
}

const ON_A_CONNECTION: &[Attack] = &[
    ("one byte", |raw| assert!(raw.bytes(b"?"))),
    ("no byte", |raw| assert!(raw.bytes(b""))),
    ("a header without its last byte", |raw| {
        assert!(raw.bytes(&[0; FRAME_HEADER - 1]));
    }),
    ("zeros", |raw| assert!(raw.bytes(&[0; FRAME_HEADER]))),
    ("ones", |raw| assert!(raw.bytes(&[0xFF; FRAME_MAX]))),
    ("a packet over the longest", |raw| {
        let frame = request(1, u32::try_from(FRAME_MAX).unwrap());
        assert!(raw.frame(&frame, &[0; FRAME_MAX]));
    }),
    ("a field that must be zero", |raw| {
        let mut bytes = request(1, 0).header().as_bytes().to_vec();
        bytes[2] = 1;
        assert!(raw.bytes(&bytes));
    }),
    ("a frame that only a host sends", |raw| {
        assert!(raw.bytes(ToClient::Disconnected.header().as_bytes()));
    }),
    ("a part without a beginning", |raw| {
        assert!(raw.frame(&ToHost::Chunk { length: 4 }, b"part"));
    }),
    ("fewer bytes than announced", |raw| {
        assert!(raw.frame(&request(1, 5), b"four"));
    }),
    ("more bytes than announced", |raw| {
        assert!(raw.frame(&request(1, 3), b"four"));
    }),
    ("a part of the wrong length", |raw| {
        assert!(raw.frame(&request(1, 100_000), &[0; PART]));
        raw.frame(&ToHost::Chunk { length: 7 }, b"seven 7");
    }),
    ("a part that lies about its length", |raw| {
        let length = u32::try_from(2 * PART).unwrap();
        assert!(raw.frame(&request(1, length), &[0; PART]));
        raw.frame(&ToHost::Chunk { length: 7 }, &[0; PART]);
    }),
    ("a frame inside an unfinished one", |raw| {
        assert!(raw.frame(&request(1, 100_000), &[0; PART]));
        raw.frame(&ToHost::Get { get: 1, size: 100 }, b"");
    }),
    ("a frame over the port's limit", |raw| {
        let length = limits::MESSAGE_DEFAULT + 1;
        assert!(raw.frame(&request(1, length), &[0; PART]));
    }),
    ("four gibibytes announced", |raw| {
        assert!(raw.frame(&request(1, u32::MAX), &[0; PART]));
    }),
    ("a second greeting", |raw| {
        assert!(raw.frame(&hello(0), b""))
    }),
    ("a get number used twice", |raw| {
        assert!(raw.frame(&ToHost::Get { get: 7, size: 100 }, b""));
        raw.frame(&ToHost::Get { get: 7, size: 100 }, b"");
    }),
    ("a get number that falls", |raw| {
        assert!(raw.frame(&ToHost::Get { get: 7, size: 100 }, b""));
        raw.frame(&ToHost::Get { get: 6, size: 100 }, b"");
    }),
    ("one open file attached", |raw| attach(raw, 1)),
    ("ten open files attached", |raw| attach(raw, 10)),
    ("the writing half closed", |raw| {
        rustix::net::shutdown(raw, rustix::net::Shutdown::Write).unwrap();
    }),
];

const BEFORE_THE_GREETING: &[Attack] = &[
    ("one byte", |raw| assert!(raw.bytes(b"?"))),
    ("another version", |raw| {
        let mut bytes = hello(0).header().as_bytes().to_vec();
        bytes[8] ^= 2;
        assert!(raw.bytes(&bytes));
    }),
    ("an impossible pointer width", |raw| {
        assert!(raw.frame(
            &ToHost::Hello {
                bits: 16,
                length: 0
            },
            b""
        ));
    }),
    ("no greeting", |raw| {
        assert!(raw.frame(&ToHost::Get { get: 1, size: 16 }, b""));
    }),
    ("a context over the longest", |raw| {
        assert!(raw.frame(&hello(limits::CONTEXT_MAX + 1), &[0; PART]));
    }),
    ("an open file with the greeting", |raw| {
        let file = File::open("/proc/self/exe").unwrap();
        if !raw.frame_with(&hello(0), &[file.as_fd()]) {
            assert!(raw.bytes(b"?"));
        }
    }),
    ("half a greeting, then the end", |raw| {
        assert!(raw.frame(&hello(60_000), &[0; PART]));
        rustix::net::shutdown(raw, rustix::net::Shutdown::Write).unwrap();
    }),
];

/// The kernel refuses what is attached, or else the host does.
fn attach(raw: &Raw, count: usize) {
    let file = File::open("/proc/self/exe").unwrap();
    let frame = ToHost::Get { get: 1, size: 100 };
    if !raw.frame_with(&frame, &vec![file.as_fd(); count]) {
        assert!(raw.bytes(b"?"));
    }
}

#[test]
fn p9_a_lie_on_a_connection_ends_it_and_nothing_else() {
    let _watchdog = watchdog("p9_a_lie_on_a_connection_ends_it_and_nothing_else");
    alone("p9_a_lie_on_a_connection_ends_it_and_nothing_else", || {
        every(ON_A_CONNECTION, Raw::greeted);
    });
}

#[test]
fn a_lie_instead_of_a_greeting_reaches_no_callback() {
    let _watchdog = watchdog("a_lie_instead_of_a_greeting_reaches_no_callback");
    alone("a_lie_instead_of_a_greeting_reaches_no_callback", || {
        let host = Host::new();
        let before = descriptors();
        for (name, attack) in BEFORE_THE_GREETING {
            println!("{name}");
            let raw = Raw::connect(&host);
            attack(&raw);
            raw.assert_ended();
        }
        until("no descriptor is left over", || descriptors() <= before);
        assert_eq!(host.log.connects(), 0);
        host.assert_well();
        host.shutdown();
    });
}

#[test]
fn an_attached_file_whose_closing_takes_its_time_holds_up_nobody() {
    let _watchdog = watchdog("an_attached_file_whose_closing_takes_its_time_holds_up_nobody");
    let host = Host::new();
    let raw = Raw::greeted(&host);
    // Whoever closes a socket like this one last waits until its peer has read, or for a minute.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let slow = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let _peer = listener.accept().unwrap();
    let minute = Some(std::time::Duration::from_secs(60));
    rustix::net::sockopt::set_socket_linger(&slow, minute).unwrap();
    slow.set_nonblocking(true).unwrap();
    while std::io::Write::write(&mut &slow, &[0; 65_536]).is_ok() {}
    let frame = ToHost::CancelGet { get: 1 };
    if raw.frame_with(&frame, &[slow.as_fd()]) {
        // This copy outlives the host's, so that the host's is not the last.
        raw.assert_ended();
        rustix::net::sockopt::set_socket_linger(&slow, None).unwrap();
        return println!("skipped: before Linux 6.16 no host can refuse descriptors");
    }
    rustix::net::sockopt::set_socket_linger(&slow, None).unwrap();
    assert!(raw.frame(&request(1, 4), b"well"));
    assert!(matches!(raw.answer(), Some(ToClient::RequestDone { .. })));
    host.assert_well();
    drop(raw);
    host.shutdown();
}

#[test]
fn half_a_frame_and_silence_hold_up_nobody_else() {
    let _watchdog = watchdog("half_a_frame_and_silence_hold_up_nobody_else");
    let host = Host::new();
    let silent: Vec<_> = (0..32)
        .map(|_| {
            let raw = Raw::greeted(&host);
            assert!(raw.frame(&request(1, 1 << 20), &[0; PART]));
            host.log.next_port();
            raw
        })
        .collect();
    host.assert_well();
    drop(silent);
    until("their connections are over", || {
        host.log.disconnects() == host.log.connects()
    });
    host.shutdown();
}

#[test]
fn f10_f11_f15_replies_to_what_was_never_asked_find_nobody() {
    let _watchdog = watchdog("f10_f11_f15_replies_to_what_was_never_asked_find_nobody");
    let host = Host::new();
    let client = host.connect();
    let filter = host.log.next_port();
    let raw = Raw::greeted(&host);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| filter.ask(b"question", 16, common::LONG).unwrap());
        let message = client.next_message().unwrap();
        // The id of another connection's message is no secret, and of no use.
        for id in [message.header().message_id, 0, 2, u64::MAX] {
            let reply = ToHost::Reply {
                reply: 5,
                message_id: id,
                status: NtStatus::SUCCESS,
                length: 4,
            };
            assert!(raw.frame(&reply, b"fake"));
            let told = ToClient::ReplyDone {
                reply: 5,
                status: NtStatus::FLT_NO_WAITER_FOR_REPLY,
            };
            assert_eq!(raw.answer(), Some(told));
        }
        message.reply(b"real").unwrap();
        assert_eq!(asked.join().unwrap().bytes, b"real");
    });
    drop((raw, client));
    host.shutdown();
}

#[test]
fn withdrawing_gets_that_were_never_posted_does_nothing() {
    let _watchdog = watchdog("withdrawing_gets_that_were_never_posted_does_nothing");
    let host = Host::new();
    let raw = Raw::greeted(&host);
    for get in [0, 1, u64::MAX] {
        assert!(raw.frame(&ToHost::CancelGet { get }, b""));
    }
    assert!(raw.frame(&request(9, 4), b"echo"));
    let done = ToClient::RequestDone {
        request: 9,
        status: NtStatus::SUCCESS,
        length: 4,
    };
    assert_eq!(raw.answer(), Some(done));
    drop(raw);
    host.shutdown();
}

#[test]
fn a_client_that_leaves_in_the_middle_of_its_connect_callback_is_disconnected_once() {
    let _watchdog = watchdog("a_client_that_leaves_in_the_middle_of_its_connect_callback");
    let (entered, is_entered) = std::sync::mpsc::channel();
    let (leave, may_leave) = std::sync::mpsc::channel();
    let may_leave = std::sync::Mutex::new(may_leave);
    let handler = Handler {
        on_connect: Box::new(move |port, _| {
            entered.send(port.clone()).unwrap();
            may_leave.lock().unwrap().recv().unwrap();
            Ok(())
        }),
        ..Handler::default()
    };
    let host = Host::with(handler, |builder| builder);
    let raw = Raw::connect(&host);
    assert!(raw.frame(&hello(0), b""));
    let port = is_entered.recv().unwrap();
    drop(raw);
    // The callback is not alone in waiting: what it sends ends too.
    let sent = port.notify(b"early", common::LONG);
    assert!(matches!(sent, Err(fltport::SendError::Disconnected { .. })));
    leave.send(()).unwrap();
    until("the disconnect callback ran", || {
        host.log.disconnects() == 1
    });
    host.shutdown();
}
