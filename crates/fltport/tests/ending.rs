//! The end of either side, by whatever means: nothing waits for ever, nothing is left behind.
#![cfg(target_os = "linux")]

mod common;

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use common::child::{Process, role, say, wait_for_the_end};
use common::gate::Gate;
use common::{Handler, Host, LONG, NAME, until, watchdog};
use fltport::{CallError, Client, ClientPort, Connector, SendError, Timeout, limits};

#[test]
fn i2_i20_a_killed_client_is_disconnected_once_and_blocked_sends_end() {
    let _watchdog = watchdog("i2_i20_a_killed_client_is_disconnected_once");
    if let Some((_, told)) = role() {
        let client = Connector::new().directory(&told[0]).connect(NAME, b"");
        let client = client.unwrap();
        let message = client.next_message().unwrap();
        say("has a message");
        wait_for_the_end();
        return drop(message);
    }
    let host = Host::new();
    let directory = host.directory.path().to_str().unwrap();
    let test = "i2_i20_a_killed_client_is_disconnected_once_and_blocked_sends_end";
    let mut process = Process::start(test, "client", &[directory], |_| ()).unwrap();
    let filter = host.log.next_port();
    assert_eq!(filter.peer().pid(), process.id());
    assert!(filter.peer().pidfd().is_ok());
    std::thread::scope(|scope| {
        let sends: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| filter.ask(b"question", 4, Timeout::Never)))
            .collect();
        process.hear("has a message");
        until("the others wait", || filter.info().waiting == 7);
        process.kill();
        let ends: Vec<_> = sends.into_iter().map(|s| s.join().unwrap()).collect();
        let delivered = |end: &_| matches!(end, Err(SendError::Disconnected { delivered: true }));
        assert_eq!(
            ends.iter().filter(|end| delivered(end)).count(),
            1,
            "{ends:?}"
        );
        let all = ends
            .iter()
            .all(|end| matches!(end, Err(SendError::Disconnected { .. })));
        assert!(all, "{ends:?}");
    });
    until("the disconnect callback ran", || {
        host.log.disconnects() == 1
    });
    assert!(
        filter.peer().pidfd().is_err(),
        "an ended connection keeps nothing open"
    );
    host.shutdown();
}

