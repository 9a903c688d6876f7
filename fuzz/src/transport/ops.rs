//! What a lying peer can do, as an input lists it. `encode` writes what `arbitrary` reads.

use arbitrary::Arbitrary;

use crate::engine::ops::choice;

/// How a greeting is.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Greeting {
    Right,
    /// Right, and its answer is not waited for.
    RightAndLeave,
    Narrow,
    OtherWidth,
    OtherLength,
    TooLong,
}

/// What is wrong with a packet.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Lie {
    None,
    Byte { at: u8, with: u8 },
    Shorter { by: u8 },
    Longer { by: u8 },
}

/// One thing that the peer, or the filter towards it, does.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Op {
    Connect {
        on: u8,
    },
    Greet {
        on: u8,
        context: u8,
        how: Greeting,
    },
    Close {
        on: u8,
    },
    /// The filter asks a peer.
    Ask {
        of: u8,
        size: u8,
        wait: u8,
    },
    /// The filter closes its end towards a peer.
    Shut {
        of: u8,
    },
    Frame {
        on: u8,
        lie: Lie,
        kind: u8,
        token: u8,
        id: u8,
        a: u8,
        payload: u8,
    },
    Long {
        on: u8,
        length: u8,
        parts: u8,
        last: i8,
        lie: Lie,
    },
    Garbage {
        on: u8,
        length: u16,
        fill: u8,
    },
    Attach {
        on: u8,
        files: u8,
    },
    Read {
        on: u8,
    },
    HalfClose {
        on: u8,
        how: u8,
    },
}

/// The bytes that are read as these operations.
#[must_use]
pub fn encode(ops: &[Op]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for op in ops {
        let (variant, operands): (u32, Vec<u8>) = match *op {
            Op::Connect { on } => (0, vec![on]),
            Op::Greet { on, context, how } => {
                (1, [&[on, context][..], &choice(how as u32, 6)].concat())
            }
            Op::Close { on } => (2, vec![on]),
            Op::Ask { of, size, wait } => (3, vec![of, size, wait]),
            Op::Shut { of } => (4, vec![of]),
            Op::Frame {
                on,
                lie,
                kind,
                token,
                id,
                a,
                payload,
            } => {
                let rest = [kind, token, id, a, payload];
                (5, [&[on][..], &encode_lie(lie), &rest].concat())
            }
            Op::Long {
                on,
                length,
                parts,
                last,
                lie,
            } => {
                let start = [on, length, parts, last.cast_unsigned()];
                (6, [&start[..], &encode_lie(lie)].concat())
            }
            Op::Garbage { on, length, fill } => {
                let [low, high] = length.to_le_bytes();
                (7, vec![on, low, high, fill])
            }
            Op::Attach { on, files } => (8, vec![on, files]),
            Op::Read { on } => (9, vec![on]),
            Op::HalfClose { on, how } => (10, vec![on, how]),
        };
        bytes.extend(choice(variant, 11));
        bytes.extend(operands);
    }
    bytes
}

fn encode_lie(lie: Lie) -> Vec<u8> {
    let (variant, operands) = match lie {
        Lie::None => (0, vec![]),
        Lie::Byte { at, with } => (1, vec![at, with]),
        Lie::Shorter { by } => (2, vec![by]),
        Lie::Longer { by } => (3, vec![by]),
    };
    [&choice(variant, 4)[..], &operands].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_read_again() {
        let lies = [
            Lie::None,
            Lie::Byte { at: 1, with: 2 },
            Lie::Shorter { by: 3 },
            Lie::Longer { by: 4 },
        ];
        let greetings = [
            Greeting::Right,
            Greeting::RightAndLeave,
            Greeting::Narrow,
            Greeting::OtherWidth,
            Greeting::OtherLength,
            Greeting::TooLong,
        ];
        let mut ops = vec![
            Op::Connect { on: 1 },
            Op::Close { on: 2 },
            Op::Ask {
                of: 3,
                size: 4,
                wait: 5,
            },
            Op::Shut { of: 6 },
            Op::Garbage {
                on: 7,
                length: 800,
                fill: 9,
            },
            Op::Attach { on: 10, files: 11 },
            Op::Read { on: 12 },
            Op::HalfClose { on: 13, how: 14 },
        ];
        ops.extend(greetings.map(|how| Op::Greet {
            on: 1,
            context: 2,
            how,
        }));
        for lie in lies {
            ops.push(Op::Frame {
                on: 1,
                lie,
                kind: 2,
                token: 3,
                id: 4,
                a: 5,
                payload: 6,
            });
            ops.push(Op::Long {
                on: 1,
                length: 2,
                parts: 3,
                last: -4,
                lie,
            });
        }
        let bytes = encode(&ops);
        let mut input = arbitrary::Unstructured::new(&bytes);
        let mut read = Vec::new();
        while !input.is_empty() {
            read.push(input.arbitrary::<Op>().unwrap());
        }
        assert_eq!(read, ops);
    }
}
