//! Finds the emulator and the kernel, and fetches them where that is allowed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the tests run on.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) qemu: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) modules: PathBuf,
}

/// Debian's package that depends on the newest kernel for virtual machines.
const KERNEL: &str = "linux-image-cloud-amd64";

/// Finds all of it; in its stead one line that says what is missing and how to get it.
pub(crate) fn machine(place: &Path) -> anyhow::Result<Result<Machine, String>> {
    if cfg!(not(target_arch = "x86_64")) {
        return Ok(Err(
            "the kernel of the old-kernel test is one for x86_64".to_owned()
        ));
    }
    let may_install = is_root() && in_path("apt-get").is_some();
    let needed = [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("cpio", "cpio"),
        ("busybox", "busybox-static"),
        ("strip", "binutils"),
    ];
    for (program, package) in needed {
        if in_path(program).is_none() && !(may_install && install(package)) {
            return Ok(Err(format!(
                "{program} is missing: apt-get install {package}"
            )));
        }
    }
    let unpacked = place.join("unpacked");
    let found = kernel_in(&unpacked).or_else(|| {
        fetch(place, &unpacked);
        kernel_in(&unpacked)
    });
    let (Some(qemu), Some((kernel, modules))) = (in_path("qemu-system-x86_64"), found) else {
        return Ok(Err(format!(
            "no kernel 6.1: on Debian 12, apt-get download the kernel that {KERNEL} depends on and dpkg-deb -x it to {}",
            unpacked.display()
        )));
    };
    Ok(Ok(Machine {
        qemu,
        kernel,
        modules,
    }))
}

/// The program that a shell would start.
pub(crate) fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout == b"0\n")
}

fn install(package: &str) -> bool {
    let words = ["install", "--yes", "--no-install-recommends", package];
    quiet(Command::new("apt-get").args(words))
        || (quiet(Command::new("apt-get").arg("update"))
            && quiet(Command::new("apt-get").args(words)))
}

/// Whether it went well. What it says is of no use beside the line that says what to do.
fn quiet(command: &mut Command) -> bool {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// Downloads the kernel's package and unpacks it: nothing of it is installed. What fails shows by what is missing then.
fn fetch(place: &Path, unpacked: &Path) {
    let depends = || {
        let output = Command::new("apt-cache")
            .args(["depends", KERNEL])
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let name = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: "))?;
        name.starts_with("linux-image-6.1.")
            .then(|| name.to_owned())
    };
    let package = depends().or_else(|| {
        (is_root() && quiet(Command::new("apt-get").arg("update")))
            .then(depends)
            .flatten()
    });
    let Some(package) = package else { return };
    if !quiet(
        Command::new("apt-get")
            .current_dir(place)
            .args(["download", &package]),
    ) {
        return;
    }
    let Some(file) = entry(place, &package) else {
        return;
    };
    quiet(Command::new("dpkg-deb").arg("-x").arg(file).arg(unpacked));
}

fn kernel_in(unpacked: &Path) -> Option<(PathBuf, PathBuf)> {
    let kernel = entry(&unpacked.join("boot"), "vmlinuz-6.1.")?;
    Some((kernel, entry(&unpacked.join("lib/modules"), "6.1.")?))
}

/// The first in this folder whose name starts so.
fn entry(folder: &Path, start: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let mut names = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(start));
    names.next().map(|entry| entry.path())
}
