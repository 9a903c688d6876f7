//! What is measured: groups of cases that are compared with each other, and run next to each other.

pub mod guarded;

use fltbench_common::Spec;
use serde::{Deserialize, Serialize};

use crate::sample::Sample;

/// How both sides of a case wait. Only equals are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Waits {
    /// Both hold their cores while they wait.
    Spins,
    /// Both sleep in the kernel.
    Parks,
    /// Spins where that has paid off lately, parks otherwise.
    Adapts,
}

impl Waits {
    /// For the tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Spins => "spins",
            Self::Parks => "parks",
            Self::Adapts => "adapts",
        }
    }
}

/// What a case is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// What the machine itself takes.
    Limit,
    /// Another way of doing it.
    Peer,
    /// fltport.
    Ours,
}

/// What the cases of a group are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// The median time of one operation.
    Time,
    /// Operations in a second.
    Rate,
    /// What an idle connection takes.
    Memory,
    /// The median time beside many others over that without them.
    Crowding,
    /// The time of the first of two passes over the same files.
    Passes,
    /// Memory of a process.
    Mebibytes,
    /// The time until something happens.
    Millis,
    /// How much longer than its deadline the longest operation takes.
    Beyond,
    /// Operations that took longer than their deadline.
    Late,
}

impl Measure {
    /// The value of a repetition.
    pub fn of(self, sample: &Sample) -> f64 {
        match self {
            Self::Time => sample.p50_us,
            Self::Rate => sample.per_second,
            Self::Memory => sample.extra("kib_per_connection"),
            Self::Crowding => sample.extra("ratio_to_alone"),
            Self::Passes => sample.extra("first_ms"),
            Self::Mebibytes => sample.extra("mib"),
            Self::Millis => sample.extra("ms"),
            Self::Beyond => sample.extra("beyond_ms"),
            Self::Late => sample.extra("late"),
        }
    }

    /// What stands behind the value.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Time => " us",
            Self::Rate => "/s",
            Self::Memory => " KiB",
            Self::Mebibytes => " MiB",
            Self::Passes | Self::Millis | Self::Beyond => " ms",
            Self::Crowding | Self::Late => "",
        }
    }
}

/// One row.
#[derive(Clone, Debug)]
pub struct Case {
    /// The name in the group, as in the tables.
    pub label: String,
    /// What it is there for.
    pub role: Role,
    /// How it waits.
    pub waits: Waits,
    /// What its process is told.
    pub spec: Spec,
}

/// Cases that are compared with each other.
#[derive(Clone, Debug)]
pub struct Group {
    /// The first part of its cases' names.
    pub id: String,
    /// The heading of its table.
    pub title: String,
    /// What they are compared by.
    pub measure: Measure,
    /// Part of a quick run.
    pub quick: bool,
    /// Most repetitions, where one takes seconds.
    pub most: usize,
    /// Its cases take the time that they say, also in a quick run.
    pub fixed: bool,
    /// So many times the usual time, where an operation takes long.
    pub longer: u64,
    /// The row that all others are compared with, if it is not fltport's.
    pub base: Option<&'static str>,
    /// The rows.
    pub cases: Vec<Case>,
}

impl Group {
    fn new(id: &str, title: &str, measure: Measure, quick: bool) -> Self {
        Self {
            id: id.to_owned(),
            title: title.to_owned(),
            measure,
            quick,
            most: usize::MAX,
            fixed: false,
            longer: 1,
            base: None,
            cases: Vec::new(),
        }
    }

    fn add(&mut self, role: Role, waits: Waits, label: &str, spec: Spec) -> &mut Self {
        self.cases.push(Case {
            label: label.to_owned(),
            role,
            waits,
            spec,
        });
        self
    }

    /// The whole name of one of its cases.
    pub fn name(&self, case: &Case) -> String {
        format!("{}/{}", self.id, case.label)
    }

    /// Some of the usual peers, each under its label.
    fn add_peers(&mut self, kinds: &[&str], spec: &Spec) {
        for (kind, waits, label) in PEERS {
            if kinds.contains(&kind) {
                self.add(Role::Peer, waits, label, kind_of(spec, kind));
            }
        }
    }
}

/// Kinds of the peers' program.
const PEERS: [(&str, Waits, &str); 10] = [
    ("iceoryx2-poll", Waits::Spins, "iceoryx2 polling"),
    ("iceoryx2-event", Waits::Parks, "iceoryx2 event"),
    ("seqpacket", Waits::Parks, "seqpacket"),
    ("stream", Waits::Parks, "stream"),
    ("ipc-channel", Waits::Parks, "ipc-channel"),
    ("zbus", Waits::Parks, "zbus"),
    ("tarpc", Waits::Parks, "tarpc"),
    ("tonic", Waits::Parks, "tonic"),
    ("zmq", Waits::Parks, "zmq"),
    ("seqpacket-fd", Waits::Parks, "seqpacket with a file"),
];

const PARKING: [&str; 8] = [
    "iceoryx2-event",
    "seqpacket",
    "stream",
    "ipc-channel",
    "zbus",
    "tarpc",
    "tonic",
    "zmq",
];

