//! What the senders saw and what the process on the other side saw, message by message, and whether they agree.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use fltport::{CallError, Client, Message, Reply, SendError};

use crate::common::until;

/// How a send ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Pending,
    Delivered,
    Replied,
    /// Ended by its deadline: whether the client has had the message.
    TimedOut(bool),
    Disconnected(bool),
}

/// What the client did with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deed {
    Got,
    ReplyOk,
    NoWaiter,
    Gone,
    /// Of two replies to it that of the first thread succeeded.
    FirstWins,
}

/// The senders' side: a line for each message.
pub(crate) struct Ledger(Mutex<Vec<End>>);

/// The other side, as it is written down there.
#[derive(Default)]
pub(crate) struct Deeds(Mutex<Vec<(usize, Deed)>>);

/// How many messages had which end and which deeds.
pub(crate) type Outcomes = BTreeMap<(End, Vec<Deed>), usize>;

/// What may be lost between an end at the host and the client's knowledge of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Knows {
    /// Nothing: the client reads everything that was sent to it.
    All,
    /// The client itself ended the connection, and did not read on.
    Some,
}

pub(crate) fn message(number: usize) -> [u8; 8] {
    (number as u64).to_le_bytes()
}

pub(crate) fn number(payload: &[u8]) -> usize {
    usize::try_from(u64::from_le_bytes(payload.try_into().unwrap())).unwrap()
}

/// The reply to a message: its bytes tell that nobody else's reply came.
pub(crate) fn reply(number: usize) -> [u8; 8] {
    (number as u64 ^ 0x5A5A_5A5A_5A5A_5A5A).to_le_bytes()
}

impl Ledger {
    pub(crate) fn new(messages: usize) -> Self {
        Self(Mutex::new(vec![End::Pending; messages]))
    }

    /// Writes down how an ask ended.
    pub(crate) fn asked(&self, number: usize, result: &Result<Reply, SendError>) -> End {
        let end = match result {
            Ok(answer) => {
                assert_eq!(answer.bytes, reply(number), "the reply of another message");
                End::Replied
            }
            Err(error) => failed(error),
        };
        self.end(number, end)
    }

    /// Writes down how a notify ended.
    pub(crate) fn notified(&self, number: usize, result: &Result<(), SendError>) -> End {
        let end = result.as_ref().map_or_else(failed, |()| End::Delivered);
        self.end(number, end)
    }

    /// Waits until every send has ended.
    pub(crate) fn wait(&self) {
        until("every send has ended", || {
            !self.0.lock().unwrap().contains(&End::Pending)
        });
    }

    /// Only the first so many messages were sent.
    pub(crate) fn trim(self, messages: usize) -> Self {
        self.0.lock().unwrap().truncate(messages);
        self
    }

    /// Compares with what the client wrote down.
    pub(crate) fn check(&self, deeds: &[(usize, Deed)], knows: Knows) -> Outcomes {
        let ends = self.0.lock().unwrap();
        let mut of: Vec<Vec<Deed>> = vec![Vec::new(); ends.len()];
        for (number, deed) in deeds {
            of[*number].push(*deed);
        }
        let mut outcomes = Outcomes::new();
        for (number, (end, mut deeds)) in ends.iter().copied().zip(of).enumerate() {
            deeds.sort_unstable();
            agree(end, &deeds, knows).unwrap_or_else(|what| {
                panic!("message {number}: {what}; its sender saw {end:?}, the client {deeds:?}")
            });
            *outcomes.entry((end, deeds)).or_default() += 1;
        }
        println!("{outcomes:?}");
        outcomes
    }

    fn end(&self, number: usize, end: End) -> End {
        let before = std::mem::replace(&mut self.0.lock().unwrap()[number], end);
        assert_eq!(before, End::Pending, "message {number} ended twice");
        end
    }
}

fn failed(error: &SendError) -> End {
    match error {
        SendError::TimedOut { delivered } => End::TimedOut(*delivered),
        SendError::Disconnected { delivered } => End::Disconnected(*delivered),
        other => panic!("{other:?}"),
    }
}

fn agree(end: End, deeds: &[Deed], knows: Knows) -> Result<(), &'static str> {
    let count = |deed| deeds.iter().filter(|other| **other == deed).count();
    let (got, ok, nobody, gone) = (
        count(Deed::Got),
        count(Deed::ReplyOk),
        count(Deed::NoWaiter),
        count(Deed::Gone),
    );
    let reached = !matches!(
        end,
        End::Pending | End::TimedOut(false) | End::Disconnected(false)
    );
    let rules = [
        (end != End::Pending, "its send has not ended"),
        (got <= 1, "it came twice"),
        (ok <= 1, "two replies to it succeeded"),
        (
            ok == 0 || end == End::Replied,
            "a reply succeeded and was not received",
        ),
        (
            end != End::Replied || ok == 1 || (knows == Knows::Some && gone > 0),
            "a reply was received and did not succeed",
        ),
        (
            end != End::Replied || nobody == 0 || ok == 1,
            "a reply found nobody and was received",
        ),
        (
            got == 0 || reached,
            "it came after it was reported undelivered",
        ),
        (
            got == 1 || !reached || knows == Knows::Some,
            "it was reported delivered and never came",
        ),
    ];
    rules
        .into_iter()
        .find(|(holds, _)| !holds)
        .map_or(Ok(()), |(_, what)| Err(what))
}

