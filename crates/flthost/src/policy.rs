//! What happens to an operation that no service has decided: by cause, because causes differ in who is to blame.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::fanotify::{DenyErrno, Operation, Response};
use crate::operation::Verdict;

/// What is done with an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes on.
    Allow,
    /// It fails with `EPERM`.
    Deny,
    /// It fails with this error. Kernels before 6.14 make `EPERM` of it.
    Errno(DenyErrno),
}

/// Why an operation was decided as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A service said so.
    Service,
    /// Services have found the file clean before, and it has not changed since.
    Cached,
    /// The process is the host's own.
    Exempt,
    /// It is excluded by configuration.
    Excluded,
    /// A filter said so.
    Filter,
    /// The service took longer than the deadline.
    Timeout,
    /// No service is connected.
    NoService,
    /// More operations are pending than the host has room for, or than the services, which do answer, get through.
    Overload,
    /// The file was with a service when that died, and again when it was tried alone.
    Poison,
    /// The service cannot tell: too large, too slow to scan, unreadable.
    Unscannable,
    /// The host itself failed while it had the operation.
    Crash,
}

/// An action for each cause that a policy decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actions {
    /// The service is too slow.
    pub timeout: Action,
    /// No service is there.
    pub no_service: Action,
    /// Too many operations are pending.
    pub overload: Action,
    /// The host itself failed.
    pub crash: Action,
    /// The service cannot tell.
    pub unscannable: Action,
    /// The file kills services.
    pub poison: Action,
}

/// What happens to operations that nobody has decided, and the time services have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policies {
    /// From the moment the operation is read until it is answered, whatever happens.
    pub deadline: Duration,
    /// For opens.
    pub open: Actions,
    /// For executions.
    pub exec: Actions,
}

impl Actions {
    const LENIENT: Self = Self {
        timeout: Action::Allow,
        no_service: Action::Allow,
        crash: Action::Allow,
        ..Self::STRICT
    };

    const STRICT: Self = Self {
        timeout: Action::Deny,
        no_service: Action::Deny,
        overload: Action::Deny,
        crash: Action::Deny,
        unscannable: Action::Deny,
        poison: Action::Deny,
    };

    /// Each cause by name, with its action.
    pub fn list(&self) -> [(&'static str, Action); 6] {
        [
            ("timeout", self.timeout),
            ("no_service", self.no_service),
            ("overload", self.overload),
            ("crash", self.crash),
            ("unscannable", self.unscannable),
            ("poison", self.poison),
        ]
    }

    fn named(&mut self, cause: &str) -> Option<&mut Action> {
        Some(match cause {
            "timeout" => &mut self.timeout,
            "no_service" => &mut self.no_service,
            "overload" => &mut self.overload,
            "crash" => &mut self.crash,
            "unscannable" => &mut self.unscannable,
            "poison" => &mut self.poison,
            _ => return None,
        })
    }
}

impl Policies {
    /// For a tool that has just been installed: what is nobody's fault does not lock anybody out. What a *file* or its
    /// opener can bring about (too large, slow to scan, deadly for the scanner, too much at once) is denied, or a file
    /// could buy its permission.
    #[must_use]
    pub const fn lenient() -> Self {
        Self {
            deadline: Duration::from_secs(2),
            open: Actions::LENIENT,
            exec: Actions::LENIENT,
        }
    }

    /// What was not found clean does not go on.
    #[must_use]
    pub const fn strict() -> Self {
        Self {
            deadline: Duration::from_secs(2),
            open: Actions::STRICT,
            exec: Actions::STRICT,
        }
    }

    /// The action for a cause. What a service, a filter or an exemption decided has none.
    #[must_use]
    pub const fn action(&self, kind: Operation, cause: Cause) -> Action {
        let actions = match kind {
            Operation::Exec => &self.exec,
            Operation::Open => &self.open,
        };
        match cause {
            Cause::Service | Cause::Cached | Cause::Exempt | Cause::Excluded | Cause::Filter => {
                Action::Allow
            }
            Cause::Timeout => actions.timeout,
            Cause::NoService => actions.no_service,
            Cause::Overload => actions.overload,
            Cause::Poison => actions.poison,
            Cause::Unscannable => actions.unscannable,
            Cause::Crash => actions.crash,
        }
    }

