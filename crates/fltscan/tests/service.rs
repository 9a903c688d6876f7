//! The service over a port of this process: one answer for each question, in time.

mod host;

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use fltport::protocol::TypedPort;
use fltport::protocol::file::{FileProtocol, Question, Verdict};
use fltport::{Client, ConnectError, NtStatus, SendError, Timeout};
use fltscan::{Limits, RuleSource, Rules, Service, ServiceError, Settings, Summary, test_file};

use host::{Host, PATIENCE, ask, file_with, judge, patient, settle};

#[test]
fn the_test_file_is_denied_by_name_and_another_is_allowed() {
    let summary = with_service(SLOW, PATIENT, |service| {
        let denied = (Verdict::Deny, "EICAR_Test_File".to_owned());
        assert_eq!(judge(service, &test_file()), denied);
        assert_eq!(judge(service, b"clean"), (Verdict::Allow, String::new()));
        assert_eq!(judge(service, b""), (Verdict::Allow, String::new()));
    });
    let expected = Summary {
        answered: 3,
        packets: Some(fltport::PacketsReason::Here),
        ..Summary::default()
    };
    assert_eq!(summary, expected);
}

#[test]
fn all_rules_that_match_are_the_reason() {
    let rules = "rule one { condition: true } rule two { condition: filesize == 1 }";
    with_service(rules, PATIENT, |service| {
        let denied = (Verdict::Deny, "one, two".to_owned());
        assert_eq!(judge(service, b"x"), denied);
    });
}

#[test]
fn what_cannot_be_scanned_is_neither_allowed_nor_denied() {
    let mut settings = PATIENT;
    settings.limits.max_file = 100;
    with_service(SLOW, settings, |service| {
        let large = (Verdict::Unscannable, "too large: 101 bytes".to_owned());
        assert_eq!(judge(service, &[b'.'; 101]), large);
        assert_eq!(judge(service, &[b'.'; 100]).0, Verdict::Allow);
        let nothing = ask(service, None, patient()).answer().unwrap();
        assert_eq!(nothing, (Verdict::Unscannable, "no file".to_owned()));
    });
}

#[test]
fn a_slow_scan_is_answered_before_its_asker_gives_up() {
    let summary = with_service(SLOW, PATIENT, |service| {
        let started = Instant::now();
        let asked = ask(
            service,
            Some(file_with(b"slow")),
            Some(Duration::from_secs(1)),
        );
        let answer = asked.answer().unwrap();
        let took = started.elapsed();
        // An answer is one that came in time: the port says so. It is the watchdog's, not that of a quick scan.
        assert_eq!(answer, over());
        assert!(took > Duration::from_millis(900), "{took:?}");
        // The other worker is free, and the busy one's finding is not sent after all.
        assert_eq!(judge(service, b"clean").0, Verdict::Allow);
    });
    let expected = Summary {
        answered: 2,
        unheard: 0,
        cut_short: 1,
        packets: Some(fltport::PacketsReason::Here),
    };
    assert_eq!(summary, expected);
}

#[test]
fn the_configured_time_ends_a_scan_whose_asker_would_wait_longer() {
    let mut settings = PATIENT;
    settings.limits.time = Duration::from_millis(100);
    let summary = with_service(SLOW, settings, |service| {
        assert_eq!(judge(service, b"slow"), over());
        let asked = ask(service, Some(file_with(b"slow")), None);
        assert_eq!(asked.answer().unwrap(), over());
    });
    assert_eq!((summary.answered, summary.cut_short), (2, 0));
}

#[test]
fn a_question_that_comes_too_late_to_scan_is_answered_at_once_or_found_unheard() {
    let summary = with_service(SLOW, PATIENT, |service| {
        let asked = ask(
            service,
            Some(file_with(b"clean")),
            Some(Duration::from_millis(40)),
        );
        match asked.answer() {
            Ok(answer) => assert_eq!(answer, over()),
            // On a very busy machine nobody took it, or the answer came late.
            Err(error) => assert!(error.to_string().contains("deadline"), "{error}"),
        }
        assert_eq!(judge(service, b"clean").0, Verdict::Allow);
    });
    assert!(summary.answered + summary.unheard >= 1, "{summary}");
}