fn kind_of(spec: &Spec, kind: &str) -> Spec {
    Spec {
        kind: kind.to_owned(),
        ..spec.clone()
    }
}

fn spinning(spec: &Spec) -> Spec {
    Spec {
        spin: true,
        ..spec.clone()
    }
}

/// All groups that a machine with so many cores can measure.
pub fn catalogue(cores: usize, quick: bool, long: bool) -> Vec<Group> {
    let mut groups = Vec::new();
    if cores > 1 {
        groups.extend([64, 4096, 65536].map(hot));
    }
    groups.extend([64, 4096, 65536].map(|size| parked(size, 0)));
    if cores > 1 {
        groups.extend([64, 4096, 65536].map(|size| parked(size, 1)));
    }
    groups.push(cold());
    groups.extend([1, 4, 16, 64].map(windows));
    groups.extend([(1, 1), (4, 1), (4, 4), (16, 4)].map(|(s, r)| threads(s, r)));
    groups.extend([one_way(), attachment(), connect(), connect_ask()]);
    groups.extend([idle(), crowd(), memcpy()]);
    groups.extend(guarded::all(quick, long));
    groups
}

fn hot(size: usize) -> Group {
    let title = format!("Hot: {size} B each way, pinned to cores 0 and 1, both spin");
    let mut group = Group::new(&format!("hot/{size}"), &title, Measure::Time, size != 4096);
    let spec = Spec {
        size,
        host_core: Some(0),
        peer_core: Some(1),
        ..spinning(&Spec::new("port"))
    };
    let limit = |kind| kind_of(&spec, kind);
    if size == 64 {
        group.add(Role::Limit, Waits::Spins, "spin", limit("limit-spin"));
    }
    group
        .add(Role::Limit, Waits::Spins, "copy", limit("limit-copy"))
        .add(Role::Ours, Waits::Spins, "fltport", spec.clone());
    group.add_peers(&["iceoryx2-poll"], &spec);
    group
}

fn parked(size: usize, peer_core: usize) -> Group {
    let (id, place) = match peer_core {
        0 => ("one-core", "both pinned to core 0"),
        _ => ("two-cores", "pinned to cores 0 and 1"),
    };
    let title = format!("Parked: {size} B each way, {place}, both park");
    let quick = size == 64;
    let mut group = Group::new(&format!("{id}/{size}"), &title, Measure::Time, quick);
    let spec = Spec {
        size,
        host_core: Some(0),
        peer_core: Some(peer_core),
        ..Spec::new("port")
    };
    let limit = |kind| kind_of(&spec, kind);
    group
        .add(Role::Limit, Waits::Parks, "futex", limit("limit-futex"))
        .add(Role::Limit, Waits::Parks, "eventfd", limit("limit-eventfd"))
        .add(Role::Ours, Waits::Parks, "fltport", spec.clone())
        .add(
            Role::Ours,
            Waits::Parks,
            "fltport, answered by tokio",
            limit("port-tokio"),
        );
    group.add_peers(&PARKING, &spec);
    group
}

fn cold() -> Group {
    let title = "Cold: one 64 B question in each millisecond, any core";
    let mut group = Group::new("cold", title, Measure::Time, true);
    // A millisecond for each question: more time, or there is nothing to take a quantile of.
    group.longer = 4;
    let spec = Spec {
        gap: 1000,
        ..Spec::new("port")
    };
    let limit = |kind| kind_of(&spec, kind);
    group
        .add(Role::Limit, Waits::Parks, "futex", limit("limit-futex"))
        .add(Role::Limit, Waits::Parks, "eventfd", limit("limit-eventfd"))
        .add(Role::Ours, Waits::Parks, "fltport", spec.clone())
        .add(
            Role::Ours,
            Waits::Adapts,
            "fltport, adaptive",
            spinning(&spec),
        );
    let kinds = ["iceoryx2-event", "seqpacket", "zbus", "tonic", "zmq"];
    group.add_peers(&kinds, &spec);
    group
}

fn windows(window: usize) -> Group {
    let title = format!("Throughput: 64 B each way, {window} in flight, any core");
    let quick = window == 1 || window == 16;
    let mut group = Group::new(&format!("window/{window}"), &title, Measure::Rate, quick);
    let spec = Spec {
        window,
        ..Spec::new("port")
    };
    for receivers in [1, 2, 4] {
        let label = match receivers {
            1 => "fltport".to_owned(),
            _ => format!("fltport, {receivers} receivers"),
        };
        let spec = Spec {
            receivers,
            ..spec.clone()
        };
        let parked = format!("{label}, parks");
        group
            .add(Role::Ours, Waits::Adapts, &label, spinning(&spec))
            .add(Role::Ours, Waits::Parks, &parked, spec);
    }
    group.add_peers(&["iceoryx2-poll"], &spec);
    group.add_peers(&PARKING, &spec);
    group
}

