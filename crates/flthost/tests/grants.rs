//! Mutes that services ask for, where they may, through a whole host. The test is the service. Needs root.

mod common;

use std::sync::Arc;

use common::host::{Listener, opens, until};
use common::strict::{Strict, cat, list, opens_with};
use common::{Place, text};
use fltport::protocol::mute;
use fltport::{CallError, Client, NtStatus};

fn add(client: &Client, seconds: u32, rule: &str) -> Result<u64, CallError> {
    mute::Request::Add { seconds, rule }.send(client)
}

/// The next change of a mute.
fn change(events: &Listener) -> (String, u64) {
    loop {
        let event = events.next();
        if event["event"] == "mute" {
            let state = event["state"].as_str().unwrap().to_owned();
            return (state, event["id"].as_u64().unwrap());
        }
    }
}

#[test]
fn a_service_mutes_for_as_long_as_it_is_connected_and_everybody_is_told() {
    let Some(place) = Place::new() else { return };
    let file = place.file("cache/file");
    let strict = Strict::start(&place, &["--grant-mutes", "scan"]);
    let other = Arc::new(strict.host.connect());
    let rule = format!("tree={}/cache", text(&place.root));
    let id = add(&strict.service.client, 60, &rule).unwrap();
    assert!(opens(&file));
    assert_eq!(change(&strict.events), ("added".to_owned(), id));
    let listed = &strict.list()[0];
    assert_eq!(
        (&listed["origin"], &listed["pid"]),
        (&"service".into(), &std::process::id().into())
    );
    assert!(listed["expires_s"].as_u64().unwrap() <= 60);
    assert_eq!(listed["hits"], 1);
    // Nobody takes back what another has asked for.
    let remove = mute::Request::Remove { id };
    let refused = remove.send(&other).unwrap_err();
    assert!(
        matches!(refused, CallError::Status(NtStatus::NOT_FOUND)),
        "{refused:?}"
    );
    remove.send(&strict.service.client).unwrap();
    assert_eq!(change(&strict.events), ("removed".to_owned(), id));
    other.close();
    until("the other is gone", || {
        strict.host.status()["services"] == 1
    });
    assert!(!opens(&file));
    let id = add(&strict.service.client, 60, &rule).unwrap();
    assert_eq!(change(&strict.events), ("added".to_owned(), id));
    drop(strict.service);
    assert_eq!(change(&strict.events), ("ended".to_owned(), id));
    assert_eq!(list(&strict.host), serde_json::json!([]));
}

#[test]
fn a_program_that_a_service_mutes_is_looked_up_beside_the_answers() {
    let Some(place) = Place::new() else { return };
    let (file, program) = (place.file("file"), cat(&place, "mycat"));
    let strict = Strict::start(&place, &["--grant-mutes", "scan"]);
    let rule = format!("process={}", text(&program));
    add(&strict.service.client, 60, &rule).unwrap();
    until("the program is known", || strict.list()[0]["found"] == true);
    assert!(opens_with(&program, &file) && !opens(&file));
}

#[test]
fn a_service_mutes_nothing_where_that_was_not_granted_and_no_more_than_is_allowed() {
    let Some(place) = Place::new() else { return };
    place.file("file");
    let status = |result: Result<u64, CallError>| match result {
        Err(CallError::Status(status)) => status,
        other => panic!("{other:?}"),
    };
    let strict = Strict::start(&place, &[]);
    let client = &strict.service.client;
    assert_eq!(status(add(client, 60, "user=0")), NtStatus::ACCESS_DENIED);
    assert_eq!(strict.host.status()["grants_mutes"], false);
    assert!(!opens(&place.root.join("file")));
    drop(strict);
    let strict = Strict::start(&place, &["--grant-mutes", "scan"]);
    let client = &strict.service.client;
    for (seconds, rule) in [(3_601, "user=0"), (0, "user=0"), (60, "user=root")] {
        let refused = status(add(client, seconds, rule));
        assert_eq!(refused, NtStatus::INVALID_PARAMETER, "{rule}");
    }
    // One that leaves no room for the number changes nothing.
    let request = mute::Request::Add {
        seconds: 60,
        rule: "user=0",
    };
    client.send(&request.to_bytes(), 4).unwrap_err();
    assert_eq!(strict.list(), serde_json::json!([]));
}
