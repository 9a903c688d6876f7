//! What a case is to do, as the words of a command line: the harness starts each case as a process of its own.

use std::time::Duration;

/// One case.
#[derive(Clone, Debug, clap::Args)]
pub struct Spec {
    /// Which loop or library, for example `futex`
    pub kind: String,
    /// Bytes of a question, and of its answer
    #[arg(long, default_value_t = 64)]
    pub size: usize,
    /// Questions that one sender keeps in flight
    #[arg(long, default_value_t = 1)]
    pub window: usize,
    /// Sending threads
    #[arg(long, default_value_t = 1)]
    pub senders: usize,
    /// Answering threads
    #[arg(long, default_value_t = 1)]
    pub receivers: usize,
    /// The core of the asking process; any without it
    #[arg(long)]
    pub host_core: Option<usize>,
    /// The core of the answering process; any without it
    #[arg(long)]
    pub peer_core: Option<usize>,
    /// Microseconds before anything is counted
    #[arg(long, default_value_t = 60_000)]
    pub warm: u64,
    /// Microseconds that are counted
    #[arg(long, default_value_t = 250_000)]
    pub measure: u64,
    /// Microseconds from one question to the next; 0 asks again at once
    #[arg(long, default_value_t = 0)]
    pub gap: u64,
    /// Both sides may spin; otherwise they park at once
    #[arg(long)]
    pub spin: bool,
}

impl Spec {
    /// A closed loop of 64 bytes, one question at a time, on any core, parking.
    pub fn new(kind: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            size: 64,
            window: 1,
            senders: 1,
            receivers: 1,
            host_core: None,
            peer_core: None,
            warm: 60_000,
            measure: 250_000,
            gap: 0,
            spin: false,
        }
    }

    /// The command line that it is parsed from.
    pub fn to_words(&self) -> Vec<String> {
        let numbers = [
            ("--size", Some(self.size)),
            ("--window", Some(self.window)),
            ("--senders", Some(self.senders)),
            ("--receivers", Some(self.receivers)),
            ("--host-core", self.host_core),
            ("--peer-core", self.peer_core),
        ];
        let mut words = vec![self.kind.clone()];
        for (name, number) in numbers {
            if let Some(number) = number {
                words.extend([name.to_owned(), number.to_string()]);
            }
        }
        for (name, micros) in [
            ("--warm", self.warm),
            ("--measure", self.measure),
            ("--gap", self.gap),
        ] {
            words.extend([name.to_owned(), micros.to_string()]);
        }
        if self.spin {
            words.push("--spin".to_owned());
        }
        words
    }

    /// Time before anything is counted.
    pub fn warm_time(&self) -> Duration {
        Duration::from_micros(self.warm)
    }

    /// Time that is counted.
    pub fn measured_time(&self) -> Duration {
        Duration::from_micros(self.measure)
    }
}
