//! Other guards that open files are asked about, where they are installed: clamonacc with clamd, and fapolicyd. Each is
//! confined to the tree, and ends with the process that started it. Neither is needed for anything.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::scratch::eicar;
use super::tree::Tree;
use super::{Ended, text, until};

/// clamd with one signature, and clamonacc, which hands it each open file of a tree.
#[derive(Debug)]
pub struct Clam {
    // In this order: once clamonacc has gone, the kernel asks nobody.
    _clamonacc: Ended,
    _clamd: Ended,
    _probe: Probe,
    _folder: tempfile::TempDir,
}

impl Clam {
    /// Why it cannot be measured.
    pub fn missing() -> Option<String> {
        missing(&["clamd", "clamonacc"])
    }

    /// Starts both; they guard when this returns.
    pub fn start(root: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("database"))?;
        // The sum and the size of the test file.
        let signature = "44d88612fea8a8f36de82e1278abb02f:68:Test.File\n";
        fs::write(path("database/test.hdb"), signature)?;
        let everybody = PermissionsExt::from_mode(0o777);
        fs::set_permissions(folder.path(), everybody)?;
        let [socket, database] = ["socket", "database"].map(|name| text(&path(name)));
        let root_text = text(root);
        let config = format!(
            "LocalSocket {socket}\nLocalSocketMode 666\nDatabaseDirectory {database}\nUser clamav\nForeground yes\n\
             OnAccessIncludePath {root_text}\nOnAccessPrevention yes\nOnAccessExcludeUname clamav\n"
        );
        let file = path("clamd.conf");
        fs::write(&file, config)?;
        let start = |program: &str, words: &[&str]| {
            let mut command = bound_to_this(program);
            command
                .args(words)
                .arg(format!("--config-file={}", text(&file)));
            Ended::start(
                command
                    .stdout(log(&path(program))?)
                    .stderr(log(&path(program))?),
            )
        };
        let clamd = start("clamd", &[])?;
        until("clamd listens", 20, || Ok(path("socket").exists()))?;
        let probe = Probe::new(root, &eicar())?;
        let clamonacc = start("clamonacc", &["--foreground", "--fdpass"])?;
        until("clamonacc denies", 20, || probe.is_denied())?;
        Ok(Self {
            _clamonacc: clamonacc,
            _clamd: clamd,
            _probe: probe,
            _folder: folder,
        })
    }
}

/// fapolicyd with rules that allow everything but one file.
#[derive(Debug)]
pub struct Fapolicy {
    _fapolicyd: Ended,
    _probe: Probe,
    _folder: tempfile::TempDir,
}

/// It guards every mount of a kind. So it gets a mount namespace in which the tree is the only one: the root is an
/// overlay, which also keeps its configuration from the system's.
const CONFINE: &str = r#"set -e
tree="$2"; kind="$3"
mount -t tmpfs none "$1"; cd "$1"; mkdir upper work root
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay root
mkdir -p "root$tree" root/old
mount --rbind /proc root/proc; mount --rbind /dev root/dev; mount -t tmpfs none root/run
mount --bind "$tree" "root$tree"
mkdir -p root/run/fapolicyd root/var/lib/fapolicyd root/etc/fapolicyd
rm -f root/etc/fapolicyd/*.rules root/etc/fapolicyd/rules.d/* root/etc/fapolicyd/fapolicyd.trust
printf 'deny perm=any all : path=%s/denied\nallow perm=any all : all\n' "$tree" > root/etc/fapolicyd/compiled.rules
: > root/etc/fapolicyd/fapolicyd.trust
printf 'permissive = 0\nnice_val = 0\nq_size = 640\nuid = root\ngid = root\ndo_stat_report = 0\ndetailed_report = 0\ndb_max_size = 50\nsubj_cache_size = 1549\nobj_cache_size = 32768\nwatch_fs = %s\ntrust = file\nintegrity = none\nsyslog_format = rule,dec,perm,pid,exe,:,path,ftype\nrpm_sha256_only = 0\nallow_filesystem_mark = 1\n' "$kind" > root/etc/fapolicyd/fapolicyd.conf
cd root; pivot_root . old; umount -l /old
mounts=$(grep -c " $kind " /proc/self/mounts)
test "$mounts" = 1
exec fapolicyd --debug-deny
"#;

impl Fapolicy {
    /// Why it cannot be measured.
    pub fn missing() -> Option<String> {
        let kinds = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if !kinds.lines().any(|line| line.ends_with("\toverlay")) {
            return Some("without overlayfs, fapolicyd would guard more than the tree".to_owned());
        }
        missing(&["fapolicyd", "pivot_root"])
    }

    /// Starts it; it guards when this returns.
    pub fn start(tree: &Tree) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let probe = Probe::new(tree.path(), b"denied")?;
        let mut command = bound_to_this("unshare");
        command
            .args(["--mount", "--propagation", "private", "--"])
            .args(["sh", "-c", CONFINE, "sh"])
            .args([folder.path(), tree.path()])
            .arg("ext4");
        let output = folder.path().with_extension("log");
        let fapolicyd = Ended::start(command.stdout(log(&output)?).stderr(log(&output)?))?;
        let denies = until("fapolicyd denies", 20, || probe.is_denied());
        fs::remove_file(output).ok();
        denies?;
        Ok(Self {
            _fapolicyd: fapolicyd,
            _probe: probe,
            _folder: folder,
        })
    }
}

/// A file of the tree that is denied when the guard is there; it goes with the guard.
#[derive(Debug)]
struct Probe(PathBuf);

impl Probe {
    fn new(root: &Path, content: &[u8]) -> Result<Self> {
        let probe = Self(root.join("denied"));
        fs::write(&probe.0, content)?;
        Ok(probe)
    }

    fn is_denied(&self) -> Result<bool> {
        Ok(File::open(&self.0).is_err())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

/// A program that ends with the thread that starts it, whatever it makes of itself.
fn bound_to_this(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

fn log(path: &Path) -> Result<File> {
    let path = path.with_extension("log");
    Ok(File::options().create(true).append(true).open(path)?)
}

/// Says which of these programs is not installed.
fn missing(programs: &[&str]) -> Option<String> {
    let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let is_there = |program: &str| folders.iter().any(|f| Path::new(f).join(program).exists());
    let first = programs
        .iter()
        .chain(&["setpriv"])
        .find(|one| !is_there(one));
    first.map(|program| format!("{program} is not installed"))
}