#[test]
fn j12_a_killed_host_ends_every_call_of_its_clients() {
    let _watchdog = watchdog("j12_a_killed_host_ends_every_call_of_its_clients");
    if let Some((_, told)) = role() {
        let handler = Handler {
            on_message: Box::new(|_, _, _, _| {
                say("in the callback");
                wait_for_the_end();
                Ok(0)
            }),
            ..Handler::default()
        };
        let port = common::builder(told[0].as_ref(), NAME).listen(handler);
        let _port = port.unwrap();
        say("listening");
        return wait_for_the_end();
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let test = "j12_a_killed_host_ends_every_call_of_its_clients";
    let mut host = Process::start(test, "host", &[path], |_| ()).unwrap();
    host.hear("listening");
    let client = Connector::new().directory(path).connect(NAME, b"").unwrap();
    std::thread::scope(|scope| {
        let get = scope.spawn(|| client.next_message().map(drop));
        let send = scope.spawn(|| client.send(b"x", 4).map(drop));
        host.hear("in the callback");
        host.kill();
        assert_eq!(get.join().unwrap(), Err(CallError::Disconnected));
        assert_eq!(send.join().unwrap(), Err(CallError::Disconnected));
    });
    assert!(!client.is_connected());
}

#[test]
fn j4_j6_j7_j8_shutdown_ends_everything_and_waits_for_callbacks() {
    let _watchdog = watchdog("j4_j6_j7_j8_shutdown_ends_everything_and_waits_for_callbacks");
    let gate = Gate::default();
    let host = Host::with(Handler::gated(&gate), |builder| builder);
    let clients: Vec<Client> = (0..8).map(|_| host.connect()).collect();
    let filters: Vec<ClientPort> = clients.iter().map(|_| host.log.next_port()).collect();
    filters[7].close();
    std::thread::scope(|scope| {
        let get = scope.spawn(|| clients[0].next_message().map(drop));
        let request = scope.spawn(|| clients[1].send(b"x", 0));
        let send = scope.spawn(|| filters[2].ask(b"x", 0, Timeout::Never));
        until("the callback runs", || gate.came() == 1);
        let log = Arc::clone(&host.log);
        let (tell, told) = channel();
        let shutdown = scope.spawn(move || {
            tell.send(rustix::thread::gettid()).unwrap();
            host.shutdown();
        });
        assert_eq!(get.join().unwrap(), Err(CallError::Disconnected));
        send.join().unwrap().unwrap_err();
        until("the others are over", || log.disconnects() == 7);
        // Many times in a row: locks that others hold are not what it waits for.
        let thread = told.recv().unwrap().as_raw_nonzero();
        let mut asleep = 0;
        until("it sleeps, or is over", || {
            // Of a thread that has ended, there is none.
            let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat"));
            asleep = match stat {
                Ok(stat) if stat.contains(") S ") => asleep + 1,
                _ => 0,
            };
            shutdown.is_finished() || asleep == 20
        });
        assert!(!shutdown.is_finished());
        gate.open();
        shutdown.join().unwrap();
        assert_eq!(log.disconnects(), 8);
        // A running callback's answer still goes out.
        assert_eq!(request.join().unwrap(), Ok(Vec::new()));
    });
    assert!(clients.iter().all(|client| client.next_message().is_err()));
}

#[test]
fn clients_that_were_closed_and_stay_are_bounded_for_each_user() {
    let _watchdog = watchdog("clients_that_were_closed_and_stay_are_bounded_for_each_user");
    let host = Host::with(Handler::default(), |builder| builder.max_connections(1));
    let most = limits::SEVERED_PER_USER;
    let clients: Vec<Client> = (0..most + 20)
        .map(|_| {
            let client = host.connect();
            host.log.next_port().close();
            client
        })
        .collect();
    until("the oldest are let go", || host.log.disconnects() == 20);
    assert_eq!(host.port.connections().len(), most);
    drop(clients);
    until("all are over", || host.log.disconnects() == most + 20);
    host.shutdown();
}

#[test]
fn n1_clients_that_come_and_go_leave_nothing_behind() {
    let _watchdog = watchdog("n1_clients_that_come_and_go_leave_nothing_behind");
    common::child::alone("n1_clients_that_come_and_go_leave_nothing_behind", || {
        let host = Host::new();
        host.assert_well();
        until("it is over", || {
            host.log.disconnects() == host.log.connects()
        });
        let before = common::descriptors();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for round in 0..50 {
                        let client = host.connect();
                        if round % 2 == 0 {
                            client.send(b"x", 4).unwrap();
                        }
                    }
                });
            }
        });
        until("all are over", || host.log.disconnects() == 401);
        until("no descriptor is left", || common::descriptors() <= before);
        host.shutdown();
    });
}

#[test]
fn an_offered_socket_serves_a_child_process_that_takes_its_time() {
    let _watchdog = watchdog("an_offered_socket_serves_a_child_process_that_takes_its_time");
    const USER: u32 = 4_000_001;
    if role().is_some() {
        let socket = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned();
        // Longer than a stranger may take to greet.
        std::thread::sleep(Duration::from_millis(limits::HANDSHAKE_MILLIS + 500));
        let client = Client::from_fd(socket.unwrap(), b"").unwrap();
        return client.next_message().unwrap().reply(b"child").unwrap();
    }
    let handler = Handler::default();
    let log = Arc::clone(&handler.log);
    let port = fltport::ServerPort::unnamed().listen(handler).unwrap();
    let test = "an_offered_socket_serves_a_child_process_that_takes_its_time";
    let root = rustix::process::geteuid().is_root();
    let socket = port.offer().unwrap();
    let mut child = Process::start(test, "child", &[], |command| {
        use std::os::unix::process::CommandExt;
        command.stdin(socket);
        if root {
            command.uid(USER).gid(USER);
        }
    });
    let Ok(child) = &mut child else {
        return println!("skipped: other users cannot run this test binary");
    };
    let filter = log.next_port();
    assert_eq!(filter.peer().pid(), child.id());
    assert!(!root || filter.peer().uid() == USER, "{:?}", filter.peer());
    assert!(filter.peer().pidfd().is_err(), "it would be this process");
    assert_eq!(filter.ask(b"who?", 16, LONG).unwrap().bytes, b"child");
    assert!(child.wait().success());
    until("the disconnect callback ran", || log.disconnects() == 1);
    // One that is dropped before anybody greets costs nothing.
    drop(port.offer().unwrap());
    port.shutdown();
}
