//! `cargo xtask old-kernel`: tests of the host and of ports on Linux 6.1, in a machine that is emulated.
//!
//! Linux 6.1 has no pre-access events, no answers with an errno and no reasons for files that cannot be opened. What runs there is
//! what was built here: test programs, the host, and the libraries and tools of this machine, in one initramfs.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, bail, ensure};

mod find;
mod report;

/// Run the host's tests on Linux 6.1, under QEMU
///
/// As root on Debian it installs QEMU and fetches Debian's kernel where they are missing. Elsewhere it says what is missing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only programs whose name contains this
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
}

/// Exit code when nothing could run for want of something: neither a success nor a failure, as automake and others have it.
pub(crate) const EXIT_SKIPPED: u8 = 77;

/// What is missing here, and how to get it.
#[derive(Debug)]
pub(crate) struct Skipped(String);

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "skipped: {}", self.0)
    }
}

impl std::error::Error for Skipped {}

/// Integration tests of `flthost` and `fltport` that run there, and which tests of theirs do not: those that do thousands of things or
/// start many workers in a time, because an emulated processor is some twenty times slower.
const TESTS: [(&str, &[&str]); 17] = [
    ("fanotify", &[]),
    (
        "guard",
        &["sixty_four_openers", "a_listener_that_does_not_listen"],
    ),
    ("policies", &[]),
    ("holes", &["an_open_on_its_way_to_a_service"]),
    ("marks", &[]),
    ("services", &[]),
    ("cache", &[]),
    ("crash", &[]),
    (
        "supervisor",
        &[
            "while_two_hundred_workers_are_killed",
            "while_workers_die_one_after",
        ],
    ),
    ("start", &["a_tree_of_very_many_directories"]),
    ("filter", &[]),
    ("panic", &[]),
    ("exchange", &[]),
    ("messages", &[]),
    ("attachments", &[]),
    ("lifecycle", &[]),
    ("names", &[]),
];

/// Machines that run at the same time, each with its part of the programs.
const MACHINES: usize = 2;

/// A test program as it was built.
struct Test {
    name: &'static str,
    path: PathBuf,
    left_out: &'static [&'static str],
}

/// Programs that tests start by the path at which cargo built them.
const PROGRAMS: [&str; 3] = ["flthostd", "fltscand", "fltctl"];

/// What `/init` and the tests call.
const TOOLS: [&str; 19] = [
    "sh", "cat", "true", "sleep", "timeout", "mount", "umount", "mkdir", "chmod", "mv", "rm", "cp",
    "touch", "kill", "ln", "setpriv", "unshare", "busybox", "dd",
];

/// Modules of Debian's kernel that some tests need; a test skips without its own.
const MODULES: [&str; 3] = [
    "fs/fuse/fuse.ko",
    "fs/overlayfs/overlay.ko",
    "drivers/block/loop.ko",
];

/// Builds, packs, runs and reports.
///
/// # Errors
///
/// When something does not build or start, or a test fails there; [`Skipped`] when something is missing here.
pub(crate) fn run(root: &Path, args: &Args) -> anyhow::Result<()> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let target = std::path::absolute(target)?;
    let place = target.join("old-kernel");
    fs::create_dir_all(&place)?;
    let found = match find::machine(&place)? {
        Ok(found) => found,
        Err(missing) => return Err(Skipped(missing).into()),
    };
    let tests = build(root, &target, args.only.as_deref())?;
    ensure!(!tests.is_empty(), "no program of that name");
    let image = place.join("initramfs.cpio");
    pack(&place.join("root"), &image, &target, &found.modules, &tests)?;
    for test in tests.iter().filter(|test| !test.left_out.is_empty()) {
        println!(
            "{}: left out, too much for an emulated processor: {}",
            test.name,
            test.left_out.join(", ")
        );
    }
    println!("old kernel: {}, without KVM", found.kernel.display());
    // One that counts its instructions has one processor, and uses one of this machine.
    let output = thread::scope(|scope| {
        let boot = |part| boot(&found, &image, part);
        let machines: Vec<_> = (0..MACHINES)
            .map(|part| scope.spawn(move || boot(part)))
            .collect();
        let ended = machines.into_iter().map(|machine| machine.join());
        let said = ended.map(|said| said.unwrap_or_else(|_| bail!("a thread has panicked")));
        said.collect::<anyhow::Result<String>>()
    })?;
    let log = place.join("serial.log");
    fs::write(&log, &output)?;
    let names: Vec<_> = tests.iter().map(|test| test.name).collect();
    report::print(&output, &names)
        .with_context(|| format!("all that the machine said is in {}", log.display()))
}

