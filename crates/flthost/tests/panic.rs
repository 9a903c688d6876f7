//! A filter of somebody else's that panics ends the worker, and never leaves openers waiting. Needs root.
//!
//! Without the usual harness: run with `GUARD` set this program is a host with such a filter.

mod common;

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::host::{Host, opens, try_open, until};
use common::{Place, text, words_of_eio};
use flthost::config::Config;
use flthost::{Altitude, Filter, Operation, Pre, supervisor};

fn main() {
    match std::env::var_os("GUARD") {
        Some(guard) => {
            supervisor::run(&config(guard)).unwrap();
        }
        None => a_panic_ends_the_worker_and_nobody_waits(),
    }
}

/// Panics where the file's name says so.
struct Fragile;

impl Filter for Fragile {
    fn name(&self) -> &str {
        "fragile"
    }

    fn altitude(&self) -> Altitude {
        Altitude(360_000)
    }

    fn pre_operation(&self, operation: &Operation) -> Pre {
        let path = operation.path().map(|path| path.path.clone());
        let path = path.unwrap_or_default();
        assert!(!path.ends_with("panic-at-once"), "it breaks at once");
        if path.ends_with("panic-later") {
            return Pre::Pend(Box::new(|pended| {
                std::thread::spawn(move || {
                    let _held = pended;
                    panic!("it breaks later");
                });
            }));
        }
        Pre::Pass
    }
}

fn config(guard: OsString) -> Config {
    let mut config = Config::guarding([guard]);
    config.instance = Some("test".into());
    config.port_directory = std::env::var_os("PORTS").map(Into::into);
    config.lifeline = true;
    config.policies.set("crash=EIO").unwrap();
    config.filters = vec![Arc::new(Fragile)];
    config
}

fn a_panic_ends_the_worker_and_nobody_waits() {
    let Some(place) = Place::lasting(40) else {
        return;
    };
    let names = ["panic-at-once", "panic-later"];
    let (files, innocent) = (names.map(|name| place.file(name)), place.file("innocent"));
    let ports = place.outside("ports");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env("GUARD", text(&place.root)).env("PORTS", &ports);
    let host = Host::run(&mut command, ports);
    assert!(opens(&innocent));
    for (file, words) in files.iter().zip(["it breaks at once", "it breaks later"]) {
        breaks(&host, file, words);
        assert!(opens(&innocent));
    }
    println!("a panic ends the worker and nobody waits: ok");
}

fn breaks(host: &Host, file: &Path, words: &str) {
    let worker = host.worker();
    let (result, took) = try_open(file);
    assert!(result.unwrap_err().contains(words_of_eio()));
    assert!(took < Duration::from_secs(2), "{took:?}");
    host.says(words);
    until("the next worker comes", || {
        host.connect_to("control").is_some() && host.worker() != worker
    });
}
