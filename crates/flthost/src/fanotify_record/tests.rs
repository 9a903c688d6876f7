//! The parser against bytes that no kernel would send.

use super::*;

fn record(event_len: u32, version: u8, metadata_len: u16, fd: i32, info: &[u8]) -> Vec<u8> {
    let mut bytes = event_len.to_ne_bytes().to_vec();
    bytes.extend([version, 0]);
    bytes.extend(metadata_len.to_ne_bytes());
    bytes.extend(libc::FAN_OPEN_PERM.to_ne_bytes());
    bytes.extend(fd.to_ne_bytes());
    bytes.extend(77_i32.to_ne_bytes());
    bytes.extend(info);
    bytes
}

fn info(kind: u8, len: u16, body: &[u8]) -> Vec<u8> {
    [&[kind, 0], &len.to_ne_bytes()[..], body].concat()
}

#[test]
fn whole_records_are_read_one_after_the_other() {
    let bytes = [record(24, 3, 24, 5, &[]), record(24, 3, 24, 6, &[])].concat();
    let fds: Vec<_> = Records::new(&bytes).map(|r| r.unwrap().fd).collect();
    assert_eq!(fds, [5, 6]);
    let first = Records::new(&bytes).next().unwrap().unwrap();
    assert_eq!((first.mask, first.pid), (libc::FAN_OPEN_PERM, 77));
}

#[test]
fn a_wrong_length_or_version_ends_the_batch() {
    let good = record(24, 3, 24, 5, &[]);
    for bad in [
        record(23, 3, 24, 6, &[]),
        record(0, 3, 24, 6, &[]),
        record(25, 3, 24, 6, &[]),
        record(u32::MAX, 3, 24, 6, &[]),
        record(24, 3, 23, 6, &[]),
        record(24, 3, 25, 6, &[]),
        record(24, 3, 0, 6, &[]),
        record(24, 4, 24, 6, &[]),
        vec![24, 0, 0],
    ] {
        let bytes = [good.clone(), bad].concat();
        let seen: Vec<_> = Records::new(&bytes).map(|r| r.map(|r| r.fd)).collect();
        assert_eq!(seen, [Ok(5), Err(Malformed)]);
    }
}

#[test]
fn longer_metadata_and_unknown_information_are_skipped() {
    let infos = [info(99, 8, &[0; 4]), info(4, 8, &9_i32.to_ne_bytes())].concat();
    let bytes = record(48, 3, 32, 5, &[&[0; 8][..], &infos].concat());
    let record = Records::new(&bytes).next().unwrap().unwrap();
    assert_eq!(record.infos().find_map(|i| i.pidfd()), Some(9));
}

#[test]
fn a_wrong_information_length_ends_the_walk() {
    for len in [0, 3, 9, u16::MAX] {
        let infos = [info(99, len, &[0; 4])].concat();
        let bytes = record(32, 3, 24, 5, &infos);
        let record = Records::new(&bytes).next().unwrap().unwrap();
        assert_eq!(record.infos().count(), 0, "length {len}");
    }
}

#[test]
fn no_bytes_at_all_make_the_parser_panic() {
    let mut state = 1_u64;
    for _ in 0..200_000 {
        let mut bytes = record(
            40,
            3,
            24,
            5,
            &[4, 0, 8, 0, 1, 0, 0, 0, 9, 0, 8, 0, 0, 0, 0, 0],
        );
        for _ in 0..4 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let [.., place, value] = state.to_be_bytes().map(usize::from).map(|b| b % 256);
            let len = bytes.len();
            bytes[place % len] = u8::try_from(value).unwrap();
            bytes.truncate(len - (value % 2));
        }
        for record in Records::new(&bytes).flatten() {
            assert!(record.infos().all(|i| i.body.len() < bytes.len()));
            let _pidfd = record.infos().find_map(|i| i.pidfd());
        }
    }
}
