//! What a process goes without, by name. Each is tried before it is relied on: a filter that does not filter shows nothing.

use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::futex::{WaitvFlags, waitv};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::ClockId;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::common::memory_map::Map;

/// As before Linux 5.1.
pub(crate) const FUTURE_WRITE: &str = "F_SEAL_FUTURE_WRITE";
/// As before Linux 6.3.
pub(crate) const NOEXEC_SEAL: &str = "MFD_NOEXEC_SEAL";
/// As before Linux 3.17, or where a filter does not know it.
pub(crate) const MEMFD: &str = "memfd_create";
/// As before Linux 5.16.
pub(crate) const WAITV: &str = "futex_waitv";
/// As in containers whose filter is older than the call.
pub(crate) const WAITV_ALLOWED: &str = "permission for futex_waitv";
/// As before Linux 5.14.
pub(crate) const POPULATE: &str = "MADV_POPULATE_WRITE";
/// No room for any page of shared memory.
pub(crate) const PAGES: &str = "pages of shared memory";
/// Room for what every connection needs, and none for long messages.
pub(crate) const BLOCKS: &str = "pages for long messages";
/// Nothing can be mapped that others see.
pub(crate) const MAPS: &str = "shared maps";
/// RLIMIT_FSIZE.
pub(crate) const FILES: &str = "bytes in files";
/// RLIMIT_MEMLOCK.
pub(crate) const LOCKED: &str = "locked memory";
/// All cores but one.
pub(crate) const CORES: &str = "a second core";

/// Restricts this thread, and all that it will start.
pub(crate) fn go_without(what: &str) {
    match what {
        FUTURE_WRITE => {
            let seal = u64::from(SealFlags::FUTURE_WRITE.bits());
            let command = is(1, libc::F_ADD_SEALS.unsigned_abs().into());
            refuse(libc::SYS_fcntl, &[command, has(2, seal)], Errno::INVAL);
            let file = file();
            let sealed = rustix::fs::fcntl_add_seals(&file, SealFlags::FUTURE_WRITE);
            assert_eq!(sealed, Err(Errno::INVAL));
            assert_eq!(
                rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK),
                Ok(())
            );
        }
        NOEXEC_SEAL => {
            let flag = has(1, MemfdFlags::NOEXEC_SEAL.bits().into());
            refuse(libc::SYS_memfd_create, &[flag], Errno::INVAL);
            let made = rustix::fs::memfd_create(c"none", MemfdFlags::NOEXEC_SEAL);
            assert_eq!(made.err(), Some(Errno::INVAL));
            file();
        }
        MEMFD => {
            refuse(libc::SYS_memfd_create, &[], Errno::NOSYS);
            let made = rustix::fs::memfd_create(c"none", MemfdFlags::CLOEXEC);
            assert_eq!(made.err(), Some(Errno::NOSYS));
        }
        WAITV => refuse_waitv(Errno::NOSYS),
        WAITV_ALLOWED => refuse_waitv(Errno::PERM),
        POPULATE => refuse_populate(0, Errno::INVAL),
        PAGES => refuse_populate(0, Errno::NOMEM),
        BLOCKS => refuse_populate(BLOCK, Errno::NOMEM),
        MAPS => {
            let shared = has(3, libc::MAP_SHARED.unsigned_abs().into());
            let file = file();
            rustix::fs::ftruncate(&file, 4096).unwrap();
            refuse(libc::SYS_mmap, &[shared], Errno::NOMEM);
            assert!(Map::new(&file, 4096, false).is_err());
        }
        FILES => limit(Resource::Fsize, 0),
        LOCKED => limit(Resource::Memlock, 0),
        CORES => stay_on_one_core(),
        other => panic!("nobody knows how to go without {other}"),
    }
}

/// Leaves this process so many descriptors, until the others are dropped.
pub(crate) fn leave_descriptors(left: usize) -> Vec<OwnedFd> {
    let open: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let more = super::common::descriptors() as u64 + 100;
    limit(Resource::Nofile, more);
    let all = std::iter::from_fn(|| rustix::io::fcntl_dupfd_cloexec(&open, 0).ok());
    let mut all: Vec<_> = all.collect();
    all.push(open);
    assert!(all.len() >= left);
    all.truncate(all.len() - left);
    all
}

/// What every connection's memory has for its words is filled in pieces of other lengths.
const BLOCK: u64 = 4096;

fn refuse_populate(length: u64, error: Errno) {
    let how = is(2, 23);
    if length == 0 {
        refuse(libc::SYS_madvise, &[how], error);
    } else {
        refuse(libc::SYS_madvise, &[is(1, length), how.clone()], error);
        let long = new(1, SeccompCmpOp::Ge, 16 * length);
        refuse(libc::SYS_madvise, &[long, how], error);
    }
    let file = file();
    rustix::fs::ftruncate(&file, BLOCK).unwrap();
    let map = Map::new(&file, usize::try_from(BLOCK).unwrap(), true).unwrap();
    let filled = map.populate().map_err(|error| error.raw_os_error());
    assert_eq!(filled, Err(Some(error.raw_os_error())));
}

fn refuse_waitv(error: Errno) {
    refuse(libc::SYS_futex_waitv, &[], error);
    let slept = waitv(&[], WaitvFlags::empty(), None, ClockId::Monotonic);
    assert_eq!(slept, Err(error));
}

fn limit(resource: Resource, most: u64) {
    let maximum = getrlimit(resource).maximum;
    let current = Some(most);
    setrlimit(resource, Rlimit { current, maximum }).unwrap();
}

fn stay_on_one_core() {
    let all = sched_getaffinity(None).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|core| all.is_set(*core)).unwrap());
    sched_setaffinity(None, &one).unwrap();
    assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
}

/// A file in memory, as every system here has it.
fn file() -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    rustix::fs::memfd_create(c"test", flags).unwrap()
}

/// Has a system call fail where its arguments are as these say.
fn refuse(call: i64, conditions: &[SeccompCondition], error: Errno) {
    let rules = if conditions.is_empty() {
        Vec::new()
    } else {
        vec![SeccompRule::new(conditions.to_vec()).unwrap()]
    };
    let filter = SeccompFilter::new(
        [(call, rules)].into_iter().collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(error.raw_os_error().unsigned_abs()),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

fn is(argument: u8, value: u64) -> SeccompCondition {
    new(argument, SeccompCmpOp::Eq, value)
}

fn has(argument: u8, bit: u64) -> SeccompCondition {
    new(argument, SeccompCmpOp::MaskedEq(bit), bit)
}

fn new(argument: u8, compare: SeccompCmpOp, value: u64) -> SeccompCondition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, value).unwrap()
}
