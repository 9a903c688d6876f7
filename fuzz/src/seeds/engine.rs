//! Seeds of the target `engine`: a story for each rule.

use super::Seed;
use crate::engine::ops::{self as engine, Op, When};

/// Seeds of the target `engine`.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let send = |size, reply, when| Op::Send { size, reply, when };
    let ask = |when| send(8, 100, when);
    let tell = |when| send(8, 0, when);
    let after = |millis| When::After { millis };
    let get = Op::Get { size: 60 };
    let reply = Op::Reply {
        which: 0,
        size: 4,
        status: 0,
    };
    let advance = |millis| Op::Advance { millis };
    let request = Op::Request {
        size: 5,
        capacity: 9,
    };
    let returns = Op::CallbackReturns { status: 0, size: 6 };
    let story = |ops: &[Op]| engine::encode(true, ops);
    let early = |ops: &[Op]| engine::encode(false, ops);
    let many = |op: Op, count: usize| vec![op; count];
    vec![
        ("ask", story(&[get, ask(When::Never), reply])),
        ("ask-before-get", story(&[ask(When::Never), get, reply])),
        (
            "tell",
            story(&[get, tell(When::Poll), tell(When::Never), get]),
        ),
        (
            "too-small",
            story(&[
                Op::Get { size: 20 },
                tell(When::Never),
                Op::Get { size: 20 },
                get,
            ]),
        ),
        (
            "too-small-two-senders",
            story(&[
                send(30, 0, When::Never),
                send(10, 0, When::Never),
                Op::Get { size: 17 },
                Op::Get { size: 17 },
                Op::Get { size: 79 },
                Op::Get { size: 30 },
            ]),
        ),
        (
            "tiny-gets",
            story(&[
                Op::Get { size: 0 },
                Op::Get { size: 9 },
                Op::Get { size: 16 },
                send(0, 0, When::Poll),
            ]),
        ),
        (
            "timeout",
            story(&[ask(after(3)), advance(2), get, advance(2), reply]),
        ),
        (
            "timeout-undelivered",
            story(&[ask(after(1)), advance(1), get]),
        ),
        (
            "wall-clock",
            story(&[
                tell(When::AtWall { millis: 5 }),
                tell(after(5)),
                Op::SetWall { millis: 6 },
                advance(5),
            ]),
        ),
        (
            "past-and-forever",
            story(&[get, tell(When::Past), tell(When::Past), tell(When::Forever)]),
        ),
        (
            "too-long-reply",
            story(&[
                get,
                ask(When::Never),
                Op::Reply {
                    which: 0,
                    size: 40,
                    status: 4,
                },
                reply,
            ]),
        ),
        (
            "unknown-replies",
            story(&[
                get,
                tell(When::Never),
                Op::Reply {
                    which: 253,
                    size: 1,
                    status: 0,
                },
                Op::Reply {
                    which: 250,
                    size: 1,
                    status: 0,
                },
            ]),
        ),
        ("two-replies", story(&[get, ask(When::Never), reply, reply])),
        (
            "cancel-get",
            story(&[
                get,
                get,
                Op::CancelGet { back: 0 },
                Op::CancelGet { back: 0 },
                tell(When::Never),
            ]),
        ),
        (
            "cancel-send",
            story(&[
                tell(When::Never),
                ask(When::Never),
                Op::CancelSend { back: 1 },
                get,
                Op::CancelSend { back: 0 },
                reply,
            ]),
        ),
        (
            "requests",
            story(&[
                request,
                request,
                returns,
                Op::Request {
                    size: 0,
                    capacity: 1,
                },
                returns,
            ]),
        ),
        (
            "more-requests-than-run",
            story(&[many(request, 20), many(returns, 20)].concat()),
        ),
        (
            "close-by-filter",
            story(&[
                get,
                ask(When::Never),
                request,
                request,
                Op::CloseByFilter,
                get,
                reply,
                request,
                returns,
                tell(When::Never),
            ]),
        ),
        (
            "close-by-client",
            story(&[
                request,
                ask(When::Never),
                get,
                ask(When::Never),
                Op::CloseByClient,
                Op::DisconnectReturns,
                returns,
                Op::DisconnectReturns,
            ]),
        ),
        (
            "unregister",
            story(&[
                get,
                ask(When::Never),
                request,
                Op::Unregister,
                returns,
                Op::DisconnectReturns,
            ]),
        ),
        (
            "stops-reading",
            story(&[
                Op::StopReading,
                get,
                get,
                get,
                ask(When::Never),
                tell(after(3)),
                tell(When::Never),
                Op::Reply {
                    which: 0,
                    size: 2,
                    status: 0,
                },
                advance(4),
                Op::ResumeReading,
            ]),
        ),
        (
            "stops-reading-requests",
            story(&[
                Op::StopReading,
                get,
                tell(When::Never),
                request,
                request,
                returns,
                Op::ResumeReading,
                returns,
            ]),
        ),
        (
            "stops-reading-close",
            story(&[
                Op::StopReading,
                get,
                ask(When::Never),
                reply,
                Op::CloseByFilter,
                Op::CloseByClient,
                Op::ResumeReading,
            ]),
        ),
        (
            "early-send",
            early(&[
                tell(after(2)),
                ask(When::Never),
                Op::ConnectReturns { status: 0 },
                get,
                get,
            ]),
        ),
        (
            "early-refusal",
            early(&[
                tell(When::Never),
                Op::ConnectReturns { status: 4 },
                tell(When::Never),
            ]),
        ),
        (
            "early-close-by-filter",
            early(&[
                tell(When::Never),
                Op::CloseByFilter,
                tell(When::Never),
                Op::ConnectReturns { status: 5 },
            ]),
        ),
        (
            "early-unregister",
            early(&[
                tell(When::Never),
                Op::Unregister,
                tell(When::Never),
                Op::ConnectReturns { status: 0 },
                Op::DisconnectReturns,
            ]),
        ),
        (
            "early-close-by-client",
            early(&[
                Op::CloseByClient,
                Op::ConnectReturns { status: 0 },
                Op::DisconnectReturns,
            ]),
        ),
    ]
}
