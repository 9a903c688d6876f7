//! A mount namespace for everything that is mounted here: nobody else sees it, and it ends with the last process in it.
//! It is entered by unshare(1) and not by the system call, so that this program needs no unsafe code for it.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Set for the program that runs in the namespace.
const MARK: &str = "FLTBENCH_NAMESPACE";

/// Starts this program again, in place, in a mount namespace of its own. Comes back only where that is not possible, or
/// has been done: then what needs one is skipped.
pub fn enter() {
    if is_own() || !rustix::process::geteuid().is_root() {
        return;
    }
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let error = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(MARK, own().unwrap_or_default())
        .exec();
    eprintln!("cannot run unshare(1): {error}");
}

/// Whether this is another namespace than the one that the program was started in.
pub fn is_own() -> bool {
    let before = std::env::var(MARK).ok();
    before.is_some() && before != own()
}

fn own() -> Option<String> {
    let link = std::fs::read_link("/proc/self/ns/mnt").ok()?;
    Some(link.display().to_string())
}
