//! Other ways of asking a process and getting its answer, each through its own interface. The harness starts this
//! program once for each case; it starts itself again as the answering process.

mod bus;
mod demultiplexer;
mod gate;
mod iceoryx;
mod iceoryx_event;
mod ipc;
mod raw;
mod raw_connect;
mod rpc_tarpc;
mod rpc_tonic;
mod tasks;
#[cfg(feature = "zmq")]
mod zeromq;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use fltbench_common::{Answer, Context, Figures, Spec, run_case};

/// Measures other messaging libraries.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Asks and measures
    Case(Spec),
    /// Answers
    Answer(Answer),
}

fn main() -> Result<()> {
    match Arguments::parse().role {
        Role::Case(spec) => {
            run_case(spec, |context| {
                let (_, measure, _) = find(&context.spec.kind)?;
                measure(context)
            });
            Ok(())
        }
        Role::Answer(answer) => {
            answer.begin()?;
            let (_, _, respond) = find(&answer.spec.kind)?;
            respond(&answer)
        }
    }
}

/// What a kind of case does on the asking and on the answering side.
type Kind = (
    &'static str,
    fn(&Context) -> Result<Figures>,
    fn(&Answer) -> Result<()>,
);

const KINDS: [Kind; 26] = [
    ("seqpacket", raw::packets, raw::answer_packets),
    ("seqpacket-fd", raw::files, raw::answer_files),
    ("seqpacket-one-way", raw::packets_one_way, raw::take_packets),
    (
        "seqpacket-demux",
        demultiplexer::measure,
        demultiplexer::answer,
    ),
    (
        "seqpacket-connect",
        raw_connect::connects,
        raw_connect::serve,
    ),
    (
        "seqpacket-connect-ask",
        raw_connect::connects,
        raw_connect::serve,
    ),
    ("seqpacket-idle", raw_connect::idle, raw_connect::hold),
    ("stream", raw::stream, raw::answer_stream),
    ("stream-one-way", raw::stream_one_way, raw::take_stream),
    ("iceoryx2-poll", iceoryx::poll, iceoryx::answer_poll),
    ("iceoryx2-poll-one-way", iceoryx::one_way, iceoryx::take),
    (
        "iceoryx2-event",
        iceoryx_event::measure,
        iceoryx_event::answer,
    ),
    ("iceoryx2-connect", iceoryx::connects, iceoryx::answer_poll),
    (
        "iceoryx2-connect-ask",
        iceoryx::connects,
        iceoryx::answer_poll,
    ),
    ("iceoryx2-idle", iceoryx::idle, iceoryx::hold),
    ("ipc-channel", ipc::measure, ipc::answer),
    ("ipc-channel-one-way", ipc::one_way, ipc::answer),
    ("zbus", bus::measure, bus::answer),
    ("zbus-connect", bus::connects, bus::answer),
    ("zbus-connect-ask", bus::connects, bus::answer),
    ("tarpc", rpc_tarpc::measure, rpc_tarpc::answer),
    ("tonic", rpc_tonic::measure, rpc_tonic::answer),
    ("tonic-connect-ask", rpc_tonic::connects, rpc_tonic::answer),
    ("zmq", zeromq::measure, zeromq::answer),
    ("zmq-one-way", zeromq::one_way, zeromq::take),
    ("zmq-connect-ask", zeromq::connects, zeromq::serve),
];

fn find(name: &str) -> Result<&'static Kind> {
    let found = KINDS.iter().find(|(kind, _, _)| *kind == name);
    found.with_context(|| format!("no case is called {name}"))
}

/// Stands in where the library is not installed.
#[cfg(not(feature = "zmq"))]
mod zeromq {
    use anyhow::Result;
    use fltbench_common::{Answer, Context, Figures, Skip};

    pub fn measure(_: &Context) -> Result<Figures> {
        Err(Skip("libzmq is not installed".to_owned()).into())
    }

    pub fn answer(_: &Answer) -> Result<()> {
        Ok(())
    }

    pub use answer as serve;
    pub use answer as take;
    pub use measure as connects;
    pub use measure as one_way;
}
