//! Both ends in memory with threads of the system, for Miri: it watches each access to memory for races and misuse. They are
//! tests like others without it. No sockets and no files, which Miri does not have.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::body::Caller;
use crate::{
    CallError, Client, ClientPort, NtStatus, Peer, PortHandler, Refusal, SendError, ServerPort,
    Timeout,
};

/// A filter whose message callback echoes.
struct Echo(mpsc::Sender<ClientPort>);

impl PortHandler for Echo {
    type Connection = Vec<u8>;

    fn connect(&self, port: ClientPort, _: &Peer, context: &[u8]) -> Result<Vec<u8>, NtStatus> {
        self.0.send(port).unwrap();
        Ok(context.to_vec())
    }

    fn message(
        &self,
        _: &Vec<u8>,
        _: Caller,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, Refusal> {
        output[..input.len()].copy_from_slice(input);
        Ok(input.len())
    }
}

fn connected() -> (ServerPort, ClientPort, Arc<Client>) {
    let (sender, receiver) = mpsc::channel();
    let port = ServerPort::unnamed().listen(Echo(sender)).unwrap();
    let client = port.connect_in_memory(b"context").unwrap();
    (port, receiver.recv().unwrap(), Arc::new(client))
}

#[test]
fn get_reply_and_request_at_once() {
    let (port, end, client) = connected();
    let requester = {
        let client = Arc::clone(&client);
        std::thread::spawn(move || client.send(b"echo", 4).unwrap())
    };
    let asker = std::thread::spawn(move || end.ask(b"?", 4, Timeout::Never).unwrap());
    client.next_message().unwrap().reply(b"yes").unwrap();
    assert_eq!(asker.join().unwrap().bytes, b"yes");
    assert_eq!(requester.join().unwrap(), b"echo");
    drop(client);
    port.shutdown();
}

#[test]
fn message_of_several_packets() {
    let (_port, end, client) = connected();
    let long = vec![7; 70_000];
    let sender = {
        let long = long.clone();
        std::thread::spawn(move || end.notify(&long, Timeout::Never).unwrap())
    };
    assert!(client.next_message().unwrap().payload() == long);
    sender.join().unwrap();
}

#[test]
fn sends_end_at_their_deadline() {
    let (port, end, client) = connected();
    let soon = Timeout::After(Duration::from_millis(1));
    let (told, results) = mpsc::channel();
    let _pending = end.ask_then(b"?", 4, soon, move |result| told.send(result).unwrap());
    let notified = end.notify(b"m", soon);
    assert!(matches!(
        notified,
        Err(SendError::TimedOut { delivered: false })
    ));
    let asked = results.recv().unwrap();
    assert!(matches!(
        asked,
        Err(SendError::TimedOut { delivered: false })
    ));
    let none = client.next_message_within(Duration::from_millis(1));
    assert!(matches!(none, Err(CallError::TimedOut)));
    port.shutdown();
}

#[test]
fn end_of_the_connection_ends_every_wait() {
    let (port, end, client) = connected();
    let getters = [(); 2].map(|()| {
        let client = Arc::clone(&client);
        std::thread::spawn(move || client.next_message().map(|_| ()))
    });
    let asker = std::thread::spawn(move || end.ask(b"?", 4, Timeout::Never).map(|_| ()));
    port.shutdown();
    // Answered by the message that was dropped, or disconnected.
    asker.join().unwrap().ok();
    for getter in getters {
        getter.join().unwrap().ok();
    }
    drop(client);
}
