//! NTSTATUS, HRESULT, and the one place that maps the first to the second.
//!
//! The filter's side speaks NTSTATUS, the application's side HRESULT. Every status that crosses goes through
//! [`NtStatus::to_hresult`], which follows the filter manager's user library: filter-manager facility by rule, other
//! facilities to `E_FAIL`, the rest through the Win32 table.

use core::fmt;

/// A status as the filter's side sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NtStatus(pub u32);

/// A result as the application's side sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HResult(pub u32);

/// The severity of a status: its two top bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Done.
    Success,
    /// Done, with something to say; user mode sees a failure.
    Informational,
    /// Partly done; user mode sees a failure but may look at the data.
    Warning,
    /// Not done.
    Error,
}

macro_rules! statuses {
    ($($name:ident = $value:literal, $win32:literal, $text:literal;)*) => {
        impl NtStatus {
            $(#[doc = concat!("`STATUS_", stringify!($name), "`: ", $text, ".")]
            pub const $name: Self = Self($value);)*

            /// The status's name without its `STATUS_` prefix, where this crate knows it.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// What the status means for a port, where this crate knows it.
            #[must_use]
            pub const fn meaning(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)*
                    _ => None,
                }
            }

            /// The Win32 code of a facility-less status (`RtlNtStatusToDosError`).
            const fn win32(self) -> u32 {
                match self.0 {
                    $($value => $win32,)*
                    _ => ERROR_MR_MID_NOT_FOUND,
                }
            }
        }
    };
}

/// What `RtlNtStatusToDosError` gives for a status that it does not know.
const ERROR_MR_MID_NOT_FOUND: u32 = 317;

statuses! {
    SUCCESS = 0x0000_0000, 0, "done";
    TIMEOUT = 0x0000_0102, 258, "the deadline passed before delivery or reply";
    PENDING = 0x0000_0103, 997, "the request was queued";
    DATATYPE_MISALIGNMENT = 0x8000_0002, 998, "a buffer is misaligned";
    BUFFER_OVERFLOW = 0x8000_0005, 234, "the reply was longer than expected and was cut";
    NO_MORE_ENTRIES = 0x8000_001A, 259, "nothing more to give";
    UNSUCCESSFUL = 0xC000_0001, 31, "the callback failed";
    ACCESS_VIOLATION = 0xC000_0005, 998, "a buffer cannot be accessed";
    INVALID_HANDLE = 0xC000_0008, 6, "not an open handle";
    INVALID_PARAMETER = 0xC000_000D, 87, "an argument is wrong";
    INVALID_DEVICE_REQUEST = 0xC000_0010, 1, "not a port, or not a request for one";
    NO_MEMORY = 0xC000_0017, 8, "the library is out of memory";
    ACCESS_DENIED = 0xC000_0022, 5, "the port's security descriptor or the filter refused";
    BUFFER_TOO_SMALL = 0xC000_0023, 122, "the get is too small for the message";
    OBJECT_TYPE_MISMATCH = 0xC000_0024, 6, "the name is not a port";
    OBJECT_NAME_INVALID = 0xC000_0033, 123, "the port's name is not valid";
    OBJECT_NAME_NOT_FOUND = 0xC000_0034, 2, "no port has this name";
    OBJECT_NAME_COLLISION = 0xC000_0035, 183, "the name is taken";
    PORT_DISCONNECTED = 0xC000_0037, 6, "the connection is gone";
    OBJECT_PATH_NOT_FOUND = 0xC000_003A, 3, "a folder of the name does not exist";
    OBJECT_PATH_SYNTAX_BAD = 0xC000_003B, 161, "the name does not start with a backslash";
    THREAD_IS_TERMINATING = 0xC000_004B, 5, "the sender gave up";
    PRIVILEGE_NOT_HELD = 0xC000_0061, 1314, "a privilege is missing";
    INTEGER_OVERFLOW = 0xC000_0095, 534, "the context is too long";
    INSUFFICIENT_RESOURCES = 0xC000_009A, 1450, "a limit of the host is reached";
    IO_TIMEOUT = 0xC000_00B5, 121, "the filter's own translation of a timeout";
    NOT_SUPPORTED = 0xC000_00BB, 50, "the port takes no messages from applications";
    INVALID_PARAMETER_3 = 0xC000_00F1, 87, "the third argument is wrong";
    NAME_TOO_LONG = 0xC000_0106, 206, "the port's name is too long";
    CANCELLED = 0xC000_0120, 995, "the request was cancelled";
    NOT_FOUND = 0xC000_0225, 1168, "not found";
    CONNECTION_COUNT_LIMIT = 0xC000_0246, 1238, "the port has all the connections it allows";
    FLT_IO_COMPLETE = 0x001C_0001, 0, "the operation is complete";
    FLT_BUFFER_TOO_SMALL = 0x801C_0001, 0, "the get is too small for the message (filter-manager form)";
    FLT_NOT_INITIALIZED = 0xC01C_0007, 0, "the filter manager is not ready";
    FLT_DELETING_OBJECT = 0xC01C_000B, 0, "the filter is being unregistered";
    FLT_NO_WAITER_FOR_REPLY = 0xC01C_0020, 0, "nobody waits for this reply: late, double or never asked for";
}

