use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use super::*;

fn file(inode: u64, born: i64) -> ContextKey {
    ContextKey {
        subject: Subject::File {
            id: FileId { device: 1, inode },
            born: (born, 0),
            handle: None,
        },
    }
}

fn process(pid: i32, mark: Mark) -> ContextKey {
    let pid = Pid::from_raw(pid).unwrap();
    ContextKey {
        subject: Subject::Process { pid, mark },
    }
}

#[test]
fn a_context_is_made_once_and_found_again() {
    let contexts = Contexts::new(10);
    let first = contexts.get_or_insert_with(file(1, 1), || "first");
    let again = contexts.get_or_insert_with(file(1, 1), || unreachable!());
    assert!(Arc::ptr_eq(&first, &again));
    assert_eq!(contexts.remove(&file(1, 1)).as_deref(), Some(&"first"));
    assert!(contexts.get(&file(1, 1)).is_none() && contexts.is_empty());
}

#[test]
fn a_number_that_is_used_again_is_another_file_or_process() {
    let contexts = Contexts::new(10);
    contexts.get_or_insert_with(file(1, 1), || 1);
    contexts.get_or_insert_with(process(1, Mark::Started(7)), || 2);
    assert!(contexts.get(&file(1, 2)).is_none());
    assert!(contexts.get(&process(1, Mark::Started(8))).is_none());
    assert!(contexts.get(&process(1, Mark::Inode(7))).is_none());
    assert!(contexts.get(&process(1, Mark::Started(7))).is_some());
}

#[test]
fn the_oldest_go_first_and_are_counted() {
    let contexts = Contexts::new(3);
    for inode in 0..5 {
        contexts.get_or_insert_with(file(inode, 0), || inode);
    }
    let left: Vec<_> = (0..5)
        .filter(|inode| contexts.get(&file(*inode, 0)).is_some())
        .collect();
    assert_eq!(left, [2, 3, 4]);
    assert_eq!((contexts.len(), contexts.displaced()), (3, 2));
    // Room that was given back is used before anybody goes.
    contexts.remove(&file(3, 0));
    contexts.get_or_insert_with(file(9, 0), || 9);
    assert!(contexts.get(&file(2, 0)).is_some());
    assert_eq!(contexts.displaced(), 2);
}

#[test]
fn a_context_may_be_made_with_the_help_of_others() {
    let contexts = Contexts::new(2);
    let sum = contexts.get_or_insert_with(file(1, 0), || {
        *contexts.get_or_insert_with(file(2, 0), || 40) + 2
    });
    assert_eq!(*sum, 42);
}

#[test]
fn a_process_is_remembered_until_it_has_ended() {
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&child);
    let contexts = Contexts::new(10);
    let (own, other) = (
        ContextKey::of_process(rustix::process::getpid()).unwrap(),
        ContextKey::of_process(pid).unwrap(),
    );
    assert_ne!(own, other);
    assert_eq!(ContextKey::of_process(pid).as_ref(), Some(&other));
    contexts.get_or_insert_with(own.clone(), || "own");
    contexts.get_or_insert_with(other.clone(), || "other");
    contexts.forget_ended();
    assert_eq!(contexts.len(), 2);
    child.kill().unwrap();
    child.wait().unwrap();
    contexts.forget_ended();
    assert!(contexts.get(&own).is_some() && contexts.get(&other).is_none());
    assert_eq!(ContextKey::of_process(pid), None);
}

#[test]
fn the_time_of_a_start_is_read_behind_any_name() {
    // This process's name has been set by nobody; its start is before now and after the system's.
    let own = started(rustix::process::getpid()).unwrap();
    assert!(own > 0);
    assert_eq!(started(rustix::process::getpid()), Some(own));
}

#[test]
fn a_removed_file_takes_its_name_out_of_the_table_too() {
    let handle = DirectoryHandle::of(tempfile::tempfile().unwrap().as_fd()).ok();
    let key = ContextKey {
        subject: Subject::File {
            id: FileId {
                device: 1,
                inode: 1,
            },
            born: (0, 0),
            handle,
        },
    };
    let contexts = Contexts::new(1);
    contexts.get_or_insert_with(key, || 1);
    contexts.get_or_insert_with(file(2, 0), || 2);
    let table = contexts.lock();
    assert!(table.handles.is_empty());
    assert_eq!((table.ages.len(), table.contexts.len()), (1, 1));
}
