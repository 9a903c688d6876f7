//! A lying peer at a real port over the real sockets, and a well-behaved client beside it that must not notice.
//!
//! One host serves all inputs of a process. After each input the client's question and request are answered, every
//! question to the liar has ended, every accepted connection had its disconnect callback, and no descriptor is left. A
//! reply that the host has confirmed to the liar is what the sender got.

mod host;
pub mod ops;
mod raw;

use std::sync::{Mutex, PoisonError};

use arbitrary::Unstructured;
use fltport::{NtStatus, Timeout};
use fltport_engine::wire::{FRAME_HEADER, FRAME_MAX, ToClient, ToHost};
use zerocopy::IntoBytes;

use host::Host;
use ops::{Greeting, Lie, Op};
use raw::Raw;

/// Operations of one input; what comes beyond is not played.
const MOST_OPS: usize = 64;

/// Connections of one input.
const SOCKETS: usize = 4;

/// Payload bytes of one packet.
const PART: usize = FRAME_MAX - FRAME_HEADER;

static HOST: Mutex<Option<Host>> = Mutex::new(None);

/// Runs one input.
///
/// # Panics
/// When somebody else than the liar has to suffer, or something is left over.
pub fn run(data: &[u8]) {
    let mut host = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    let host = host.get_or_insert_with(Host::start);
    let mut input = Unstructured::new(data);
    let mut liar = Liar::default();
    for _ in 0..MOST_OPS {
        if input.is_empty() {
            break;
        }
        let Ok(op) = input.arbitrary::<Op>() else {
            break;
        };
        if crate::tells() {
            eprintln!("{op:?}");
        }
        liar.play(op, host);
    }
    host.assert_well();
    liar.leave();
    host.assert_clean();
    let answers = host.take_answers();
    let mut confirmed = liar
        .confirmed
        .iter()
        .filter(|serial| liar.honest.contains(serial));
    assert!(
        confirmed.all(|serial| answers.contains(serial)),
        "a confirmed reply did not reach its sender"
    );
}

#[derive(Default)]
struct Liar {
    sockets: [Option<Raw>; SOCKETS],
    /// Replies that the host has said to be accepted.
    confirmed: Vec<u64>,
    /// Replies that were sent as they are.
    honest: Vec<u64>,
}

impl Liar {
    fn play(&mut self, op: Op, host: &mut Host) {
        match op {
            Op::Connect { on } => self.sockets[at(on)] = Some(Raw::connect(host.directory())),
            Op::Greet { on, context, how } => self.greet(at(on), context, how),
            Op::Close { on } => self.close(at(on)),
            Op::Ask { of, size, wait } => {
                let timeout = match wait % 4 {
                    0 => Timeout::poll(),
                    1 => Timeout::after(std::time::Duration::from_millis(u64::from(wait) / 4)),
                    _ => Timeout::Never,
                };
                host.ask(usize::from(of), usize::from(size) * 300, timeout);
            }
            Op::Shut { of } => host.shut(usize::from(of)),
            Op::Frame {
                on,
                lie,
                kind,
                token,
                id,
                a,
                payload,
            } => {
                let bytes = self.frame(lie, kind, token, id, a, payload);
                self.send_altered(at(on), bytes, lie);
            }
            Op::Long {
                on,
                length,
                parts,
                last,
                lie,
            } => self.long(at(on), length, parts, last, lie),
            Op::Garbage { on, length, fill } => {
                self.with(at(on), |raw| raw.send(&vec![fill; usize::from(length)]));
            }
            Op::Attach { on, files } => {
                let frame = ToHost::Get {
                    get: 1 << 40,
                    size: 64,
                }
                .header();
                self.with(at(on), |raw| {
                    raw.send_with_files(frame.as_bytes(), files % 12)
                });
            }
            Op::Read { on } => self.read(at(on)),
            Op::HalfClose { on, how } => self.with(at(on), |raw| raw.half_close(how)),
        }
    }

    fn with<T>(&self, on: usize, act: impl FnOnce(&Raw) -> T) {
        if let Some(raw) = &self.sockets[on] {
            act(raw);
        }
    }