    /// Whether nothing goes on that was not found clean.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        let strict = Self {
            deadline: self.deadline,
            ..Self::strict()
        };
        *self == strict
    }

    /// What policy decides for a cause.
    pub(crate) fn verdict(&self, kind: Operation, cause: Cause, reason: String) -> Verdict {
        Verdict {
            action: self.action(kind, cause),
            cause,
            reason,
        }
    }

    /// Sets one policy from text such as `timeout=deny`, `overload=EAGAIN`, or `exec:crash=deny` for executions only.
    ///
    /// # Errors
    /// Says what is allowed instead.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        let (cause, action) = text
            .split_once('=')
            .ok_or_else(|| format!("{text}: write CAUSE=ACTION"))?;
        let action: Action = action.parse()?;
        let (actions, cause) = match cause.split_once(':') {
            None => (vec![&mut self.open, &mut self.exec], cause),
            Some(("open", cause)) => (vec![&mut self.open], cause),
            Some(("exec", cause)) => (vec![&mut self.exec], cause),
            Some((other, _)) => {
                return Err(format!("{other}: no such operation; there are open, exec"));
            }
        };
        for actions in actions {
            let known = actions.list().map(|(name, _)| name);
            *actions.named(cause).ok_or_else(|| {
                format!("{cause}: no such cause; there are {}", known.join(", "))
            })? = action;
        }
        Ok(())
    }
}

impl Action {
    /// The kernel's word for it.
    #[must_use]
    pub const fn response(self) -> Response {
        match self {
            Self::Allow => Response::Allow,
            Self::Deny => Response::Deny,
            Self::Errno(errno) => Response::DenyErrno(errno),
        }
    }

    /// Whether the operation does not go on.
    #[must_use]
    pub const fn denies(self) -> bool {
        !matches!(self, Self::Allow)
    }

    /// The action in one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Errno(errno) => errno_name(errno),
        }
    }
}

impl FromStr for Action {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let errno = |text: &str| {
            DenyErrno::ALL
                .into_iter()
                .find(|errno| errno_name(*errno) == text)
        };
        match text {
            "allow" => Ok(Self::Allow),
            "deny" => Ok(Self::Deny),
            other => errno(other).map(Self::Errno).ok_or_else(|| {
                let all: Vec<_> = DenyErrno::ALL.into_iter().map(errno_name).collect();
                format!(
                    "{other}: no such action; there are allow, deny, {}",
                    all.join(", ")
                )
            }),
        }
    }
}

const fn errno_name(errno: DenyErrno) -> &'static str {
    match errno {
        DenyErrno::Eperm => "EPERM",
        DenyErrno::Eio => "EIO",
        DenyErrno::Eagain => "EAGAIN",
        DenyErrno::Ebusy => "EBUSY",
        DenyErrno::Etxtbsy => "ETXTBSY",
        DenyErrno::Enospc => "ENOSPC",
        DenyErrno::Edquot => "EDQUOT",
    }
}

impl Cause {
    /// The cause in one word, as in configuration and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Cached => "cached",
            Self::Exempt => "exempt",
            Self::Excluded => "excluded",
            Self::Filter => "filter",
            Self::Timeout => "timeout",
            Self::NoService => "no_service",
            Self::Overload => "overload",
            Self::Poison => "poison",
            Self::Unscannable => "unscannable",
            Self::Crash => "crash",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_or_its_opener_can_bring_about_is_denied_by_every_preset() {
        for policies in [Policies::lenient(), Policies::strict()] {
            for actions in [policies.open, policies.exec] {
                assert!(actions.unscannable.denies() && actions.poison.denies());
                assert!(actions.overload.denies());
            }
        }
    }

    #[test]
    fn policies_are_set_by_name_and_mistakes_say_what_is_right() {
        let mut policies = Policies::lenient();
        policies.set("timeout=deny").unwrap();
        policies.set("overload=EAGAIN").unwrap();
        policies.set("exec:crash=deny").unwrap();
        let crash = |kind| policies.action(kind, Cause::Crash);
        assert_eq!(crash(Operation::Exec), Action::Deny);
        assert_eq!(crash(Operation::Open), Action::Allow);
        assert_eq!(policies.open.timeout, Action::Deny);
        assert_eq!(policies.exec.overload, Action::Errno(DenyErrno::Eagain));
        assert!(
            policies
                .set("read:crash=deny")
                .unwrap_err()
                .contains("exec")
        );
        assert!(
            policies
                .set("timeout")
                .unwrap_err()
                .contains("CAUSE=ACTION")
        );
        assert!(
            policies
                .set("slow=deny")
                .unwrap_err()
                .contains("no_service")
        );
        assert!(
            policies
                .set("timeout=EACCES")
                .unwrap_err()
                .contains("EBUSY")
        );
    }
}
