//! Open files that travel with messages.
#![cfg(target_os = "linux")]

mod common;

use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use common::child::alone;
use common::{Ends, LONG, both_ways, until, watchdog};
use fltport::{Outbound, SendError, Timeout};

#[test]
fn attachments_are_regular_files_for_reading_and_arrive_open() {
    let _watchdog = watchdog("attachments_are_regular_files_for_reading_and_arrive_open");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, "content").unwrap();
    let read_only = || Arc::new(OwnedFd::from(std::fs::File::open(&path).unwrap()));
    both_ways(|Ends { filter, client, .. }| {
        let writable = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path);
        let folder = std::fs::File::open(directory.path()).unwrap();
        let device = std::fs::File::open("/dev/null").unwrap();
        let (pipe, _end) = rustix::pipe::pipe().unwrap();
        for bad in [writable.unwrap().into(), folder.into(), device.into(), pipe] {
            let message = Outbound::new(b"?").attach(Arc::new(bad));
            let sent = filter.notify(message, LONG);
            assert!(matches!(sent, Err(SendError::BadAttachment)), "{sent:?}");
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut message = client.next_message().unwrap();
                let file = std::fs::File::from(message.take_attachment().unwrap());
                let mut bytes = [0; 7];
                file.read_exact_at(&mut bytes, 0).unwrap();
                assert_eq!(
                    rustix::io::fcntl_getfd(&file),
                    Ok(rustix::io::FdFlags::CLOEXEC)
                );
                message.reply(&bytes).unwrap();
                assert!(client.next_message().unwrap().attachment().is_none());
            });
            // Also in front of a message of many packets.
            let question = vec![1; 200_000];
            let message = Outbound::new(&question).attach(read_only());
            assert_eq!(filter.ask(message, 7, LONG).unwrap().bytes, b"content");
            filter.notify(b"bare", LONG).unwrap();
        });
    });
}

#[test]
fn attachments_of_sends_that_end_are_closed_and_unread_ones_are_bounded() {
    let _watchdog = watchdog("attachments_of_sends_that_end_are_closed");
    let test = "attachments_of_sends_that_end_are_closed_and_unread_ones_are_bounded";
    alone(test, || {
        let file = || {
            Arc::new(OwnedFd::from(
                std::fs::File::open("/proc/self/exe").unwrap(),
            ))
        };
        both_ways(|Ends { filter, client, .. }| {
            let before = common::descriptors();
            for _ in 0..50 {
                let sent = filter.notify(Outbound::new(b"?").attach(file()), Timeout::poll());
                assert!(matches!(
                    sent,
                    Err(SendError::TimedOut { delivered: false })
                ));
            }
            assert_eq!(common::descriptors(), before);
            // Delivered, and never looked at: the client is stuck before it reads.
            std::thread::scope(|scope| {
                let gets: Vec<_> = (0..4)
                    .map(|_| scope.spawn(|| client.next_message()))
                    .collect();
                until("all wait", || filter.info().gets == 4);
                for _ in 0..4 {
                    filter
                        .notify(Outbound::new(b"?").attach(file()), LONG)
                        .unwrap();
                }
                for get in gets {
                    assert!(get.join().unwrap().unwrap().attachment().is_some());
                }
            });
            assert_eq!(common::descriptors(), before);
        });
    });
}
