//! A host in a process of its own, and the one check after every story: others are served, callbacks are even, and
//! nothing is left over.

use std::path::Path;
use std::time::Instant;

use fltport::{CallError, Client, ConnectError, Connector, NtStatus};

use super::child::Process;
use super::look::{Look, look};
use super::{LIMIT, NAME, random, until};

/// The test that plays a program's part when the binary is started for that.
pub(crate) const PROGRAMS: &str = "programs";

/// Bytes that a host may have more than before, once a story is over: the allocator's, and what a port keeps of its
/// callback threads.
pub(crate) const TOLERANCE: usize = 16 << 20;

/// Bytes that the clients of one story may make a host keep while it lasts: two connections with as much queued as
/// there may be, and their rests.
pub(crate) const HELD: usize = 96 << 20;

pub(crate) struct Stage {
    process: Process,
    control: Client,
    directory: tempfile::TempDir,
    before: Look,
}

/// What a host has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) connects: u64,
    pub(crate) disconnects: u64,
    pub(crate) live: u64,
    pub(crate) twice: u64,
    pub(crate) pending: u64,
}

impl Stage {
    /// Starts a host with these options.
    pub(crate) fn new(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        open_to_all(directory.path());
        let process = start_host(directory.path(), options);
        let mut before = look(process.id());
        let control = connect(directory.path(), b"control").unwrap();
        before.descriptors += 1;
        let mut stage = Self {
            process,
            control,
            directory,
            before,
        };
        for _ in 0..3 {
            stage.assert_serves();
        }
        // The thread that ends sends which no thread waits for is there from the first of them on.
        stage.ask("then 8 1");
        stage.before.threads += 1;
        until("the first clients are gone", || {
            let now = stage.look();
            stage.state().is_over()
                && now.descriptors == before.descriptors
                && now.threads == before.threads + 1
        });
        stage.before.memory = stage.look().memory;
        stage
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The directory, to tell a program.
    pub(crate) fn path(&self) -> &str {
        self.directory.path().to_str().unwrap()
    }

    pub(crate) fn host(&self) -> u32 {
        self.process.id()
    }

    /// What the host has now.
    pub(crate) fn look(&self) -> Look {
        look(self.process.id())
    }

    /// What the host had before the first story.
    pub(crate) const fn before(&self) -> Look {
        self.before
    }

    /// Starts a program of this test binary that is told the directory, and these.
    pub(crate) fn program(&self, role: &str, told: &[&str]) -> Process {
        let told = [&[self.path()], told].concat();
        let process = Process::start(PROGRAMS, role, &told, |command| {
            command.env(random::VARIABLE, random::seed().to_string());
        });
        process.unwrap()
    }

    /// Connects as a well-behaved client.
    pub(crate) fn connect(&self, context: &[u8]) -> Result<Client, ConnectError> {
        connect(self.directory.path(), context)
    }

    /// What the host says to a command.
    pub(crate) fn ask(&self, command: &str) -> String {
        let answer = self.control.send(command.as_bytes(), 1 << 20).unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// What the host has counted.
    pub(crate) fn state(&self) -> State {
        State::parse(&self.ask("state"))
    }

    /// A question and a request of a well-behaved client are served.
    pub(crate) fn assert_serves(&self) {
        let client = connect_when_free(self.directory.path(), b"well");
        assert_serves(&client);
    }

    /// As [`Self::assert_serves`] while a misbehaving client is there, who can make the host keep this much.
    pub(crate) fn assert_serves_meanwhile(&self, story: &str) {
        self.assert_serves();
        let now = self.look();
        let held = now.memory.saturating_sub(self.before.memory);
        assert!(held < HELD, "{story}: {now:?} {:?}", self.before);
    }

    /// The one check after every story.
    pub(crate) fn check(&self, story: &str) {
        self.check_within(story, TOLERANCE);
    }

    /// As [`Self::check`], where the allocator may keep this many bytes.
    pub(crate) fn check_within(&self, story: &str, tolerance: usize) {
        self.assert_serves();
        let mut state = self.state();
        let end = Instant::now() + LIMIT;
        while !state.is_over() {
            assert!(Instant::now() < end, "{story}: {state:?}");
            state = self.state();
        }
        assert_eq!(state.twice, 0, "{story}");
        let mut now = self.look();
        while !self.is_left_as_before(&now, tolerance) {
            let open = super::look::descriptors(self.process.id());
            let before = &self.before;
            assert!(
                Instant::now() < end,
                "{story}: {now:?} {before:?} {open:#?}"
            );
            std::thread::sleep(std::time::Duration::from_millis(1));
            now = self.look();
        }
        let files = std::fs::read_dir(self.directory.path()).unwrap();
        let mut files: Vec<_> = files.map(|entry| entry.unwrap().file_name()).collect();
        files.sort();
        files.retain(|name| name != "pass");
        assert_eq!(files, ["Test.port", "test.lock"], "{story}");
    }

    fn is_left_as_before(&self, now: &Look, tolerance: usize) -> bool {
        now.descriptors == self.before.descriptors
            && now.threads == self.before.threads
            && now.callbacks <= CALLBACKS
            && now.memory <= self.before.memory + tolerance
    }

    /// Kills the host.
    pub(crate) fn kill(mut self) {
        self.process.kill();
    }

    /// Ends the host. It finds itself that it has given everything back.
    pub(crate) fn finish(self) {
        let Self {
            mut process,
            control,
            ..
        } = self;
        process.let_go();
        let state = State::parse(&process.hear("over "));
        assert_eq!(state.connects, state.disconnects);
        assert_eq!((state.live, state.twice, state.pending), (0, 0, 0));
        assert!(process.wait().success());
        assert_eq!(control.send(b"?", 0), Err(CallError::Disconnected));
    }
}

impl State {
    /// Nobody is there but who asks for it, and every other connection has had its disconnect callback.
    fn is_over(&self) -> bool {
        (self.live, self.pending) == (1, 0) && self.connects == self.disconnects + 1
    }

    fn parse(text: &str) -> Self {
        let numbers: Vec<u64> = text.split(' ').map(|word| word.parse().unwrap()).collect();
        Self {
            connects: numbers[0],
            disconnects: numbers[1],
            live: numbers[2],
            twice: numbers[3],
            pending: numbers[4],
        }
    }
}

/// Most callback threads of a port: 32 for connects and disconnects, 64 for requests.
const CALLBACKS: usize = 96;

/// Starts the host program in this directory; it listens when this returns.
pub(crate) fn start_host(directory: &Path, options: &[&str]) -> Process {
    let told = [&[directory.to_str().unwrap()], options].concat();
    let process = Process::start(PROGRAMS, "host", &told, |command| {
        // What is freed goes back to the system, so that what stays is what was kept.
        command
            .env("MALLOC_ARENA_MAX", "2")
            .env("MALLOC_TRIM_THRESHOLD_", "131072")
            .env("MALLOC_MMAP_THRESHOLD_", "131072");
    });
    let process = process.unwrap();
    process.hear("listening");
    process
}

pub(crate) fn connect(directory: &Path, context: &[u8]) -> Result<Client, ConnectError> {
    Connector::new().directory(directory).connect(NAME, context)
}

/// Connects once there is room.
pub(crate) fn connect_when_free(directory: &Path, context: &[u8]) -> Client {
    let end = Instant::now() + LIMIT;
    loop {
        match connect(directory, context) {
            Err(ConnectError::Refused(
                NtStatus::CONNECTION_COUNT_LIMIT | NtStatus::INSUFFICIENT_RESOURCES,
            )) if Instant::now() < end => {
                std::thread::yield_now();
            }
            other => return other.unwrap(),
        }
    }
}

/// A question and a request on this connection.
pub(crate) fn assert_serves(client: &Client) {
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| client.send(b"ask 8 15000", 64).unwrap());
        let message = client.next_message_within(LIMIT).unwrap();
        assert_eq!(message.payload(), [7; 8]);
        message.reply(b"answer").unwrap();
        assert_eq!(asked.join().unwrap(), b"answer");
    });
    assert_eq!(client.send(b"request", 16).unwrap(), b"request");
}

/// Other users find the port, and can pass through.
fn open_to_all(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
}