/// Builds all that is packed; gives the test programs with their names, in the order of [`TESTS`].
fn build(root: &Path, target: &Path, only: Option<&str>) -> anyhow::Result<Vec<Test>> {
    let cargo = |words: &[&str]| {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command
            .current_dir(root)
            .env("CARGO_TARGET_DIR", target)
            .args(words);
        command
    };
    let packages = ["build", "-p", "flthost", "-p", "fltscan", "-p", "fltctl"];
    succeed(&mut cargo(&packages))?;
    // Each by its name: building all others would take longer than to run these.
    let names = TESTS.iter().flat_map(|(name, _)| ["--test", *name]);
    let mut words = vec!["test", "-p", "flthost", "-p", "fltport", "--no-run"];
    words.extend(["--message-format=json"].into_iter().chain(names));
    let output = cargo(&words)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "the tests do not build: {}",
        output.status
    );
    let text = String::from_utf8(output.stdout)?;
    let all: Vec<_> = text.lines().filter_map(report::test_program).collect();
    let wanted = TESTS
        .into_iter()
        .filter(|(name, _)| only.is_none_or(|part| name.contains(part)));
    wanted
        .map(|(name, left_out)| {
            let found = all.iter().find(|(other, _)| *other == name);
            let (_, path) = found.with_context(|| format!("cargo names no test program {name}"))?;
            let path = PathBuf::from(*path);
            Ok(Test {
                name,
                path,
                left_out,
            })
        })
        .collect()
}

/// Puts everything below `root`, at the same paths as here, and makes the image of it.
fn pack(
    root: &Path,
    image: &Path,
    target: &Path,
    modules: &Path,
    tests: &[Test],
) -> anyhow::Result<()> {
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    for directory in [
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "dev",
        "proc",
        "sys",
        "tmp",
        "run",
        "etc",
        "root",
        "modules",
    ] {
        fs::create_dir_all(root.join(directory))?;
    }
    // As on the systems whose tools these are: one is found by either path.
    for name in ["bin", "sbin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{name}"), root.join(name))?;
    }
    let built = PROGRAMS.map(|name| target.join("debug").join(name));
    let built = built.iter().chain(tests.iter().map(|test| &test.path));
    let tools: Vec<_> = TOOLS
        .iter()
        .filter_map(|name| find::in_path(name))
        .collect();
    let mut libraries = BTreeSet::new();
    for program in built {
        let to = inside(root, program)?;
        // Without what debuggers read it is a tenth, which the machine has to unpack.
        succeed(
            Command::new("strip")
                .args(["--strip-debug", "-o"])
                .args([&to, program]),
        )?;
        libraries.extend(libraries_of(program)?);
    }
    for tool in &tools {
        fs::copy(tool, inside(root, tool)?)?;
        libraries.extend(libraries_of(tool)?);
    }
    for library in &libraries {
        fs::copy(library, inside(root, library)?)?;
    }
    for module in MODULES {
        let name = Path::new(module).file_name().unwrap_or_default();
        // Which of them are modules is the kernel's choice.
        fs::copy(
            modules.join("kernel").join(module),
            root.join("modules").join(name),
        )
        .ok();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    let init = root.join("init");
    fs::write(&init, report::init(tests))?;
    succeed(Command::new("chmod").arg("755").arg(&init))?;
    archive(root, image)
}

/// Where a path of this machine is below `root`; its folder is there then.
fn inside(root: &Path, path: &Path) -> anyhow::Result<PathBuf> {
    let path = root.join(path.strip_prefix("/").context("not an absolute path")?);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    Ok(path)
}

/// The shared libraries that a program is started with, and their loader.
fn libraries_of(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot start ldd")?;
    // It fails for a static program, which needs none.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(words
        .map(|word| PathBuf::from(word.trim_end_matches(':')))
        .filter(|path| path != program)
        .collect())
}

/// All below `root`, in the form that the kernel unpacks.
fn archive(root: &Path, image: &Path) -> anyhow::Result<()> {
    let names = Command::new("find")
        .current_dir(root)
        .arg(".")
        .output()
        .context("cannot start find")?;
    let mut cpio = Command::new("cpio")
        .current_dir(root)
        .args(["--quiet", "--owner=0:0", "-o", "-H", "newc"])
        .stdin(Stdio::piped())
        .stdout(fs::File::create(image)?)
        .spawn()
        .context("cannot start cpio")?;
    cpio.stdin
        .take()
        .context("cpio has no input")?
        .write_all(&names.stdout)?;
    let status = cpio.wait()?;
    ensure!(status.success(), "cpio failed: {status}");
    Ok(())
}

/// Runs a machine with this part of the programs to its end; gives what it wrote to its serial line.
fn boot(machine: &find::Machine, image: &Path, part: usize) -> anyhow::Result<String> {
    // It ends by itself. This is for a kernel that does not.
    let output = Command::new("timeout")
        .args(["--kill-after=5", "900"])
        .arg(&machine.qemu)
        .args([
            "-accel",
            "tcg",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
        ])
        // Its clock counts instructions and skips what nobody uses: a slow or busy machine makes no test late.
        .args(["-m", "1536", "-icount", "shift=1,sleep=off", "-kernel"])
        .arg(&machine.kernel)
        .arg("-initrd")
        .arg(image)
        .args([
            "-append",
            &format!("console=ttyS0 panic=-1 quiet part={part}"),
        ])
        .stdin(Stdio::null())
        .output()
        .context("cannot start timeout")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    println!("{said}");
    bail!(
        "the machine ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    )
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", OsStr::display(command.get_program())))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}
