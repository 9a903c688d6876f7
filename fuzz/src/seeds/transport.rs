//! Seeds of the target `transport`: a peer that behaves, and each way in which it does not.

use super::Seed;
use crate::transport::ops::{Greeting, Lie, Op, encode};

/// Seeds of the target `transport`.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let connect = Op::Connect { on: 0 };
    let greet = Op::Greet {
        on: 0,
        context: 3,
        how: Greeting::Right,
    };
    let frame = |kind, token, id, a, payload| Op::Frame {
        on: 0,
        lie: Lie::None,
        kind,
        token,
        id,
        a,
        payload,
    };
    let lying = |kind, lie| Op::Frame {
        on: 0,
        lie,
        kind,
        token: 9,
        id: 1,
        a: 4,
        payload: 5,
    };
    let get = frame(1, 1, 0, 9, 0);
    let ask = Op::Ask {
        of: 0,
        size: 1,
        wait: 2,
    };
    let reply = frame(4, 0, 1, 0, 3);
    let request = frame(6, 5, 3, 2, 40);
    let read = Op::Read { on: 0 };
    let close = Op::Close { on: 0 };
    let begun = |ops: &[Op]| encode(&[&[connect, greet], ops].concat());
    let long = |length, parts, last, lie| Op::Long {
        on: 0,
        length,
        parts,
        last,
        lie,
    };
    vec![
        ("silent", encode(&[connect])),
        ("greeting", begun(&[close])),
        (
            "greeting-32-bit",
            encode(&[
                connect,
                Op::Greet {
                    on: 0,
                    context: 0,
                    how: Greeting::Narrow,
                },
                request,
                read,
            ]),
        ),
        (
            "greeting-of-another-width",
            encode(&[
                connect,
                Op::Greet {
                    on: 0,
                    context: 0,
                    how: Greeting::OtherWidth,
                },
            ]),
        ),
        (
            "greeting-of-another-length",
            encode(&[
                connect,
                Op::Greet {
                    on: 0,
                    context: 9,
                    how: Greeting::OtherLength,
                },
            ]),
        ),
        (
            "greeting-too-long",
            encode(&[
                connect,
                Op::Greet {
                    on: 0,
                    context: 9,
                    how: Greeting::TooLong,
                },
            ]),
        ),
        (
            "greeting-refused",
            encode(&[
                connect,
                Op::Greet {
                    on: 0,
                    context: 13,
                    how: Greeting::Right,
                },
                get,
                read,
            ]),
        ),
        (
            "greeting-and-gone",
            encode(&[
                connect,
                Op::Greet {
                    on: 0,
                    context: 2,
                    how: Greeting::RightAndLeave,
                },
                close,
            ]),
        ),
        ("no-greeting", encode(&[connect, get, request])),
        ("question", begun(&[get, ask, reply, read])),
        (
            "question-too-long-reply",
            begun(&[get, ask, frame(4, 0, 1, 0, 90), read]),
        ),
        ("question-unanswered", begun(&[get, ask, read, close])),
        (
            "question-late",
            begun(&[
                get,
                Op::Ask {
                    of: 0,
                    size: 0,
                    wait: 4,
                },
                read,
                reply,
                reply,
            ]),
        ),
        (
            "long-question",
            begun(&[
                frame(1, 1, 0, 255, 0),
                Op::Ask {
                    of: 0,
                    size: 255,
                    wait: 2,
                },
                read,
                reply,
                read,
            ]),
        ),
        ("request", begun(&[request, request, read])),
        (
            "large-capacity",
            begun(&[frame(6, 5, 24, 255, 9), frame(6, 6, 20, 255, 9), read]),
        ),
        ("long-request", begun(&[long(20, 9, 0, Lie::None), read])),
        (
            "long-request-last-part-lies",
            begun(&[long(20, 9, 1, Lie::None), read]),
        ),
        (
            "long-request-last-part-short",
            begun(&[long(20, 9, 0, Lie::Shorter { by: 1 }), read]),
        ),
        (
            "long-request-over-limit",
            begun(&[long(255, 40, 0, Lie::None), read]),
        ),
        ("half-a-request", begun(&[long(90, 2, 0, Lie::None), get])),
        ("get-twice", begun(&[get, get])),
        ("second-greeting", begun(&[greet])),
        (
            "altered-byte",
            begun(&[lying(1, Lie::Byte { at: 2, with: 1 }), read]),
        ),
        ("shorter", begun(&[lying(6, Lie::Shorter { by: 2 })])),
        ("longer", begun(&[lying(6, Lie::Longer { by: 2 })])),
        (
            "garbage",
            begun(&[Op::Garbage {
                on: 0,
                length: 40,
                fill: 0xFF,
            }]),
        ),
        (
            "open-files",
            begun(&[
                Op::Attach { on: 0, files: 1 },
                Op::Attach { on: 0, files: 10 },
                request,
                read,
            ]),
        ),
        (
            "half-close",
            begun(&[get, ask, Op::HalfClose { on: 0, how: 1 }, reply, read]),
        ),
        (
            "shut-by-filter",
            begun(&[get, ask, Op::Shut { of: 0 }, get, reply, request, read]),
        ),
        (
            "four-at-once",
            encode(&[
                connect,
                greet,
                Op::Connect { on: 1 },
                Op::Connect { on: 2 },
                Op::Connect { on: 3 },
                Op::Greet {
                    on: 1,
                    context: 1,
                    how: Greeting::Right,
                },
                Op::Greet {
                    on: 3,
                    context: 1,
                    how: Greeting::Right,
                },
                Op::Frame {
                    on: 1,
                    lie: Lie::None,
                    kind: 1,
                    token: 1,
                    id: 0,
                    a: 9,
                    payload: 0,
                },
                Op::Ask {
                    of: 1,
                    size: 1,
                    wait: 2,
                },
                reply,
                Op::Frame {
                    on: 1,
                    lie: Lie::None,
                    kind: 4,
                    token: 0,
                    id: 1,
                    a: 0,
                    payload: 1,
                },
                Op::Read { on: 1 },
                read,
            ]),
        ),
    ]
}
