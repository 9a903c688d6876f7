//! Scanning descriptors: what is found, and what each limit says when it stops a scan.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fltscan::{Engine, Finding, Limits, RuleSource, Rules, Unreadable, test_file};

#[test]
fn the_test_file_matches_and_another_does_not() {
    let rules = Rules::builtin().unwrap();
    let mut engine = Engine::new(&rules).unwrap();
    assert_eq!(scan(&mut engine, &test_file()), eicar());
    assert_eq!(scan(&mut engine, b"all is well"), Finding::Clean);
    assert_eq!(scan(&mut engine, b""), Finding::Clean);
    assert_eq!(scan(&mut engine, &test_file()), eicar());
}

#[test]
fn the_test_string_is_found_behind_a_header_and_before_a_body() {
    let rules = Rules::builtin().unwrap();
    let mut engine = Engine::new(&rules).unwrap();
    for (before, expected) in [(1, eicar()), (4095, eicar()), (4096, Finding::Clean)] {
        let content = [vec![b'.'; before], test_file(), vec![b'.'; 3 << 20]].concat();
        assert_eq!(
            scan(&mut engine, &content),
            expected,
            "{before} bytes before it"
        );
    }
}

#[test]
fn a_short_file_after_a_long_one_is_judged_alone() {
    let rules = all_rules("rule last { strings: $a = \"needle\" condition: $a }");
    let mut engine = Engine::new(&rules).unwrap();
    let long = [vec![b'.'; 100_000], b"needle".to_vec()].concat();
    assert_eq!(scan(&mut engine, &long), matched("last"));
    assert_eq!(scan(&mut engine, &vec![b'.'; 50_000]), Finding::Clean);
}

#[test]
fn the_size_limit_is_exact() {
    let rules = Rules::builtin().unwrap();
    let mut engine = Engine::new(&rules).unwrap();
    for max_file in [0_u64, 1, 4096, 1 << 20, (5 << 20) + 1] {
        let limits = Limits {
            max_file,
            ..PATIENT
        };
        let file = tempfile::tempfile().unwrap();
        file.set_len(max_file).unwrap();
        assert_eq!(engine.scan(file.as_fd(), &limits), Finding::Clean);
        file.set_len(max_file + 1).unwrap();
        assert_eq!(
            engine.scan(file.as_fd(), &limits),
            Finding::TooLarge { size: max_file + 1 }
        );
    }
}

#[test]
fn a_file_that_hides_its_size_is_read_and_limited_all_the_same() {
    let rules = all_rules("rule kernel { strings: $a = \"Pid:\" condition: $a }");
    let mut engine = Engine::new(&rules).unwrap();
    // Regular, with a size of 0, and some 1,500 bytes in it.
    let file = File::open("/proc/self/status").unwrap();
    assert_eq!(engine.scan(file.as_fd(), &PATIENT), matched("kernel"));
    assert_eq!(
        engine.scan(
            file.as_fd(),
            &Limits {
                max_file: 9,
                ..PATIENT
            }
        ),
        Finding::TooLarge { size: 10 }
    );
}

#[test]
fn the_offset_of_the_descriptor_is_neither_used_nor_moved() {
    let rules = Rules::builtin().unwrap();
    let mut engine = Engine::new(&rules).unwrap();
    let mut file = file_with(&test_file());
    file.seek(SeekFrom::Start(40)).unwrap();
    assert_eq!(engine.scan(file.as_fd(), &PATIENT), eicar());
    assert_eq!(file.stream_position().unwrap(), 40);
}

#[test]
fn all_matching_rules_are_named_in_order_and_private_ones_are_not() {
    let rules = all_rules(
        "rule b { condition: filesize > 1 } private rule p { condition: true } rule no { condition: filesize > 9 }
         rule a { condition: p }",
    );
    let mut engine = Engine::new(&rules).unwrap();
    assert_eq!(
        scan(&mut engine, b"four"),
        Finding::Match {
            rules: vec!["b".to_owned(), "a".to_owned()]
        }
    );
}

