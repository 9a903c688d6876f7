//! The system calls of a supervisor that Rust has no safe words for: forking, running a program with fewer rights, taking
//! signals from a descriptor.
#![allow(unsafe_code)] // fork, exec, signal masks: each block has its reason

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A child process, and a descriptor of it.
#[derive(Debug)]
pub struct Child {
    /// Its id.
    pub pid: Pid,
    /// Readable when it has ended.
    pub pidfd: OwnedFd,
}

/// Forks this process, which must have one thread, and runs `child` in the new one, which ends with the code it returns.
///
/// # Errors
/// The system's; `Other` when this process has more threads.
///
/// # References
/// fork(2), signal-safety(7).
pub fn fork(child: impl FnOnce() -> i32) -> io::Result<Child> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other(
            "a process with several threads cannot be forked safely",
        ));
    }
    fork_beside_keepers(child)
}

/// As [`fork`], in a process whose other threads are the supervisor's, which allocate nothing and hold no lock of the
/// library while they sleep. Allocates nothing itself.
///
/// # Errors
/// The system's.
///
/// # References
/// fork(2).
pub(crate) fn fork_beside_keepers(child: impl FnOnce() -> i32) -> io::Result<Child> {
    // SAFETY: the child is a complete copy but for the other threads; those that the callers have hold no lock that the
    // child could need (see above), and the system's allocator is made usable for it by fork itself.
    let pid = unsafe { libc::fork() };
    match Pid::from_raw(pid) {
        _ if pid < 0 => Err(io::Error::last_os_error()),
        Some(pid) => match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Child { pid, pidfd }),
            // Nobody could wait for it, and two processes must not read one group.
            Err(error) => {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
                reap(pid);
                Err(error.into())
            }
        },
        None => {
            let code = child();
            #[expect(
                clippy::exit,
                reason = "the forked process ends here and must not return into its parent's code"
            )]
            std::process::exit(code);
        }
    }
}

/// Blocks these signals, for this thread and all that it starts, and gives a descriptor that is readable when one comes.
///
/// # Errors
/// The system's.
///
/// # References
/// signalfd(2), pthread_sigmask(3).
pub fn take_signals(signals: &[i32]) -> io::Result<OwnedFd> {
    let mut set = empty_set();
    for signal in signals {
        // SAFETY: `set` is an initialised set on this frame; an unknown number is refused by the call.
        unsafe { libc::sigaddset(&raw mut set, *signal) };
    }
    // SAFETY: `set` is initialised and lives through the call; the old mask is not asked for.
    let blocked =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
    if blocked != 0 {
        return Err(io::Error::from_raw_os_error(blocked));
    }
    // SAFETY: `set` is initialised and lives through the call; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    own(fd)
}

/// A program with arguments, ready to be executed without any further allocation.
#[derive(Debug)]
pub struct Program {
    file: OwnedFd,
    arguments: Vec<CString>,
}

impl Program {
    /// Opens the program, so that a user who cannot reach its path can still execute it.
    ///
    /// # Errors
    /// The system's; `InvalidInput` for an argument with a NUL byte.
    pub fn open(path: &Path, arguments: &[String]) -> io::Result<Self> {
        use rustix::fs::{Mode, OFlags};
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let name = CString::new(path.as_os_str().as_bytes())?;
        let rest = arguments
            .iter()
            .map(|argument| CString::new(argument.as_bytes()));
        let arguments = std::iter::once(Ok(name))
            .chain(rest)
            .collect::<Result<_, _>>()?;
        Ok(Self { file, arguments })
    }
}

