//! The fanotify binding and the marks, against the kernel that runs here. Needs root.

mod common;

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use common::{
    Place, asks, descriptors, event, open, opener, outcome, question, queued, readable, runner,
    text,
};
use flthost::fanotify::{
    AnswerError, Class, DenyErrno, Event, EventBuffer, Group, GroupError, MarkError, Operation,
    Response,
};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const NOT_PERMITTED: &str = "Operation not permitted";

#[test]
fn an_allowed_open_goes_on() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let group = place.group(Class::Content);
    let child = opener(&file);
    let Event::Permission {
        operation,
        pid,
        permission,
    } = event(&group, Response::Deny)
    else {
        panic!("not a question")
    };
    assert_eq!(operation, Operation::Open);
    assert_eq!(
        pid.map(|pid| pid.as_raw_nonzero().get().unsigned_abs()),
        Some(child.id())
    );
    let seen = rustix::fs::fstat(permission.file()).unwrap();
    assert_eq!(seen.st_ino, fs::metadata(&file).unwrap().ino());
    let answered = permission.answer(Response::Allow);
    assert_eq!(answered.result, Ok(Response::Allow));
    assert_eq!(outcome(child).unwrap(), "content");
    let mut bytes = [0; 16]; // the descriptor lives on after the answer, and asks nobody
    assert_eq!(rustix::io::read(&answered.file, &mut bytes), Ok(7));
    assert!(!readable(&group, 50));
}

#[test]
fn a_denied_open_fails() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let group = place.group(Class::Content);
    let child = opener(&file);
    assert_eq!(
        question(&group).1.answer(Response::Deny).result,
        Ok(Response::Deny)
    );
    assert!(outcome(child).unwrap_err().contains(NOT_PERMITTED));
}

#[test]
fn a_pre_content_group_denies_with_an_error_of_its_choice() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let group = place.group(Class::PreContent);
    for errno in DenyErrno::ALL {
        let response = Response::DenyErrno(errno);
        if !group.supports(response) {
            println!("skipped: this kernel takes no errno");
            return;
        }
        let child = opener(&file);
        assert_eq!(question(&group).1.answer(response).result, Ok(response));
        let message = std::io::Error::from(errno.errno()).to_string();
        let message = message.split(" (os").next().unwrap();
        assert!(outcome(child).unwrap_err().contains(message), "{errno:?}");
    }
}

#[test]
fn an_errno_that_the_group_may_not_give_becomes_a_plain_deny() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let group = place.group(Class::Content);
    let response = Response::DenyErrno(DenyErrno::Enospc);
    assert!(!group.supports(response) && group.supports(Response::Deny));
    let child = opener(&file);
    assert_eq!(
        question(&group).1.answer(response).result,
        Ok(Response::Deny)
    );
    assert!(outcome(child).unwrap_err().contains(NOT_PERMITTED));
}

#[test]
fn an_exec_is_asked_about_before_its_open() {
    let Some(place) = Place::new() else { return };
    let program = place.root.join("program");
    fs::copy("/bin/true", &program).unwrap();
    let group = place.group(Class::Content);

    let child = runner(&program);
    let (operation, permission) = question(&group);
    assert_eq!(operation, Operation::Exec);
    permission.answer(Response::Deny).result.unwrap();
    assert!(outcome(child).unwrap_err().contains(NOT_PERMITTED));

    let child = runner(&program);
    for expected in [Operation::Exec, Operation::Open] {
        let (operation, permission) = question(&group);
        assert_eq!(operation, expected);
        permission.answer(Response::Allow).result.unwrap();
    }
    outcome(child).unwrap();
}

#[test]
fn a_dropped_permission_gives_its_default() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let group = place.group(Class::Content);
    let child = opener(&file);
    drop(event(&group, Response::Allow));
    assert_eq!(outcome(child).unwrap(), "content");
    let child = opener(&file);
    drop(event(&group, Response::Deny));
    assert!(outcome(child).unwrap_err().contains(NOT_PERMITTED));
    assert_eq!(group.dropped_answers(), 2);
}

