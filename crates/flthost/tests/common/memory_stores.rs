//! Changes of a file that raise no question: a store through a mapping, and truncation by path.
#![allow(unsafe_code)] // Neither std nor rustix has safe words for them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

/// Truncates by path: nothing is opened, so nobody is asked, but leases are broken.
pub(crate) fn truncate(path: &Path, length: libc::off_t) {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path is a string that ends with a zero, and outlives the call.
    let result = unsafe { libc::truncate(path.as_ptr(), length) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// A process that has stored `bad` at the start of a file through a mapping. Dropping it ends it.
///
/// A process of its own, because it is asked about like any other. It is this test program again, run with only its test
/// `stores`.
pub(crate) struct Stored {
    child: Child,
    // It says more when it ends.
    _output: BufReader<ChildStdout>,
}

impl Stored {
    /// When this returns, it has stored; then it holds on to its mapping, or has let go of that and of the file.
    pub(crate) fn by(path: &Path, holds: bool) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "stores", "--nocapture"])
            .env("STORES_PATH", path)
            .env("STORES_HOLDS", holds.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut said = output.by_ref().lines().map(|line| line.unwrap());
        let has = said.any(|line| line.ends_with("STORED"));
        let stored = Self {
            child,
            _output: output,
        };
        assert!(has, "it did not");
        stored
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().ok();
    }
}

/// The body of the test `stores`.
pub(crate) fn run() {
    let Some(path) = std::env::var_os("STORES_PATH") else {
        return;
    };
    // Whatever happens, this process does not stay.
    thread::spawn(|| {
        thread::sleep(Duration::from_secs(90));
        std::process::abort();
    });
    let file = File::options().read(true).write(true).open(path).unwrap();
    let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: a new mapping somewhere; the file has at least the three bytes that are touched below.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), 3, access, shared, file.as_raw_fd(), 0) };
    assert_ne!(start, libc::MAP_FAILED, "{}", io::Error::last_os_error());
    let start = start.cast::<[u8; 3]>();
    // Looks first, so that the pages are there: then a store does not even fault for reading.
    // SAFETY: the three bytes are mapped for reading and writing, and no reference to them exists.
    let before = unsafe { start.read_volatile() };
    assert_ne!(&before, b"bad");
    // SAFETY: as above.
    unsafe { start.write_volatile(*b"bad") };
    if std::env::var("STORES_HOLDS").unwrap() == "false" {
        // SAFETY: the mapping made above, and nothing points into it any more.
        unsafe { libc::munmap(start.cast(), 3) };
        drop(file);
    }
    println!("STORED");
    // Ends with whoever has started this.
    io::stdin().read_to_end(&mut Vec::new()).ok();
}
