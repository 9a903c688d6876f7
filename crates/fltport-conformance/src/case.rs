//! A case: its number, where it comes from, what it needs, and its story.

use crate::backend::Need;
use crate::world::World;

/// One numbered case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its number, such as `F12`.
    pub id: &'static str,
    /// Evidence: D documented, S from a sample, X seen in binaries, I inferred, with commas between. Cases with X or I are
    /// not yet confirmed on Windows.
    pub tags: &'static str,
    /// What it says.
    pub title: &'static str,
    /// What a backend has to be able to express.
    pub needs: &'static [Need],
    /// Tells it; panics when the backend does otherwise.
    pub story: fn(&mut World),
}

/// A row of a table of cases.
pub(crate) const fn case(
    id: &'static str,
    tags: &'static str,
    needs: &'static [Need],
    title: &'static str,
    story: fn(&mut World),
) -> Case {
    Case {
        id,
        tags,
        title,
        needs,
        story,
    }
}

impl Case {
    /// Whether the behaviour is still to be confirmed on Windows.
    #[must_use]
    pub fn is_unconfirmed(&self) -> bool {
        self.tags
            .split(',')
            .any(|tag| matches!(tag.trim(), "X" | "I"))
    }

    /// Its chapter and its number there, for sorting.
    #[must_use]
    pub fn place(&self) -> (char, u32) {
        let number = self.id.get(1..).and_then(|number| number.parse().ok());
        (self.chapter(), number.unwrap_or(0))
    }

    /// The letter of its chapter.
    #[must_use]
    pub fn chapter(&self) -> char {
        self.id.chars().next().unwrap_or('?')
    }
}

/// The chapters, and how many cases each has. Those of X are this implementation's own.
pub const CHAPTERS: [(char, usize, &str); 16] = [
    ('A', 19, "Create"),
    ('B', 30, "Connect"),
    ('C', 12, "Security"),
    ('D', 16, "Send without reply"),
    ('E', 20, "Get"),
    ('F', 25, "Reply"),
    ('G', 13, "Timeouts"),
    ('H', 11, "Cancellation and thread death"),
    ('I', 22, "Disconnect"),
    ('J', 15, "Server port close and unregister"),
    ('K', 30, "Requests of the client"),
    (
        'L',
        20,
        "Overlapped gets, completion ports, synchronous handles",
    ),
    ('M', 10, "Sizes and padding"),
    ('N', 8, "Concurrency and stress"),
    ('P', 10, "Misuse"),
    ('X', 13, "Extensions of this implementation"),
];
