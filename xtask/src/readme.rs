//! The README's Rust code is compiled: each block stands, word for word, in an example of one of the crates.

use std::path::Path;

use anyhow::{Context as _, bail};

/// Checks every Rust block of the README.
///
/// # Errors
///
/// When a block is in no example, or a file cannot be read.
pub(crate) fn inspect(root: &Path) -> anyhow::Result<()> {
    let readme =
        std::fs::read_to_string(root.join("README.md")).context("cannot read README.md")?;
    let mut examples = Vec::new();
    for krate in std::fs::read_dir(root.join("crates"))? {
        let Ok(folder) = std::fs::read_dir(krate?.path().join("examples")) else {
            continue;
        };
        for example in folder {
            let path = example?.path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                examples.push(std::fs::read_to_string(path)?);
            }
        }
    }
    for (line, block) in rust_blocks(&readme) {
        if !examples.iter().any(|example| example.contains(block)) {
            bail!(
                "README.md:{line}: this code is in no example. What to do: copy it from crates/*/examples"
            );
        }
    }
    Ok(())
}

/// The Rust blocks of a Markdown text, with the line that each begins at.
fn rust_blocks(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.match_indices("```rust\n")
        .filter_map(|(start, fence)| {
            let rest = text.get(start + fence.len()..)?;
            let block = rest.split("```").next()?;
            Some((text.get(..start)?.lines().count() + 1, block))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_with_their_lines_and_other_languages_are_not() {
        let text = "a\n```rust\nfn a() {}\n```\n```sh\nls\n```\n```rust\nb\n```\n";
        let found: Vec<_> = rust_blocks(text).collect();
        assert_eq!(found, [(2, "fn a() {}\n"), (8, "b\n")]);
    }
}
