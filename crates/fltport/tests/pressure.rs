//! A client that does nothing forbidden, only too much of it: what it can make the host keep is bounded.
#![cfg(target_os = "linux")]

mod common;

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::child::{Process, alone, role, say};
use common::gate::Gate;
use common::raw::{PART, Raw, hello, request};
use common::{Handler, Host, NAME, descriptors, threads, until, watchdog};
use fltport::{Access, NtStatus, Outbound, SendError, Timeout, limits};
use fltport_engine::wire::{ToClient, ToHost};
use rustix::event::{PollFd, PollFlags, Timespec};

/// Sends frames until the host takes none for a while. Gives how many it took.
fn flood(raw: &Raw, mut next: impl FnMut(u64) -> (ToHost, Vec<u8>)) -> u64 {
    let patience = Timespec {
        tv_sec: 0,
        tv_nsec: 300_000_000,
    };
    for count in 1..200_000 {
        let (frame, payload) = next(count);
        while raw.try_frame(&frame, &payload).is_none() {
            let mut fds = [PollFd::new(raw, PollFlags::OUT)];
            if rustix::event::poll(&mut fds, Some(&patience)).unwrap() == 0 {
                return count;
            }
        }
    }
    panic!("the host takes everything from a client that reads nothing");
}

/// Bytes of memory that this process has.
fn memory() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size()
}

#[test]
fn p10_a_client_that_never_reads_costs_a_bounded_amount_and_senders_time_out() {
    let _watchdog = watchdog("p10_a_client_that_never_reads");
    alone(
        "p10_a_client_that_never_reads_costs_a_bounded_amount_and_senders_time_out",
        || {
            let host = Host::new();
            let raw = Raw::greeted(&host);
            let filter = host.log.next_port();
            for get in 1..=1_000 {
                assert!(raw.frame(&ToHost::Get { get, size: 1 << 20 }, b""));
            }
            until("the gets are posted", || filter.info().gets == 1_000);
            let before = memory();
            let payload = vec![7; 256 << 10];
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        for _ in 0..4 {
                            let wait = Timeout::after(Duration::from_millis(50));
                            let start = Instant::now();
                            let sent = filter.ask(&payload, 16, wait);
                            assert!(matches!(sent, Err(SendError::TimedOut { .. })), "{sent:?}");
                            assert!(start.elapsed() >= Duration::from_millis(50));
                        }
                    });
                }
            });
            // What fits the socket, and one message that did not.
            assert!(filter.info().delivered <= 3, "{:?}", filter.info());
            assert!(memory() < before + (16 << 20), "{} {before}", memory());
            host.assert_well();
            drop(raw);
            host.shutdown();
        },
    );
}

#[test]
fn a_client_that_asks_and_never_reads_the_answers_is_not_read_any_more() {
    let _watchdog = watchdog("a_client_that_asks_and_never_reads_the_answers");
    alone(
        "a_client_that_asks_and_never_reads_the_answers_is_not_read_any_more",
        || {
            let host = Host::new();
            let before = memory();
            let replies = Raw::greeted(&host);
            host.log.next_port();
            let taken = flood(&replies, |reply| {
                let frame = ToHost::Reply {
                    reply,
                    message_id: 77,
                    status: NtStatus::SUCCESS,
                    length: 0,
                };
                (frame, Vec::new())
            });
            println!("{taken} replies were taken");
            let gets = Raw::greeted(&host);
            host.log.next_port();
            let taken = flood(&gets, |get| (ToHost::Get { get, size: 1 }, Vec::new()));
            println!("{taken} gets were taken");
            let requests = Raw::greeted(&host);
            host.log.next_port();
            let taken = flood(&requests, |count| {
                let length = u32::try_from(PART).unwrap();
                let frame = ToHost::Request {
                    request: count,
                    capacity: 1 << 20,
                    length,
                };
                (frame, vec![1; PART])
            });
            println!("{taken} requests were taken");
            assert!(memory() < before + (96 << 20), "{} {before}", memory());
            host.assert_well();
            drop((replies, gets, requests));
            host.shutdown();
        },
    );
}

