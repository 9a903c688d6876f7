//! `cargo xtask bench`: what a message and a guarded open cost, against loops that do nothing but the system calls.
//!
//! Cases are interleaved and repeated; a ratio is the median over repetitions of ratios within one repetition, because
//! a shared machine is never the same twice. Placement is always stated: both processes on one core, or one on each.

mod guard;
mod stats;
mod transport;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

use stats::Table;

/// Measures fltport against bare loops.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Fewer and shorter repetitions
    #[arg(long)]
    quick: bool,
    /// Also write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The folder of flthostd and fltscand
    #[arg(long, value_name = "DIR", default_value = "target/release")]
    programs: PathBuf,
}

/// The other process of a case: this program starts itself.
#[derive(Debug, Subcommand)]
enum Role {
    /// Echoes packets of a bare socket
    #[command(hide = true)]
    SocketPeer { path: PathBuf, core: usize },
    /// Answers a port's messages
    #[command(hide = true)]
    PortPeer { directory: PathBuf, core: usize },
    /// Answers a filter host's questions with allow
    #[command(hide = true)]
    Service { directory: PathBuf },
    /// Allows every open below a directory
    #[command(hide = true)]
    AllowAll { path: PathBuf },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.role {
        Some(Role::SocketPeer { path, core }) => return transport::socket_peer(&path, core),
        Some(Role::PortPeer { directory, core }) => return transport::port_peer(&directory, core),
        Some(Role::Service { directory }) => return guard::service(&directory),
        Some(Role::AllowAll { path }) => return guard::allow_all(&path),
        None => {}
    }
    let mut table = Table::default();
    transport::measure(arguments.quick, &mut table)?;
    guard::measure(arguments.quick, &arguments.programs, &mut table)?;
    println!("{table}");
    if let Some(path) = arguments.json {
        std::fs::write(path, table.to_json())?;
    }
    Ok(())
}
