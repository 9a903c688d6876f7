//! Frames longer than one packet: cutting them on the way out, putting them together on the way in.
//!
//! The parts of one frame follow each other without anything between, so one unfinished frame for each direction is all
//! that a peer can make this side keep, and never more bytes than the port's limit.

use std::ops::Range;

use fltport_engine::connection::Violation;
use fltport_engine::wire::{FRAME_HEADER, FRAME_MAX, FrameHeader, ToClient, ToHost, WireError};
use zerocopy::IntoBytes;

/// Payload bytes of one packet.
const PART: usize = FRAME_MAX - FRAME_HEADER;

/// One packet: a header and the range of the payload that goes with it.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) header: FrameHeader,
    pub(crate) payload: Range<usize>,
}

impl Packet {
    pub(crate) fn head(&self) -> &[u8] {
        self.header.as_bytes()
    }
}

/// A side's frames, as far as cutting and joining is concerned.
pub(crate) trait Frame: Sized {
    /// The header of this frame.
    fn header(&self) -> FrameHeader;
    /// The header of a part of `length` bytes that follows.
    fn chunk(length: u32) -> FrameHeader;
    /// The length of a part that follows, if the frame is one.
    fn as_chunk(&self) -> Option<u32>;
    /// Parses a packet.
    fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), WireError>;
}

macro_rules! frame {
    ($type:ty) => {
        impl Frame for $type {
            fn header(&self) -> FrameHeader {
                <$type>::header(self)
            }
            fn chunk(length: u32) -> FrameHeader {
                Self::Chunk { length }.header()
            }
            fn as_chunk(&self) -> Option<u32> {
                match *self {
                    Self::Chunk { length } => Some(length),
                    _ => None,
                }
            }
            fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
                <$type>::parse(bytes)
            }
        }
    };
}

frame!(ToHost);
frame!(ToClient);

/// Cuts a frame with `length` payload bytes into packets.
pub(crate) fn packets<F: Frame>(frame: &F, length: usize) -> impl Iterator<Item = Packet> + use<F> {
    let first = Packet {
        header: frame.header(),
        payload: 0..length.min(PART),
    };
    let rest = (PART..length).step_by(PART).map(move |start| {
        let end = length.min(start + PART);
        let header = F::chunk(u32::try_from(end - start).unwrap_or(u32::MAX));
        Packet {
            header,
            payload: start..end,
        }
    });
    std::iter::once(first).chain(rest)
}

/// Puts packets together into frames.
#[derive(Debug)]
pub(crate) struct Assembler<F> {
    unfinished: Option<(F, Vec<u8>, usize)>,
}

impl<F: Frame> Assembler<F> {
    pub(crate) const fn new() -> Self {
        Self { unfinished: None }
    }

    /// Whether the next packet has to be a part of a frame that has begun.
    pub(crate) const fn is_unfinished(&self) -> bool {
        self.unfinished.is_some()
    }

    /// Takes a packet; gives the frame that it completes. A payload may have `limit` bytes.
    pub(crate) fn take(
        &mut self,
        packet: &[u8],
        limit: u32,
    ) -> Result<Option<(F, Vec<u8>)>, Violation> {
        let (frame, payload) =
            F::parse(packet).map_err(|_| Violation("a packet that is no frame"))?;
        let Some((kept, mut bytes, total)) = self.unfinished.take() else {
            return self.begin(frame, payload, limit);
        };
        let part = frame
            .as_chunk()
            .ok_or(Violation("a frame inside an unfinished one"))?;
        let expected = (total - bytes.len()).min(PART);
        if payload.len() != expected || usize::try_from(part) != Ok(expected) {
            return Err(Violation("a part of the wrong length"));
        }
        bytes.extend_from_slice(payload);
        if bytes.len() == total {
            return Ok(Some((kept, bytes)));
        }
        self.unfinished = Some((kept, bytes, total));
        Ok(None)
    }

    fn begin(
        &mut self,
        frame: F,
        payload: &[u8],
        limit: u32,
    ) -> Result<Option<(F, Vec<u8>)>, Violation> {
        if frame.as_chunk().is_some() {
            return Err(Violation("a part without a beginning"));
        }
        let length = frame.header().length();
        let total = usize::try_from(length).unwrap_or(usize::MAX);
        if length > limit {
            return Err(Violation("a frame over the port's limit"));
        }
        if payload.len() != total.min(PART) {
            return Err(Violation("a frame of another length than it says"));
        }
        if payload.len() == total {
            return Ok(Some((frame, payload.to_vec())));
        }
        // Memory grows with what really comes, not with what was announced.
        self.unfinished = Some((frame, payload.to_vec(), total));
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(packet: &Packet, payload: &[u8]) -> Vec<u8> {
        [packet.head(), &payload[packet.payload.clone()]].concat()
    }

    fn request(length: usize) -> ToHost {
        ToHost::Request {
            request: 1,
            capacity: 0,
            length: u32::try_from(length).unwrap(),
        }
    }

    #[test]
    fn frames_of_every_size_come_back_whole() {
        for length in [
            0,
            1,
            PART - 1,
            PART,
            PART + 1,
            2 * PART,
            2 * PART + 7,
            1 << 20,
        ] {
            let payload: Vec<u8> = (0..=250).cycle().take(length).collect();
            let mut assembler = Assembler::<ToHost>::new();
            let mut whole = None;
            for packet in packets(&request(length), length) {
                assert!(whole.is_none());
                assert!(packet.head().len() + packet.payload.len() <= FRAME_MAX);
                whole = assembler
                    .take(&bytes_of(&packet, &payload), 1 << 20)
                    .unwrap();
            }
            let (frame, bytes) = whole.unwrap();
            assert_eq!(frame, request(length));
            assert_eq!(bytes, payload);
        }
    }

    #[test]
    fn a_lie_about_the_length_is_found_at_the_first_packet_that_tells_it() {
        let payload = vec![0; 3 * PART];
        let all: Vec<_> = packets(&request(payload.len()), payload.len()).collect();
        let first = bytes_of(&all[0], &payload);
        let second = bytes_of(&all[1], &payload);
        let mut short = Assembler::<ToHost>::new();
        assert!(short.take(&first[..first.len() - 1], 1 << 20).is_err());
        let mut orphan = Assembler::<ToHost>::new();
        assert!(orphan.take(&second, 1 << 20).is_err());
        let mut nested = Assembler::<ToHost>::new();
        assert!(nested.take(&first, 1 << 20).unwrap().is_none());
        assert!(nested.take(&first, 1 << 20).is_err());
        let mut over = Assembler::<ToHost>::new();
        assert!(over.take(&first, u32::try_from(PART).unwrap()).is_err());
    }
}