#[test]
fn attachments_that_a_client_does_not_take_are_bounded_and_cost_the_host_no_descriptor() {
    let _watchdog = watchdog("attachments_that_a_client_does_not_take_are_bounded");
    alone(
        "attachments_that_a_client_does_not_take_are_bounded_and_cost_the_host_no_descriptor",
        || {
            let host = Host::new();
            let raw = Raw::greeted(&host);
            let filter = host.log.next_port();
            for get in 1..=2_000 {
                assert!(raw.frame(&ToHost::Get { get, size: 16 }, b""));
            }
            until("the gets are posted", || filter.info().gets == 2_000);
            let before = descriptors();
            let file = Arc::new(File::open("/proc/self/exe").unwrap().into());
            let attached = || Outbound::new(b"").attach(Arc::clone(&file));
            let wait = Timeout::after(Duration::from_millis(50));
            let taken = (0..2_000).take_while(|_| filter.notify(attached(), wait).is_ok());
            let taken = taken.count();
            println!("{taken} attachments were taken");
            assert!(taken < 1_000);
            assert_eq!(descriptors(), before + 1);
            drop(raw);
            let client = host.connect();
            let filter = host.log.next_port();
            std::thread::scope(|scope| {
                scope.spawn(|| filter.notify(attached(), common::LONG).unwrap());
                assert!(client.next_message().unwrap().attachment().is_some());
            });
            drop(client);
            host.shutdown();
        },
    );
}

#[test]
fn requests_beyond_the_bounds_are_refused_and_take_no_thread() {
    let _watchdog = watchdog("requests_beyond_the_bounds_are_refused_and_take_no_thread");
    alone(
        "requests_beyond_the_bounds_are_refused_and_take_no_thread",
        || {
            let gate = Gate::default();
            let host = Host::with(Handler::gated(&gate), |builder| builder);
            let before = threads();
            let raw = Raw::greeted(&host);
            let most = limits::RUNNING_PER_CONNECTION + limits::QUEUED_PER_CONNECTION;
            let over = 100;
            for count in 0..most + over {
                assert!(raw.frame(&request(count as u64, 1), b"x"));
            }
            for _ in 0..over {
                let answer = raw.answer();
                let refused = matches!(
                    answer,
                    Some(ToClient::RequestDone {
                        status: NtStatus::INSUFFICIENT_RESOURCES,
                        ..
                    })
                );
                assert!(refused, "{answer:?}");
            }
            until("as many run as may", || {
                gate.came() == limits::RUNNING_PER_CONNECTION
            });
            // The callbacks', and one or two for connects.
            assert!(threads() <= before + limits::RUNNING_PER_CONNECTION + 2);
            gate.open();
            for _ in 0..most {
                assert!(matches!(
                    raw.answer(),
                    Some(ToClient::RequestDone {
                        status: NtStatus::SUCCESS,
                        ..
                    })
                ));
            }
            drop(raw);
            host.shutdown();
        },
    );
}

#[test]
fn connects_without_a_greeting_are_capped_for_each_user() {
    let _watchdog = watchdog("connects_without_a_greeting_are_capped_for_each_user");
    alone(
        "connects_without_a_greeting_are_capped_for_each_user",
        || {
            let host = Host::new();
            let before = descriptors();
            let silent: Vec<_> = (0..limits::HANDSHAKES_PER_USER)
                .map(|_| Raw::connect(&host))
                .collect();
            for _ in 0..200 {
                let more = Raw::connect(&host);
                assert_eq!(more.status(), Some(NtStatus::INSUFFICIENT_RESOURCES));
                more.assert_ended();
            }
            // One of each end, and the host keeps none of those that it refused.
            until("those are gone", || {
                descriptors() <= before + 2 * limits::HANDSHAKES_PER_USER
            });
            drop(silent);
            until("the host has let go of them", || descriptors() <= before);
            host.assert_well();
            host.shutdown();
        },
    );
}

#[test]
fn a_connect_without_a_greeting_is_ended_in_time() {
    let _watchdog = watchdog("a_connect_without_a_greeting_is_ended_in_time");
    let host = Host::new();
    let start = Instant::now();
    let silent = Raw::connect(&host);
    let half = Raw::connect(&host);
    assert!(half.frame(&hello(60_000), &[0; PART]));
    silent.assert_ended();
    half.assert_ended();
    assert!(start.elapsed() >= Duration::from_millis(limits::HANDSHAKE_MILLIS - 100));
    host.assert_well();
    host.shutdown();
}

