//! What [`super::memory_liar`] gives instead of memory.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};

use super::common::memory_layout::{CLIENT_BYTES, HOST_BYTES, LAYOUT};
use super::common::raw::Raw;
use super::memory_liar::give;

/// What is given, and whether that ends the connection; otherwise everything goes by frames.
pub(crate) type Gift = (&'static str, fn(&Raw), bool);

const FIXED: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

fn memory(bytes: usize, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create(c"fltport", flags).unwrap();
    rustix::fs::ftruncate(&file, bytes as u64).unwrap();
    rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    file
}

fn both(host: usize, client: usize, seals: SealFlags) -> [OwnedFd; 2] {
    [memory(host, seals), memory(client, seals)]
}

/// As a host gives it.
pub(crate) fn right() -> [OwnedFd; 2] {
    both(HOST_BYTES, CLIENT_BYTES, FIXED)
}

pub(crate) const GIFTS: &[Gift] = &[
    ("no file", |raw| give(raw, LAYOUT, 0, &[]), false),
    ("one file", |raw| give(raw, LAYOUT, 0, &right()[..1]), true),
    (
        "three files",
        |raw| {
            let [one, two] = right();
            give(raw, LAYOUT, 0, &[one, two, memory(4096, FIXED)]);
        },
        true,
    ),
    (
        "memory twice",
        |raw| {
            give(raw, LAYOUT, 0, &both(4096, 4096, FIXED));
            give(raw, LAYOUT, 0, &right());
        },
        true,
    ),
    (
        "unsealed",
        |raw| {
            give(
                raw,
                LAYOUT,
                0,
                &both(HOST_BYTES, CLIENT_BYTES, SealFlags::empty()),
            )
        },
        false,
    ),
    (
        "sealed only against growth",
        |raw| {
            give(
                raw,
                LAYOUT,
                0,
                &both(HOST_BYTES, CLIENT_BYTES, SealFlags::GROW | SealFlags::SEAL),
            );
        },
        false,
    ),
    (
        "shorter",
        |raw| {
            give(
                raw,
                LAYOUT,
                0,
                &both(HOST_BYTES - 4096, CLIENT_BYTES, FIXED),
            )
        },
        false,
    ),
    (
        "empty",
        |raw| give(raw, LAYOUT, 0, &both(0, 0, FIXED)),
        false,
    ),
    (
        "longer",
        |raw| {
            give(
                raw,
                LAYOUT,
                0,
                &both(HOST_BYTES, CLIENT_BYTES + 4096, FIXED),
            )
        },
        false,
    ),
    (
        "the other way round",
        |raw| {
            let [host, client] = right();
            give(raw, LAYOUT, 0, &[client, host]);
        },
        false,
    ),
    (
        "nothing to write to",
        |raw| {
            give(
                raw,
                LAYOUT,
                0,
                &both(HOST_BYTES, CLIENT_BYTES, FIXED | SealFlags::WRITE),
            );
        },
        false,
    ),
    (
        "pipes",
        |raw| {
            let (one, two) = rustix::pipe::pipe().unwrap();
            give(raw, LAYOUT, 0, &[one, two]);
        },
        false,
    ),
    (
        "folders",
        |raw| {
            let folder = || OwnedFd::from(File::open("/").unwrap());
            give(raw, LAYOUT, 0, &[folder(), folder()]);
        },
        false,
    ),
    (
        "programs",
        |raw| {
            let file = || OwnedFd::from(File::open("/proc/self/exe").unwrap());
            give(raw, LAYOUT, 0, &[file(), file()]);
        },
        false,
    ),
    (
        "another layout",
        |raw| give(raw, LAYOUT + 1, 0, &right()),
        false,
    ),
    ("no layout", |raw| give(raw, u32::MAX, 0, &right()), false),
];