impl NtStatus {
    /// Severity by the two top bits.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self.0 >> 30 {
            0 => Severity::Success,
            1 => Severity::Informational,
            2 => Severity::Warning,
            _ => Severity::Error,
        }
    }

    /// `NT_SUCCESS`: success and informational severities. **A timeout passes**, which is why no function of this
    /// project hands a timeout out as a success.
    #[must_use]
    pub const fn is_nt_success(self) -> bool {
        matches!(self.severity(), Severity::Success | Severity::Informational)
    }

    /// What the application sees of this status.
    ///
    /// ```
    /// use fltport_engine::{HResult, NtStatus};
    /// assert_eq!(NtStatus::PORT_DISCONNECTED.to_hresult(), HResult(0x8007_0006));
    /// assert_eq!(NtStatus::FLT_NO_WAITER_FOR_REPLY.to_hresult(), HResult(0x801F_0020));
    /// ```
    #[must_use]
    pub const fn to_hresult(self) -> HResult {
        if self.0 == Self::SUCCESS.0 {
            return HResult::OK;
        }
        // The customer bit makes a status opaque: it reaches the application unchanged.
        if self.0 & CUSTOMER_BIT != 0 {
            return HResult(self.0);
        }
        match (self.0 >> 16) & FACILITY_MASK {
            FACILITY_FILTER_MANAGER if self.0 == Self::FLT_BUFFER_TOO_SMALL.0 => {
                HResult::from_win32(122)
            }
            FACILITY_FILTER_MANAGER => HResult((self.0 & 0x8000_FFFF) | 0x001F_0000),
            0 => HResult::from_win32(self.win32()),
            _ => HResult::FAIL,
        }
    }
}

const CUSTOMER_BIT: u32 = 0x2000_0000;
const FACILITY_MASK: u32 = 0x0FFF;
const FACILITY_FILTER_MANAGER: u32 = 0x1C;

impl HResult {
    /// `S_OK`.
    pub const OK: Self = Self(0);
    /// `E_FAIL`.
    pub const FAIL: Self = Self(0x8000_4005);
    /// The connection is gone, the handle is closed, or the name is no port.
    pub const DISCONNECTED: Self = Self(0x8007_0006);
    /// Nobody waits for this reply.
    pub const NO_WAITER: Self = Self(0x801F_0020);

    /// `HRESULT_FROM_WIN32`.
    #[must_use]
    pub const fn from_win32(code: u32) -> Self {
        if code == 0 {
            Self::OK
        } else {
            Self(0x8007_0000 | (code & 0xFFFF))
        }
    }

    /// `SUCCEEDED`.
    #[must_use]
    pub const fn succeeded(self) -> bool {
        self.0 >> 31 == 0
    }
}

impl fmt::Debug for NtStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for NtStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "STATUS_{name} (0x{:08X})", self.0),
            None => write!(f, "status 0x{:08X}", self.0),
        }
    }
}