#[test]
fn a_crowd_of_well_behaved_clients_all_get_in() {
    let _watchdog = watchdog("a_crowd_of_well_behaved_clients_all_get_in");
    let host = Host::new();
    for _ in 0..10 {
        let barrier = std::sync::Barrier::new(48);
        std::thread::scope(|scope| {
            for _ in 0..48 {
                scope.spawn(|| {
                    barrier.wait();
                    let client = host.connect();
                    barrier.wait();
                    drop(client);
                });
            }
        });
        until("they have left", || {
            host.log.disconnects() == host.log.connects()
        });
    }
    host.shutdown();
}

#[test]
fn b16_b19_connections_beyond_the_limit_are_refused_before_the_callback() {
    let _watchdog = watchdog("b16_b19_connections_beyond_the_limit");
    let host = Host::with(Handler::default(), |builder| builder.max_connections(3));
    let results: Vec<_> = std::thread::scope(|scope| {
        let connects: Vec<_> = (0..10)
            .map(|_| scope.spawn(|| host.connector().connect(NAME, b"")))
            .collect();
        connects.into_iter().map(|c| c.join().unwrap()).collect()
    });
    let refused = results.iter().filter_map(|result| result.as_ref().err());
    let codes: Vec<_> = refused.map(|error| error.hresult().0).collect();
    assert_eq!(codes, [0x8007_04D6; 7]);
    assert_eq!(host.log.connects(), 3);
    drop(results);
    until("the slots are free", || host.log.disconnects() == 3);
    host.assert_well();
    host.shutdown();
}

#[test]
fn c2_a_client_without_access_is_told_so_before_a_byte_of_it_is_read() {
    let _watchdog = watchdog("c2_a_client_without_access");
    if let Some((_, told)) = role() {
        let directory = std::path::Path::new(&told[0]);
        let silent = Raw::connect_below(directory);
        say(&format!("silent {:x}", silent.status().unwrap().0));
        for _ in 0..50 {
            let connector = fltport::Connector::new().directory(directory);
            let error = connector.trust_user(0).connect(NAME, b"ctx").unwrap_err();
            assert_eq!(error.hresult().0, 0x8007_0005, "{error}");
        }
        say("done");
        return;
    }
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: only root can become somebody else");
    }
    let host = Host::with(Handler::default(), |builder| {
        builder.access(Access::host_only(0).allow_user(4_000_000))
    });
    open_to_all(host.directory.path());
    let directory = host.directory.path().to_str().unwrap();
    let test = "c2_a_client_without_access_is_told_so_before_a_byte_of_it_is_read";
    let stranger = Process::start(test, "stranger", &[directory], |command| {
        use std::os::unix::process::CommandExt;
        command.uid(4_000_001).gid(4_000_001);
    });
    let Ok(mut stranger) = stranger else {
        return println!("skipped: other users cannot run this test binary");
    };
    assert_eq!(stranger.hear("silent "), "c0000022");
    stranger.hear("done");
    assert!(stranger.wait().success());
    assert_eq!(host.log.connects(), 0);
    host.assert_well();
    host.shutdown();
}

fn open_to_all(directory: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn nobody_finishes_a_frame_that_another_process_began() {
    let _watchdog = watchdog("nobody_finishes_a_frame_that_another_process_began");
    if role().is_some() {
        let socket = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned();
        let raw = Raw(socket.unwrap());
        assert!(raw.frame(&ToHost::Chunk { length: 4 }, b"mine"));
        return;
    }
    let host = Host::new();
    let raw = Raw::greeted(&host);
    let length = u32::try_from(PART + 4).unwrap();
    assert!(raw.frame(&request(1, length), &[0; PART]));
    let copy = raw.0.try_clone().unwrap();
    let test = "nobody_finishes_a_frame_that_another_process_began";
    let mut other = Process::start(test, "other", &[], |command| {
        command.stdin(copy);
    });
    assert!(other.as_mut().unwrap().wait().success());
    raw.assert_ended();
    host.assert_well();
    host.shutdown();
}
