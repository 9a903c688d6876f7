//! The listings, of ports that the test itself serves.

use std::process::Stdio;

use fltport::protocol::control::Request;
use fltport::protocol::explain::Explain;
use fltport::{Caller, ClientPort, NtStatus, Peer, PortHandler, Refusal, ServerPort};
use serde_json::{Value, json};

use crate::util::{Stage, run};

/// A control port that answers everything with the same text.
struct Control(String);

impl PortHandler for Control {
    type Connection = ();

    fn connect(&self, _: ClientPort, _: &Peer, _: &[u8]) -> Result<(), NtStatus> {
        Ok(())
    }

    fn message(
        &self,
        (): &(),
        _: Caller,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, Refusal> {
        let known = Request::parse(input).is_some() || Explain::parse(input).is_some();
        if !known || self.0.is_empty() {
            return Err(NtStatus::NOT_SUPPORTED.into());
        }
        output[..self.0.len()].copy_from_slice(self.0.as_bytes());
        Ok(self.0.len())
    }
}

fn serve(stage: &Stage, name: &str, answer: &str) -> ServerPort {
    let builder = ServerPort::builder(name)
        .directory(stage.path("ports"))
        .max_connections(4);
    builder.listen(Control(answer.to_owned())).unwrap()
}

fn json_of(stage: &Stage, command: &str) -> Value {
    let (code, out, said) = run(stage.command(command).arg("--json"));
    assert_eq!((code, said.as_str()), (Some(0), ""));
    serde_json::from_str(&out).unwrap()
}

#[test]
fn nothing_to_list_is_no_error_and_says_what_to_do() {
    let stage = Stage::new(&[]);
    for command in ["ports", "connections", "filters", "instances", "mutes"] {
        let (code, out, said) = run(&mut stage.command(command));
        assert_eq!((code, said.as_str()), (Some(0), ""), "{command}");
        assert!(out.starts_with("no ") && out.contains("fltctl"), "{out}");
        assert_eq!(out.lines().count(), 1);
        assert_eq!(json_of(&stage, command), json!([]));
    }
}

#[test]
fn ports_are_listed_with_what_their_hosts_say() {
    let stage = Stage::new(&[]);
    let answer = r#"[{"name":"\\fltport\\guard-1\\control","connections":1,"max_connections":4}]"#;
    let _control = serve(&stage, r"\fltport\guard-1\control", answer);
    let _other = serve(&stage, r"\Other", "");
    let (code, out, _) = run(&mut stage.command("ports"));
    let expected = [
        r"PORT                      STATE   CONNECTIONS  MAX",
        r"\Other                    served            -    -",
        r"\fltport\guard-1\control  served            1    4",
    ];
    assert_eq!(code, Some(0));
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
    let json = json_of(&stage, "ports");
    assert_eq!(json[1]["connections"], 1);
    assert_eq!(
        json[0],
        json!({"name": r"\Other", "state": "served", "connections": null, "max_connections": null})
    );
}

#[test]
fn the_answers_of_all_hosts_are_merged() {
    let stage = Stage::new(&[]);
    let filters =
        |name: &str| format!(r#"[{{"name":"{name}","altitude":"320000","instances":2}}]"#);
    let _one = serve(&stage, r"\fltport\guard-1\control", &filters("ask"));
    let _system = serve(&stage, r"\fltport\control", &filters("exclude"));
    let (code, out, _) = run(&mut stage.command("filters"));
    let expected = [
        "HOST     FILTER   ALTITUDE  INSTANCES",
        "guard-1  ask        320000          2",
        "system   exclude    320000          2",
    ];
    assert_eq!(code, Some(0));
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
    assert_eq!(json_of(&stage, "filters")[1]["host"], "system");
}

#[test]
fn connections_and_instances_have_their_columns() {
    let stage = Stage::new(&[]);
    let row = r#"[{"port":"\\p","id":3,"pid":55,"uid":0,"gets":4,"waiting":1,"outstanding":2,"delivered":9,"replied":8,
        "timed_out":1,"late_replies":0,"filter":"ask","altitude":320000,"volume":"/srv","mark":"filesystem","directories":0}]"#;
    let _control = serve(&stage, r"\fltport\guard-1\control", row);
    let words = |command: &str| {
        let (_, out, _) = run(&mut stage.command(command));
        let last = out.lines().last().unwrap().to_owned();
        last.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        words("connections"),
        [
            "guard-1", r"\p", "3", "55", "0", "4", "1", "2", "9", "8", "1", "0"
        ]
    );
    assert_eq!(
        words("instances"),
        ["guard-1", "ask", "320000", "/srv", "filesystem", "0"]
    );
}