fn threads(senders: usize, receivers: usize) -> Group {
    let title = format!(
        "Threads: {senders} that ask and wait, {receivers} that answer, one connection, 64 B each way, any core"
    );
    let quick = senders == 4 && receivers == 4;
    let id = format!("threads/{senders}x{receivers}");
    let mut group = Group::new(&id, &title, Measure::Rate, quick);
    let spec = Spec {
        senders,
        receivers,
        ..Spec::new("port")
    };
    let peer = kind_of(&spec, "seqpacket-demux");
    group
        .add(Role::Ours, Waits::Adapts, "fltport", spinning(&spec))
        .add(Role::Ours, Waits::Parks, "fltport, parks", spec)
        .add(
            Role::Peer,
            Waits::Parks,
            "seqpacket with a demultiplexer",
            peer,
        );
    group
}

fn one_way() -> Group {
    let title = "One way: 64 B that nobody answers, any core";
    let mut group = Group::new("one-way", title, Measure::Rate, true);
    let spec = Spec::new("port-notify");
    group
        .add(Role::Ours, Waits::Adapts, "fltport", spinning(&spec))
        .add(Role::Ours, Waits::Parks, "fltport, parks", spec.clone());
    for (kind, waits, label) in [
        ("iceoryx2-poll-one-way", Waits::Spins, "iceoryx2 polling"),
        ("seqpacket-one-way", Waits::Parks, "seqpacket"),
        ("stream-one-way", Waits::Parks, "stream"),
        ("ipc-channel-one-way", Waits::Parks, "ipc-channel"),
        ("zmq-one-way", Waits::Parks, "zmq, which sends in batches"),
    ] {
        group.add(Role::Peer, waits, label, kind_of(&spec, kind));
    }
    group
}

fn attachment() -> Group {
    let title = "An open file with every question: 64 B each way, both pinned to core 0, both park";
    let mut group = Group::new("attachment", title, Measure::Time, true);
    let spec = Spec {
        host_core: Some(0),
        peer_core: Some(0),
        ..Spec::new("port-attach")
    };
    group.add(Role::Ours, Waits::Parks, "fltport", spec.clone());
    group.add_peers(&["seqpacket-fd"], &spec);
    group
}

fn connect() -> Group {
    let title = "Connect: from the call to the connection with all its memory, any core";
    let mut group = Group::new("connect", title, Measure::Time, true);
    let spec = Spec::new("port-connect");
    group.add(Role::Ours, Waits::Parks, "fltport", spec.clone());
    for (kind, label) in [
        ("seqpacket-connect", "seqpacket, no handshake"),
        ("zbus-connect", "zbus"),
        ("iceoryx2-connect", "iceoryx2, client port alone"),
    ] {
        group.add(Role::Peer, Waits::Parks, label, kind_of(&spec, kind));
    }
    group
}

fn connect_ask() -> Group {
    let title = "Connect: from the call to the first message, any core";
    let mut group = Group::new("connect-ask", title, Measure::Time, true);
    let spec = Spec::new("port-connect-ask");
    let adapts = spinning(&spec);
    group
        .add(Role::Ours, Waits::Parks, "fltport", spec.clone())
        .add(Role::Ours, Waits::Adapts, "fltport, adaptive", adapts);
    for (kind, waits, label) in [
        ("seqpacket-connect-ask", Waits::Parks, "seqpacket"),
        ("zbus-connect-ask", Waits::Parks, "zbus"),
        ("tonic-connect-ask", Waits::Parks, "tonic"),
        ("zmq-connect-ask", Waits::Parks, "zmq"),
        ("iceoryx2-connect-ask", Waits::Spins, "iceoryx2 polling"),
    ] {
        group.add(Role::Peer, waits, label, kind_of(&spec, kind));
    }
    group
}

fn idle() -> Group {
    let title =
        "Memory of an idle connection, both ends and the kernel; system-wide counters, rough";
    let mut group = Group::new("idle", title, Measure::Memory, true);
    let spec = |kind, window| Spec {
        window,
        ..Spec::new(kind)
    };
    group
        .add(Role::Ours, Waits::Parks, "fltport", spec("port-idle", 200))
        .add(
            Role::Peer,
            Waits::Parks,
            "seqpacket",
            spec("seqpacket-idle", 200),
        )
        .add(
            Role::Peer,
            Waits::Parks,
            "iceoryx2",
            spec("iceoryx2-idle", 60),
        );
    group
}

fn crowd() -> Group {
    let title = "One connection beside 10,000 idle ones: its round trip over that without them, both pinned to core 0";
    let mut group = Group::new("crowd", title, Measure::Crowding, true);
    group.most = 6;
    let spec = Spec {
        window: 10_000,
        host_core: Some(0),
        peer_core: Some(0),
        ..Spec::new("port-crowd")
    };
    group.add(Role::Ours, Waits::Parks, "fltport", spec);
    group
}

fn memcpy() -> Group {
    let title = "One copy within a process, for scale";
    let mut group = Group::new("memcpy", title, Measure::Time, true);
    for size in [64, 4096, 65536] {
        let spec = Spec {
            size,
            host_core: Some(0),
            ..Spec::new("limit-memcpy")
        };
        group.add(Role::Limit, Waits::Spins, &format!("{size} B"), spec);
    }
    group
}
