//! A FUSE filesystem of the test's own, that hangs where a file's name says so. Its daemon is a script, because mounting one
//! needs a call that there is no safe word for.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use super::host::{kill, until};
use super::{Place, run, text};

/// A mounted filesystem and its daemon. Dropping it ends the daemon, which ends whatever waits for it.
///
/// Every name is a file there. The daemon stops itself, as if by `SIGSTOP`, with the first request of this kind in its
/// hands: to open a file whose name begins with `hang-open`, to close one whose name begins with `hang-close`, for a host's
/// reading thread the attributes of one whose name begins with `hang-attr`. Those of `NAME-fail-attr` fail for it, from
/// the third time on. Before it answers an open of `NAME.needs`, it opens `$NEEDS` itself.
pub(crate) struct Fuse {
    pub(crate) root: PathBuf,
    daemon: Child,
    process: u32,
}

impl Fuse {
    /// Nothing, after a line that says why, where there is no FUSE.
    pub(crate) fn mount(place: &Place, needs: &Path) -> Option<Self> {
        let root = place.outside("fuse");
        let script = place.outside("scripts").join("fuse.py");
        fs::write(&script, DAEMON).unwrap();
        // Ended for certain: one that is stopped keeps whoever has its files from ending, this program too.
        let daemon = Command::new("timeout")
            .args(["--signal=KILL", "60", "python3"])
            .arg(script)
            .arg(&root)
            .env("NEEDS", needs)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut daemon) = daemon else {
            println!("skipped: no python3");
            return None;
        };
        let mut line = String::new();
        let mut output = BufReader::new(daemon.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let Ok(process) = line.trim().parse() else {
            println!("skipped: cannot mount a FUSE filesystem");
            daemon.wait().ok();
            return None;
        };
        Some(Self {
            root,
            daemon,
            process,
        })
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.process, signal);
    }

    /// Waits until the daemon has stopped itself.
    pub(crate) fn hangs(&self) {
        let stat = || fs::read_to_string(format!("/proc/{}/stat", self.process)).unwrap();
        until("the daemon stops", || stat().contains(") T "));
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        run("umount", ["-l", text(&self.root)]);
        self.signal(Signal::KILL);
        self.daemon.wait().ok();
    }
}

/// See <linux/fuse.h>.
const DAEMON: &str = r#"
import ctypes, os, signal, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(1, signal.SIGKILL)  # ends with the test, whatever state it is in
root = sys.argv[1].encode()
fd = os.open("/dev/fuse", os.O_RDWR)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions" % fd
if libc.mount(b"test", root, b"fuse", 0, options) != 0:
    sys.exit(1)
print(os.getpid(), flush=True)
names, hung, asked = {1: b""}, set(), []

def attr(node):
    mode = 0o40755 if node == 1 else 0o100644
    return struct.pack("<6Q10I", node, 7, 1, 1, 1, 1, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

def node_of(name):
    for node, known in names.items():
        if known == name:
            return node
    names[len(names) + 1] = name
    return len(names)

def valid(node):
    return 0 if b"-attr" in names[node] else 60

def is_reader(thread):
    try:
        return open("/proc/%d/comm" % thread).read() == "reader\n"
    except OSError:
        return False

def hang(node, kind):
    if names[node].startswith(kind) and names[node] not in hung:
        hung.add(names[node])
        os.kill(os.getpid(), signal.SIGSTOP)

while True:
    try:
        request = os.read(fd, 1 << 20)
    except OSError as error:
        if error.errno in (2, 4, 11):
            continue
        sys.exit(0)
    length, opcode, unique, node = struct.unpack_from("<IIQQ", request)
    body, answer, failed = request[40:], b"", 0
    if opcode == 1:
        found = node_of(body.rstrip(b"\0"))
        answer = struct.pack("<4Q2I", found, 0, 60, valid(found), 0, 0) + attr(found)
    elif opcode == 3:
        if is_reader(struct.unpack_from("<I", request, 32)[0]):
            hang(node, b"hang-attr")
            if names[node].endswith(b"fail-attr"):
                asked.append(node)
                failed = 5 if asked.count(node) > 2 else 0
        answer = struct.pack("<Q2I", valid(node), 0, 0) + attr(node)
    elif opcode == 14:
        if not valid(node) and is_reader(struct.unpack_from("<I", request, 32)[0]):
            time.sleep(0.02)  # what its opener was just told of it holds until the kernel's clock ticks
        hang(node, b"hang-open")
        if names[node].endswith(b".needs"):
            try:
                os.close(os.open(os.environ["NEEDS"], os.O_RDONLY))
            except OSError:
                failed = 5
        answer = struct.pack("<Q2I", 0, 0, 0)
    elif opcode == 15:
        offset = struct.unpack_from("<QQ", body)[1]
        answer = b"content"[offset:]
    elif opcode == 17:
        answer = struct.pack("<5Q4I", 0, 0, 0, 0, 0, 512, 255, 512, 0) + bytes(24)
    elif opcode == 18 or opcode == 29:
        pass
    elif opcode == 25:
        hang(node, b"hang-close")
    elif opcode == 26:
        answer = struct.pack("<4I2H2I2HI", 7, 31, 0, 0, 16, 12, 1 << 17, 1, 32, 0, 0) + bytes(28)
    elif opcode == 27:
        answer = struct.pack("<Q2I", 0, 0, 0)
    elif opcode == 28:
        pass
    elif opcode in (2, 36, 38, 42):
        continue
    else:
        failed = 38
    answer = b"" if failed else answer
    try:
        os.write(fd, struct.pack("<IiQ", 16 + len(answer), -failed, unique) + answer)
    except OSError:
        pass  # whoever asked is gone
"#;
