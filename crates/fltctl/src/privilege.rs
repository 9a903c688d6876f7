//! Whether this process may guard anything, and what to type if not.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use anyhow::bail;
use rustix::thread::CapabilitySet;

/// Fails with what to do, unless this process may start a filter host: root, with CAP_SYS_ADMIN.
pub(crate) fn ensure_may_guard() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "fanotify permission events need root. Type:\n  {}",
            as_root()
        );
    }
    let effective = rustix::thread::capabilities(None)?.effective;
    if !effective.contains(CapabilitySet::SYS_ADMIN) {
        bail!(
            "this root has no CAP_SYS_ADMIN, as in most containers; run fltctl outside, or give the container that capability"
        );
    }
    Ok(())
}

/// This very command, as root.
fn as_root() -> String {
    let program = std::env::current_exe().map_or_else(|_| OsString::from("fltctl"), Into::into);
    let words = std::iter::once(program).chain(std::env::args_os().skip(1));
    command_line(words, has_sudo(std::env::var_os("PATH").as_deref()))
}

fn command_line(words: impl Iterator<Item = OsString>, sudo: bool) -> String {
    let words: Vec<_> = words.map(|word| quoted(&word)).collect();
    let start = if sudo { "sudo" } else { "run this as root:" };
    format!("{start} {}", words.join(" "))
}

fn has_sudo(search: Option<&OsStr>) -> bool {
    let executable = |path: &Path| {
        rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
    };
    search.is_some_and(|search| {
        std::env::split_paths(search).any(|folder| executable(&folder.join("sudo")))
    })
}

/// The word as a shell wants it.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=+:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> impl Iterator<Item = OsString> {
        words
            .iter()
            .map(OsString::from)
            .collect::<Vec<_>>()
            .into_iter()
    }

    #[test]
    fn the_advice_can_be_pasted_into_a_shell() {
        let line = command_line(words(&["/bin/fltctl", "guard", "my files", "it's"]), true);
        assert_eq!(line, r"sudo /bin/fltctl guard 'my files' 'it'\''s'");
    }

    #[test]
    fn without_sudo_the_advice_does_not_name_it() {
        let line = command_line(words(&["/bin/fltctl", "demo"]), false);
        assert_eq!(line, "run this as root: /bin/fltctl demo");
        assert!(!has_sudo(Some(OsStr::new("/nowhere:/neither"))));
        assert!(!has_sudo(None));
    }
}
