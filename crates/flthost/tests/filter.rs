//! A filter of somebody else's that denies: in earnest, and in a host that only watches. Needs root.
//!
//! Without the usual harness: run with `GUARD` set this program is a host with such a filter.

mod common;

use std::ffi::OsString;
use std::process::Command;
use std::sync::Arc;

use common::host::{Host, opens};
use common::{Place, text};
use flthost::config::Config;
use flthost::{Altitude, Cause, Filter, Operation, Pre, Verdict, supervisor};

fn main() {
    match std::env::var_os("GUARD") {
        Some(guard) => {
            supervisor::run(&config(guard)).unwrap();
        }
        None => {
            a_filter_denies_and_what_it_denies_is_told(false);
            a_filter_denies_and_what_it_denies_is_told(true);
        }
    }
}

/// Denies what begins with `bad`, and says who wanted it.
struct Stern;

impl Filter for Stern {
    fn name(&self) -> &str {
        "stern"
    }

    fn altitude(&self) -> Altitude {
        Altitude(360_000)
    }

    fn pre_operation(&self, operation: &Operation) -> Pre {
        let path = operation.path().map(|path| path.path.as_path());
        let name = path.and_then(|path| path.file_name()).unwrap_or_default();
        if !name.as_encoded_bytes().starts_with(b"bad") {
            return Pre::Pass;
        }
        // Every fact can be had here.
        let program = operation.executable().unwrap();
        let reason = format!("{} of {}", program.path.display(), operation.uid().unwrap());
        assert_eq!(operation.filesystem().unwrap().name(), Some("tmpfs"));
        assert!(program.id.is_some() && operation.gid().is_some());
        Pre::Complete(Verdict::deny(Cause::Filter, reason))
    }
}

fn config(guard: OsString) -> Config {
    let mut config = Config::guarding([guard]);
    config.instance = Some("test".into());
    config.port_directory = std::env::var_os("PORTS").map(Into::into);
    config.lifeline = true;
    config.monitor = std::env::var_os("MONITOR").is_some();
    config.filters = vec![Arc::new(Stern)];
    config
}

fn a_filter_denies_and_what_it_denies_is_told(monitor: bool) {
    let Some(place) = Place::lasting(40) else {
        return;
    };
    let (bad, good) = (place.file("bad"), place.file("good"));
    let ports = place.outside("ports");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env("GUARD", text(&place.root)).env("PORTS", &ports);
    if monitor {
        command.env("MONITOR", "yes");
    }
    let host = Host::run(&mut command, ports);
    let events = host.listen();
    // More than once: the first is decided in another group than those after it.
    for _ in 0..3 {
        assert_eq!(opens(&bad), monitor);
        let decision = events.decision("bad");
        let (verdict, would_be) = if monitor {
            ("allow", Some("deny"))
        } else {
            ("deny", None)
        };
        assert_eq!(decision["verdict"], verdict, "{decision}");
        assert_eq!(decision["would_be"].as_str(), would_be, "{decision}");
        assert_eq!(decision["cause"], "filter");
        let reason = decision["reason"].as_str().unwrap();
        assert!(reason.ends_with("of 0"), "{reason}");
        assert!(opens(&good));
        assert!(events.decision("good")["would_be"].is_null());
    }
    let counted = ["denied", "would_deny"].map(|counter| host.count(counter));
    assert_eq!(counted, if monitor { [0, 3] } else { [3, 0] });
    println!("a filter denies and what it denies is told (monitor: {monitor}): ok");
}
