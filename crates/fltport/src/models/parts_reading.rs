//! The client's end alone, over a link that is two queues, in every order of its threads: who reads for all.

use std::collections::VecDeque;
use std::sync::Arc;

use fltport_engine::NtStatus;
use fltport_engine::wire::{MessageHeader, ToClient, ToHost};
use zerocopy::IntoBytes as _;

use super::parts::exhaust;
use crate::client_call::Ended;
use crate::client_driver::Connection;
use crate::link::{ClientLink, Packet, Received, Sent};
use crate::sync::thread::spawn;
use crate::sync::{Condvar, Instant, Mutex};

/// A host that answers each frame at once: a request by its bytes, a get by a message until there are no more.
#[derive(Debug)]
struct Host {
    state: Mutex<State>,
    changed: Condvar,
    /// Nobody polls it.
    bell: crate::sys::Bell,
}

#[derive(Debug, Default)]
struct State {
    to_client: VecDeque<Vec<u8>>,
    gets: VecDeque<u64>,
    messages: usize,
    closed: bool,
}

#[derive(Debug)]
struct Link(Arc<Host>);

impl Host {
    fn new(messages: usize) -> Arc<Self> {
        let mut state = State {
            messages,
            ..State::default()
        };
        state.push(
            &ToClient::Connected {
                status: NtStatus::SUCCESS,
                max_message: 100,
            },
            &[],
        );
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            bell: crate::sys::Bell::new().unwrap(),
        })
    }
}

impl State {
    fn push(&mut self, frame: &ToClient, payload: &[u8]) {
        self.to_client
            .push_back([frame.header().as_bytes(), payload].concat());
    }

    fn answer(&mut self, frame: &ToHost, payload: &[u8]) {
        match *frame {
            ToHost::Get { get, .. } => self.gets.push_back(get),
            ToHost::CancelGet { get } => {
                if let Some(at) = self.gets.iter().position(|posted| *posted == get) {
                    self.gets.remove(at);
                    let status = NtStatus::CANCELLED;
                    self.push(
                        &ToClient::GetFailed {
                            get,
                            status,
                            needed: 0,
                        },
                        &[],
                    );
                }
            }
            ToHost::Request {
                request, length, ..
            } => {
                let status = NtStatus::SUCCESS;
                self.push(
                    &ToClient::RequestDone {
                        request,
                        status,
                        length,
                    },
                    payload,
                );
            }
            _ => unreachable!(),
        }
        while self.messages > 0 {
            let Some(get) = self.gets.pop_front() else {
                return;
            };
            self.messages -= 1;
            let header = MessageHeader::new(0, 1);
            let message = ToClient::Message {
                get,
                header,
                remaining: None,
                attachment: false,
                length: 1,
            };
            self.push(&message, b"m");
        }
    }
}

impl ClientLink for Link {
    fn send(&self, head: &[u8], payload: &[u8]) -> Sent {
        let packet = [head, payload].concat();
        let (frame, payload) = ToHost::parse(&packet).unwrap();
        if matches!(frame, ToHost::Hello { .. }) {
            return Sent::Done;
        }
        let mut state = self.0.state.lock().unwrap();
        if state.closed {
            return Sent::Down;
        }
        state.answer(&frame, payload);
        drop(state);
        self.0.changed.notify_all();
        Sent::Done
    }

    fn receive(&self, buffer: &mut [u8]) -> Received {
        let mut state = self.0.state.lock().unwrap();
        let Some(packet) = state.to_client.pop_front() else {
            return if state.closed {
                Received::Down
            } else {
                Received::Empty
            };
        };
        let length = packet.len();
        buffer[..length].copy_from_slice(&packet);
        Received::Packet(Packet {
            length,
            caller: None,
            files: Vec::new(),
        })
    }

    fn wait(&self, _: bool, _: Option<Instant>) -> bool {
        let mut state = self.0.state.lock().unwrap();
        while state.to_client.is_empty() && !state.closed {
            state = self.0.changed.wait(state).unwrap();
        }
        true
    }

    fn close(&self) {
        self.0.state.lock().unwrap().closed = true;
        self.0.changed.notify_all();
    }

    fn carries_memory(&self) -> bool {
        false
    }

    fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.bell.descriptor()
    }
}

fn client(messages: usize) -> Arc<Connection> {
    Connection::greet(Box::new(Link(Host::new(messages))), b"", false).unwrap()
}

fn get(client: &Connection) -> Option<Vec<u8>> {
    let (call, get) = client.start_get(100);
    let ended = client.wait(&call, None);
    client.end_get(get);
    match ended {
        Some(Ended::Message(message)) => Some(message.payload.as_slice().to_vec()),
        _ => None,
    }
}

fn request(client: &Connection) -> Option<Vec<u8>> {
    match client.wait(&client.start_request(b"r", 1), None) {
        Some(Ended::Done { bytes, .. }) => Some(bytes),
        _ => None,
    }
}

/// Two threads that wait for different things: whoever reads has both served, whatever comes first.
#[test]
fn reader_serves_the_other_and_hands_over() {
    exhaust(Some(5), || {
        let client = client(1);
        let other = Arc::clone(&client);
        let requester = spawn(move || request(&other));
        assert_eq!(get(&client).unwrap(), b"m");
        assert_eq!(requester.join().unwrap().unwrap(), b"r");
    });
}

/// Three of them.
#[test]
fn three_threads_share_one_reader() {
    exhaust(Some(3), || {
        let client = client(1);
        let requesters = [(); 2].map(|()| {
            let client = Arc::clone(&client);
            spawn(move || request(&client))
        });
        assert_eq!(get(&client).unwrap(), b"m");
        for requester in requesters {
            assert_eq!(requester.join().unwrap().unwrap(), b"r");
        }
    });
}

/// A get that is dropped with its message gives it to the one that stays, also when that one is reading.
#[test]
fn message_of_a_dropped_get_reaches_the_reader() {
    exhaust(Some(5), || {
        let client = client(1);
        let (call, number) = client.start_get(100);
        let other = Arc::clone(&client);
        let getter = spawn(move || get(&other));
        if let Some(Ended::Message(message)) = client.give_up_get(&call, number) {
            client.keep(message);
        }
        assert_eq!(getter.join().unwrap().unwrap(), b"m");
    });
}

/// The end of the connection reaches a thread that reads and one that does not.
#[test]
fn close_ends_both_waits() {
    exhaust(Some(3), || {
        let client = client(0);
        let getters = [(); 2].map(|()| {
            let client = Arc::clone(&client);
            spawn(move || get(&client))
        });
        client.close();
        for getter in getters {
            assert_eq!(getter.join().unwrap(), None);
        }
    });
}
