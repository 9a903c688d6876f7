//! What a client asks the filter for, and what it has to get: known to both sides.

use fltport::NtStatus;

/// What the message callback is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Fill the output.
    Answer,
    /// The same, after a while.
    Slowly,
    /// Refuse.
    Refuse,
    /// Fill half of the output, and say that there is more.
    Warn,
    /// Close the connection.
    Close,
    /// Ask this client something first.
    AskBack,
}

impl Wish {
    pub(crate) const ALL: [Self; 6] = [
        Self::Answer,
        Self::Slowly,
        Self::Refuse,
        Self::Warn,
        Self::Close,
        Self::AskBack,
    ];

    pub(crate) fn from_number(number: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// What a refused request is told.
pub(crate) const REFUSAL: NtStatus = NtStatus::ACCESS_DENIED;

/// The status that comes with half an answer.
pub(crate) const WARNING: NtStatus = NtStatus::BUFFER_OVERFLOW;

/// The status of a reply that says no.
pub(crate) const NEGATIVE: NtStatus = NtStatus::ACCESS_DENIED;

/// What a connecting client wants of the connect callback. The context: the number of its life, and this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    Plain,
    Refuse,
    CloseAtOnce,
    Slowly,
}

impl Greeting {
    const ALL: [Self; 4] = [Self::Plain, Self::Refuse, Self::CloseAtOnce, Self::Slowly];

    pub(crate) fn context(self, life: u64) -> Vec<u8> {
        let mut bytes = life.to_le_bytes().to_vec();
        bytes.push(self as u8);
        bytes
    }

    pub(crate) fn read(context: &[u8]) -> Option<(u64, Self)> {
        let (life, rest) = context.split_first_chunk::<8>()?;
        let [greeting] = rest else { return None };
        let greeting = Self::ALL.get(usize::from(*greeting))?;
        Some((u64::from_le_bytes(*life), *greeting))
    }
}
