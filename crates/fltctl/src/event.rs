//! What a host tells on its events port, and the count that is kept of it.
//!
//! The host may be of a later version: unknown events and fields are no error. Raw lines go on to programs as they came
//! (`commands/guard.rs`); this is only for what people are shown. Next room: `render.rs`.

use std::collections::BTreeMap;

use serde::Deserialize;

/// One event.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// Everything is guarded and the scanner is ready; the first event of every connection.
    Started(Started),
    /// An operation was decided.
    Decision(Decision),
    /// The scanner came or went.
    Service(Service),
    /// The host's worker came back.
    Worker(Worker),
    /// A filesystem below a guarded directory came, went, or is not guarded.
    Volume(Volume),
    /// A rule about what is asked has come or gone.
    Mute(Mute),
    /// Events were lost.
    Gap(Gap),
    /// Something of a later version.
    #[serde(other)]
    Unknown,
}

/// What a host guards, and how.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Started {
    /// The process that answers the kernel.
    pub(crate) worker: Option<u64>,
    /// What is guarded.
    pub(crate) guards: Vec<Guarded>,
    /// Whether undecided means denied.
    pub(crate) strict: bool,
    /// Whether nothing is denied.
    pub(crate) monitor: bool,
    /// How long an operation may wait.
    pub(crate) deadline_ms: Option<u64>,
}

/// One guarded place.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Guarded {
    /// Where.
    pub(crate) path: String,
    /// Directories marked there.
    pub(crate) directories: Option<u64>,
}

/// How an operation was decided.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Decision {
    /// `allow`, `deny`, or the name of an errno.
    pub(crate) verdict: String,
    /// When, in milliseconds since 1970.
    #[serde(default)]
    pub(crate) time_ms: Option<u64>,
    /// What was to be done.
    #[serde(default)]
    pub(crate) operation: Option<String>,
    /// With which file.
    #[serde(default)]
    pub(crate) path: Option<String>,
    /// What that path is worth, if it is not simply the file's path on the host.
    #[serde(default)]
    pub(crate) path_validity: Option<String>,
    /// By whom.
    #[serde(default)]
    pub(crate) pid: Option<i64>,
    /// The name of that process.
    #[serde(default)]
    pub(crate) process: Option<String>,
    /// Who or what decided.
    #[serde(default)]
    pub(crate) cause: Option<String>,
    /// In the decider's words.
    #[serde(default)]
    pub(crate) reason: Option<String>,
    /// How long the operation waited.
    #[serde(default)]
    pub(crate) micros: Option<u64>,
    /// The verdict that monitor mode kept from being given.
    #[serde(default)]
    pub(crate) would_be: Option<String>,
}

/// The scanner came or went.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Service {
    /// `connected`, `died`, `starting`.
    pub(crate) state: String,
    /// Its process.
    pub(crate) pid: Option<i64>,
}

/// The host's worker came back.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Worker {
    /// `restarted`.
    pub(crate) state: String,
    /// Operations that the dead worker had left, decided by policy.
    pub(crate) settled: Option<u64>,
}

/// A filesystem below a guarded directory came, went, or is not guarded.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Volume {
    /// `guarded`, `vanished`, `refused`.
    pub(crate) state: String,
    /// Where it is mounted.
    pub(crate) path: String,
    /// Why it is refused.
    pub(crate) reason: Option<String>,
}

/// A rule about what is asked has come or gone.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Mute {
    /// `added`, `removed`, `ended`.
    pub(crate) state: String,
    /// The rule.
    pub(crate) rule: String,
    /// The process of the service that asked for it.
    pub(crate) pid: Option<i64>,
}

/// Events were lost on the way.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Gap {
    /// How many.
    pub(crate) lost: u64,
}

/// What happened so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Operations.
    pub(crate) asked: u64,
    /// Those that went on.
    pub(crate) allowed: u64,
    /// Those that did not.
    pub(crate) denied: u64,
    /// Those that would not have, without monitor mode.
    pub(crate) would_deny: u64,
    /// Operations by cause.
    pub(crate) by_cause: BTreeMap<String, u64>,
    /// Events that never arrived here.
    pub(crate) lost: u64,
}