#[test]
fn rules_are_in_the_order_of_their_sources_whatever_matched_before() {
    let source = |name: &str, condition: &str| RuleSource {
        name: name.to_owned(),
        text: format!("rule {name} {{ condition: {condition} }}").into_bytes(),
    };
    let many =
        (0..11).map(|place| source(&format!("r{place}"), &format!("filesize > {}", 10 - place)));
    let rules = Rules::compile(many).unwrap();
    let mut engine = Engine::new(&rules).unwrap();
    for size in 1..=11_u8 {
        let Finding::Match { rules } = scan(&mut engine, &vec![b'.'; usize::from(size)]) else {
            panic!("no match for {size} bytes")
        };
        let expected: Vec<_> = (11 - size..11).map(|place| format!("r{place}")).collect();
        assert_eq!(rules, expected);
    }
}

#[test]
fn a_condition_that_counts_matches_or_asks_for_their_place_gets_them_all() {
    let strings = "strings: $a = \"needle\" $b = /hay[0-9]+/ condition:";
    let conditions = [
        "#a == 3",
        "$a at 20",
        "$a in (15..30)",
        "@a[3] == 20",
        "#a in (5..30) == 2",
        "!b[2] == 5",
        "for any i in (1..#a) : (@a[i] == 10)",
        "for all of them : (# > 1)",
        "any of them at 20",
        "any of them in (18..25)",
        "for any of ($a) : ($ at 20)",
        "$a and $b and #b == 2",
        "2 of them",
    ];
    let text = conditions.iter().enumerate();
    let text = text
        .map(|(i, condition)| format!("rule r{i} {{ {strings} {condition} and ($a or $b) }}\n"));
    let rules = all_rules(&text.collect::<String>());
    let mut engine = Engine::new(&rules).unwrap();
    let content = b"needle....needle....needle....hay1.hay22.";
    let Finding::Match { rules } = scan(&mut engine, content) else {
        panic!("no match")
    };
    let expected = (0..conditions.len())
        .map(|i| format!("r{i}"))
        .collect::<Vec<_>>();
    assert_eq!(rules, expected);
}

#[test]
fn what_is_not_a_file_is_unreadable() {
    let rules = Rules::builtin().unwrap();
    let mut engine = Engine::new(&rules).unwrap();
    let (pipe, _writer) = std::io::pipe().unwrap();
    let others = [pipe.into(), open("/dev/zero"), open("/proc/self")];
    for other in others {
        assert_eq!(
            engine.scan(other.as_fd(), &PATIENT),
            Finding::Unreadable(Unreadable::NotRegular)
        );
    }
}

#[test]
fn a_descriptor_that_does_not_permit_reading_is_unreadable() {
    let rules = Rules::builtin().unwrap();
    let mut engine = Engine::new(&rules).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let write_only = File::options().write(true).open(file.path()).unwrap();
    let errno = rustix::io::Errno::BADF.raw_os_error();
    assert_eq!(
        engine.scan(write_only.as_fd(), &PATIENT),
        Finding::Unreadable(Unreadable::Os { errno })
    );
}

#[test]
fn a_slow_rule_times_out_within_the_promised_bound_and_the_engine_lives_on() {
    let rules = all_rules(SLOW);
    let mut engine = Engine::new(&rules).unwrap();
    for millis in [100, 1500] {
        let time = Duration::from_millis(millis);
        let started = Instant::now();
        assert_eq!(
            engine.scan(file_with(b"slow").as_fd(), &Limits { time, ..PATIENT }),
            Finding::TimedOut
        );
        let took = started.elapsed();
        // The bound of `Limits::time` is two seconds; another for a busy machine that runs the tests.
        assert!(
            took > Duration::from_secs(1) && took < time + Duration::from_secs(3),
            "{millis} ms took {took:?}"
        );
    }
    assert_eq!(scan(&mut engine, b"fast"), Finding::Clean);
    assert_eq!(scan(&mut engine, &test_file()), eicar());
}

