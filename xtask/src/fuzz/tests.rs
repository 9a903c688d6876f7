//! What is read from libFuzzer's output.

use super::Found;

const HEALTHY: &str = "\
INFO: Seed: 1
#2\tINITED cov: 300 ft: 400 corp: 20/1Kb exec/s: 0 rss: 90Mb
#34\tNEW    cov: 310 ft: 420 corp: 21/1Kb lim: 4096 exec/s: 0 rss: 90Mb L: 9/9 MS: 1 ChangeBit-
#1024\tpulse  cov: 312 ft: 420 corp: 21/1Kb lim: 4096 exec/s: 0 rss: 90Mb
Done 2048 runs in 20 second(s)
stat::number_of_executed_units: 2048
stat::new_units_added:          1
";

const CRASH: &str = "\
#2\tINITED cov: 300 ft: 400 corp: 20/1Kb exec/s: 0 rss: 90Mb
thread '<unnamed>' (7) panicked at src/engine.rs:221:13:
assertion `left == right` failed: send 5
==7== ERROR: libFuzzer: deadly signal
artifact_prefix='a/'; Test unit written to a/crash-3b5a
stat::number_of_executed_units: 34
";

#[test]
fn a_run_without_a_crash_says_what_was_reached() {
    let found = Found::read(HEALTHY, false);
    assert_eq!(found.coverage, Some((300, 312)));
    let line = "2048 executions, coverage 300 -> 312 (+12), 1 new inputs, no crash";
    assert_eq!(found.line(), line);
    assert_eq!(found.input, None);
}

#[test]
fn a_crash_names_its_cause_and_its_input() {
    let found = Found::read(CRASH, true);
    assert!(found.line().ends_with("CRASHED"));
    assert_eq!(found.input.as_deref(), Some("a/crash-3b5a"));
    assert_eq!(found.executions, 34);
    let cause = "assertion `left == right` failed: send 5";
    assert!(found.why.iter().any(|line| line == cause), "{found:?}");
}

#[test]
fn output_that_says_nothing_is_no_success() {
    let found = Found::read("", true);
    assert_eq!((found.executions, found.coverage), (0, None));
    assert!(found.crashed);
}
