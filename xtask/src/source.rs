//! Rust text reduced to what the compiler would act on, for rules that must not trip over words.
//!
//! [`code`] blanks comments and literals, [`without_tests`] blanks test-only items after that. Both keep every line
//! where it was, so that a finding can name its line. This is a scanner for well-formed, formatted files and no parser:
//! it does not look into macros. The rules themselves are in `house.rs`.

/// `text` with the contents of comments, strings and character literals blanked.
pub(crate) fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end =
            at + literal_or_comment(&bytes[at..], at.checked_sub(1).map(|before| bytes[before]));
        blank(&mut out[at..end]);
        at = end.max(at + 1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// `code` (an output of [`code`]) with all items blanked that only exist in a test build.
pub(crate) fn without_tests(code: &str) -> String {
    let mut out = code.as_bytes().to_vec();
    let mut from = 0;
    while let Some(found) = code[from..].find("#[").map(|offset| from + offset) {
        let Some(length) = code[found..].find(']') else {
            break;
        };
        let attribute: String = code[found + 2..found + length].split_whitespace().collect();
        from = found + length;
        if is_test_only(&attribute) {
            let end = item_end(code.as_bytes(), from);
            blank(&mut out[found..end]);
            from = end;
        }
    }
    if code.contains("#![cfg(test)]") {
        blank(&mut out);
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The number (from 1) of every line of `text` in which `found` sees something.
pub(crate) fn lines_where(text: &str, found: impl Fn(&str) -> bool) -> Vec<usize> {
    let numbered = text.lines().zip(1..);
    numbered
        .filter(|(line, _)| found(line))
        .map(|(_, number)| number)
        .collect()
}

/// Whether `word` stands in `line` as a word of its own: not as a part of a longer identifier.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    let in_identifier = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        !in_identifier(before.chars().next_back()) && !in_identifier(after.chars().next())
    })
}

/// How many bytes of `rest` belong to the comment or literal that starts there; 0 if none does.
fn literal_or_comment(rest: &[u8], before: Option<u8>) -> usize {
    match rest {
        [b'/', b'/', ..] => rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => block_comment(rest),
        [b'"', ..] => quoted(rest, b'"'),
        [b'\'', b'\\', ..] => quoted(rest, b'\''),
        [b'\'', next @ ..] => character(next).map_or(0, |length| length + 1),
        [b'r', ..] if !before.is_some_and(continues_identifier) || is_raw_prefix(before) => {
            raw_string(rest)
        }
        _ => 0,
    }
}

/// The length of the block comment that `rest` starts with; they nest.
fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_u32, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of a literal with escapes, both quotes counted.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// The length of `x'` after an opening quote; `None` if that quote opens a lifetime.
fn character(rest: &[u8]) -> Option<usize> {
    let first = std::str::from_utf8(&rest[..rest.len().min(4)]);
    let length = match first {
        Ok(text) => text.chars().next()?.len_utf8(),
        Err(error) if error.valid_up_to() > 0 => {
            let valid = std::str::from_utf8(&rest[..error.valid_up_to()]).ok()?;
            valid.chars().next()?.len_utf8()
        }
        Err(_) => return None,
    };
    (rest.get(length) == Some(&b'\'')).then_some(length + 1)
}

/// The length of `r"…"` or `r#"…"#`; 0 if it is only a name that starts with an r.
fn raw_string(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let body = 2 + hashes;
    let closing: Vec<u8> = std::iter::once(b'"')
        .chain(std::iter::repeat_n(b'#', hashes))
        .collect();
    let end = rest[body..]
        .windows(closing.len())
        .position(|window| window == closing);
    end.map_or(rest.len(), |end| body + end + closing.len())
}

fn continues_identifier(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// `br"…"` and `cr"…"`.
fn is_raw_prefix(before: Option<u8>) -> bool {
    matches!(before, Some(b'b' | b'c'))
}

/// Whether an attribute (without spaces) keeps its item out of every build but a test's.
fn is_test_only(attribute: &str) -> bool {
    let conditional = attribute == "cfg(test)"
        || attribute.starts_with("cfg(all(") && has_word(attribute, "test");
    attribute == "test" || conditional && !attribute.contains("not(") && !attribute.contains("any(")
}

/// Where the item ends that starts at `from`: after its block, or at its semicolon.
fn item_end(code: &[u8], from: usize) -> usize {
    let (mut blocks, mut brackets) = (0_u32, 0_u32);
    for (at, byte) in code.iter().enumerate().skip(from + 1) {
        match byte {
            b'(' | b'[' => brackets += 1,
            b')' | b']' => brackets = brackets.saturating_sub(1),
            b'{' => blocks += 1,
            b'}' if blocks <= 1 => return at + 1,
            b'}' => blocks -= 1,
            b';' if blocks == 0 && brackets == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

fn blank(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().filter(|byte| **byte != b'\n') {
        *byte = b' ';
    }
}

#[cfg(test)]
mod tests {
    use super::{code, has_word, lines_where, without_tests};

    #[test]
    fn comments_and_literals_are_blanked_and_lines_stay() {
        let text = "a // word\nb /* word /* word */ word */ c\n\"word \\\" word\" d\nr#\"word \" word\"# e\n";
        let code = code(text);
        assert!(!code.contains("word"), "{code}");
        assert_eq!(code.split_whitespace().collect::<String>(), "abcde");
        assert_eq!(code.lines().count(), text.lines().count());
    }

    #[test]
    fn a_lifetime_is_not_a_character() {
        let code = code("fn f<'a>(x: &'a str) -> char { word('\"', '\\'', 'ä', b'{') } // 'x");
        assert!(code.contains("<'a>(x: &'a str)"), "{code}");
        assert!(code.contains("word("), "{code}");
        assert!(
            !code.contains(['"', 'ä']) && code.matches('{').count() == 1,
            "{code}"
        );
    }

    #[test]
    fn a_name_that_ends_in_r_opens_no_raw_string() {
        let code = code("for r in xr { var(\"gone\", br\"gone\", cr#\"gone\"#); stays() }");
        assert!(code.contains("stays") && !code.contains("gone"), "{code}");
    }

    #[test]
    fn test_items_are_blanked_and_the_rest_stays() {
        let text = "keep1\n#[cfg(test)]\nmod tests { fn a() { gone } }\nkeep2\n#[test]\nfn t(x: [u8; 4]) { gone }\nkeep3\n\
                    #[cfg(all(test, loom))]\nuse gone;\n#[cfg(test)]\nmod tests;\nkeep4\n#[cfg(not(test))] fn f() { keep5 }\n";
        let left = without_tests(&code(text));
        assert!(!left.contains("gone"), "{left}");
        for kept in ["keep1", "keep2", "keep3", "keep4", "keep5"] {
            assert!(left.contains(kept), "{kept}: {left}");
        }
        assert_eq!(left.lines().count(), text.lines().count());
    }

    #[test]
    fn a_file_of_tests_is_blanked_as_a_whole() {
        assert_eq!(without_tests("#![cfg(test)]\nfn f() { x }\n").trim(), "");
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("a word.", "word"));
        assert!(!has_word("a words, a_word, wordy", "word"));
        assert_eq!(lines_where("one\ntwo\none", |line| line == "one"), [1, 3]);
    }
}
