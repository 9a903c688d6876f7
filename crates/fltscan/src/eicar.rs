//! The EICAR test file: the harmless 68 bytes that every scanner agrees to call a virus.
//!
//! For showing that the whole path works (rules, scanner, port, verdict) without anything dangerous.
//! Not a detection worth anything: it is the only built-in rule, real rules come from files.
//! The bytes never stand together in this repository or in a binary built from it, or other scanners would
//! quarantine our source tree, our packages and the scanner itself. Next room: `rules.rs`, which compiles the rule.

use std::hint::black_box;

/// Returns the 68 bytes of the EICAR test file.
///
/// References: <https://www.eicar.org/download-anti-malware-testfile/>
pub fn test_file() -> Vec<u8> {
    // The order is hidden from the optimizer, which would otherwise be free to join the pieces when it compiles.
    let order = black_box(ORDER);
    let pieces = order.iter().filter_map(|&place| PIECES.get(place));
    pieces.flat_map(|piece| piece.bytes()).collect()
}

/// Returns the source of the YARA rule `EICAR_Test_File`.
///
/// It matches if the test string begins within the first 4096 bytes: at the very start, as the definition of
/// the test file says, or behind a small header (an archive that stores it, a mail). Documents that quote the string
/// further down are left alone.
pub fn rule_source() -> String {
    let text = test_file();
    let text = text.escape_ascii();
    format!(
        "rule {RULE_NAME} {{ strings: $eicar = \"{text}\" condition: $eicar in (0..{LAST_START}) }}"
    )
}

/// Name of the built-in rule, as it appears in a finding.
const RULE_NAME: &str = "EICAR_Test_File";

/// Last offset at which the test string still counts: one page, enough for any header of a small container.
const LAST_START: usize = 4095;

/// The string, cut and shuffled: a linker may lay constants down next to each other in the order it finds them.
const PIECES: [&str; 6] = [
    "STANDARD-ANTI",
    "!$H+H*",
    "X5O!P%@AP",
    "VIRUS-TEST-FILE",
    "[4\\PZX54(P^)",
    "7CC)7}$EICAR-",
];

/// The places of `PIECES` in the order of the string.
const ORDER: [usize; 6] = [2, 4, 5, 0, 3, 1];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    #[test]
    fn the_test_file_is_the_published_one() {
        let file = test_file();
        assert_eq!(file.len(), 68);
        // Published checksums are of no use without a hash function; this catches a swap, a loss and a typo.
        let weighted = file
            .iter()
            .zip(1_u32..)
            .map(|(&byte, place)| u32::from(byte) * place)
            .sum::<u32>();
        assert_eq!(weighted, 158_164);
        assert!(file.starts_with(b"X5O!") && file.ends_with(b"!$H+H*"));
    }

    #[test]
    fn no_source_file_holds_the_assembled_string() {
        let mut pending = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR"))];
        let mut files = 0;
        while let Some(path) = pending.pop() {
            if path.is_dir() {
                pending.extend(
                    fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
            } else {
                assert_not_inside(&path);
                files += 1;
            }
        }
        assert!(files >= 4, "the walk found only {files} files");
    }

    #[test]
    fn the_built_binary_does_not_hold_the_assembled_string() {
        assert_not_inside(&std::env::current_exe().unwrap());
    }

    /// Fails if the file holds the test string, as it is or with YARA's escapes.
    fn assert_not_inside(path: &Path) {
        let content = fs::read(path).unwrap();
        let plain = test_file();
        let escaped = plain.escape_ascii().to_string().into_bytes();
        for form in [plain, escaped] {
            // From one candidate for the first byte to the next: comparing every window takes seconds in a debug build.
            let mut rest = &content[..];
            while let Some(at) = rest.iter().position(|&byte| byte == form[0]) {
                assert!(
                    !rest[at..].starts_with(&form),
                    "{} holds the test string",
                    path.display()
                );
                rest = &rest[at + 1..];
            }
        }
    }
}