#[test]
fn a_batch_dropped_half_way_answers_the_rest() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let group = place.group(Class::Content);
    let before = descriptors();
    let children: Vec<_> = (0..3).map(|_| opener(&file)).collect();
    let mut buffer = EventBuffer::with_capacity(3);
    let mut allowed = 0;
    while allowed + group.dropped_answers() < 3 {
        assert!(readable(&group, 10_000));
        let mut batch = group.read(&mut buffer, Response::Deny).unwrap();
        assert!(batch.len() <= 3);
        let Some(Event::Permission { permission, .. }) = batch.next() else {
            panic!()
        };
        permission.answer(Response::Allow).result.unwrap();
        allowed += 1;
        drop(batch);
    }
    let good = children
        .into_iter()
        .filter_map(|child| outcome(child).ok())
        .count();
    assert_eq!(u64::try_from(good).unwrap(), allowed);
    assert_eq!(descriptors(), before);
}

#[test]
fn a_read_never_brings_more_events_than_the_buffer_is_for() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let group = place.group(Class::Content);
    let children: Vec<_> = (0..4).map(|_| opener(&file)).collect();
    queued(&group, 4);
    let mut buffer = EventBuffer::with_capacity(3);
    assert_eq!(group.read(&mut buffer, Response::Allow).unwrap().len(), 3);
    assert_eq!(group.read(&mut buffer, Response::Allow).unwrap().len(), 1);
    assert_eq!(group.read(&mut buffer, Response::Allow).unwrap().len(), 0);
    assert!(children.into_iter().all(|child| outcome(child).is_ok()));
}

#[test]
fn an_answer_does_not_hit_the_next_event_with_the_same_number() {
    let Some(place) = Place::new() else { return };
    let (first, second) = (place.file("first"), place.file("second"));
    let group = place.group(Class::Content);
    let one = opener(&first);
    let answered = question(&group).1.answer(Response::Allow);
    let number = answered.file.as_raw_fd();
    let two = opener(&second);
    let (_, held) = question(&group); // a number of its own: the first is still open
    assert_ne!(held.file().as_raw_fd(), number);
    drop(answered);
    let three = opener(&second);
    let (_, reused) = question(&group);
    assert_eq!(reused.file().as_raw_fd(), number);
    assert_eq!(reused.answer(Response::Deny).result, Ok(Response::Deny));
    held.answer(Response::Allow).result.unwrap();
    assert_eq!(outcome(one).unwrap(), "content");
    assert_eq!(outcome(two).unwrap(), "content");
    assert!(outcome(three).unwrap_err().contains(NOT_PERMITTED));
}

#[test]
fn an_answer_for_a_killed_opener_is_taken() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let group = place.group(Class::Content);
    let mut child = opener(&file);
    let (_, permission) = question(&group);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(
        permission.answer(Response::Allow).result,
        Ok(Response::Allow)
    );
    let mut child = opener(&file); // killed before it was read: the event is withdrawn
    assert!(readable(&group, 10_000));
    child.kill().unwrap();
    child.wait().unwrap();
    let mut buffer = EventBuffer::with_capacity(4);
    assert_eq!(group.read(&mut buffer, Response::Deny).unwrap().len(), 0);
}

#[test]
fn a_second_answer_finds_nobody() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let group = place.group(Class::Content);
    let child = opener(&file);
    let (_, permission) = question(&group);
    assert_eq!(group.sweep(1024, Response::Allow), 1);
    assert_eq!(
        permission.answer(Response::Deny).result,
        Err(AnswerError::NotPending)
    );
    assert_eq!(outcome(child).unwrap(), "content");
}

#[test]
fn a_sweep_frees_what_a_dead_reader_had_taken() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let group = place.group(Class::PreContent);
    for response in [Response::Allow, Response::DenyErrno(DenyErrno::Eio)] {
        let children: Vec<_> = (0..3).map(|_| opener(&file)).collect();
        queued(&group, 3);
        let input = group.as_fd().try_clone_to_owned().unwrap();
        let status = Command::new("dd") // takes the events out, answers none, and ends
            .args(["bs=4096", "count=1", "of=/dev/null"])
            .stdin(Stdio::from(input))
            .stderr(Stdio::null())
            .status();
        assert!(status.unwrap().success());
        assert!(!readable(&group, 50));
        assert_eq!(group.sweep(1024, response), 3);
        assert_eq!(group.sweep(1024, response), 0);
        for child in children {
            assert_eq!(outcome(child).is_ok(), response == Response::Allow);
        }
    }
}

