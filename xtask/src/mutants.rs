//! `cargo xtask mutants`: puts known defects into a copy of the source, one at a time, and sees that a test fails.
//!
//! A defect is a file in `mutants/`; its README has the format. The copy is below `target/`, and builds there.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// See that each known defect is caught by a test
///
/// Copies the source below target/, applies one patch of mutants/ at a time and runs the tests that it names. Fails when
/// a defect is not noticed, when a patch no longer applies or compiles, or when its tests fail without it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the defects whose file name contains one of these
    names: Vec<String>,
}

/// The longest that tests may take; a defect may make them hang.
const LIMIT: Duration = Duration::from_secs(300);

struct Mutant {
    name: String,
    patch: PathBuf,
    what: String,
    tests: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Passed,
    Failed,
    Hung,
}

/// Runs all of them.
///
/// # Errors
///
/// With the names of the defects that were not caught, or what else went wrong.
pub(crate) fn run(root: &Path, args: &Args) -> anyhow::Result<()> {
    let wanted = |mutant: &Mutant| {
        args.names.is_empty() || args.names.iter().any(|name| mutant.name.contains(name))
    };
    let mutants: Vec<_> = list(root)?.into_iter().filter(wanted).collect();
    ensure!(!mutants.is_empty(), "mutants/ has no such patch");
    let place = root.join("target/mutants");
    let copy = Copy {
        root,
        tree: place.join("tree"),
        target: place.join("target"),
    };
    copy.refresh()?;
    let tests: BTreeSet<_> = mutants.iter().flat_map(|mutant| &mutant.tests).collect();
    for test in tests {
        println!("mutants: without any, cargo test {test}");
        copy.build(test)
            .with_context(|| format!("`cargo test {test}` does not build"))?;
        let ended = copy.test(test)?;
        ensure!(
            ended == Ended::Passed,
            "`cargo test {test}` fails without any defect; mend that first"
        );
    }
    let mut survivors = Vec::new();
    for mutant in &mutants {
        let start = Instant::now();
        let caught = copy.try_out(mutant)?;
        let seconds = start.elapsed().as_secs();
        let (name, what) = (&mutant.name, &mutant.what);
        match caught {
            Some((test, how)) => {
                println!("mutants: {name} {how} by `cargo test {test}`, {seconds} s: {what}");
            }
            None => {
                println!("mutants: {name} NOT CAUGHT, {seconds} s: {what}");
                survivors.push(name.as_str());
            }
        }
    }
    if survivors.is_empty() {
        println!("mutants: all {} caught", mutants.len());
        return Ok(());
    }
    bail!("not caught: {}", survivors.join(", "))
}

/// The source as it is, and where it is changed and built.
struct Copy<'a> {
    root: &'a Path,
    tree: PathBuf,
    target: PathBuf,
}

