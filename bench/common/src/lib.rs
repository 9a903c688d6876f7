//! What the two programs of the benchmark share: how a case is described, how its processes run, what is measured in
//! them, and what they report. It measures nothing by itself: the harness and `peers/` do, through [`run_case`].

mod answer;
mod figures;
mod histogram;
mod load;
mod memory_clock;
mod memory_map;
mod meter;
mod run;
mod sockets;
mod spec;
mod topology;
mod usage;

pub use answer::{Answer, Other, end_with_parent};
pub use figures::{Figures, Outcome};
pub use histogram::Histogram;
pub use load::system_busy;
pub use memory_clock::{Clock, Cpu};
pub use memory_map::SharedMap;
pub use meter::Meter;
pub use run::{Context, Skip, all_cores, pin, run_case};
pub use sockets::{connect, listen, prepared};
pub use spec::Spec;
pub use topology::ping_pong;
pub use usage::memory_kib;

/// How long one side waits for the other before the case has failed: no case waits or spins for ever.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
