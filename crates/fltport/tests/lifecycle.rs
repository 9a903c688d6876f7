//! From connect to the last callback: order, cookies, slots, closing from every place, callbacks that panic.
#![cfg(target_os = "linux")]

mod common;

use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::gate::Gate;
use common::{Handler, Host, LONG, NAME, each_way, round_trip, until, watchdog};
use fltport::{CallError, NtStatus, SendError, Timeout, limits};

#[test]
fn b23_every_callback_gets_the_cookie_of_its_own_connection() {
    let _watchdog = watchdog("b23_every_callback_gets_the_cookie_of_its_own_connection");
    let handler = Handler::default();
    let log = Arc::clone(&handler.log);
    let host = Host::with(
        Handler {
            on_message: Box::new(|cookie, _, _, output| {
                output[..3].copy_from_slice(&cookie.context);
                Ok(3)
            }),
            on_disconnect: Box::new(move |cookie| {
                log.note(String::from_utf8_lossy(&cookie.context));
            }),
            ..handler
        },
        |builder| builder,
    );
    for context in [b"one", b"two"] {
        let client = host.connector().connect(NAME, context).unwrap();
        assert_eq!(client.send(b"who?", 16).unwrap(), context);
    }
    until("both are over", || host.log.disconnects() == 2);
    let mut events = host.log.events();
    events.sort();
    assert_eq!(events, ["one", "two"]);
    host.shutdown();
}

#[test]
fn b13_b20_a_thousand_refusals_take_no_slot_and_no_disconnect_callback() {
    let _watchdog = watchdog("b13_b20_a_thousand_refusals");
    let handler = Handler {
        on_connect: Box::new(|_, context| match context {
            b"no" => Err(NtStatus::ACCESS_DENIED),
            b"panic" => panic!("a callback that panics"),
            b"success" => Err(NtStatus::SUCCESS),
            _ => Ok(()),
        }),
        ..Handler::default()
    };
    let host = Host::with(handler, |builder| builder.max_connections(1));
    for _ in 0..1_000 {
        let refused = host.connector().connect(NAME, b"no").unwrap_err();
        assert_eq!(refused.hresult().0, 0x8007_0005);
    }
    for odd in [&b"panic"[..], b"success"] {
        let refused = host.connector().connect(NAME, odd).unwrap_err();
        assert_eq!(refused.hresult(), NtStatus::UNSUCCESSFUL.to_hresult());
    }
    assert_eq!(host.log.disconnects(), 0);
    host.assert_well();
    host.shutdown();
}

#[test]
fn b18_b21_a_slot_is_taken_while_callbacks_run() {
    let _watchdog = watchdog("b18_b21_a_slot_is_taken_while_callbacks_run");
    let (connecting, disconnecting) = (Gate::default(), Gate::default());
    let (in_connect, in_disconnect) = (connecting.clone(), disconnecting.clone());
    let handler = Handler {
        on_connect: Box::new(move |_, _| {
            in_connect.pass();
            Ok(())
        }),
        on_disconnect: Box::new(move |_| in_disconnect.pass()),
        ..Handler::default()
    };
    let host = Host::with(handler, |builder| builder.max_connections(1));
    let full = || host.connector().connect(NAME, b"").unwrap_err().hresult().0 == 0x8007_04D6;
    std::thread::scope(|scope| {
        let connect = scope.spawn(|| host.connect());
        until("the callback runs", || connecting.came() == 1);
        assert!(full() && !connect.is_finished());
        connecting.open();
        drop(connect.join().unwrap());
    });
    until("the callback runs", || disconnecting.came() == 1);
    assert!(full());
    disconnecting.open();
    until("the slot is free", || {
        host.connector().connect(NAME, b"").is_ok()
    });
    host.shutdown();
}

#[test]
fn i17_the_disconnect_callback_waits_for_running_message_callbacks() {
    let _watchdog = watchdog("i17_the_disconnect_callback_waits_for_running_message_callbacks");
    let gate = std::cell::RefCell::new(Gate::default());
    each_way(
        || {
            gate.replace(Gate::default());
            Handler::gated(&gate.borrow())
        },
        |builder| builder,
        |ends| {
            let gate = gate.borrow();
            std::thread::scope(|scope| {
                let requests: Vec<_> = (0..3)
                    .map(|_| scope.spawn(|| ends.client.send(b"x", 0)))
                    .collect();
                until("the callbacks run", || gate.came() == 3);
                let closing = scope.spawn(|| ends.client.close());
                until("the filter knows", || !ends.filter.info().connected);
                let sent = ends.filter.notify(b"x", Timeout::Never);
                assert!(
                    matches!(sent, Err(SendError::Disconnected { .. })),
                    "{sent:?}"
                );
                assert_eq!(ends.log.disconnects(), 0);
                gate.open();
                for request in requests {
                    assert_eq!(request.join().unwrap(), Ok(Vec::new()));
                }
                closing.join().unwrap();
                assert_eq!(ends.log.disconnects(), 1, "closing waits for it");
            });
            let events = ["message over", "message over", "message over", "disconnect"];
            assert_eq!(ends.log.events(), events);
        },
    );
}

