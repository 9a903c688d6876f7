//! Mutes that a service asks for, where the host was started with `--grant-mutes`: few, none for longer than an hour,
//! and none longer than the service's connection.
//!
//! A service says what is to go unasked; it cannot say that only some things are asked about, nor touch the rules of
//! others. Nothing here looks at what a rule names: that takes time.

use std::time::{Duration, Instant};

use fltport::protocol::mute::Request;
use fltport::{Caller, NtStatus};

use crate::mutes::keep::News;
use crate::mutes::{Mutes, Origin, Sort};
use crate::rule::{RULE_MAX, Rule};

/// Rules that one service may have at a time. With sixteen services every operation is compared with a thousand at most.
const OF_ONE: usize = 64;

/// The longest that a service's rule lasts: a service that wants it longer has to ask again.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Changes that may wait to be told of. A service that makes more in so little time is refused: each is to be seen.
const NEWS: usize = 1_024;

impl Mutes {
    /// Does what a service asks for; gives the rule's number.
    pub(crate) fn request(
        &self,
        connection: u64,
        caller: Caller,
        input: &[u8],
    ) -> Result<u64, NtStatus> {
        if input.len() > RULE_MAX {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        match Request::parse(input).ok_or(NtStatus::INVALID_PARAMETER)? {
            Request::Add { seconds, rule } => {
                let lasts = Duration::from_secs(u64::from(seconds));
                let mut rule = Rule::said(rule).map_err(|_| NtStatus::INVALID_PARAMETER)?;
                if lasts.is_zero() || lasts > LONGEST || rule.expires.is_some() {
                    return Err(NtStatus::INVALID_PARAMETER);
                }
                rule.expires = Instant::now().checked_add(lasts);
                let origin = Origin::Service {
                    connection,
                    pid: caller.pid,
                };
                self.grant(rule, origin)
            }
            Request::Remove { id } => self.take_back(connection, id),
            _ => Err(NtStatus::INVALID_PARAMETER),
        }
    }

    /// A service's connection is over, and so are its rules.
    pub(crate) fn disconnected(&self, connection: u64) {
        let mut state = self.lock();
        state.drop_where("ended", |entry| entry.origin.is_of(connection));
        drop(state);
        self.changed.notify_all();
    }

    fn grant(&self, rule: Rule, origin: Origin) -> Result<u64, NtStatus> {
        let mut state = self.lock();
        let of_this = |other: Origin| match (other, origin) {
            (Origin::Service { connection: a, .. }, Origin::Service { connection: b, .. }) => {
                a == b
            }
            _ => false,
        };
        let entries = state.entries.iter();
        if entries.filter(|entry| of_this(entry.origin)).count() >= OF_ONE
            || state.news.len() >= NEWS
        {
            return Err(NtStatus::INSUFFICIENT_RESOURCES);
        }
        let entry = state.add(Sort::Mute, rule, origin);
        let id = entry.id;
        state.news.push_back(News {
            state: "added",
            entry,
        });
        drop(state);
        self.changed.notify_all();
        Ok(id)
    }

    fn take_back(&self, connection: u64, id: u64) -> Result<u64, NtStatus> {
        let mut state = self.lock();
        let before = state.entries.len();
        state.drop_where("removed", |entry| {
            entry.id == id && entry.origin.is_of(connection)
        });
        let found = state.entries.len() < before;
        drop(state);
        self.changed.notify_all();
        if found {
            Ok(id)
        } else {
            Err(NtStatus::NOT_FOUND)
        }
    }
}

impl Origin {
    fn is_of(self, service: u64) -> bool {
        matches!(self, Self::Service { connection, .. } if connection == service)
    }
}
