//! `cargo xtask check --deep`: model checkers and Miri, which try more than tests do and take minutes.
//!
//! What they run is `crates/fltport/src/models` and the tests that need no system. docs/testing.md says what each shows and
//! what none of them can. Each has a target folder of its own: their flags would rebuild everything else.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::ensure;

use crate::bench;
use crate::check::{Step, cargo, clippy_apart, run_to_end};

pub(crate) static STEPS: [Step; 5] = [
    Step {
        name: "models, all orders (loom)",
        run: loom,
    },
    Step {
        name: "models, drawn orders (shuttle)",
        run: shuttle,
    },
    Step {
        name: "engine and wire under Miri",
        run: engine_under_miri,
    },
    Step {
        name: "ports in memory under Miri",
        run: ports_under_miri,
    },
    Step {
        name: "benchmark's peers",
        run: peers,
    },
];

/// Orders of each model of shuttle.
const ORDERS: &str = "10000";

/// Stories of the engine that go round thousands of times: half a minute to hours each in an interpreter, and no other code than the stories
/// beside them.
const LONG_STORIES: [&str; 21] = [
    "n2_whatever_both_ends_do_every_call_ends_once_and_replies_are_exact",
    "questions_that_wait_for_replies_count_as_senders",
    "one_sender_too_many_is_told_that_resources_are_short",
    "f24_a_reply_at_the_latency_of_the_timeout_is_never_half_done",
    "e19_e20_message_numbers_begin_with_one_and_never_repeat",
    "h5_whoever_wins_between_cancel_and_delivery_no_message_is_lost",
    "f21_a_reply_in_the_instant_of_delivery_is_not_lost",
    "p6_b29_however_a_connect_goes_the_slot_is_released_once",
    "k20_up_to_sixteen_callbacks_overlap_and_all_calls_are_answered",
    "d14_every_one_of_eight_thousand_messages_arrives_once",
    "b13_b20_a_thousand_refusals_leak_no_slot_and_call_no_disconnect",
    "n8_messages_that_nobody_gets_are_kept_by_their_senders_alone",
    "d9_a_megabyte_arrives_whole",
    "one_get_too_many_is_refused_and_the_others_stay",
    "f9_f19_of_two_replies_the_first_wins_and_the_sender_keeps_it",
    "the_host_counts_gets_itself",
    "the_client_does_not_bother_the_host_with_a_get_too_many",
    "n7_a_thousand_blocked_senders_all_return_when_the_client_leaves",
    "requests_beyond_the_queue_are_refused_and_not_kept",
    "i18_a_reply_and_an_instant_close_still_reach_the_sender",
    "l9_a_thousand_gets_and_as_many_sends_complete_once_each",
];

/// What Miri has no system for (sockets of packets), or takes minutes to copy.
const NOT_IN_MEMORY: [&str; 3] = [
    "a_packet_carries_its_sender_and_an_unstamped_one_nobody",
    "what_was_sent_before_the_end_is_read_before_the_end",
    "frames_of_every_size_come_back_whole",
];

fn loom(root: &Path) -> anyhow::Result<()> {
    run_to_end(
        &mut models(root, "loom"),
        "loom prints the panic of the order that failed; LOOM_LOG=trace and LOOM_LOCATION=1 show its steps",
    )
}

fn shuttle(root: &Path) -> anyhow::Result<()> {
    let orders = std::env::var("FLTPORT_ORDERS").unwrap_or_else(|_| ORDERS.to_owned());
    run_to_end(
        models(root, "shuttle").env("FLTPORT_ORDERS", orders),
        "the failure has a schedule in quotes: FLTPORT_SCHEDULE=<schedule>, with RUSTFLAGS='--cfg shuttle' and the name of \
         the model, runs that order again",
    )
}

/// The models of one checker. Optimised a little: they run millions of steps.
fn models(root: &Path, checker: &str) -> Command {
    let mut command = cargo(root);
    command
        .env("RUSTFLAGS", format!("--cfg {checker}"))
        .env("CARGO_TARGET_DIR", target(root).join(checker))
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
        .args(["test", "--locked", "-p", "fltport", "--lib", "models::"]);
    command
}

fn engine_under_miri(root: &Path) -> anyhow::Result<()> {
    miri(root, "fltport-engine", &LONG_STORIES)
}

fn ports_under_miri(root: &Path) -> anyhow::Result<()> {
    miri(root, "fltport", &NOT_IN_MEMORY)
}

/// Clippy of the part of the benchmark that nobody builds who does not measure: it has a hundred times as many lines below
/// it as it has itself, so it is not looked at with every change.
fn peers(root: &Path) -> anyhow::Result<()> {
    clippy_apart(root, bench::PEERS, bench::peer_features())
}

/// The unit tests of a crate, without those named.
fn miri(root: &Path, package: &str, skipped: &[&str]) -> anyhow::Result<()> {
    let present = nightly(root)
        .args(["miri", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    ensure!(
        present.is_ok_and(|status| status.success()),
        "Miri is missing: run `rustup toolchain install nightly --profile minimal`, then \
         `rustup component add miri rust-src --toolchain nightly`"
    );
    let skips = skipped.iter().flat_map(|name| ["--skip", name]);
    // The clock and the user of the machine are asked for, nothing else of it. A port's threads for callbacks linger for some
    // seconds, and what they still hold at the end of the process is no leak.
    let flags = std::env::var("MIRIFLAGS").unwrap_or_default();
    let mut command = nightly(root);
    command
        .env(
            "MIRIFLAGS",
            format!("-Zmiri-disable-isolation -Zmiri-ignore-leaks {flags}"),
        )
        .env("CARGO_TARGET_DIR", target(root))
        .args(["miri", "test", "--locked", "-p", package, "--lib", "--"])
        .args(skips);
    run_to_end(
        &mut command,
        "Miri says which access is undefined and where; `unsupported operation` is a test that needs the system: name it in \
         xtask/src/deep.rs. MIRIFLAGS=-Zmiri-seed=<number> takes another order of threads",
    )
}

/// The cargo of the nightly toolchain, which has Miri.
fn nightly(root: &Path) -> Command {
    let mut command = Command::new("rustup");
    command.current_dir(root).args(["run", "nightly", "cargo"]);
    // Those of the toolchain that runs us.
    for inherited in ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(inherited);
    }
    command
}

fn target(root: &Path) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| root.join("target").into());
    root.join(target).join("deep")
}

#[cfg(test)]
mod tests {
    use super::{LONG_STORIES, NOT_IN_MEMORY};
    use std::path::Path;

    #[test]
    fn tests_that_miri_skips_exist() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
        let mut text = String::new();
        let mut folders = vec![
            crates.join("fltport-engine/src"),
            crates.join("fltport/src"),
        ];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    text.push_str(&std::fs::read_to_string(path).unwrap());
                }
            }
        }
        for name in LONG_STORIES.iter().chain(&NOT_IN_MEMORY) {
            assert!(
                text.contains(&format!("fn {name}()")),
                "no test {name}: take it off the list"
            );
        }
    }
}
