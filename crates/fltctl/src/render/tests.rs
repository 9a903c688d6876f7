use super::*;

fn denied() -> Decision {
    Decision {
        verdict: "deny".into(),
        time_ms: Some(1_790_000_000_345),
        operation: Some("open".into()),
        path: Some("/x/f".into()),
        pid: Some(55),
        process: Some("cat".into()),
        cause: Some("service".into()),
        reason: Some("EICAR_Test_File".into()),
        micros: Some(1834),
        would_be: None,
        path_validity: None,
    }
}

#[test]
fn a_decision_is_one_line_with_everything_in_it() {
    assert_eq!(
        decision(&denied(), false),
        "14:13:20.345Z  deny        open   /x/f  cat[55]  service: EICAR_Test_File  1.8 ms"
    );
}

#[test]
fn a_verdict_is_coloured_by_what_it_means() {
    let line = decision(&denied(), true);
    assert!(line.contains("\u{1b}[1m\u{1b}[31mdeny"), "{line:?}");
    let held_back = Decision {
        verdict: "allow".into(),
        would_be: Some("deny".into()),
        ..denied()
    };
    let line = decision(&held_back, true);
    assert!(line.contains("\u{1b}[33mwould deny"), "{line:?}");
}

#[test]
fn a_path_that_is_not_the_hosts_says_so() {
    let line = |validity: &str| {
        let foreign = Decision {
            path_validity: Some(validity.into()),
            ..denied()
        };
        decision(&foreign, false)
    };
    let foreign = line("other_namespace");
    assert!(
        foreign.contains("/x/f (as another mount namespace shows it)  cat[55]"),
        "{foreign}"
    );
    assert!(line("layer").contains("/x/f (inside a layer)"));
    assert!(line("plain").contains("/x/f  cat[55]"));
    assert!(line("later\n").contains(r"/x/f (later\n)"));
}

#[test]
fn rules_that_come_and_go_are_told_with_whose_they_are() {
    let told = |text: &str| event(&Event::parse(text.as_bytes()), false, false);
    let added =
        r#"{"event":"mute","state":"added","rule":"tree=/x\u001b","origin":"service","pid":7}"#;
    assert_eq!(
        told(added).unwrap(),
        r"not asked about: tree=/x\u{1b}: added by the service with process 7"
    );
    let ended = r#"{"event":"mute","state":"ended","rule":"user=0","origin":"start","pid":null}"#;
    assert_eq!(told(ended).unwrap(), "not asked about: user=0: ended");
}

#[test]
fn what_is_not_told_does_not_break_the_line() {
    let bare = Decision {
        verdict: "EIO".into(),
        ..Decision::default()
    };
    let line = decision(&bare, false);
    assert!(
        line.contains("EIO") && line.contains("(a file without a path)"),
        "{line}"
    );
}

#[test]
fn names_cannot_steer_the_terminal() {
    let hostile = Decision {
        path: Some("/x/\u{1b}[2J\nok\u{202e}cod".into()),
        process: Some("\u{9b}31m".into()),
        reason: Some("\r\u{7}".into()),
        ..denied()
    };
    let line = decision(&hostile, false);
    assert!(
        !line.chars().any(|c| c.is_control() || misleads(c)),
        "{line:?}"
    );
    assert!(line.contains(r"/x/\u{1b}[2J\nok\u{202e}cod"), "{line}");
    assert_eq!(escape("/srv/Grüße 文 \\ ok"), "/srv/Grüße 文 \\ ok");
}

#[test]
fn plain_allows_are_shown_only_when_all_is_wished() {
    let plain = Event::Decision(Decision {
        verdict: "allow".into(),
        reason: None,
        ..denied()
    });
    assert_eq!(event(&plain, false, false), None);
    assert!(event(&plain, true, false).is_some());
    assert!(event(&Event::Decision(denied()), false, false).is_some());
    assert_eq!(event(&Event::Unknown, true, false), None);
}

#[test]
fn a_start_says_what_is_guarded_and_how() {
    let text =
        br#"{"event":"started","instance":"guard-12","worker":123,"strict":true,"deadline_ms":2000,
        "guards":[{"path":"/x","kind":"directory","directories":3},{"path":"/y","kind":"mount"}]}"#;
    assert_eq!(
        event(&Event::parse(text), false, false).unwrap(),
        "guarding /x (3 directories), /y; verdicts within 2000 ms; strict: what cannot be decided is denied"
    );
}

#[test]
fn a_summary_counts_what_happened_and_what_was_lost() {
    let mut tally = Tally::default();
    tally.count(&Event::Decision(denied()));
    let lines = summary(&tally, 7, Duration::from_millis(12_300));
    assert_eq!(lines[0], "asked 1 in 12.3 s: 0 allowed, 1 denied");
    assert_eq!(lines[1], "by cause: service 1");
    assert!(lines[2].starts_with("7 lines lost"));
}

#[test]
fn durations_have_the_unit_that_suits_them() {
    let said = |micros| duration(Duration::from_micros(micros));
    assert_eq!(said(834), "834 µs");
    assert_eq!(said(1_834), "1.8 ms");
    assert_eq!(said(2_500_000), "2.5 s");
}

#[test]
fn a_filesystem_that_is_not_guarded_is_an_alarm_with_its_reason() {
    let line = |state: &str, reason: Option<&str>| {
        let volume = crate::event::Volume {
            state: state.into(),
            path: "/g/\u{1b}a".into(),
            reason: reason.map(Into::into),
        };
        event(&Event::Volume(volume), false, false).unwrap()
    };
    let refused = line("refused", Some("no\nroom"));
    assert_eq!(refused, r"/g/\u{1b}a is NOT guarded: no\nroom");
    assert!(line("refused", None).contains("not told"));
    assert!(line("guarded", None).starts_with("guarding "));
    assert!(line("vanished", None).ends_with("was unmounted"));
    assert!(line("later", None).contains("later"));
}
