//! A host whose only service denies whatever it is asked about, so that what goes on was not asked about.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fltport::protocol::control::Request;
use fltport::protocol::file::Verdict;
use serde_json::Value;

use super::host::{Host, Listener, Service, answer};
use super::{Place, outcome};

/// A host with these arguments, whose only service denies everything it is asked about.
pub(crate) struct Strict {
    pub(crate) host: Host,
    pub(crate) events: Listener,
    pub(crate) service: Service,
}

impl Strict {
    pub(crate) fn start(place: &Place, arguments: &[&str]) -> Self {
        let host = Host::start(place, arguments);
        let events = host.listen();
        let service = host.serve(|_, question| answer(question, Verdict::Deny));
        Self {
            host,
            events,
            service,
        }
    }

    pub(crate) fn list(&self) -> Value {
        list(&self.host)
    }
}

/// The host's rules.
pub(crate) fn list(host: &Host) -> Value {
    let control = host.connect_to("control").unwrap();
    serde_json::from_str(&Request::Mutes.send(&control).unwrap()).unwrap()
}

/// A copy of `cat` somewhere that is not guarded.
pub(crate) fn cat(place: &Place, name: &str) -> PathBuf {
    let program = place.outside("programs").join(name);
    fs::copy("/bin/cat", &program).unwrap();
    program
}

/// Whether this program may open the file.
pub(crate) fn opens_with(program: &Path, file: &Path) -> bool {
    outcome(quiet(Command::new(program).arg(file))).is_ok()
}

/// Starts a process whose output is looked at later, if at all.
pub(crate) fn quiet(command: &mut Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}