#[test]
fn no_time_at_all_is_a_timeout_and_all_time_is_none() {
    let rules = Rules::builtin().unwrap();
    let mut engine = Engine::new(&rules).unwrap();
    let file = file_with(&test_file());
    assert_eq!(
        engine.scan(
            file.as_fd(),
            &Limits {
                time: Duration::ZERO,
                ..PATIENT
            }
        ),
        Finding::TimedOut
    );
    assert_eq!(
        engine.scan(
            file.as_fd(),
            &Limits {
                time: Duration::MAX,
                ..PATIENT
            }
        ),
        eicar()
    );
}

#[test]
fn short_scans_never_hit_the_clock_of_the_scanner() {
    // YARA-X's clock ticks once a second, for all scans of the process: scan through several ticks.
    let rules = Rules::builtin().unwrap();
    let mut engine = Engine::new(&rules).unwrap();
    let file = file_with(&vec![b'X'; 10_000]);
    let limits = Limits {
        time: Duration::from_millis(900),
        ..PATIENT
    };
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(2500) {
        assert_eq!(engine.scan(file.as_fd(), &limits), Finding::Clean);
    }
}

#[test]
fn a_file_that_changes_its_size_during_the_scan_does_no_harm() {
    let rules = Rules::builtin().unwrap();
    let mut engine = Engine::new(&rules).unwrap();
    let file = tempfile::tempfile().unwrap();
    let limits = Limits {
        max_file: 3 << 20,
        ..PATIENT
    };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for size in [0, 5 << 20, 100, 3 << 20] {
                    file.set_len(size).unwrap();
                }
            }
        });
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(800) {
            let finding = engine.scan(file.as_fd(), &limits);
            assert!(
                matches!(finding, Finding::Clean | Finding::TooLarge { .. }),
                "{finding:?}"
            );
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn engines_of_several_threads_share_one_set_of_rules() {
    let rules = Rules::builtin().unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut engine = Engine::new(&rules).unwrap();
                for _ in 0..20 {
                    assert_eq!(scan(&mut engine, &test_file()), eicar());
                    assert_eq!(scan(&mut engine, b"clean"), Finding::Clean);
                }
            });
        }
    });
}

#[test]
fn a_program_is_parsed_by_the_modules() {
    let rules = all_rules("import \"elf\" rule program { condition: elf.machine != 0 }");
    let mut engine = Engine::new(&rules).unwrap();
    let limits = Limits {
        max_file: 1 << 30,
        ..PATIENT
    };
    // The test itself is too large for a scan in a debug build.
    let mut head = Vec::new();
    File::open("/proc/self/exe")
        .unwrap()
        .take(100_000)
        .read_to_end(&mut head)
        .unwrap();
    assert_eq!(
        engine.scan(file_with(&head).as_fd(), &limits),
        matched("program")
    );
    for cut in [5, 63, 64, 65, 1000] {
        // Whatever the module makes of half a header, it must not be a failure.
        let finding = scan(&mut engine, &head[..cut]);
        assert!(
            matches!(finding, Finding::Clean | Finding::Match { .. }),
            "{cut}: {finding:?}"
        );
    }
}

/// Never true, and slow only for files that begin with an s.
const SLOW: &str = "rule slow { condition: uint8(0) == 0x73 and for all i in (0..1000000000000) : (uint8(i % filesize) != 0x21) }";

/// No limit that a test meets by accident, on a machine that is busy with builds.
const PATIENT: Limits = Limits {
    max_file: 64 << 20,
    time: Duration::from_secs(60),
};

fn all_rules(text: &str) -> Rules {
    let own = RuleSource {
        name: "test.yar".to_owned(),
        text: text.as_bytes().to_vec(),
    };
    Rules::compile([own, RuleSource::builtin()]).unwrap()
}

fn scan(engine: &mut Engine<'_>, content: &[u8]) -> Finding {
    let file = file_with(content);
    engine.scan(file.as_fd(), &PATIENT)
}

fn file_with(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

fn open(path: &str) -> OwnedFd {
    File::open(path).unwrap().into()
}

fn eicar() -> Finding {
    matched("EICAR_Test_File")
}

fn matched(rule: &str) -> Finding {
    Finding::Match {
        rules: vec![rule.to_owned()],
    }
}