/// Runs a program as `uid`, with no other group, no way to gain rights, an empty environment, and these descriptors under
/// these numbers; standard input is closed to it. `register` is called with the child before it executes anything; if it
/// fails, the program is not run.
///
/// # Errors
/// The system's, from either process.
///
/// # References
/// execveat(2), setresuid(2), prctl(2) `PR_SET_NO_NEW_PRIVS`.
pub fn spawn(
    program: &Program,
    uid: u32,
    descriptors: &[(OwnedFd, RawFd)],
    register: impl FnOnce(&Child) -> io::Result<()>,
) -> io::Result<Child> {
    let (go_read, go_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (error_read, error_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let null = rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let mut argv: Vec<*const libc::c_char> = program
        .arguments
        .iter()
        .map(|argument| argument.as_ptr())
        .collect();
    argv.push(ptr::null());
    let plan = Plan {
        program: program.file.as_raw_fd(),
        argv: &argv,
        uid,
        moves: descriptors
            .iter()
            .map(|(fd, number)| (fd.as_raw_fd(), *number))
            .collect(),
        null: null.as_raw_fd(),
        go: go_read.as_raw_fd(),
        parent_end: go_write.as_raw_fd(),
        error: error_write.as_raw_fd(),
        no_signals: empty_set(),
    };
    // SAFETY: the child calls nothing but `Plan::execute`, which allocates nothing, takes no lock and makes only
    // async-signal-safe calls, as fork in a process of several threads demands.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let Some(pid) = Pid::from_raw(pid) else {
        plan.execute()
    };
    drop((go_read, error_write));
    let pidfd = pidfd_open(pid, PidfdFlags::empty());
    let child = pidfd
        .map(|pidfd| Child { pid, pidfd })
        .map_err(io::Error::from);
    let registered = child.and_then(|child| register(&child).map(|()| child));
    // Closing the pipe without a word tells the child to give up.
    let told = registered.and_then(|child| Ok(rustix::io::write(&go_write, &[1])).map(|_| child));
    drop(go_write);
    let mut errno = [0; 4];
    let failed =
        rustix::io::retry_on_intr(|| rustix::io::read(error_read.as_fd(), &mut errno)) == Ok(4);
    match told {
        Ok(child) if !failed => Ok(child),
        result => {
            reap(pid);
            result.and_then(|_| Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))))
        }
    }
}

/// Waits for a child that has ended or is about to, and says how it ended: its exit code, or the negative signal.
///
/// # References
/// waitpid(2).
pub fn reap(pid: Pid) -> i32 {
    use rustix::process::{WaitOptions, waitpid};
    match rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty())) {
        Ok(Some((_, status))) => status
            .exit_status()
            .or_else(|| status.terminating_signal().map(|signal| -signal))
            .unwrap_or(-1),
        _ => -1,
    }
}

/// All that the child needs, laid out before the fork.
struct Plan<'a> {
    program: RawFd,
    argv: &'a [*const libc::c_char],
    uid: u32,
    moves: Vec<(RawFd, RawFd)>,
    null: RawFd,
    go: RawFd,
    parent_end: RawFd,
    error: RawFd,
    no_signals: libc::sigset_t,
}

/// Where the child parks descriptors that it still needs, above all numbers that it hands to the program.
const PARKED: RawFd = 64;

