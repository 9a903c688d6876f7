//! What can happen at a connection, as an input lists it.
//!
//! Sizes, numbers and times are single bytes that the player reduces to small ranges, so that gets of a few bytes often
//! fit and often do not, and an altered byte is another story rather than no story. [`encode`] writes what
//! `arbitrary` reads; seeds are made with it.

use arbitrary::Arbitrary;

/// How long a send waits.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Without a limit.
    Never,
    /// Only for a get that is there.
    Poll,
    /// On the monotonic clock.
    After {
        /// From now.
        millis: u8,
    },
    /// On the wall clock.
    AtWall {
        /// From now.
        millis: u8,
    },
    /// Until a moment that is over.
    Past,
    /// Longer than the clock goes.
    Forever,
}

/// One thing that happens.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Op {
    Send { size: u8, reply: u8, when: When },
    Get { size: u8 },
    CancelGet { back: u8 },
    Reply { which: u8, size: u8, status: u8 },
    Request { size: u8, capacity: u8 },
    CallbackReturns { status: u8, size: u8 },
    ConnectReturns { status: u8 },
    CloseByFilter,
    CloseByClient,
    Unregister,
    DisconnectReturns,
    Advance { millis: u8 },
    SetWall { millis: u8 },
    StopReading,
    ResumeReading,
    CancelSend { back: u8 },
}

/// The bytes that are read as these operations.
#[must_use]
pub fn encode(accepted: bool, ops: &[Op]) -> Vec<u8> {
    let mut bytes = vec![u8::from(accepted)];
    for op in ops {
        let (variant, operands): (u32, Vec<u8>) = match *op {
            Op::Send { size, reply, when } => (0, [vec![size, reply], encode_when(when)].concat()),
            Op::Get { size } => (1, vec![size]),
            Op::CancelGet { back } => (2, vec![back]),
            Op::Reply {
                which,
                size,
                status,
            } => (3, vec![which, size, status]),
            Op::Request { size, capacity } => (4, vec![size, capacity]),
            Op::CallbackReturns { status, size } => (5, vec![status, size]),
            Op::ConnectReturns { status } => (6, vec![status]),
            Op::CloseByFilter => (7, vec![]),
            Op::CloseByClient => (8, vec![]),
            Op::Unregister => (9, vec![]),
            Op::DisconnectReturns => (10, vec![]),
            Op::Advance { millis } => (11, vec![millis]),
            Op::SetWall { millis } => (12, vec![millis]),
            Op::StopReading => (13, vec![]),
            Op::ResumeReading => (14, vec![]),
            Op::CancelSend { back } => (15, vec![back]),
        };
        bytes.extend(choice(variant, 16));
        bytes.extend(operands);
    }
    bytes
}

fn encode_when(when: When) -> Vec<u8> {
    let (variant, operand) = match when {
        When::Never => (0, None),
        When::Poll => (1, None),
        When::After { millis } => (2, Some(millis)),
        When::AtWall { millis } => (3, Some(millis)),
        When::Past => (4, None),
        When::Forever => (5, None),
    };
    choice(variant, 6).into_iter().chain(operand).collect()
}

/// The bytes that a derived `Arbitrary` takes for one variant of so many.
pub(crate) fn choice(variant: u32, of: u32) -> [u8; 4] {
    let start = (u64::from(variant) << 32).div_ceil(u64::from(of));
    u32::try_from(start).unwrap_or(u32::MAX).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_read_again() {
        let whens = [
            When::Never,
            When::Poll,
            When::After { millis: 3 },
            When::AtWall { millis: 4 },
            When::Past,
            When::Forever,
        ];
        let mut ops: Vec<_> = whens
            .map(|when| Op::Send {
                size: 1,
                reply: 2,
                when,
            })
            .into();
        ops.extend([
            Op::Get { size: 5 },
            Op::CancelGet { back: 6 },
            Op::Reply {
                which: 7,
                size: 8,
                status: 9,
            },
            Op::Request {
                size: 10,
                capacity: 11,
            },
            Op::CallbackReturns {
                status: 12,
                size: 13,
            },
            Op::ConnectReturns { status: 14 },
            Op::CloseByFilter,
            Op::CloseByClient,
            Op::Unregister,
            Op::DisconnectReturns,
            Op::Advance { millis: 15 },
            Op::SetWall { millis: 16 },
            Op::StopReading,
            Op::ResumeReading,
            Op::CancelSend { back: 17 },
        ]);
        let bytes = encode(true, &ops);
        let mut input = arbitrary::Unstructured::new(&bytes);
        assert!(input.arbitrary::<bool>().unwrap());
        let mut read = Vec::new();
        while !input.is_empty() {
            read.push(input.arbitrary::<Op>().unwrap());
        }
        assert_eq!(read, ops);
    }
}
