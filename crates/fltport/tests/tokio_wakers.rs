//! Wakers are foreign code: they may call the client that wakes or drops them, and none is kept longer than its future.

mod common;

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use common::{Handler, Host, LONG, gate::Gate, until, watchdog};
use fltport::ClientPort;
use fltport::tokio::Client;

/// A waker that does something when it is woken, and when nobody has it any more.
#[derive(Default)]
struct Foreign {
    woken: AtomicUsize,
    on_wake: Option<Box<dyn Fn() + Send + Sync>>,
    on_drop: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Wake for Foreign {
    fn wake(self: Arc<Self>) {
        self.on_wake.iter().for_each(|on_wake| on_wake());
        self.woken.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let on_drop = self.on_drop.get_mut().unwrap().take();
        on_drop.into_iter().for_each(|on_drop| on_drop());
    }
}

impl Foreign {
    fn is_woken_with(on_wake: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        let mut foreign = Self::default();
        foreign.on_wake = Some(Box::new(on_wake));
        Arc::new(foreign)
    }

    fn is_dropped_with(on_drop: impl FnOnce() + Send + 'static) -> Arc<Self> {
        let foreign = Self::default();
        *foreign.on_drop.lock().unwrap() = Some(Box::new(on_drop));
        Arc::new(foreign)
    }
}

struct Ends {
    filter: ClientPort,
    client: Arc<Client>,
}

/// Runs a test on a connection with memory or without, once the client knows which it is.
fn run<F: Future<Output = ()>>(handler: Handler, memory: bool, test: impl FnOnce(Ends) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let host = Host::with(handler, |builder| builder.shared_memory(memory));
        let client = Arc::new(Client::new(host.connect()).unwrap());
        let filter = host.log.next_port();
        // The host's word on memory comes before this message.
        question(&filter, &client).await.detach();
        test(Ends { filter, client }).await;
        host.shutdown();
    });
}

/// [`run`] in both ways, with the ordinary callbacks.
fn run_both<F: Future<Output = ()>>(test: impl Fn(Ends) -> F) {
    run(Handler::default(), true, &test);
    run(Handler::default(), false, &test);
}

/// A message whose sender waits for its answer in vain.
async fn question(filter: &ClientPort, client: &Client) -> fltport::Message {
    filter.ask_then(b"question", 4, LONG, drop);
    client.next_message().await.unwrap()
}

fn poll<T>(future: Pin<&mut (impl Future<Output = T> + ?Sized)>, waker: Arc<Foreign>) -> Poll<T> {
    future.poll(&mut Context::from_waker(&Waker::from(waker)))
}

/// Polls a get once and drops it.
fn look_at(client: &Client) {
    let mut look = Box::pin(client.next_message());
    // Over at once if the connection is.
    drop(look.as_mut().poll(&mut Context::from_waker(Waker::noop())));
}

#[test]
fn a_waker_may_call_the_client_that_wakes_it() {
    let _watchdog = watchdog("a_waker_may_call_the_client_that_wakes_it");
    run_both(|Ends { filter, client }| async move {
        let own = Arc::clone(&client);
        let waker = Foreign::is_woken_with(move || look_at(&own));
        let mut next = Box::pin(client.next_message());
        assert!(poll(next.as_mut(), Arc::clone(&waker)).is_pending());
        filter.notify(b"message", LONG).unwrap();
        assert_eq!(
            client.send(b"read for all", 16).await.unwrap(),
            b"read for all"
        );
        until("it was woken", || waker.woken.load(Ordering::SeqCst) > 0);
        assert_eq!(next.await.unwrap().payload(), b"message");
        let mut ends = Box::pin(client.next_message());
        assert!(poll(ends.as_mut(), Arc::clone(&waker)).is_pending());
        filter.close();
        assert!(ends.await.is_err());
    });
}

#[test]
fn a_future_that_is_dropped_or_over_leaves_no_waker() {
    let _watchdog = watchdog("a_future_that_is_dropped_or_over_leaves_no_waker");
    run_both(|Ends { filter, client }| async move {
        let waker = Arc::new(Foreign::default());
        let mut dropped = Box::pin(client.next_message());
        assert!(poll(dropped.as_mut(), Arc::clone(&waker)).is_pending());
        assert!(Arc::strong_count(&waker) > 1);
        drop(dropped);
        until("nobody has it", || Arc::strong_count(&waker) == 1);

        let mut over = Box::pin(client.next_message());
        assert!(poll(over.as_mut(), Arc::clone(&waker)).is_pending());
        filter.notify(b"message", LONG).unwrap();
        assert_eq!(over.await.unwrap().payload(), b"message");
        until("nobody has it", || Arc::strong_count(&waker) == 1);
    });
}

#[test]
fn a_request_whose_future_is_dropped_leaves_no_waker() {
    let _watchdog = watchdog("a_request_whose_future_is_dropped_leaves_no_waker");
    let gate = Gate::default();
    run(
        Handler::gated(&gate),
        true,
        |Ends { client, .. }| async move {
            let waker = Arc::new(Foreign::default());
            let mut request = Box::pin(client.send(b"request", 16));
            assert!(poll(request.as_mut(), Arc::clone(&waker)).is_pending());
            drop(request);
            until("nobody has it", || Arc::strong_count(&waker) == 1);
            gate.open();
        },
    );
}

#[test]
fn a_waker_that_is_dropped_may_call_the_client() {
    let _watchdog = watchdog("a_waker_that_is_dropped_may_call_the_client");
    run_both(|Ends { filter, client }| async move {
        let message = question(&filter, &client).await;
        let waker = Foreign::is_dropped_with(move || assert_ne!(message.detach(), 0));
        let mut next = Box::pin(client.next_message());
        assert!(poll(next.as_mut(), Arc::clone(&waker)).is_pending());
        let gone = Arc::downgrade(&waker);
        drop(waker);
        drop(next);
        until("it is dropped", || gone.strong_count() == 0);
    });
}

#[test]
fn a_waker_that_is_replaced_may_call_the_client() {
    let _watchdog = watchdog("a_waker_that_is_replaced_may_call_the_client");
    run_both(|Ends { filter, client }| async move {
        let message = question(&filter, &client).await;
        let mut older = Box::pin(client.next_message());
        assert!(poll(older.as_mut(), Arc::default()).is_pending());
        let waker = Foreign::is_dropped_with(move || assert_ne!(message.detach(), 0));
        let mut next = Box::pin(client.next_message());
        assert!(poll(next.as_mut(), Arc::clone(&waker)).is_pending());
        // The runtime wakes all that wait for the socket, and has no waker then; nobody has read from it yet.
        filter.notify(b"for the older one", LONG).unwrap();
        until("it was woken", || waker.woken.load(Ordering::SeqCst) > 0);
        until("the client alone has it", || Arc::strong_count(&waker) == 2);
        let gone = Arc::downgrade(&waker);
        drop(waker);
        assert!(poll(next.as_mut(), Arc::default()).is_pending());
        assert_eq!(gone.strong_count(), 0);
        assert_eq!(older.await.unwrap().payload(), b"for the older one");
    });
}
