//! Connects against the close of the port, and against each other. Every connect that succeeds is used: a question is
//! asked over it and answered.
//!
//! The rounds go in step: each connecting thread has a line to the host's test, a socket of its own that is no port.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use fltport::{Client, HResult, NtStatus};

use crate::aim::Aim;
use crate::common::child::Process;
use crate::common::{LIMIT, LONG, NAME};
use crate::ledger::{End, Knows, Ledger, message};
use crate::scene::{Host, Part, Scene, choices};

/// Processes that connect, and threads of each that do.
const PROCESSES: usize = 2;
const THREADS: usize = 3;
const ALL: usize = PROCESSES * THREADS;

/// Connections that the port allows.
const LIMIT_OF_PORT: usize = 2;

/// What a thread says of its connect.
const CONNECTED: u8 = b'+';
const NO_PORT: u8 = b'0';
const NO_ROOM: u8 = b'-';

struct Crowd {
    processes: Vec<Process>,
    lines: Vec<UnixStream>,
}

impl Crowd {
    fn start(scene: &Scene) -> Self {
        let listener = UnixListener::bind(line_path(scene.directory.path().into())).unwrap();
        let processes = (0..PROCESSES).map(|index| scene.start(index)).collect();
        let lines = (0..ALL).map(|_| {
            let line = listener.accept().unwrap().0;
            line.set_read_timeout(Some(LIMIT)).unwrap();
            line
        });
        let lines = lines.collect();
        Self { processes, lines }
    }

    fn tell(&self, what: u8) {
        for mut line in &self.lines {
            line.write_all(&[what]).unwrap();
        }
    }

    fn hear(&self) -> Vec<u8> {
        let mut said = Vec::new();
        for mut line in &self.lines {
            let mut word = [0];
            line.read_exact(&mut word).expect("a client says nothing");
            said.push(word[0]);
        }
        said
    }

    /// Asks over each connection; every thread that connected answers one question.
    fn ask(&self, ledger: &Ledger, host: &Host, numbers: &mut usize, expected: usize) {
        for _ in 0..expected {
            let (_, port) = host.arrival();
            let result = port.ask(&message(*numbers), 8, LONG);
            assert_eq!(ledger.asked(*numbers, &result), End::Replied);
            *numbers += 1;
        }
        assert!(
            host.arrivals().is_empty(),
            "accepted, and its client knows nothing of it"
        );
    }

    /// Lets the processes end, and compares.
    fn end(self, scene: &Scene, ledger: Ledger, asked: usize) {
        drop(self.lines);
        let processes = self.processes.into_iter().enumerate();
        let deeds: Vec<_> = processes
            .flat_map(|(index, process)| scene.deeds(process, index))
            .collect();
        ledger.trim(asked).check(&deeds, Knows::All);
    }
}

fn line_path(directory: PathBuf) -> PathBuf {
    directory.join("line")
}

/// A port for a few rounds, closed while all connect: a round is one connect.
pub(crate) fn close_host(scene: &Scene) {
    let crowd = Crowd::start(scene);
    let ledger = Ledger::new(scene.rounds + ALL);
    let (aim, mut random) = (Aim::new(50), choices(0));
    let (mut numbers, mut refused, mut mixed) = (0, 0, 0);
    for _ in 0..scene.rounds.div_ceil(ALL) {
        let host = scene.host(u32::try_from(ALL).unwrap());
        crowd.tell(b'c');
        aim.wait(&mut random);
        host.close();
        let said = crowd.hear();
        let connected = said.iter().filter(|word| **word == CONNECTED).count();
        assert!(
            said.iter().all(|word| [CONNECTED, NO_PORT].contains(word)),
            "{said:?}"
        );
        crowd.ask(&ledger, &host, &mut numbers, connected);
        crowd.tell(b'e');
        crowd.hear();
        assert_eq!(host.shutdown(), connected);
        refused += ALL - connected;
        mixed += usize::from(connected > 0 && connected < ALL);
        if 2 * connected > ALL {
            aim.was_late();
        } else {
            aim.was_early();
        }
    }
    println!("{numbers} connects succeeded, {refused} found no port, {mixed} ports saw both");
    crowd.end(scene, ledger, numbers);
    assert!(numbers > 0 && refused > 0 && mixed > 0);
}

/// All connect at once to a port that allows fewer.
pub(crate) fn limit_host(scene: &Scene) {
    let crowd = Crowd::start(scene);
    let host = scene.host(u32::try_from(LIMIT_OF_PORT).unwrap());
    let ledger = Ledger::new(scene.rounds * LIMIT_OF_PORT);
    let mut numbers = 0;
    for _ in 0..scene.rounds {
        crowd.tell(b'c');
        let said = crowd.hear();
        let count = |what| said.iter().filter(|word| **word == what).count();
        assert_eq!(count(CONNECTED), LIMIT_OF_PORT, "{said:?}");
        assert_eq!(count(NO_ROOM), ALL - LIMIT_OF_PORT, "{said:?}");
        crowd.ask(&ledger, &host, &mut numbers, LIMIT_OF_PORT);
        crowd.tell(b'e');
        crowd.hear();
    }
    crowd.end(scene, ledger, numbers);
    assert_eq!(host.shutdown(), scene.rounds * LIMIT_OF_PORT);
}

/// Connects when it is told to, answers a question, and closes when it is told to.
pub(crate) fn client(part: &Part) {
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let mut line = UnixStream::connect(line_path(part.directory.clone())).unwrap();
                let mut word = [0];
                let mut random = choices(part.index * THREADS + thread);
                while line.read_exact(&mut word).is_ok() {
                    crate::aim::spin(std::time::Duration::from_nanos(random.next() % 50_000));
                    let connected = part.connector().connect(NAME, &message(0));
                    let said = match &connected {
                        Ok(_) => CONNECTED,
                        Err(error) => match error.hresult() {
                            what if what == NO_PORT_RESULT => NO_PORT,
                            what if what == NtStatus::CONNECTION_COUNT_LIMIT.to_hresult() => {
                                NO_ROOM
                            }
                            other => panic!("{error:?}, {other:?}"),
                        },
                    };
                    line.write_all(&[said]).unwrap();
                    if let Ok(client) = connected {
                        serve(part, &client);
                        line.read_exact(&mut word).unwrap();
                        // The slot is free when this returns.
                        client.close();
                    } else {
                        line.read_exact(&mut word).unwrap();
                    }
                    line.write_all(b".").unwrap();
                }
            });
        }
    });
}

const NO_PORT_RESULT: HResult = HResult::from_win32(2);

fn serve(part: &Part, client: &Client) {
    let message = client.next_message().unwrap();
    part.deeds.answer(message).unwrap().unwrap();
}
