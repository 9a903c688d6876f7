//! Somebody else's listener under a port's name: a client refuses a stranger before it says anything, and one that it
//! trusts and that says nonsense gets an error.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;

use fltport::{CallError, Client, ConnectError, Connector, NtStatus};
use fltport_engine::wire::{FRAME_MAX, MessageHeader, ToClient};
use zerocopy::IntoBytes;

use super::common::child::{Process, alone, say};
use super::common::raw::Raw;
use super::common::stage::PROGRAMS;
use super::common::{LIMIT, NAME, descriptors, until, watchdog_of};

/// A user who is nobody here.
const STRANGER: u32 = 65_534;

/// What a rogue does to whoever connects.
type Rogue = (&'static str, fn(&Raw));

const GREETINGS: &[Rogue] = &[
    ("hangs up", |_| ()),
    ("says a byte", |raw| {
        raw.bytes(b"?");
    }),
    ("says nothing, as a packet", |raw| {
        raw.bytes(b"");
    }),
    ("says zeros", |raw| {
        raw.bytes(&[0; 40]);
    }),
    ("says the longest frame", |raw| {
        raw.bytes(&[0xFF; FRAME_MAX]);
    }),
    ("says more than the longest frame", |raw| {
        raw.bytes(&[0xFF; 2 * FRAME_MAX]);
    }),
    ("says a right answer with more behind it", |raw| {
        raw.bytes(&[accepted().header().as_bytes(), &[0; FRAME_MAX]].concat());
    }),
    ("answers half", |raw| {
        raw.bytes(&accepted().header().as_bytes()[..20]);
    }),
    ("answers in another version", |raw| {
        let mut bytes = accepted().header().as_bytes().to_vec();
        bytes[9] ^= 1;
        raw.bytes(&bytes);
    }),
    ("sends a message instead", |raw| {
        let message = ToClient::Message {
            get: 1,
            header: MessageHeader::new(20, 1),
            remaining: None,
            attachment: false,
            length: 4,
        };
        raw.tell(&message, b"four");
    }),
    ("ends what has not begun", |raw| {
        raw.tell(&ToClient::Disconnected, b"");
    }),
    ("accepts with another success", |raw| {
        let odd = ToClient::Connected {
            status: NtStatus(0x4000_0000),
            max_message: 1 << 20,
        };
        raw.tell(&odd, b"");
    }),
    ("attaches files to half an answer", |raw| {
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let files = vec![std::os::fd::AsFd::as_fd(&file); 100];
        raw.bytes_with(&accepted().header().as_bytes()[..20], &files);
    }),
];

#[test]
fn a_rogue_listener_is_refused_or_its_nonsense_is_an_error() {
    let _watchdog = watchdog_of("a_rogue_listener", Duration::from_secs(90));
    alone(
        "rogue::a_rogue_listener_is_refused_or_its_nonsense_is_an_error",
        || {
            if !rustix::process::geteuid().is_root() {
                println!("skipped: only root can become somebody else");
                return;
            }
            let before = descriptors();
            for (how, _) in GREETINGS {
                let Some(rogue) = Rogues::start(how) else {
                    return;
                };
                rogue.assert_foreign();
                let connected = rogue.trusting().connect(NAME, b"context").map(drop);
                let error = connected.expect_err(how);
                let told = matches!(error, ConnectError::Disconnected | ConnectError::Refused(_));
                assert!(told, "{how}: {error:?}");
            }
            until("no descriptor is left", || descriptors() <= before);
        },
    );
}

#[test]
fn a_rogue_that_is_silent_holds_nobody_longer_than_it_lives() {
    let _watchdog = watchdog_of("a_rogue_that_is_silent", Duration::from_secs(60));
    let Some(mut rogue) = Rogues::start("silence") else {
        return;
    };
    // A connect waits for as long as the filter's callback takes; one to a stranger does not begin.
    rogue.assert_foreign();
    let connector = rogue.trusting();
    let waits = std::thread::spawn(move || connector.connect(NAME, b"").map(drop));
    rogue.process.hear("told nothing");
    rogue.process.hear("told a greeting");
    assert!(!waits.is_finished());
    rogue.process.kill();
    let ended = waits.join().unwrap();
    assert!(
        matches!(ended, Err(ConnectError::Disconnected)),
        "{ended:?}"
    );
}

#[test]
fn calls_with_a_time_end_in_time_whatever_the_host_does() {
    let _watchdog = watchdog_of("calls_with_a_time_end_in_time", Duration::from_secs(60));
    let Some(mut rogue) = Rogues::start("accepts and says no more") else {
        return;
    };
    let client = rogue.trusting().connect(NAME, b"").unwrap();
    // More than fit between the two: the host reads nothing.
    for _ in 0..2_000 {
        assert_times_out(&client);
    }
    rogue.process.kill();
    assert_eq!(
        client.next_message().map(drop),
        Err(CallError::Disconnected)
    );
}

fn assert_times_out(client: &Client) {
    let start = std::time::Instant::now();
    let ended = client
        .next_message_within(Duration::from_millis(1))
        .map(drop);
    assert_eq!(ended, Err(CallError::TimedOut));
    assert!(start.elapsed() < LIMIT);
}

/// A rogue's process, in a directory where everybody may have a port.
struct Rogues {
    process: Process,
    directory: tempfile::TempDir,
}

impl Rogues {
    /// Starts one as a stranger; `None`, and a word about it, where that cannot be.
    fn start(how: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let told = [directory.path().to_str().unwrap(), how];
        let process = Process::start(PROGRAMS, "impostor", &told, |command| {
            if rustix::process::geteuid().is_root() {
                command.uid(STRANGER).gid(STRANGER);
            }
        });
        let Ok(process) = process else {
            println!("skipped: other users cannot run this test binary");
            return None;
        };
        process.hear("listening");
        Some(Self { process, directory })
    }

    fn connector(&self) -> Connector {
        Connector::new().directory(self.directory.path())
    }

    fn trusting(&self) -> Connector {
        self.connector().trust_user(STRANGER)
    }

    /// Whoever does not trust the stranger does not talk to it.
    fn assert_foreign(&self) {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let refused = self.connector().connect(NAME, b"secret").map(drop);
        let foreign = matches!(
            refused,
            Err(ConnectError::ForeignListener { uid: STRANGER })
        );
        assert!(foreign, "{refused:?}");
    }
}

/// Plays the rogue, for as many clients as come.
pub(crate) fn play(told: &[String]) {
    let listener = Raw::listen_below(Path::new(&told[0]));
    say("listening");
    let greeting = GREETINGS.iter().find(|(how, _)| *how == told[1]);
    let mut kept = Vec::new();
    loop {
        let raw = listener.accept();
        match (greeting, told[1].as_str()) {
            (Some((_, answer)), _) => answer(&raw),
            (None, "silence") => {
                let told = raw.packet().map_or("nothing", |_| "a greeting");
                say(&format!("told {told}"));
                kept.push(raw);
            }
            _ => {
                raw.tell(&accepted(), b"");
                kept.push(raw);
            }
        }
    }
}

const fn accepted() -> ToClient {
    ToClient::Connected {
        status: NtStatus::SUCCESS,
        max_message: 1 << 20,
    }
}