#[test]
fn a_full_descriptor_table_is_reported_as_unopenable() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let group = place.group(Class::Content);
    let child = opener(&file);
    assert!(readable(&group, 10_000));
    let limit = getrlimit(Resource::Nofile);
    let next = u64::try_from(open(Path::new("/")).as_raw_fd()).unwrap();
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(next),
            ..limit
        },
    )
    .unwrap();
    let mut buffer = EventBuffer::with_capacity(4);
    let seen: Vec<_> = group.read(&mut buffer, Response::Allow).unwrap().collect();
    setrlimit(Resource::Nofile, limit).unwrap();
    let [Event::Unopenable { errno, .. }] = &seen[..] else {
        panic!("{seen:?}")
    };
    assert!(matches!(errno, None | Some(Errno::MFILE)));
    assert!(outcome(child).unwrap_err().contains(NOT_PERMITTED));
}

#[test]
fn an_ignored_file_is_not_asked_about_until_it_changes() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let group = place.group(Class::Content);
    let child = opener(&file);
    let answered = question(&group).1.answer(Response::Allow);
    outcome(child).unwrap();
    if group.ignore_evictable(answered.file.as_fd(), None) == Err(MarkError::Unsupported) {
        println!("skipped: this kernel has no evictable ignore marks");
        return;
    }
    assert!(!asks(&group, &file));
    group.unignore(answered.file.as_fd()).unwrap();
    assert!(asks(&group, &file));
    group.ignore_evictable(answered.file.as_fd(), None).unwrap();
    let path = text(&file).to_owned();
    let writer = thread::spawn(move || fs::write(path, "changed").unwrap()); // truncates: modified
    writer.join().unwrap();
    assert!(asks(&group, &file));
}

#[test]
fn marks_can_be_taken_back() {
    let Some(place) = Place::new() else { return };
    let file = place.file("dir/file");
    let dir = open(&place.dir("dir"));
    let group = Arc::new(Group::new(Class::Content).unwrap());
    group.mark_filesystem(dir.as_fd()).unwrap();
    assert!(asks(&group, &file));
    group.unmark_filesystem(dir.as_fd()).unwrap();
    assert_eq!(
        group.unmark_filesystem(dir.as_fd()),
        Err(MarkError::NotMarked)
    );
    assert!(!asks(&group, &file));
    group.mark_directory(dir.as_fd()).unwrap();
    assert!(asks(&group, &file));
    group.unmark_directory(dir.as_fd()).unwrap();
    assert!(!asks(&group, &file));
    assert_eq!(
        group.mark_directory(open(&file).as_fd()),
        Err(MarkError::NotDirectory)
    );
    let proc = open(Path::new("/proc/self"));
    assert_eq!(
        group.mark_directory(proc.as_fd()),
        Err(MarkError::Unsupported)
    );
}

#[test]
fn a_group_needs_privilege() {
    let Some(_place) = Place::new() else { return };
    let unprivileged = thread::spawn(|| {
        let nobody = rustix::process::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap(); // this thread only
        Group::probe()
    });
    let error = unprivileged.join().unwrap().unwrap_err();
    assert_eq!(error, GroupError::NotPermitted);
    assert!(error.to_string().contains("CAP_SYS_ADMIN"));
}

#[test]
fn a_thousand_events_leave_no_descriptor_behind() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let before = descriptors();
    let group = place.group(Class::Content);
    let script = "i=0; while [ $i -lt 1000 ]; do : < \"$0\"; i=$((i+1)); done";
    let child = Command::new("sh")
        .args(["-c", script, text(&file)])
        .stdout(Stdio::piped())
        .spawn();
    let mut buffer = EventBuffer::with_capacity(8);
    let mut events = 0;
    while events < 1000 && readable(&group, 10_000) {
        for event in group.read(&mut buffer, Response::Allow).unwrap() {
            events += 1;
            match event {
                Event::Permission { permission, .. } if events % 3 != 0 => {
                    assert!(permission.answer(Response::Allow).result.is_ok());
                }
                other => drop(other),
            }
        }
    }
    assert!(child.unwrap().wait_with_output().unwrap().status.success());
    assert_eq!((events, group.dropped_answers()), (1000, 333));
    drop(group);
    assert_eq!(descriptors(), before);
}
