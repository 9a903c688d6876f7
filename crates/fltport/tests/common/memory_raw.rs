//! A bare client that has the memory of its connection, and no manners but those that a story gives it.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use fltport::NtStatus;
use fltport_engine::wire::{FRAME_HEADER, FRAME_MAX, ToClient, ToHost};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::thread::futex;

use super::LIMIT;
use super::memory_layout as layout;
use super::memory_map::Map;
use super::raw::Raw;

pub(crate) struct Memory {
    pub(crate) raw: Raw,
    pub(crate) host: Map,
    pub(crate) client: Map,
    pub(crate) files: [OwnedFd; 2],
    pub(crate) first_id: u64,
    pub(crate) tail: u64,
    pub(crate) generations: [u64; layout::GETS],
}

impl Memory {
    /// Connects to the port in this directory and gets memory.
    pub(crate) fn at(directory: &Path) -> Self {
        Self::of(Raw::greeted_below(directory, b"")).unwrap()
    }

    /// Gets memory for a connection, if the host gives any, and has it used.
    pub(crate) fn of(raw: Raw) -> Option<Self> {
        let memory = Self::unused(raw)?;
        memory.begin();
        Some(memory)
    }

    /// Tells the host that the memory is mapped.
    pub(crate) fn begin(&self) {
        assert!(self.raw.frame(&ToHost::Kick, b""));
    }

    /// Gets memory that the host does not use yet.
    pub(crate) fn unused(raw: Raw) -> Option<Self> {
        assert!(raw.frame(&ToHost::Attach, b""));
        let (frame, files) = next_with_files(&raw);
        let ToClient::Attached {
            status,
            layout,
            first_id,
        } = frame
        else {
            panic!("{frame:?} instead of memory");
        };
        if status != NtStatus::SUCCESS {
            assert!(files.is_empty());
            return None;
        }
        assert_eq!(layout, layout::LAYOUT);
        let files: [OwnedFd; 2] = files.try_into().unwrap();
        let size = |file: &OwnedFd| usize::try_from(rustix::fs::fstat(file).unwrap().st_size);
        assert_eq!(size(&files[0]), Ok(layout::HOST_BYTES));
        assert_eq!(size(&files[1]), Ok(layout::CLIENT_BYTES));
        Some(Self {
            raw,
            host: Map::new(&files[0], layout::HOST_BYTES, false).unwrap(),
            client: Map::new(&files[1], layout::CLIENT_BYTES, true).unwrap(),
            files,
            first_id,
            tail: 0,
            generations: [0; layout::GETS],
        })
    }

    /// Posts a get of 4 KiB, which nobody sleeps at.
    pub(crate) fn post(&mut self, get: usize) {
        self.post_sized(get, 4096, 0);
    }

    /// Posts a get of `size` bytes with these marks.
    pub(crate) fn post_sized(&mut self, get: usize, size: u32, marks: u64) {
        self.generations[get] += 1;
        let word = layout::word(layout::POSTED, self.generations[get]);
        self.client.store(layout::get_word(get), word | marks);
        self.push(layout::posted(get as u64, size));
    }

    /// Puts an entry in the ring, whatever it is.
    pub(crate) fn push(&mut self, entry: u64) {
        let bits = layout::numbered(entry, self.tail);
        self.client.store(layout::ring_entry(self.tail), bits);
        self.tail += 1;
        if self.host.load(layout::KICK) != 0 {
            self.kick();
        }
    }

    /// Says that there is something in the ring, if the host takes packets.
    pub(crate) fn kick(&self) -> bool {
        self.raw.try_frame(&ToHost::Kick, b"") == Some(true)
    }

    /// Waits until a get is over; the number of its message.
    pub(crate) fn message(&self, get: usize) -> u64 {
        let end = Instant::now() + LIMIT;
        while self.client.load(layout::get_word(get)) & 7 == layout::POSTED {
            assert!(Instant::now() < end, "no message comes");
            std::thread::yield_now();
        }
        let word = self.client.load(layout::get_word(get));
        assert_eq!(word & 7, layout::ASSIGNED, "{word:#x}");
        self.host.load(layout::record(get))
    }