#[test]
fn i13_closing_from_the_message_callback_answers_it_and_ends_the_rest() {
    let _watchdog = watchdog("i13_closing_from_the_message_callback");
    let handler = || Handler {
        on_message: Box::new(|cookie, _, _, output| {
            cookie.port.close();
            output[..4].copy_from_slice(b"last");
            Ok(4)
        }),
        ..Handler::default()
    };
    each_way(
        handler,
        |builder| builder,
        |ends| {
            assert_eq!(ends.client.send(b"close", 16).unwrap(), b"last");
            assert_eq!(ends.client.send(b"more", 16), Err(CallError::Disconnected));
            assert!(matches!(
                ends.client.next_message(),
                Err(CallError::Disconnected)
            ));
            assert_eq!(ends.log.disconnects(), 0, "the client holds its end");
            ends.client.close();
            assert_eq!(ends.log.disconnects(), 1, "closing waits for it");
        },
    );
}

#[test]
fn i14_p6_closing_from_disconnect_and_from_connect_is_harmless() {
    let _watchdog = watchdog("i14_p6_closing_from_disconnect_and_from_connect_is_harmless");
    let handler = Handler {
        on_connect: Box::new(|port, context| {
            if context == b"close" {
                port.close();
            }
            if context == b"send" {
                let sent = port.notify(b"early", Timeout::after(Duration::from_millis(50)));
                assert!(matches!(sent, Err(SendError::TimedOut { .. })), "{sent:?}");
            }
            Ok(())
        }),
        on_disconnect: Box::new(|cookie| cookie.port.close()),
        ..Handler::default()
    };
    let host = Host::with(handler, |builder| builder.max_connections(1));
    let dead = host.connector().connect(NAME, b"close").unwrap_err();
    assert_eq!(dead.hresult(), NtStatus::PORT_DISCONNECTED.to_hresult());
    until("it is over", || host.log.disconnects() == 1);
    drop(host.connect_when_free(b"send"));
    until("it is over", || host.log.disconnects() == 2);
    host.assert_well();
    until("it is over", || host.log.disconnects() == 3);
    host.shutdown();
}

#[test]
fn k20_many_threads_request_at_once_and_callbacks_overlap_up_to_the_bound() {
    let _watchdog = watchdog("k20_many_threads_request_at_once");
    common::both_ways(|ends| {
        std::thread::scope(|scope| {
            for thread in 0..16u32 {
                scope.spawn(move || {
                    for i in 0..200u32 {
                        let input = (thread * 200 + i).to_le_bytes();
                        assert_eq!(ends.client.send(&input, 4).unwrap(), input);
                    }
                });
            }
        });
    });
    let gate = Gate::default();
    let host = Host::with(Handler::gated(&gate), |builder| builder);
    let client = host.connect();
    std::thread::scope(|scope| {
        for _ in 0..2 * limits::RUNNING_PER_CONNECTION {
            scope.spawn(|| client.send(b"x", 0).unwrap());
        }
        let most = limits::RUNNING_PER_CONNECTION;
        until("as many run as may", || gate.came() == most);
        // The same connection's questions go on beside them.
        let filter = host.log.next_port();
        scope.spawn(|| client.next_message().unwrap().reply(b"yes").unwrap());
        assert_eq!(filter.ask(b"well?", 4, LONG).unwrap().bytes, b"yes");
        assert_eq!(gate.came(), most);
        gate.open();
    });
    drop(client);
    host.shutdown();
}

#[test]
fn a_message_callback_that_panics_answers_unsuccessful() {
    let _watchdog = watchdog("a_message_callback_that_panics_answers_unsuccessful");
    let handler = || Handler {
        on_message: Box::new(|_, _, input, _| match input {
            b"panic" => panic!("a callback that panics"),
            _ => Ok(usize::MAX),
        }),
        ..Handler::default()
    };
    each_way(
        handler,
        |builder| builder,
        |ends| {
            for _ in 0..3 {
                let told = ends.client.send(b"panic", 16);
                assert_eq!(told, Err(CallError::Status(NtStatus::UNSUCCESSFUL)));
            }
            // One that claims more than there is room is held to the room.
            assert_eq!(ends.client.send(b"lie", 5).unwrap(), [0; 5]);
        },
    );
}

#[test]
fn a_panic_in_the_end_of_a_send_takes_nothing_down() {
    let _watchdog = watchdog("a_panic_in_the_end_of_a_send_takes_nothing_down");
    common::both_ways(|ends| {
        for wait in [Timeout::after(Duration::from_millis(5)), LONG] {
            let (sender, over) = mpsc::channel();
            ends.filter.ask_then(b"x", 4, wait, move |_| {
                drop(sender);
                panic!("an end that panics");
            });
            if wait == LONG {
                ends.client.next_message().unwrap().reply(b"y").unwrap();
            }
            assert_eq!(over.recv(), Err::<(), _>(mpsc::RecvError));
        }
        round_trip(&ends.filter, &ends.client);
    });
}