/// How many messages had this end.
pub(crate) fn ended(outcomes: &Outcomes, end: End) -> usize {
    let with = outcomes.iter().filter(|((of, _), _)| *of == end);
    with.map(|(_, count)| count).sum()
}

/// How many messages had this deed.
pub(crate) fn did(outcomes: &Outcomes, deed: Deed) -> usize {
    let with = outcomes.iter().filter(|((_, of), _)| of.contains(&deed));
    with.map(|(_, count)| count).sum()
}

impl Deeds {
    pub(crate) fn note(&self, number: usize, deed: Deed) {
        self.0.lock().unwrap().push((number, deed));
    }

    /// Writes down that the message came, replies if that is wanted, and writes down what became of the reply.
    pub(crate) fn answer(&self, message: Message) -> Option<Result<(), CallError>> {
        let number = number(message.payload());
        self.note(number, Deed::Got);
        message.reply_capacity()?;
        Some(self.replied(number, message.reply(&reply(number))))
    }

    /// Writes down what became of a reply.
    pub(crate) fn replied(
        &self,
        number: usize,
        result: Result<(), CallError>,
    ) -> Result<(), CallError> {
        self.note(
            number,
            match result {
                Ok(()) => Deed::ReplyOk,
                Err(CallError::NoWaiter) => Deed::NoWaiter,
                Err(CallError::Disconnected) => Deed::Gone,
                Err(other) => panic!("{other:?}"),
            },
        );
        result
    }

    /// Answers all that still comes; the filter has closed the connection, or is about to.
    pub(crate) fn drain(&self, client: &Client) {
        while let Ok(message) = client.next_message() {
            self.answer(message);
        }
    }

    pub(crate) fn save(&self, path: &Path) {
        let deeds = self.0.lock().unwrap();
        let lines = deeds.iter().map(|(number, deed)| {
            let name = DEEDS.iter().position(|other| other == deed).unwrap();
            format!("{number} {name}\n")
        });
        std::fs::write(path, lines.collect::<String>()).unwrap();
    }

    pub(crate) fn load(path: &Path) -> Vec<(usize, Deed)> {
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().map(|line| {
            let (number, deed) = line.split_once(' ').unwrap();
            let deed: usize = deed.parse().unwrap();
            (number.parse().unwrap(), DEEDS[deed])
        });
        lines.collect()
    }
}

const DEEDS: [Deed; 5] = [
    Deed::Got,
    Deed::ReplyOk,
    Deed::NoWaiter,
    Deed::Gone,
    Deed::FirstWins,
];

#[test]
fn disagreement_is_seen() {
    use Deed::{Gone, Got, NoWaiter, ReplyOk};
    let fine = |end, deeds: &[Deed], knows| agree(end, deeds, knows).is_ok();
    assert!(fine(End::Replied, &[Got, ReplyOk], Knows::All));
    assert!(fine(End::Replied, &[Got, ReplyOk, NoWaiter], Knows::All));
    assert!(fine(End::TimedOut(true), &[Got, NoWaiter], Knows::All));
    assert!(fine(End::Disconnected(true), &[Got, Gone], Knows::All));
    assert!(fine(End::Replied, &[Got, Gone], Knows::Some));
    assert!(fine(End::Delivered, &[], Knows::Some));
    assert!(!fine(End::Pending, &[], Knows::Some));
    assert!(!fine(End::TimedOut(true), &[Got, ReplyOk], Knows::All));
    assert!(!fine(End::Disconnected(true), &[Got, ReplyOk], Knows::Some));
    assert!(!fine(End::Replied, &[Got, NoWaiter], Knows::Some));
    assert!(!fine(End::Replied, &[Got, Gone], Knows::All));
    assert!(!fine(End::Replied, &[Got, ReplyOk, ReplyOk], Knows::All));
    assert!(!fine(End::TimedOut(false), &[Got], Knows::Some));
    assert!(!fine(End::Delivered, &[], Knows::All));
    assert!(!fine(End::Disconnected(true), &[], Knows::All));
    assert!(!fine(End::Delivered, &[Got, Got], Knows::Some));
}
