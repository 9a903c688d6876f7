//! Upgrading and releasing a host that runs, as an operator does it. Needs root and the built daemons.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longest that anything here may take.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_host_is_upgraded_while_it_guards_and_then_released() {
    let host = Path::new(env!("CARGO_BIN_EXE_fltctl")).with_file_name("flthostd");
    if !host.is_file() || !rustix::process::geteuid().is_root() {
        println!("skipped: not root, or no flthostd beside fltctl");
        return;
    }
    let stage = Stage::new();
    let mut first = stage.start(&host);
    let (ok, said) = stage.fltctl(&["host", "upgrade", "--instance", "steer"]);
    assert!(ok && said.contains("has taken over"), "{said}");
    assert_eq!(first.0.wait().unwrap().code(), Some(4));
    // Strict, and no service: it guards.
    File::open(&stage.file).unwrap_err();

    // A program that cannot take over changes nothing.
    let (ok, said) = stage.fltctl(&[
        "host",
        "upgrade",
        "--instance",
        "steer",
        "--program",
        "/bin/false",
    ]);
    assert!(!ok && said.contains("the old one goes on"), "{said}");
    File::open(&stage.file).unwrap_err();

    let (ok, said) = stage.fltctl(&["host", "release", "--instance", "steer"]);
    assert!(ok && said.contains("nothing is guarded any more"), "{said}");
    File::open(&stage.file).unwrap();
    let (ok, said) = stage.fltctl(&["host", "release", "--instance", "steer"]);
    assert!(
        !ok && said.contains("no host answers") && said.contains("--instance"),
        "{said}"
    );
}

/// A host of this test. Dropping it ends it.
struct Host(Child);

impl Drop for Host {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A guarded directory with one file, and a port directory that is not guarded.
struct Stage {
    folder: tempfile::TempDir,
    file: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let guarded = folder.path().join("guarded");
        fs::create_dir(&guarded).unwrap();
        let file = guarded.join("file");
        fs::write(&file, "content").unwrap();
        Self { folder, file }
    }

    fn ports(&self) -> PathBuf {
        self.folder.path().join("ports")
    }

    fn start(&self, host: &Path) -> Host {
        fs::create_dir(self.ports()).unwrap();
        let child = Command::new(host)
            .args([
                "--instance",
                "steer",
                "--strict",
                "--no-scanner",
                "--port-directory",
            ])
            .arg(self.ports())
            .arg("--guard")
            .arg(self.file.parent().unwrap())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let host = Host(child);
        let end = Instant::now() + LIMIT;
        while File::open(&self.file).is_ok() {
            assert!(Instant::now() < end, "it does not guard");
            std::thread::sleep(Duration::from_millis(2));
        }
        host
    }

    fn fltctl(&self, words: &[&str]) -> (bool, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = Command::new("timeout")
            .arg(LIMIT.as_secs().to_string())
            .arg(env!("CARGO_BIN_EXE_fltctl"))
            .arg("--port-directory")
            .arg(self.ports())
            .args(words)
            .output()
            .unwrap();
        let said = [stdout, stderr].concat();
        (status.success(), String::from_utf8(said).unwrap())
    }
}

impl Drop for Stage {
    /// Whatever has happened: no host of this test stays. The second is no child of this process.
    fn drop(&mut self) {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let ours = self.ports().into_os_string().into_encoded_bytes();
            let named = words.split(|byte| *byte == 0).any(|word| word == ours);
            let pid = entry.file_name().to_string_lossy().parse().ok();
            if let Some(pid) = pid.and_then(Pid::from_raw).filter(|_| named) {
                kill_process(pid, Signal::KILL).ok();
            }
        }
    }
}