impl fmt::Debug for HResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for HResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08X}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Status, what the application sees: every row of the published table.
    const TABLE: &[(NtStatus, u32)] = &[
        (NtStatus::SUCCESS, 0),
        (NtStatus::TIMEOUT, 0x8007_0102),
        (NtStatus::PENDING, 0x8007_03E5),
        (NtStatus::BUFFER_OVERFLOW, 0x8007_00EA),
        (NtStatus::DATATYPE_MISALIGNMENT, 0x8007_03E6),
        (NtStatus::NO_MORE_ENTRIES, 0x8007_0103),
        (NtStatus::UNSUCCESSFUL, 0x8007_001F),
        (NtStatus::ACCESS_VIOLATION, 0x8007_03E6),
        (NtStatus::INVALID_HANDLE, 0x8007_0006),
        (NtStatus::INVALID_PARAMETER, 0x8007_0057),
        (NtStatus::INVALID_DEVICE_REQUEST, 0x8007_0001),
        (NtStatus::NO_MEMORY, 0x8007_0008),
        (NtStatus::ACCESS_DENIED, 0x8007_0005),
        (NtStatus::BUFFER_TOO_SMALL, 0x8007_007A),
        (NtStatus::OBJECT_TYPE_MISMATCH, 0x8007_0006),
        (NtStatus::OBJECT_NAME_INVALID, 0x8007_007B),
        (NtStatus::OBJECT_NAME_NOT_FOUND, 0x8007_0002),
        (NtStatus::OBJECT_NAME_COLLISION, 0x8007_00B7),
        (NtStatus::PORT_DISCONNECTED, 0x8007_0006),
        (NtStatus::OBJECT_PATH_NOT_FOUND, 0x8007_0003),
        (NtStatus::OBJECT_PATH_SYNTAX_BAD, 0x8007_00A1),
        (NtStatus::THREAD_IS_TERMINATING, 0x8007_0005),
        (NtStatus::PRIVILEGE_NOT_HELD, 0x8007_0522),
        (NtStatus::INTEGER_OVERFLOW, 0x8007_0216),
        (NtStatus::INSUFFICIENT_RESOURCES, 0x8007_05AA),
        (NtStatus::IO_TIMEOUT, 0x8007_0079),
        (NtStatus::NOT_SUPPORTED, 0x8007_0032),
        (NtStatus::INVALID_PARAMETER_3, 0x8007_0057),
        (NtStatus::NAME_TOO_LONG, 0x8007_00CE),
        (NtStatus::CANCELLED, 0x8007_03E3),
        (NtStatus::NOT_FOUND, 0x8007_0490),
        (NtStatus::CONNECTION_COUNT_LIMIT, 0x8007_04D6),
        (NtStatus::FLT_IO_COMPLETE, 0x001F_0001),
        (NtStatus::FLT_BUFFER_TOO_SMALL, 0x8007_007A),
        (NtStatus::FLT_NOT_INITIALIZED, 0x801F_0007),
        (NtStatus::FLT_DELETING_OBJECT, 0x801F_000B),
        (NtStatus::FLT_NO_WAITER_FOR_REPLY, 0x801F_0020),
    ];

    #[test]
    fn k6_to_k14_every_known_status_maps_as_published() {
        for (status, seen) in TABLE {
            assert_eq!(status.to_hresult(), HResult(*seen), "{status}");
        }
    }

    #[test]
    fn b15_k14_a_foreign_facility_is_e_fail() {
        assert_eq!(NtStatus(0xC019_0001).to_hresult(), HResult::FAIL);
        assert_eq!(NtStatus(0xC0FF_0001).to_hresult(), HResult::FAIL);
    }

    #[test]
    fn k13_customer_bit_passes_and_unknown_becomes_317() {
        assert_eq!(NtStatus(0xE000_1234).to_hresult(), HResult(0xE000_1234));
        assert_eq!(NtStatus(0xC000_7FFF).to_hresult(), HResult(0x8007_013D));
    }

    #[test]
    fn g9_a_timeout_passes_nt_success_and_is_a_failure_for_the_application() {
        assert!(NtStatus::TIMEOUT.is_nt_success());
        assert!(!NtStatus::TIMEOUT.to_hresult().succeeded());
    }
}