impl Copy<'_> {
    /// Makes the copy like the source again. Files that are alike stay as they are, so that little is built anew.
    fn refresh(&self) -> anyhow::Result<()> {
        let output = Command::new("git")
            .current_dir(self.root)
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .output()
            .context("cannot start git")?;
        ensure!(output.status.success(), "git does not list the files");
        let names = String::from_utf8(output.stdout)?;
        let listed: BTreeSet<_> = names
            .split_terminator('\0')
            .filter(|name| self.root.join(name).exists())
            .map(|name| self.tree.join(name))
            .collect();
        prune(&self.tree, &listed)?;
        for name in names.split_terminator('\0') {
            let (from, to) = (self.root.join(name), self.tree.join(name));
            // Listed, and removed since.
            let Ok(content) = fs::read(&from) else {
                continue;
            };
            if fs::read(&to).is_ok_and(|old| old == content) {
                continue;
            }
            let folder = to.parent().context("a file has a folder")?;
            fs::create_dir_all(folder)?;
            fs::write(&to, content)?;
        }
        Ok(())
    }

    /// The test that caught it and how, if one did. The copy is clean again afterwards.
    fn try_out<'m>(&self, mutant: &'m Mutant) -> anyhow::Result<Option<(&'m str, &'static str)>> {
        self.apply(&mutant.patch)?;
        let caught = self.first_that_fails(mutant);
        self.refresh()?;
        caught
    }

    fn first_that_fails<'m>(
        &self,
        mutant: &'m Mutant,
    ) -> anyhow::Result<Option<(&'m str, &'static str)>> {
        for test in &mutant.tests {
            // One that does not compile would "fail" and prove nothing.
            self.build(test)
                .with_context(|| format!("{} does not compile", mutant.name))?;
            match self.test(test)? {
                Ended::Passed => {}
                Ended::Failed => return Ok(Some((test, "caught"))),
                Ended::Hung => return Ok(Some((test, "caught (it hangs)"))),
            }
        }
        Ok(None)
    }

    fn apply(&self, patch: &Path) -> anyhow::Result<()> {
        let status = Command::new("git")
            .current_dir(&self.tree)
            // The copy lies inside a repository that ignores it.
            .env(
                "GIT_CEILING_DIRECTORIES",
                self.tree.parent().unwrap_or(&self.tree),
            )
            .arg("apply")
            .arg(patch)
            .status()
            .context("cannot start git")?;
        let patch = patch.display();
        ensure!(status.success(), "{patch} no longer applies: make it anew");
        Ok(())
    }

    fn build(&self, test: &str) -> anyhow::Result<()> {
        let output = self.cargo(test, &["--no-run"]).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{said}");
        Ok(())
    }

    fn test(&self, test: &str) -> anyhow::Result<Ended> {
        let mut cargo = self.cargo(test, &[]);
        let child = cargo
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start cargo")?;
        wait(child)
    }

    fn cargo(&self, test: &str, more: &[&str]) -> Command {
        let mut words: Vec<_> = test.split_whitespace().collect();
        let filter = words.iter().position(|word| *word == "--");
        words.splice(
            filter.unwrap_or(words.len())..filter.unwrap_or(words.len()),
            more.iter().copied(),
        );
        let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(program);
        command
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.target)
            .arg("test")
            .args(words);
        command
    }
}

/// Removes what is not listed: a test that was removed from the source would go on running in the copy.
fn prune(folder: &Path, listed: &BTreeSet<PathBuf>) -> anyhow::Result<()> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            prune(&path, listed)?;
        } else if !listed.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn wait(mut child: Child) -> anyhow::Result<Ended> {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(if status.success() {
                Ended::Passed
            } else {
                Ended::Failed
            });
        }
        if Instant::now() > end {
            // Cargo and the tests that it has started.
            let group = format!("-{}", child.id());
            Command::new("kill")
                .args(["-KILL", "--", &group])
                .status()?;
            child.wait()?;
            return Ok(Ended::Hung);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn list(root: &Path) -> anyhow::Result<Vec<Mutant>> {
    let folder = root.join("mutants");
    let mut mutants = Vec::new();
    for entry in fs::read_dir(&folder).context("mutants/ is missing")? {
        let patch = entry?.path();
        if patch
            .extension()
            .is_some_and(|extension| extension == "patch")
        {
            mutants.push(read(patch)?);
        }
    }
    mutants.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(mutants)
}

fn read(patch: PathBuf) -> anyhow::Result<Mutant> {
    let text = fs::read_to_string(&patch)?;
    let head = text.split("diff --git").next().unwrap_or_default();
    let lines = |key: &str| -> Vec<String> {
        head.lines()
            .filter_map(|line| line.strip_prefix(key))
            .map(|rest| rest.trim().to_string())
            .collect()
    };
    let (what, tests) = (lines("What:").join(" "), lines("Caught by:"));
    let name = patch
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    ensure!(
        !what.is_empty() && !tests.is_empty(),
        "{name} lacks its lines `What:` and `Caught by:`"
    );
    Ok(Mutant {
        name,
        patch,
        what,
        tests,
    })
}

#[cfg(test)]
mod tests {
    use super::list;

    /// The defects that a port must not have, by the words of their files.
    const REQUIRED: [&str; 10] = [
        "lost-reply",
        "reply-to-the-wrong-sender",
        "get-delivered-after-timeout",
        "slot-leak-on-refused-connect",
        "callback-after-unregister",
        "disconnect-before-message-callbacks-ended",
        "access-check-after-parsing",
        "second-answer-to-one-permission",
        "descriptor-leak-on-refused-connect",
        "wrong-hresult",
    ];

    #[test]
    fn every_required_defect_has_a_patch_that_says_what_catches_it() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .unwrap();
        let names: Vec<_> = list(root)
            .unwrap()
            .into_iter()
            .map(|mutant| mutant.name)
            .collect();
        for required in REQUIRED {
            assert!(
                names.iter().any(|name| name.ends_with(required)),
                "mutants/ lacks {required}"
            );
        }
    }
}