#[test]
fn sixty_four_questions_at_once_get_sixty_four_answers() {
    let summary = with_service(SLOW, PATIENT, |service| {
        let contents = [test_file(), b"clean".to_vec()];
        let asked = (0..64).map(|i| ask(service, Some(file_with(&contents[i % 2])), patient()));
        let asked: Vec<_> = asked.collect();
        for (i, asked) in asked.into_iter().enumerate() {
            let expected = [Verdict::Deny, Verdict::Allow][i % 2];
            assert_eq!(asked.answer().unwrap().0, expected, "question {i}");
        }
    });
    assert_eq!(summary.answered, 64);
}

#[test]
fn a_message_of_another_protocol_is_refused_and_a_notice_is_passed_over() {
    let summary = with_service(SLOW, PATIENT, |service| {
        let reply = service
            .port()
            .ask(b"what?", 200, Timeout::after(PATIENCE))
            .unwrap();
        assert_eq!(reply.status, NtStatus::INVALID_PARAMETER);
        service
            .port()
            .notify(b"by the way", Timeout::after(PATIENCE))
            .unwrap();
        // No room for an answer: the asker gets what fits, and the service goes on.
        let question = [0; size_of::<Question>()];
        let cut = service
            .port()
            .ask(&question, 4, Timeout::after(PATIENCE))
            .unwrap_err();
        assert!(matches!(cut, SendError::ReplyTooLong(_)), "{cut}");
        assert_eq!(judge(service, b"clean").0, Verdict::Allow);
    });
    assert_eq!((summary.answered, summary.unheard), (2, 1));
}

#[test]
fn a_service_over_a_socket_ends_when_its_port_is_shut_down() {
    let host = Host::new();
    let socket: OwnedFd = host.port.offer().unwrap();
    let rules = rules("");
    thread::scope(|scope| {
        let service = Service::new(&rules, PATIENT);
        let ended = scope.spawn(move || service.run(|| Client::from_fd(socket, b"")));
        let service = host.service();
        assert_eq!(judge(&service, &test_file()).0, Verdict::Deny);
        settle(&service);
        host.port.shutdown();
        assert_eq!(ended.join().unwrap().unwrap().answered, 1);
    });
}

#[test]
fn a_service_ends_when_its_host_closes_the_connection() {
    let host = Host::new();
    let socket = host.port.offer().unwrap();
    let rules = rules("");
    thread::scope(|scope| {
        let service = Service::new(&rules, PATIENT);
        let ended = scope.spawn(move || service.run(|| Client::from_fd(socket, b"")));
        let service = host.service();
        judge(&service, b"clean");
        settle(&service);
        service.port().close();
        host.end();
        assert_eq!(ended.join().unwrap().unwrap().answered, 1);
    });
}

#[test]
fn a_service_that_cannot_connect_ends_its_threads_and_says_why() {
    let rules = rules("");
    let refused = Service::new(&rules, PATIENT)
        .run(|| Err(ConnectError::Refused(NtStatus::ACCESS_DENIED)))
        .unwrap_err();
    assert!(matches!(refused, ServiceError::Connect(_)), "{refused}");
}

/// Runs a service while `test` asks it, shuts its port down, and returns what the service says of itself.
fn with_service(
    text: &str,
    settings: Settings,
    test: impl FnOnce(&TypedPort<FileProtocol>),
) -> Summary {
    let rules = rules(text);
    thread::scope(|scope| {
        // Dropped when the test fails, too: then the service ends, and the failure can be told.
        let host = Host::new();
        let client = host.port.connect_in_memory(b"").unwrap();
        let service = Service::new(&rules, settings);
        let ended = scope.spawn(move || service.run(|| Ok(client)));
        let asker = host.service();
        test(&asker);
        settle(&asker);
        drop(host);
        ended.join().unwrap().unwrap()
    })
}

fn rules(text: &str) -> Rules {
    let own = RuleSource {
        name: "test.yar".to_owned(),
        text: text.as_bytes().to_vec(),
    };
    Rules::compile([own, RuleSource::builtin()]).unwrap()
}

fn over() -> (Verdict, String) {
    (Verdict::Unscannable, "scan limit reached".to_owned())
}

/// Never true, and slow only for files that begin with an s.
const SLOW: &str = "rule slow { condition: uint8(0) == 0x73 and for all i in (0..1000000000000) : (uint8(i % filesize) != 0x21) }";

/// Two at a time, and no limit that a test meets by accident.
const PATIENT: Settings = Settings {
    threads: NonZeroUsize::new(2).unwrap(),
    limits: Limits {
        max_file: 1 << 20,
        time: PATIENCE,
    },
};