impl Plan<'_> {
    /// Turns the child into the program. Reports an error through the pipe and ends.
    fn execute(&self) -> ! {
        let error = self.park(self.error);
        let result = self.prepare().unwrap_or_else(last_errno);
        let bytes = result.to_ne_bytes();
        // SAFETY: `bytes` are 4 readable bytes on this frame.
        unsafe { libc::write(error, bytes.as_ptr().cast(), bytes.len()) };
        // SAFETY: ends the process without running anything of the parent's.
        unsafe { libc::_exit(127) }
    }

    /// Returns only on failure: `Some` errno that is known, `None` for the thread's last one.
    fn prepare(&self) -> Option<i32> {
        // Otherwise this child itself would keep the pipe open that tells it to give up.
        // SAFETY: a descriptor of this process's own copy of the table; nothing else uses it here.
        unsafe { libc::close(self.parent_end) };
        // Away from the terminal of whoever started the host: a program on it could type into its owner's shell.
        // SAFETY: no arguments; fails only for the leader of a process group, which a forked process is not.
        if unsafe { libc::setsid() } < 0 {
            return None;
        }
        close_all_at_exec();
        let (go, program) = (self.park(self.go), self.park(self.program));
        // First above all targets, then down: no move overwrites what a later one needs.
        let mut parked: [RawFd; 60] = [-1; 60];
        for (slot, (from, _)) in parked.iter_mut().zip(&self.moves) {
            *slot = self.park(*from);
        }
        // SAFETY: plain numbers; a bad one is an error that later calls meet.
        unsafe { libc::dup2(self.null, 0) };
        for (from, (_, to)) in parked.iter().zip(&self.moves) {
            // SAFETY: as above. dup2 leaves the target without close-on-exec, which is the point.
            if unsafe { libc::dup2(*from, *to) } < 0 {
                return None;
            }
        }
        self.lose_rights()?;
        let mut byte = 0u8;
        // SAFETY: `byte` is one writable byte on this frame.
        if unsafe { libc::read(go, (&raw mut byte).cast(), 1) } != 1 {
            return Some(libc::ECANCELED);
        }
        let environment: [*const libc::c_char; 1] = [ptr::null()];
        // SAFETY: the path is a NUL-terminated empty string; argv and the environment are NULL-terminated arrays of
        // NUL-terminated strings that live in the parent's copy, which this process has.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                program,
                c"".as_ptr(),
                self.argv.as_ptr(),
                environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
        None
    }

    /// Gives up everything that the program must not have. `None`: a call failed, its errno is the thread's.
    fn lose_rights(&self) -> Option<()> {
        // SAFETY: `no_signals` is an initialised set; the scanner starts with no signal blocked.
        unsafe {
            libc::sigprocmask(
                libc::SIG_SETMASK,
                &raw const self.no_signals,
                ptr::null_mut(),
            )
        };
        // SAFETY: a list of no groups needs no memory.
        let groups = unsafe { libc::setgroups(0, ptr::null()) };
        // SAFETY: plain numbers.
        let gid = unsafe { libc::setresgid(self.uid, self.uid, self.uid) };
        // SAFETY: plain numbers. Leaving uid 0 for good also empties the capability sets.
        let uid = unsafe { libc::setresuid(self.uid, self.uid, self.uid) };
        // A stuck scanner must not outlive the worker. Set after the user: changing that would forget it.
        // SAFETY: plain numbers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
        // SAFETY: plain numbers.
        let privs = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        (groups == 0 && gid == 0 && uid == 0 && privs == 0).then_some(())
    }

    fn park(&self, fd: RawFd) -> RawFd {
        // SAFETY: plain numbers; a failure gives -1, which the calls that use it report.
        unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, PARKED) }
    }
}

/// Marks every descriptor from 3 on to be closed at exec, whoever left it open: the program gets what is handed to it.
fn close_all_at_exec() {
    // SAFETY: plain numbers.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if done == 0 {
        return;
    }
    // Linux before 5.11. The supervisor has seen to it that no number is higher.
    for number in 3..OLD_KERNEL_DESCRIPTORS {
        // SAFETY: plain numbers; a number that is not open is refused.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

const OLD_KERNEL_DESCRIPTORS: RawFd = 65_536;

/// The thread's errno. Allocates nothing.
fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn empty_set() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` is writable memory of the right type; the call initialises it and cannot fail.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: initialised by the call above.
    unsafe { set.assume_init() }
}

fn own(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Closes a descriptor that a forked process has a copy of and does not own a value for.
pub(crate) fn close(number: RawFd) {
    // SAFETY: called once, right after the fork, with the number of a descriptor that the parent's values own; those
    // values are not dropped in this process, which ends by exit.
    unsafe { libc::close(number) };
}

/// What a signal tells a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// To end (`SIGTERM`, `SIGINT`).
    End,
    /// To let everything go on, and to end (`SIGUSR1`).
    Release,
}

/// What a signal has told, if one has come that means something; others are taken and forgotten.
pub(crate) fn told_by_signal(signals: &OwnedFd) -> Option<Told> {
    // struct signalfd_siginfo begins with the signal's number and has 128 bytes.
    let mut info = [0u8; 128];
    while rustix::io::read(signals, &mut info) == Ok(info.len()) {
        let number = info
            .first_chunk()
            .map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        match number {
            libc::SIGTERM | libc::SIGINT => return Some(Told::End),
            libc::SIGUSR1 => return Some(Told::Release),
            _ => {}
        }
    }
    None
}

/// Whether a readable input is at its end. What was written to it is taken and means nothing.
pub(crate) fn is_at_end(input: impl AsFd) -> bool {
    let mut bytes = [0u8; 64];
    matches!(rustix::io::read(input, &mut bytes), Ok(0) | Err(_))
}
