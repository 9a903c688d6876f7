//! What the machine is told to run, and what it has said.

use anyhow::ensure;

use super::{MACHINES, Test};

/// The script that the kernel starts. It runs its machine's part of the programs, says of each how it ended, and turns the
/// machine off.
pub(crate) fn init(tests: &[Test]) -> String {
    let mut text = "#!/bin/sh
export PATH=/usr/sbin:/usr/bin LC_ALL=C RUST_BACKTRACE=0
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /run
mkdir /run/tests
chmod 1777 /tmp /run/tests
for module in /modules/*; do busybox insmod $module; done
ulimit -n 65536
# Not mounted over /tmp: what was built may be below it.
export TMPDIR=/run/tests
cd /run/tests
"
    .to_owned();
    for (number, test) in tests.iter().enumerate() {
        let Test { name, path, .. } = test;
        let skips = test.left_out.iter().map(|test| format!(" --skip {test}"));
        // A parameter that the kernel does not know is a variable of this script.
        text.push_str(&format!(
            "if [ \"$part\" = {part} ]; then\n\
             echo; echo 'PROGRAM {name}'\n\
             timeout --kill-after=5 120 '{path}' --show-output{skips} 2>&1\n\
             code=$?; echo; echo \"RESULT {name} $code\"\nfi\n",
            part = number % MACHINES,
            path = path.display(),
            skips = skips.collect::<String>(),
        ));
    }
    // The kernel does it at once: there is nothing to write back.
    text.push_str("echo o > /proc/sysrq-trigger\nsleep 60\n");
    text
}

/// Name and path of an integration test, of one line that cargo writes.
pub(crate) fn test_program(line: &str) -> Option<(&str, &str)> {
    if !line.contains(r#""kind":["test"]"#) {
        return None;
    }
    let (_, path) = line.split_once(r#""executable":""#)?;
    let (path, _) = path.split_once('"')?;
    let (_, file) = path.rsplit_once('/')?;
    let (name, _) = file.rsplit_once('-')?;
    Some((name, path))
}

/// Prints a line for each program, and all that one said that failed.
///
/// # Errors
///
/// When a program failed or did not end, or nothing ran.
pub(crate) fn print(output: &str, names: &[&str]) -> anyhow::Result<()> {
    let output = output.replace('\r', "");
    let mut failed = Vec::new();
    let mut ran = 0;
    for name in names {
        let said = section(&output, name);
        let passed = count(said.words, "passed");
        ran += passed;
        let ended = said.code == Some("0");
        let how = match said.code {
            Some("0") => "ok".to_owned(),
            Some(code) => format!("FAILED with {code}"),
            None => "NOT ENDED".to_owned(),
        };
        let skipped: Vec<_> = said
            .words
            .lines()
            .filter(|line| line.starts_with("skipped: "))
            .collect();
        println!(
            "{name}: {how}, {passed} passed (of these {} skipped), {} failed",
            skipped.len(),
            count(said.words, "failed")
        );
        for line in skipped {
            println!("    {line}");
        }
        if !ended {
            println!("{}", said.words);
            failed.push(*name);
        }
    }
    ensure!(
        failed.is_empty(),
        "failed on the old kernel: {}",
        failed.join(", ")
    );
    ensure!(ran > 0, "nothing ran on the old kernel");
    Ok(())
}

struct Said<'a> {
    words: &'a str,
    code: Option<&'a str>,
}

/// What a program said, and how it ended, if it did.
fn section<'a>(output: &'a str, name: &str) -> Said<'a> {
    let start = format!("PROGRAM {name}\n");
    let end = format!("\nRESULT {name} ");
    let words = output.split_once(&start).map_or("", |(_, words)| words);
    match words.split_once(&end) {
        Some((words, code)) => Said {
            words,
            code: code.lines().next(),
        },
        None => Said { words, code: None },
    }
}

/// How many tests have passed or failed. A program without the harness says `: ok` of each that passed.
fn count(words: &str, what: &str) -> usize {
    let Some(line) = words
        .lines()
        .rev()
        .find(|line| line.starts_with("test result:"))
    else {
        let ok = words.lines().filter(|line| line.ends_with(": ok"));
        return if what == "passed" { ok.count() } else { 0 };
    };
    let numbers = line
        .split([';', '.'])
        .filter_map(|part| part.trim().strip_suffix(what));
    numbers
        .filter_map(|number| number.trim().parse::<usize>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "PROGRAM one\r\ntest a ... ok\r\nskipped: why\r\n\
        test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured\r\n\r\nRESULT one 0\r\n\
        PROGRAM two\r\ntest result: FAILED. 1 passed; 2 failed; 0 ignored\r\n\r\nRESULT two 101\r\n\
        PROGRAM three\r\nhalf";

    #[test]
    fn a_program_that_fails_or_does_not_end_is_a_failure() {
        assert!(print(OUTPUT, &["one"]).is_ok());
        for name in ["two", "three", "four"] {
            assert!(print(OUTPUT, &["one", name]).is_err(), "{name}");
        }
        assert!(
            print("PROGRAM one\n\nRESULT one 0\n", &["one"]).is_err(),
            "nothing ran"
        );
    }

    #[test]
    fn the_harness_is_understood() {
        let output = OUTPUT.replace('\r', "");
        let said = section(&output, "two");
        assert_eq!(
            (
                said.code,
                count(said.words, "passed"),
                count(said.words, "failed")
            ),
            (Some("101"), 1, 2)
        );
    }

    #[test]
    fn only_integration_tests_are_taken_of_what_cargo_says() {
        let line = r#"{"target":{"kind":["test"],"name":"start"},"executable":"/t/debug/deps/start-0a","fresh":true}"#;
        assert_eq!(
            test_program(line),
            Some(("start", "/t/debug/deps/start-0a"))
        );
        assert_eq!(test_program(&line.replace("test\"]", "lib\"]")), None);
    }
}
