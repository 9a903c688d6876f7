//! What a host's command line asks of it, through the host's control port.
//!
//! A request is a number; the response is JSON text, because it is for people and scripts and grows with the product.

use fltport_engine::NtStatus;

use crate::client::Client;
use crate::error::CallError;

/// What can be asked of a host's control port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u32)]
pub enum Request {
    /// The host itself: its version, processes, policies, counters.
    Status = 1,
    /// Its ports.
    Ports = 2,
    /// The connections of its ports.
    Connections = 3,
    /// Its filters.
    Filters = 4,
    /// What its filters are attached to.
    Instances = 5,
    /// Its mutes and the rules that say what is asked about only.
    Mutes = 6,
    /// Why a file is asked about or not: `Explain` of the module beside this one, which has more than the number.
    Explain = 7,
}

impl Request {
    /// The request in these bytes; `None` for one that this version does not know, and for [`Self::Explain`], which has
    /// a form of its own.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let value = u32::from_le_bytes(bytes.try_into().ok()?);
        [
            Self::Status,
            Self::Ports,
            Self::Connections,
            Self::Filters,
            Self::Instances,
            Self::Mutes,
        ]
        .into_iter()
        .find(|request| *request as u32 == value)
    }

    /// The request as bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 4] {
        (self as u32).to_le_bytes()
    }

    /// Asks over a connection to a control port; gives the response's JSON text.
    ///
    /// # Errors
    /// As [`Client::send`]; a response that is no text is `STATUS_INVALID_PARAMETER`.
    pub fn send(self, client: &Client) -> Result<String, CallError> {
        let bytes = client.send(&self.to_bytes(), client.max_message())?;
        String::from_utf8(bytes).map_err(|_| CallError::Status(NtStatus::INVALID_PARAMETER))
    }
}
