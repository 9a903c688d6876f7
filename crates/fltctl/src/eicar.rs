//! The EICAR test file: the harmless 68 bytes that every scanner agrees to call a virus.
//!
//! They never stand together in this repository or in the program, or other scanners would quarantine both: they are put
//! together when the demo runs. The scanner's own copy of this idea is not shared, because products do not link each
//! other. Next room: `commands/demo.rs`.

use std::hint::black_box;

/// The 68 bytes.
pub(crate) fn test_file() -> Vec<u8> {
    // Hidden from the optimizer, which would otherwise be free to join the pieces when it compiles.
    let order = black_box(ORDER);
    let pieces = order.iter().filter_map(|&place| PIECES.get(place));
    pieces.flat_map(|piece| piece.bytes()).collect()
}

/// The text, cut and shuffled: a linker may lay constants down in the order it finds them.
const PIECES: [&str; 5] = [
    "ARD-ANTIVIRUS",
    "X5O!P%@AP[4",
    "-TEST-FILE!$H+H*",
    "CC)7}$EICAR-STAND",
    "\\PZX54(P^)7",
];

/// The places of the pieces in the order of the text.
const ORDER: [usize; 5] = [1, 4, 3, 0, 2];

#[cfg(test)]
mod tests {
    use super::test_file;

    #[test]
    fn the_test_file_is_the_published_one() {
        let file = test_file();
        assert_eq!(file.len(), 68);
        let weighted = file
            .iter()
            .zip(1_u32..)
            .map(|(&byte, place)| u32::from(byte) * place);
        assert_eq!(weighted.sum::<u32>(), 158_164);
        assert!(file.starts_with(b"X5O!") && file.ends_with(b"!$H+H*"));
    }

    #[test]
    fn the_built_binary_does_not_hold_the_assembled_text() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let text = test_file();
        let mut rest = &program[..];
        while let Some(at) = rest.iter().position(|&byte| byte == text[0]) {
            assert!(
                !rest[at..].starts_with(&text),
                "the binary holds the test file"
            );
            rest = &rest[at + 1..];
        }
    }
}
