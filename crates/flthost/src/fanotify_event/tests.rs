//! Answers: what the kernel is told, and in which order.

use super::*;

#[test]
fn only_the_errors_the_kernel_takes_are_representable() {
    assert_eq!(DenyErrno::from_errno(Errno::NOSPC), Some(DenyErrno::Enospc));
    assert_eq!(DenyErrno::from_errno(Errno::ACCESS), None);
    let bytes = Response::DenyErrno(DenyErrno::Enospc).to_bytes(3);
    assert_eq!(bytes[..4], 3_i32.to_ne_bytes());
    assert_eq!(bytes[4..], (2_u32 | 28 << 24).to_ne_bytes());
}

#[test]
fn the_answer_goes_out_before_the_descriptor_is_closed() {
    // The event's descriptor is the only reader of the pipe that plays the group: once it is
    // closed, no answer can be written any more.
    let permission = || {
        let (file, group) = rustix::pipe::pipe().unwrap();
        let group = Arc::new(Group::from_fd(group));
        let (number, default) = (file.as_raw_fd(), Response::Allow);
        let duty = Duty {
            group: Arc::clone(&group),
            number,
            default,
            owed: true,
        };
        (
            group,
            Permission {
                duty,
                file: Arc::new(file),
                process: None,
            },
        )
    };
    let (group, dropped) = permission();
    drop(dropped);
    assert_eq!(group.dropped_answers(), 1);
    let (group, answered) = permission();
    assert_eq!(answered.answer(Response::Deny).result, Ok(Response::Deny));
    assert_eq!(group.dropped_answers(), 0);
}
