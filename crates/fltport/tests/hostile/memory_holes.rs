//! What a client can do to the memory itself: nothing to its size, nothing to the host's part, and no holes in its own once
//! the host reads there.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::fs::{FallocateFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate};
use rustix::io::Errno;

use super::common::memory_layout as layout;
use super::common::memory_map::Map;
use super::common::memory_raw::Memory;
use super::common::raw::Raw;
use super::common::stage::Stage;
use super::common::watchdog_of;
use super::memory::check;

#[test]
fn a_client_can_change_neither_a_size_nor_a_byte_of_the_hosts_part() {
    let _watchdog = watchdog_of("a_client_can_change_neither", Duration::from_secs(60));
    let stage = Stage::new(&[]);
    let mut memory = Memory::at(stage.directory());
    // The host has seen that it is mapped.
    memory.raw.ask(1, "who");
    memory.answers(vec![1]).unwrap();
    for file in &memory.files {
        for size in [0, 1, 4096, 1 << 30] {
            assert_eq!(ftruncate(file, size), Err(Errno::PERM));
        }
        let seals = [SealFlags::WRITE, SealFlags::FUTURE_WRITE, SealFlags::GROW];
        for seal in seals {
            assert_eq!(fcntl_add_seals(file, seal), Err(Errno::PERM));
        }
        let beyond = fallocate(file, FallocateFlags::empty(), 1 << 30, 4096);
        assert_eq!(beyond, Err(Errno::PERM));
    }
    let [host, _] = &memory.files;
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert_eq!(fallocate(host, punch, 0, 4096), Err(Errno::PERM));
    // Nor by another descriptor of the same file, nor past the mapping.
    let again = format!("/proc/self/fd/{}", host.as_raw_fd());
    let again = File::options().read(true).write(true).open(again).unwrap();
    for file in [again, File::from(host.try_clone().unwrap())] {
        assert!(Map::new(&file, layout::HOST_BYTES, true).is_err());
        assert!(file.write_at(b"mine", 0).is_err());
        assert_eq!(fallocate(&file, punch, 0, 4096), Err(Errno::PERM));
    }
    assert!(memory.host.make_writable().is_err());
    assert!(memory.host.remove().is_err());
    let own = File::options().write(true).open("/proc/self/mem").unwrap();
    assert!(own.write_at(b"mine", memory.host.address()).is_err());
    // It is as good as before.
    memory.post(0);
    memory.raw.ask(1, "ask 8 15000");
    let id = memory.message(0);
    assert!(memory.reply(id, b"answer"));
    assert_eq!(memory.answers(vec![1]).unwrap(), ["answer"]);
    drop(memory);
    check(&stage, "sizes and seals");
}

/// Where holes would be: everywhere, in the words of gets and waiters, in the blocks of replies.
const PARTS: [(usize, usize); 3] = [
    (0, layout::CLIENT_BYTES),
    (4096, layout::REPLY_BLOCKS),
    (layout::REPLY_BLOCKS, layout::CLIENT_BYTES),
];

#[test]
fn there_are_no_holes_where_the_host_reads() {
    let _watchdog = watchdog_of("there_are_no_holes", Duration::from_secs(60));
    let stage = Stage::new(&[]);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    for (from, to) in PARTS {
        let (offset, length) = (from as u64, (to - from) as u64);
        let mut memory = Memory::unused(Raw::greeted_below(stage.directory(), b"")).unwrap();
        // What is made before the host uses it is filled when it begins.
        fallocate(&memory.files[1], punch, offset, length).unwrap();
        memory.client.remove().unwrap();
        memory.begin();
        memory.raw.ask(1, "who");
        memory.answers(vec![1]).unwrap();
        let again = format!("/proc/self/fd/{}", memory.files[1].as_raw_fd());
        let again = File::options().read(true).write(true).open(again).unwrap();
        for file in [memory.files[1].as_fd(), again.as_fd()] {
            assert_eq!(fallocate(file, punch, offset, length), Err(Errno::PERM));
            assert!(Map::new(file, layout::CLIENT_BYTES, true).is_err());
        }
        assert!(memory.client.remove().is_err());
        memory.post(0);
        memory.raw.ask(1, "ask 8 15000");
        let id = memory.message(0);
        assert!(memory.reply(id, b"answer"));
        assert_eq!(memory.answers(vec![1]).unwrap(), ["answer"]);
    }
    check(&stage, "holes");
    stage.finish();
}

#[test]
fn bytes_beyond_a_clients_blocks_are_nobodys() {
    let _watchdog = watchdog_of("bytes_beyond_a_clients_blocks", Duration::from_secs(60));
    let stage = Stage::new(&[]);
    let mut memory = Memory::at(stage.directory());
    for capacity in [64, 104, 105, 4096, 4097, 65_536, 65_537, 1 << 20] {
        memory.post(0);
        memory.raw.ask(1, &format!("ask 8 15000 {capacity}"));
        let id = memory.message(0);
        let (waiter, _) = layout::waiter_of(id);
        assert!(memory.claim(id));
        // All that there is, but for the words.
        let rest = layout::waiter_word(waiter + 1)..memory.client.len();
        rest.step_by(8)
            .for_each(|at| memory.client.store(at, u64::MAX));
        // Longer than any room; the sender takes what it has asked for.
        memory
            .client
            .store(layout::reply_head(waiter), u64::MAX << 32);
        assert!(memory.step(waiter, layout::REPLYING, layout::REPLIED));
        memory.wake(layout::waiter_word(waiter));
        let told = memory.answers(vec![1]).unwrap();
        // What is more than its own request can take back is cut again.
        assert_eq!(told.len(), 1);
        assert!(
            told[0].contains("longer") || told[0].len() <= 64,
            "{told:?}"
        );
    }
    drop(memory);
    check(&stage, "bytes beyond");
}
