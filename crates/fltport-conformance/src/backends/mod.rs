//! The backends that exist, and what each of them cannot express.

mod agent;
mod board;
mod child;
mod clients;
mod heir;
mod lacks;
mod real;
mod recorder;
mod sim;

pub use agent::{serve, use_agent};
pub use heir::{inherit, inventory};

use crate::backend::{Backend, Need};

/// A backend by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The engine in a simulated world: virtual time, one step after the other.
    Simulator,
    /// Both ends in one process, packets through queues.
    Memory,
    /// Linux, questions through memory that both sides see, both ends in one process.
    Linux,
    /// The same, clients in processes of their own.
    Processes,
    /// Linux, everything by packets, both ends in one process.
    Packets,
    /// The same, clients in processes of their own.
    PacketProcesses,
}

impl Kind {
    /// All of them, in the order of the table's columns.
    pub const ALL: [Self; 6] = [
        Self::Simulator,
        Self::Memory,
        Self::Linux,
        Self::Processes,
        Self::Packets,
        Self::PacketProcesses,
    ];

    /// The table's heading.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Simulator => "simulator",
            Self::Memory => "in memory",
            Self::Linux => "Linux, one process",
            Self::Processes => "Linux, processes",
            Self::Packets => "packets, one process",
            Self::PacketProcesses => "packets, processes",
        }
    }

    /// Whether questions may travel through memory.
    #[must_use]
    pub const fn shares_memory(self) -> bool {
        matches!(self, Self::Linux | Self::Processes)
    }

    /// The kind that differs in nothing but that.
    #[must_use]
    pub const fn with_memory(self) -> Self {
        match self {
            Self::Packets => Self::Linux,
            Self::PacketProcesses => Self::Processes,
            other => other,
        }
    }

    /// Why it cannot express something.
    #[must_use]
    pub fn lacks(self, need: Need) -> Option<&'static str> {
        lacks::lacks(self.with_memory(), need)
    }

    /// A fresh one.
    ///
    /// # Errors
    /// The system's.
    pub fn make(self) -> std::io::Result<Box<dyn Backend>> {
        Ok(match self {
            Self::Simulator => Box::new(sim::Simulator::default()),
            _ => Box::new(real::Real::new(self)?),
        })
    }
}
