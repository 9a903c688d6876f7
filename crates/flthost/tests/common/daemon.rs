//! A FUSE filesystem with one empty file, `bad`, or one whose daemon never answers.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::thread;

use rustix::io::FdFlags;

/// Mounts a filesystem that hangs whoever asks it, for as long as the descriptor lives. Nothing where there is no FUSE.
pub(crate) fn mount_hung(point: &Path) -> Option<File> {
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .ok()?;
    rustix::io::fcntl_setfd(&device, FdFlags::empty()).unwrap();
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0",
        device.as_raw_fd()
    );
    // Without a helper program, which there may not be.
    let mounted = Command::new("mount")
        .args(["-i", "-t", "fuse", "-o", &options, "none"])
        .arg(point)
        .status();
    mounted.ok()?.success().then_some(device)
}

/// Mounts a filesystem whose daemon answers until it is unmounted. Nothing where there is no FUSE.
pub(crate) fn mount_answering(point: &Path) -> Option<()> {
    let mut device = mount_hung(point)?;
    thread::spawn(move || {
        let mut request = vec![0; 1 << 17];
        while let Ok(length @ 40..) = device.read(&mut request) {
            if let Some(answer) = answer(&request[..length]) {
                device.write_all(&answer).ok();
            }
        }
    });
    Some(())
}

/// The whole answer to a request (`struct fuse_in_header` and what follows); nothing to one that wants none.
fn answer(request: &[u8]) -> Option<Vec<u8>> {
    let number = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
    let (opcode, node) = (number(4), u64::from(number(16)));
    let (error, body) = match opcode {
        FORGET | INTERRUPT | BATCH_FORGET => return None,
        INIT => (0, init()),
        GETATTR => (0, [&[0; 16][..], &attributes(node)].concat()),
        LOOKUP if request[40..].starts_with(b"bad\0") => {
            let head = [2_u64, 1, 0, 0, 0].map(u64::to_ne_bytes).concat();
            (0, [&head[..], &attributes(2)].concat())
        }
        LOOKUP => (libc::ENOENT, Vec::new()),
        OPEN | OPENDIR => (0, vec![0; 16]),
        READ | READDIR | FLUSH | RELEASE | RELEASEDIR => (0, Vec::new()),
        _ => (libc::ENOSYS, Vec::new()),
    };
    let length = u32::try_from(16 + body.len()).unwrap();
    let head = [&length.to_ne_bytes()[..], &(-error).to_ne_bytes()].concat();
    Some([&head, &request[8..16], &body[..]].concat())
}

/// `struct fuse_init_out`: version 7.31, no options.
fn init() -> Vec<u8> {
    let numbers = [7_u32, 31, 4096, 0, 0, 4096, 1];
    let mut body = numbers.map(u32::to_ne_bytes).concat();
    body.resize(64, 0);
    body
}

/// `struct fuse_attr` of the root (1) or of the file.
fn attributes(node: u64) -> Vec<u8> {
    let mode: u32 = if node == 1 { 0o40_755 } else { 0o100_644 };
    let numbers = [node, 0, 0, 0, 0, 0].map(u64::to_ne_bytes).concat();
    let rest = [0_u32, 0, 0, mode, 1, 0, 0, 0, 4096, 0].map(u32::to_ne_bytes);
    [numbers, rest.concat()].concat()
}

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
