use super::*;
use std::vec::Vec;

fn host_frames() -> Vec<ToHost> {
    std::vec![
        ToHost::Hello {
            bits: 64,
            length: 3
        },
        ToHost::Get { get: 7, size: 80 },
        ToHost::CancelGet { get: 7 },
        ToHost::Reply {
            reply: 1,
            message_id: 9,
            status: NtStatus::ACCESS_DENIED,
            length: 4
        },
        ToHost::Request {
            request: 2,
            capacity: 16,
            length: 8
        },
        ToHost::Attach,
        ToHost::Kick,
        ToHost::Chunk { length: 12 },
    ]
}

#[test]
fn every_frame_comes_back_as_it_went() {
    for frame in host_frames() {
        assert_eq!(
            ToHost::parse(frame.header().as_bytes()),
            Ok((frame, &[][..]))
        );
    }
    let message = ToClient::Message {
        get: 3,
        header: MessageHeader::new(20, 1),
        remaining: Some(Duration::from_millis(2)),
        attachment: true,
        length: 64,
    };
    for frame in [
        message,
        ToClient::Disconnected,
        ToClient::Abandoned { message_id: 4 },
        ToClient::Attached {
            status: NtStatus::SUCCESS,
            layout: 1,
            first_id: 131_073,
        },
        ToClient::Ring { get: 1 << 63 },
        ToClient::Files { length: 16 },
    ] {
        assert_eq!(
            ToClient::parse(frame.header().as_bytes()),
            Ok((frame, &[][..]))
        );
    }
}

#[test]
fn a_frame_from_the_wrong_side_is_refused() {
    let bytes = ToClient::Disconnected.header();
    assert!(matches!(
        ToHost::parse(bytes.as_bytes()),
        Err(WireError::Kind(_))
    ));
    for frame in host_frames()
        .iter()
        .filter(|frame| !matches!(frame, ToHost::Chunk { .. }))
    {
        assert!(ToClient::parse(frame.header().as_bytes()).is_err());
    }
}

#[test]
fn any_changed_byte_is_another_frame_or_an_error_and_never_a_panic() {
    for frame in host_frames() {
        let bytes = frame.header();
        for index in 0..FRAME_HEADER {
            let mut changed = bytes.as_bytes().to_vec();
            changed[index] ^= 0x41;
            assert_ne!(
                ToHost::parse(&changed),
                Ok((frame, &[][..])),
                "byte {index} of {frame:?} is ignored"
            );
        }
    }
}

#[test]
fn fewer_bytes_than_a_header_are_no_frame() {
    let bytes = ToHost::Get { get: 1, size: 16 }.header();
    for length in 0..FRAME_HEADER {
        assert_eq!(
            ToHost::parse(&bytes.as_bytes()[..length]),
            Err(WireError::Short(length))
        );
    }
}
