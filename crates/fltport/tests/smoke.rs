//! Both ends of a port over a real socket and in memory: the ordinary way of a message.

use std::sync::mpsc;
use std::time::Duration;

use fltport::{
    Access, CallError, Caller, Client, ClientPort, Connector, NtStatus, Peer, PortHandler, Refusal,
    SendError, ServerPort, Timeout,
};

struct Echo(mpsc::Sender<ClientPort>);

impl PortHandler for Echo {
    type Connection = Vec<u8>;

    fn connect(&self, port: ClientPort, _: &Peer, context: &[u8]) -> Result<Vec<u8>, NtStatus> {
        if context == b"refuse" {
            return Err(NtStatus::ACCESS_DENIED);
        }
        self.0.send(port).map_err(|_| NtStatus::UNSUCCESSFUL)?;
        Ok(context.to_vec())
    }

    fn message(
        &self,
        cookie: &Vec<u8>,
        caller: Caller,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, Refusal> {
        assert_eq!(caller.pid, std::process::id());
        let all = [cookie, input].concat();
        output[..all.len()].copy_from_slice(&all);
        Ok(all.len())
    }
}

fn each_way(test: impl Fn(&ServerPort, ClientPort, Client)) {
    let directory = tempfile::tempdir().unwrap();
    let (sender, ports) = mpsc::channel();
    let port = ServerPort::builder(r"\Smoke")
        .directory(directory.path())
        .listen(Echo(sender))
        .unwrap();
    let client = Connector::new()
        .directory(directory.path())
        .connect(r"\Smoke", b"ctx")
        .unwrap();
    test(&port, ports.recv().unwrap(), client);

    let (sender, ports) = mpsc::channel();
    let port = ServerPort::unnamed().listen(Echo(sender)).unwrap();
    let client = port.connect_in_memory(b"ctx").unwrap();
    test(&port, ports.recv().unwrap(), client);
}

#[test]
fn a_question_is_answered_and_a_request_too() {
    each_way(|_, port, client| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..100 {
                    let message = client.next_message().unwrap();
                    let reply: Vec<u8> = message.payload().iter().rev().copied().collect();
                    message.reply(&reply).unwrap();
                }
            });
            for i in 0..100u8 {
                let reply = port
                    .ask(&[i, 2, 3], 8, Timeout::after(Duration::from_secs(10)))
                    .unwrap();
                assert_eq!(reply.bytes, [3, 2, i]);
            }
        });
        assert_eq!(client.send(b"abc", 64).unwrap(), b"ctxabc");
    });
}

#[test]
fn a_mebibyte_goes_both_ways() {
    each_way(|_, port, client| {
        let big: Vec<u8> = (0..=255u8).cycle().take(1 << 20).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let message = client.next_message().unwrap();
                let payload = message.payload().to_vec();
                message.reply(&payload).unwrap();
            });
            let reply = port
                .ask(&big, 1 << 20, Timeout::after(Duration::from_secs(10)))
                .unwrap();
            assert!(reply.bytes == big);
        });
    });
}

#[test]
fn timeouts_disconnects_and_late_replies_are_told_apart() {
    each_way(|_, port, client| {
        let short = Timeout::after(Duration::from_millis(20));
        assert!(matches!(
            port.notify(b"x", short),
            Err(SendError::TimedOut { delivered: false })
        ));
        let asked = std::thread::scope(|scope| {
            let late = scope.spawn(|| {
                let message = client.next_message().unwrap();
                while !message.is_abandoned() {
                    std::thread::yield_now();
                }
                message.reply(b"late")
            });
            let asked = port.ask(b"x", 4, Timeout::after(Duration::from_millis(500)));
            assert_eq!(late.join().unwrap(), Err(CallError::NoWaiter));
            asked
        });
        assert!(
            matches!(asked, Err(SendError::TimedOut { delivered: true })),
            "{asked:?}"
        );
        std::thread::scope(|scope| {
            let blocked = scope.spawn(|| port.notify(b"x", Timeout::Never));
            while port.info().waiting == 0 {
                std::thread::yield_now();
            }
            client.close();
            assert!(matches!(
                blocked.join().unwrap(),
                Err(SendError::Disconnected { delivered: false })
            ));
        });
        assert!(matches!(
            client.next_message(),
            Err(CallError::Disconnected)
        ));
    });
}

#[test]
fn a_refusal_and_a_missing_port_have_their_own_errors() {
    let directory = tempfile::tempdir().unwrap();
    let (sender, _ports) = mpsc::channel();
    let connector = Connector::new().directory(directory.path());
    assert_eq!(
        connector.connect(r"\Smoke", b"").unwrap_err().hresult().0,
        0x8007_0002
    );
    let port = ServerPort::builder(r"\Smoke")
        .directory(directory.path())
        .access(Access::everyone())
        .listen(Echo(sender));
    let port = port.unwrap();
    assert_eq!(
        connector
            .connect(r"\Smoke", b"refuse")
            .unwrap_err()
            .hresult()
            .0,
        0x8007_0005
    );
    let taken = ServerPort::builder(r"\SMOKE")
        .directory(directory.path())
        .listen(Echo(mpsc::channel().0));
    assert_eq!(taken.unwrap_err().status(), NtStatus::OBJECT_NAME_COLLISION);
    port.shutdown();
    assert_eq!(
        connector.connect(r"\Smoke", b"").unwrap_err().hresult().0,
        0x8007_0002
    );
}
