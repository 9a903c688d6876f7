//! The client as futures: the same rules, and a future that is dropped loses nothing and wakes the others.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Host, LIMIT, LONG, until, watchdog};
use fltport::tokio::Client;
use fltport::{CallError, ClientPort};

struct Ends {
    filter: ClientPort,
    client: Arc<Client>,
}

fn run<F: Future<Output = ()>>(threads: usize, test: impl FnOnce(Ends) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let host = Host::new();
        let client = Arc::new(Client::new(host.connect()).unwrap());
        let filter = host.log.next_port();
        tokio::time::timeout(LIMIT, test(Ends { filter, client }))
            .await
            .expect("the test hangs");
        host.shutdown();
    });
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().unwrap())
}

#[test]
fn a_question_is_answered_and_a_request_too() {
    let _watchdog = watchdog("a_question_is_answered_and_a_request_too");
    run(2, |Ends { filter, client }| async move {
        let asked = filter.ask_async(b"question", 16, LONG);
        let message = client.next_message().await.unwrap();
        assert_eq!(message.payload(), b"question");
        client.reply(message, b"answer").await.unwrap();
        assert_eq!(asked.await.unwrap().bytes, b"answer");
        assert_eq!(client.send(b"request", 16).await.unwrap(), b"request");
    });
}

#[test]
fn h5_a_get_that_is_cancelled_over_and_over_loses_no_message() {
    let _watchdog = watchdog("h5_a_get_that_is_cancelled_over_and_over_loses_no_message");
    run(2, |Ends { filter, client }| async move {
        const COUNT: u32 = 2_000;
        let sender = tokio::task::spawn_blocking(move || {
            for i in 0..COUNT {
                filter.notify(&i.to_le_bytes(), LONG).unwrap();
            }
        });
        let mut got = Vec::new();
        let mut pause = 0;
        while got.len() < COUNT as usize {
            pause = (pause + 7) % 50;
            tokio::select! {
                message = client.next_message() => got.push(number(message.unwrap().payload())),
                () = tokio::time::sleep(Duration::from_micros(pause)) => {}
            }
        }
        sender.await.unwrap();
        got.sort_unstable();
        assert!(got.into_iter().eq(0..COUNT));
    });
}

#[test]
fn a_get_that_is_cancelled_leaves_its_message_to_one_that_waits() {
    let _watchdog = watchdog("a_get_that_is_cancelled_leaves_its_message_to_one_that_waits");
    run(2, |Ends { filter, client }| async move {
        for round in 0..300u32 {
            // One waits for ever, one gives up at about the time when the message comes.
            let waiting = {
                let client = Arc::clone(&client);
                tokio::spawn(async move { number(client.next_message().await.unwrap().payload()) })
            };
            let hasty = {
                let client = Arc::clone(&client);
                let wait = Duration::from_micros(u64::from(round % 100) * 10);
                tokio::spawn(async move {
                    let got = tokio::time::timeout(wait, client.next_message()).await;
                    got.ok().map(|message| number(message.unwrap().payload()))
                })
            };
            let sent = filter.notify_async(round).await;
            sent.unwrap();
            if hasty.await.unwrap() == Some(round) {
                filter.notify_async(round).await.unwrap();
            }
            assert_eq!(waiting.await.unwrap(), round);
        }
    });
}

#[test]
fn many_tasks_share_one_client() {
    let _watchdog = watchdog("many_tasks_share_one_client");
    run(4, |Ends { filter, client }| async move {
        let mut tasks = Vec::new();
        for task in 0..16u32 {
            let (service, requester) = (Arc::clone(&client), Arc::clone(&client));
            tasks.push(tokio::spawn(async move {
                for _ in 0..50 {
                    let message = service.next_message().await.unwrap();
                    let doubled = (number(message.payload()) * 2).to_le_bytes();
                    service.reply(message, &doubled).await.unwrap();
                }
            }));
            tasks.push(tokio::spawn(async move {
                for i in 0..50 {
                    let input = (task * 50 + i).to_le_bytes();
                    assert_eq!(requester.send(&input, 4).await.unwrap(), input);
                }
            }));
            let asker = filter.clone();
            tasks.push(tokio::spawn(async move {
                for i in 0..50u32 {
                    let asked = asker.ask_async(&(task * 50 + i).to_le_bytes(), 4, LONG);
                    let doubled = number(&asked.await.unwrap().bytes);
                    assert_eq!(doubled, 2 * (task * 50 + i));
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[test]
fn a_task_that_gives_up_does_not_take_the_wake_up_of_another() {
    let _watchdog = watchdog("a_task_that_gives_up_does_not_take_the_wake_up_of_another");
    run(2, |Ends { filter, client }| async move {
        for _ in 0..100 {
            let (first, second) = (Arc::clone(&client), Arc::clone(&client));
            let waits = tokio::spawn(async move { first.next_message().await.map(drop) });
            until("one waits", || filter.info().gets == 1);
            let leaves = tokio::spawn(async move { second.next_message().await.map(drop) });
            until("both wait", || filter.info().gets == 2);
            leaves.abort();
            until("one has left", || filter.info().gets == 1);
            filter.notify_async(1).await.unwrap();
            waits.await.unwrap().unwrap();
        }
    });
}

#[test]
fn a_disconnect_ends_every_task() {
    let _watchdog = watchdog("a_disconnect_ends_every_task");
    run(2, |Ends { filter, client }| async move {
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let client = Arc::clone(&client);
                tokio::spawn(async move { client.next_message().await.map(drop) })
            })
            .collect();
        until("all wait", || filter.info().gets == 50);
        filter.close();
        for task in tasks {
            assert_eq!(task.await.unwrap(), Err(CallError::Disconnected));
        }
        assert_eq!(client.send(b"x", 4).await, Err(CallError::Disconnected));
    });
}

trait NotifyAsync {
    /// A notification of a number, without blocking a thread of the runtime.
    async fn notify_async(&self, number: u32) -> Result<(), fltport::SendError>;
}

impl NotifyAsync for ClientPort {
    async fn notify_async(&self, number: u32) -> Result<(), fltport::SendError> {
        let (done, is_done) = tokio::sync::oneshot::channel();
        self.notify_then(&number.to_le_bytes(), LONG, |result| {
            done.send(result).unwrap();
        });
        is_done.await.unwrap()
    }
}
