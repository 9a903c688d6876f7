//! Bytes that both sides can make from a number, so that neither has to be told what the other should have sent.
//!
//! A message begins with its number and that of its attachment; what follows comes from the number. One that is too
//! short for that is *tiny*: all tiny messages have the same bytes.

use crate::random::mix;

/// What bytes are for: the same number gives others for each.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Salt {
    Message = 1,
    Reply = 2,
    Request = 3,
    Answer = 4,
    File = 5,
    Tiny = 6,
}

/// Bytes at the start of a message or request: its number, and one more.
pub(crate) const HEAD: usize = 16;

/// `length` bytes made from `number`.
pub(crate) fn make(salt: Salt, number: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    let mut word = start(salt, number);
    while bytes.len() < length {
        bytes.extend_from_slice(&word.to_le_bytes());
        word = next(word);
    }
    bytes.truncate(length);
    bytes
}

/// Whether these are the first bytes made from `number`.
pub(crate) fn are(salt: Salt, number: u64, bytes: &[u8]) -> bool {
    let mut word = start(salt, number);
    bytes.chunks(8).all(|part| {
        let same = word.to_le_bytes().starts_with(part);
        word = next(word);
        same
    })
}

/// A message or request of `length` bytes: its head, then bytes made from its number.
pub(crate) fn with_head(salt: Salt, number: u64, second: u64, length: usize) -> Vec<u8> {
    if length < HEAD {
        return make(Salt::Tiny, 0, length);
    }
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend_from_slice(&second.to_le_bytes());
    bytes.extend_from_slice(&make(salt, number, length - HEAD));
    bytes
}

/// What a message or request says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Said {
    Numbered { number: u64, second: u64 },
    Tiny,
    Broken,
}

/// Reads what [`with_head`] made.
pub(crate) fn read(salt: Salt, bytes: &[u8]) -> Said {
    let Some((number, rest)) = bytes.split_first_chunk::<8>() else {
        return tiny(bytes);
    };
    let Some((second, body)) = rest.split_first_chunk::<8>() else {
        return tiny(bytes);
    };
    let (number, second) = (u64::from_le_bytes(*number), u64::from_le_bytes(*second));
    if are(salt, number, body) {
        Said::Numbered { number, second }
    } else {
        Said::Broken
    }
}

fn tiny(bytes: &[u8]) -> Said {
    if are(Salt::Tiny, 0, bytes) {
        Said::Tiny
    } else {
        Said::Broken
    }
}

const fn start(salt: Salt, number: u64) -> u64 {
    mix(mix(number) ^ salt as u64)
}

const fn next(word: u64) -> u64 {
    word.wrapping_mul(0x5851_F42D_4C95_7F2D)
        .wrapping_add(0x1405_7B7E_F767_814F)
}

#[cfg(test)]
mod tests {
    use super::{Said, Salt, are, make, read, with_head};

    #[test]
    fn every_changed_byte_is_seen() {
        let mut bytes = with_head(Salt::Message, 7, 2, 100);
        assert!(matches!(
            read(Salt::Message, &bytes),
            Said::Numbered {
                number: 7,
                second: 2
            }
        ));
        bytes[99] ^= 1;
        assert!(matches!(read(Salt::Message, &bytes), Said::Broken));
    }

    #[test]
    fn a_beginning_is_right_and_another_number_is_not() {
        assert!(are(Salt::Reply, 9, &make(Salt::Reply, 9, 21)));
        assert!(!are(Salt::Reply, 8, &make(Salt::Reply, 9, 21)));
        assert!(matches!(
            read(Salt::Message, &with_head(Salt::Message, 3, 0, 15)),
            Said::Tiny
        ));
    }
}