impl Event {
    /// The event in one message. What cannot be read is unknown.
    pub(crate) fn parse(message: &[u8]) -> Self {
        serde_json::from_slice(message).unwrap_or(Self::Unknown)
    }
}

impl Decision {
    /// Whether the verdict, or the one that monitor mode held back, is to go on.
    pub(crate) fn means_allow(&self) -> bool {
        self.would_be.as_ref().unwrap_or(&self.verdict) == ALLOW
    }

    /// Whether there is nothing to tell: allowed, and by somebody who could decide.
    pub(crate) fn is_plain(&self) -> bool {
        let cause = self.cause.as_deref().unwrap_or_default();
        self.means_allow() && PLAIN_CAUSES.contains(&cause)
    }
}

impl Tally {
    /// Counts an event.
    pub(crate) fn count(&mut self, event: &Event) {
        let decision = match event {
            Event::Decision(decision) => decision,
            Event::Gap(gap) => {
                self.lost = self.lost.saturating_add(gap.lost);
                return;
            }
            _ => return,
        };
        self.asked += 1;
        if decision.verdict == ALLOW {
            self.allowed += 1;
        } else {
            self.denied += 1;
        }
        self.would_deny += u64::from(decision.would_be.is_some() && !decision.means_allow());
        let cause = decision.cause.as_deref().unwrap_or("not told");
        *self.by_cause.entry(cause.to_owned()).or_default() += 1;
    }
}

const ALLOW: &str = "allow";

/// Causes of decisions that were taken as intended; the others (a timeout, a missing scanner, a crash) are news.
const PLAIN_CAUSES: [&str; 5] = ["service", "exempt", "excluded", "filter", "monitor"];

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(text: &str) -> Decision {
        match Event::parse(text.as_bytes()) {
            Event::Decision(decision) => decision,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_later_version_says_is_no_error() {
        let unknown = |text: &str| matches!(Event::parse(text.as_bytes()), Event::Unknown);
        assert!(unknown(r#"{"event":"weather","sun":true}"#));
        assert!(unknown(r#"{"event":"decision","verdict":7}"#));
        assert!(unknown("no json"));
        let known = decision(r#"{"event":"decision","verdict":"EIO","path":null,"later":[1]}"#);
        assert_eq!((known.verdict.as_str(), known.path), ("EIO", None));
    }

    #[test]
    fn what_becomes_of_a_filesystem_is_read() {
        let text = r#"{"event":"volume","state":"refused","path":"/g/a","reason":"why"}"#;
        let Event::Volume(volume) = Event::parse(text.as_bytes()) else {
            panic!("not a volume");
        };
        assert_eq!(
            (volume.state.as_str(), volume.path.as_str()),
            ("refused", "/g/a")
        );
        assert_eq!(volume.reason.as_deref(), Some("why"));
    }

    #[test]
    fn plain_is_what_was_allowed_by_somebody_who_could_decide() {
        let is_plain =
            |rest: &str| decision(&format!(r#"{{"event":"decision",{rest}}}"#)).is_plain();
        assert!(is_plain(r#""verdict":"allow","cause":"service""#));
        assert!(!is_plain(r#""verdict":"deny","cause":"service""#));
        assert!(!is_plain(r#""verdict":"allow","cause":"timeout""#));
        assert!(!is_plain(
            r#""verdict":"allow","cause":"monitor","would_be":"deny""#
        ));
        assert!(is_plain(
            r#""verdict":"allow","cause":"monitor","would_be":"allow""#
        ));
    }

    #[test]
    fn the_tally_counts_by_verdict_and_cause() {
        let mut tally = Tally::default();
        for text in [
            r#"{"event":"decision","verdict":"allow","cause":"service"}"#,
            r#"{"event":"decision","verdict":"EACCES","cause":"service"}"#,
            r#"{"event":"decision","verdict":"allow","cause":"monitor","would_be":"deny"}"#,
            r#"{"event":"gap","lost":12}"#,
        ] {
            tally.count(&Event::parse(text.as_bytes()));
        }
        let counts = (tally.asked, tally.allowed, tally.denied);
        assert_eq!(counts, (3, 2, 1));
        assert_eq!((tally.would_deny, tally.lost), (1, 12));
        assert_eq!(tally.by_cause["service"], 2);
    }
}