    fn greet(&self, on: usize, context: u8, how: Greeting) {
        let length = u32::from(context);
        let (bits, said) = match how {
            Greeting::Right | Greeting::RightAndLeave => (64, length),
            Greeting::Narrow => (32, length),
            Greeting::OtherWidth => (16, length),
            Greeting::OtherLength => (64, length + 1),
            Greeting::TooLong => (64, fltport::limits::CONTEXT_MAX + 1),
        };
        let frame = ToHost::Hello { bits, length: said };
        let bytes = [frame.header().as_bytes(), &vec![7; usize::from(context)]].concat();
        self.with(on, |raw| {
            let sent = raw.send(&bytes);
            // So that what follows meets a connection, in the same way each time.
            if sent && matches!(how, Greeting::Right | Greeting::Narrow) {
                raw.wait_for_answer();
            }
        });
    }

    /// A frame in which everything is as it should be, but for its numbers.
    fn frame(&mut self, lie: Lie, kind: u8, token: u8, id: u8, a: u8, payload: u8) -> Vec<u8> {
        let length = u32::from(payload);
        let mut body = vec![a; usize::from(payload)];
        let frame = match kind % 8 {
            0 => ToHost::Hello { bits: 64, length },
            1 | 2 => ToHost::Get {
                get: u64::from(token),
                size: u32::from(a) * 600,
            },
            3 => ToHost::CancelGet {
                get: u64::from(token),
            },
            4 | 5 => {
                // Each reply says which it is, so that its sender can be asked whether it came.
                let serial = host::next_serial();
                if lie == Lie::None {
                    self.honest.push(serial);
                }
                body = [&serial.to_ne_bytes()[..], &body].concat();
                ToHost::Reply {
                    reply: serial,
                    message_id: u64::from(id),
                    status: NtStatus(u32::from(a) << 24),
                    length: length + 8,
                }
            }
            6 => ToHost::Request {
                request: u64::from(token),
                capacity: u32::from(a) << (id % 25),
                length,
            },
            _ => ToHost::Chunk { length },
        };
        [frame.header().as_bytes(), &body].concat()
    }

    fn send_altered(&self, on: usize, mut bytes: Vec<u8>, lie: Lie) {
        match lie {
            Lie::None => {}
            Lie::Byte { at, with } => {
                let at = usize::from(at) % bytes.len();
                bytes[at] ^= with;
            }
            Lie::Shorter { by } => bytes.truncate(bytes.len().saturating_sub(usize::from(by))),
            Lie::Longer { by } => bytes.resize(bytes.len() + usize::from(by), 0xA5),
        }
        self.with(on, |raw| raw.send(&bytes));
    }

    /// A request in parts: some of them, and the last as it should be or not.
    fn long(&self, on: usize, length: u8, parts: u8, last: i8, lie: Lie) {
        let total = usize::from(length) * 6_007;
        let frame = ToHost::Request {
            request: 77,
            capacity: 16,
            length: u32::try_from(total).unwrap_or(u32::MAX),
        };
        let mut bytes = frame.header().as_bytes().to_vec();
        bytes.resize(FRAME_HEADER + total.min(PART), 1);
        self.with(on, |raw| raw.send(&bytes));
        let mut left = total.saturating_sub(PART);
        for _ in 0..parts {
            let part = left.min(PART);
            left -= part;
            let is_last = left == 0;
            let said = if is_last {
                part.saturating_add_signed(isize::from(last))
            } else {
                part
            };
            let frame = ToHost::Chunk {
                length: u32::try_from(said).unwrap_or(0),
            };
            let mut bytes = frame.header().as_bytes().to_vec();
            bytes.resize(FRAME_HEADER + part, 2);
            if is_last {
                return self.send_altered(on, bytes, lie);
            }
            self.with(on, |raw| raw.send(&bytes));
        }
    }

    /// Takes all that is there. A host never lies.
    fn read(&mut self, on: usize) {
        let Some(raw) = &mut self.sockets[on] else {
            return;
        };
        for frame in raw.read_all() {
            let ToClient::ReplyDone { reply, status } = frame else {
                continue;
            };
            if status == NtStatus::SUCCESS || status == NtStatus::BUFFER_OVERFLOW {
                self.confirmed.push(reply);
            }
        }
    }

    fn close(&mut self, on: usize) {
        self.read(on);
        self.sockets[on] = None;
    }

    fn leave(&mut self) {
        for on in 0..SOCKETS {
            self.close(on);
        }
    }
}

fn at(on: u8) -> usize {
    usize::from(on) % SOCKETS
}