    /// Where the payload of the message in a get is, and how long it is.
    pub(crate) fn place(&self, get: usize) -> (usize, usize) {
        let lengths = self.host.load(layout::record(get) + 8);
        let place = self.host.load(layout::record(get) + 16);
        let length = usize::try_from(lengths & u64::from(u32::MAX)).unwrap();
        (usize::try_from(place).unwrap(), length)
    }

    /// The payload of the message in a get.
    pub(crate) fn payload(&self, get: usize) -> Vec<u8> {
        let (at, length) = self.place(get);
        self.host.bytes(at, length)
    }

    /// Takes a step with the word of a waiter, if that is in the first of these states.
    pub(crate) fn step(&self, waiter: usize, from: u64, to: u64) -> bool {
        let word = self.client.word(layout::waiter_word(waiter));
        let step = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |bits| {
            (bits & 7 == from).then_some(bits & !7 | to)
        });
        step.is_ok()
    }

    /// Claims a message.
    pub(crate) fn claim(&self, id: u64) -> bool {
        self.step(layout::waiter_of(id).0, layout::WAITING, layout::REPLYING)
    }

    /// Finishes the reply to a message that was claimed, as it should be done.
    pub(crate) fn finish(&mut self, id: u64, bytes: &[u8]) -> bool {
        let (waiter, _) = layout::waiter_of(id);
        self.client.write(layout::reply_payload(waiter), bytes);
        let head = (bytes.len() as u64) << 32;
        self.client.store(layout::reply_head(waiter), head);
        if !self.step(waiter, layout::REPLYING, layout::REPLIED) {
            return false;
        }
        self.wake(layout::waiter_word(waiter));
        if self.client.load(layout::waiter_word(waiter)) & layout::BELL != 0 {
            self.push(layout::replied(waiter as u64));
        }
        true
    }

    /// Replies to a message.
    pub(crate) fn reply(&mut self, id: u64, bytes: &[u8]) -> bool {
        self.claim(id) && self.finish(id, bytes)
    }

    pub(crate) fn wake(&self, offset: usize) {
        futex::wake(self.client.half(offset), futex::Flags::empty(), 1 << 30).ok();
    }

    /// Waits until these requests are answered, or the connection is over; the answers as texts, or `None`.
    pub(crate) fn answers(&self, mut numbers: Vec<u64>) -> Option<Vec<String>> {
        let mut texts = vec![String::new(); numbers.len()];
        let all = numbers.clone();
        while !numbers.is_empty() {
            let packet = self.raw.packet()?;
            if let (ToClient::RequestDone { request, .. }, _) = ToClient::parse(&packet).unwrap() {
                numbers.retain(|number| *number != request);
                let at = all.iter().position(|number| *number == request);
                let text = String::from_utf8_lossy(&packet[FRAME_HEADER..]);
                if let Some(at) = at {
                    texts[at] = text.into_owned();
                }
            }
        }
        Some(texts)
    }

    /// Waits until these requests are answered, in whatever order, or the connection is over.
    pub(crate) fn answers_or_end(&self, numbers: &[u64]) -> bool {
        let mut left = numbers.to_vec();
        while !left.is_empty() {
            let Some(frame) = self.raw.answer() else {
                return false;
            };
            if let ToClient::RequestDone { request, .. } = frame {
                left.retain(|number| *number != request);
            }
        }
        true
    }

    /// What the host says to a request; `None` if the connection is over.
    pub(crate) fn answer(&self, number: u64, text: &str) -> Option<String> {
        self.raw.ask(number, text);
        self.answers(vec![number])?.pop()
    }
}

/// The next frame, with the descriptors that come with it.
fn next_with_files(raw: &Raw) -> (ToClient, Vec<OwnedFd>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = vec![0; FRAME_MAX];
    let limit = Timespec {
        tv_sec: i64::try_from(LIMIT.as_secs()).unwrap(),
        tv_nsec: 0,
    };
    let socket = raw.as_fd();
    let mut fds = [PollFd::new(&socket, PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut fds, Some(&limit)), Ok(1));
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let message = rustix::net::recvmsg(raw, &mut parts, &mut control, flags).unwrap();
    let mut files = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = part {
            files.extend(some);
        }
    }
    let (frame, _) = ToClient::parse(&buffer[..message.bytes]).unwrap();
    (frame, files)
}