#[test]
fn mutes_have_their_columns() {
    let stage = Stage::new(&[]);
    let row = r#"[{"id":3,"rule":"exec:tree=/srv","sort":"mute","origin":"service","pid":55,"expires_s":60,"hits":9}]"#;
    let _control = serve(&stage, r"\fltport\guard-1\control", row);
    let (_, out, _) = run(&mut stage.command("mutes"));
    let words: Vec<_> = out.lines().last().unwrap().split_whitespace().collect();
    let expected = [
        "guard-1",
        "3",
        "mute",
        "exec:tree=/srv",
        "9",
        "60",
        "service",
        "55",
    ];
    assert_eq!(words, expected, "{out}");
}

#[test]
fn a_file_is_explained_by_every_host_and_the_status_says_whether_one_guards_it() {
    let stage = Stage::new(&[]);
    let explain = || run(stage.command("explain").arg("some/file"));
    let (code, out, _) = explain();
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("nothing is guarded"), "{out}");
    let no = r#"{"guarded":false,"words":["/x is not guarded"]}"#;
    let _no = serve(&stage, r"\fltport\a\control", no);
    assert_eq!(explain().0, Some(1));
    let yes = r#"{"guarded":true,"words":["/x is guarded","opens are asked about"]}"#;
    let _yes = serve(&stage, r"\fltport\b\control", yes);
    let (code, out, _) = explain();
    assert_eq!(code, Some(0));
    let expected = [
        "a: /x is not guarded",
        "b: /x is guarded",
        "b: opens are asked about",
    ];
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
    let mut wrong = stage.command("explain");
    let (code, _, said) = run(wrong.args(["x", "--process", "/does/not/exist"]));
    assert_eq!(code, Some(2));
    assert!(said.contains("give the path of a program"), "{said}");
}

#[test]
fn a_host_that_cannot_be_asked_is_named_and_does_not_hide_the_others() {
    let stage = Stage::new(&[]);
    let _broken = serve(&stage, r"\fltport\broken\control", "");
    let (code, out, said) = run(&mut stage.command("filters"));
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(said.contains(r"\fltport\broken\control: "), "{said}");
    let _good = serve(&stage, r"\fltport\good\control", r#"[{"name":"ask"}]"#);
    let _odd = serve(&stage, r"\fltport\odd\control", "{}");
    let (code, out, said) = run(&mut stage.command("filters"));
    assert_eq!(code, Some(0));
    assert!(out.contains("good"), "{out}");
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(said.contains("not a list"), "{said}");
}

#[test]
fn an_unreadable_port_directory_is_an_environment_error() {
    let stage = Stage::new(&[]);
    let file = stage.path("script");
    let mut command = crate::util::fltctl();
    let (code, _, said) = run(command.arg("ports").arg("--port-directory").arg(&file));
    assert_eq!(code, Some(2));
    assert!(said.contains("cannot read the port directory"), "{said}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let stage = Stage::new(&[]);
    let mut command = stage.command("ports");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn usage_errors_have_exit_status_two_and_help_none() {
    let stage = Stage::new(&[]);
    assert_eq!(run(&mut stage.command("no-such-command")).0, Some(2));
    let mut help = crate::util::fltctl();
    let (code, out, _) = run(help.arg("--help"));
    assert_eq!(code, Some(0));
    assert!(
        out.contains("sudo fltctl demo") && !out.contains("  open "),
        "{out}"
    );
}

#[test]
fn the_status_of_a_host_is_told_in_sentences_and_by_the_exit_code() {
    let stage = Stage::new(&[]);
    let (code, out, _) = run(&mut stage.command("status"));
    assert_eq!(code, Some(1));
    assert!(out.contains("nothing is guarded"), "{out}");
    let port = r#"{"port":"scan","altitude":328000,"services":1,"with_services":0,"waiting":0,"released":false}"#;
    let guard = r#"{"path":"/srv","kind":"filesystem","directories":0}"#;
    let status = |supervisor: u32| {
        format!(
            r#"{{"version":"1","supervisor":{supervisor},"worker":7,"services":1,"guards":[{guard}],"service_ports":[{port}]}}"#
        )
    };
    let well = serve(&stage, r"\fltport\guard-1\control", &status(6));
    let (code, out, said) = run(&mut stage.command("status"));
    assert_eq!((code, said.as_str()), (Some(0), ""));
    for line in [
        "guard-1: flthostd 1, supervisor 6, worker 7",
        "  guards      /srv (the whole filesystem)",
        "  services    scan at 328000: 1 connected, 0 questions with them, 0 waiting",
    ] {
        assert!(out.lines().any(|other| other == line), "{out}");
    }
    assert_eq!(json_of(&stage, "status")[0]["worker"], 7);
    drop(well);
    let _ill = serve(&stage, r"\fltport\guard-2\control", &status(0));
    let (code, out, _) = run(&mut stage.command("status"));
    assert_eq!(code, Some(1));
    assert!(out.contains("WRONG       the supervisor has died"), "{out}");
}
