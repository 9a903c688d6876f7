//! Port names: full object-manager paths such as `\ScannerPort`, parsed once and safe to turn into file names.

use alloc::string::{String, ToString};
use core::fmt;

use crate::limits;
use crate::status::NtStatus;

/// A checked port name: a leading backslash, one or more components, nothing that could leave the port directory.
///
/// ```
/// use fltport_engine::PortName;
/// let name = PortName::parse(r"\fltport\control")?;
/// assert_eq!(name.components().collect::<Vec<_>>(), ["fltport", "control"]);
/// assert!(PortName::parse(r"\..\etc").is_err());
/// # Ok::<(), fltport_engine::NameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName(String);

/// Why a text is no port name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing, or nothing behind the backslash.
    #[error("the port name is empty; write it as \\Name")]
    Empty,
    /// The leading backslash is missing.
    #[error("the port name does not start with a backslash; write it as \\Name")]
    NoBackslash,
    /// Longer than [`limits::NAME_MAX`] bytes.
    #[error("the port name has {0} bytes; {max} are allowed", max = limits::NAME_MAX)]
    TooLong(usize),
    /// An empty component, `.` or `..`.
    #[error("the port name has an empty component, '.' or '..'")]
    BadComponent,
    /// A slash, a control character or NUL.
    #[error("the port name has the character {0:?}, which no name may have")]
    BadCharacter(char),
}

impl NameError {
    /// The status that creating or opening such a name gives.
    #[must_use]
    pub const fn status(self) -> NtStatus {
        match self {
            Self::NoBackslash => NtStatus::OBJECT_PATH_SYNTAX_BAD,
            Self::TooLong(_) => NtStatus::NAME_TOO_LONG,
            Self::Empty | Self::BadComponent | Self::BadCharacter(_) => {
                NtStatus::OBJECT_NAME_INVALID
            }
        }
    }
}

impl PortName {
    /// Checks `text` and keeps it as a name.
    ///
    /// # Errors
    /// [`NameError`] says what is wrong; nothing is corrected silently.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text == "\\" {
            return Err(NameError::Empty);
        }
        let Some(rest) = text.strip_prefix('\\') else {
            return Err(NameError::NoBackslash);
        };
        if text.len() > limits::NAME_MAX {
            return Err(NameError::TooLong(text.len()));
        }
        if let Some(bad) = rest.chars().find(|c| *c == '/' || c.is_control()) {
            return Err(NameError::BadCharacter(bad));
        }
        if rest
            .split('\\')
            .any(|part| part.is_empty() || part.starts_with('.'))
        {
            return Err(NameError::BadComponent);
        }
        Ok(Self(text.to_string()))
    }

    /// The components, without backslashes; at least one.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('\\').skip(1)
    }

    /// The name with case folded: two names that fold to the same text collide.
    #[must_use]
    pub fn folded(&self) -> String {
        fold(&self.0)
    }

    /// The name as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Folds case the way names are compared when a port is made. Down first: `ẞ` is upper case already, and its lower case has
/// another upper case (`SS`), so the two would not meet otherwise.
#[must_use]
pub fn fold(text: &str) -> String {
    text.chars()
        .flat_map(char::to_lowercase)
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .collect()
}

impl fmt::Debug for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::str::FromStr for PortName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a9_b3_a_missing_backslash_is_a_path_syntax_error() {
        let error = PortName::parse("ScannerPort").unwrap_err();
        assert_eq!(error.status(), NtStatus::OBJECT_PATH_SYNTAX_BAD);
        assert_eq!(error.status().to_hresult().0, 0x8007_00A1);
    }

    #[test]
    fn nothing_leaves_the_directory() {
        for bad in [
            "\\..",
            "\\a\\..\\b",
            "\\.",
            "\\.hidden",
            "\\a\\",
            "\\\\a",
            "\\a/b",
            "\\a\0b",
            "\\a\nb",
        ] {
            assert!(PortName::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(PortName::parse(""), Err(NameError::Empty));
        assert_eq!(PortName::parse("\\"), Err(NameError::Empty));
    }

    #[test]
    fn three_hundred_characters_are_too_many() {
        let long = std::format!("\\{}", "x".repeat(300));
        assert_eq!(
            PortName::parse(&long).unwrap_err().status(),
            NtStatus::NAME_TOO_LONG
        );
        let fits = std::format!("\\{}", "x".repeat(limits::NAME_MAX - 1));
        assert!(PortName::parse(&fits).is_ok());
    }

    #[test]
    fn a7_names_that_differ_in_case_fold_together() {
        let one = PortName::parse("\\ScannerPort").unwrap();
        let two = PortName::parse("\\SCANNERport").unwrap();
        assert_ne!(one, two);
        assert_eq!(one.folded(), two.folded());
    }
    #[test]
    fn a_name_folds_as_its_other_cases_do() {
        for name in [
            "Stra\u{1E9E}e",
            "\u{212A}elvin",
            "\u{130}",
            "\u{149}",
            "\u{3A3}\u{3C2}",
        ] {
            assert_eq!(fold(&name.to_uppercase()), fold(name), "{name}");
            assert_eq!(fold(&name.to_lowercase()), fold(name), "{name}");
        }
    }
}
