//! The ports of a worker: where services, listeners and the command line connect.

use std::sync::{Arc, PoisonError};

use fltport::{Access, PortHandler, ServerPort};

use crate::config::Config;
use crate::control::{Control, ControlHandler};
use crate::events::EventsHandler;
use crate::handover::remove_door;
use crate::parts::Parts;
use crate::say::say;
use crate::services::Counter;

/// The names of this host's ports, which are given back when it ends, also where it ends before it guards.
pub(crate) struct PortNames<'a>(pub(crate) &'a Control);

/// The ports of a worker that listens.
pub(crate) struct Ports {
    /// Those of services.
    pub(crate) counters: Vec<(Counter, Arc<ServerPort>)>,
}

/// Connections that each port takes.
const MOST: u32 = 16;

impl Ports {
    /// Listens at all ports: those of services first, because whoever listens or asks wants to hear of them.
    ///
    /// # Errors
    /// In words.
    pub(crate) fn open(config: &Config, parts: &Parts) -> Result<Self, String> {
        let control = &parts.control;
        let mut counters = Vec::new();
        for counter in parts.services.counters() {
            let granted = counter.grant_mutes.then(|| Arc::clone(&parts.mutes));
            let handler = counter.ask.handler(granted);
            let port = listen(config, control, &counter.leaf, handler)?;
            counters.push((counter, port));
        }
        let events = EventsHandler(Arc::clone(&parts.events));
        listen(config, control, "events", events)?;
        listen(
            config,
            control,
            "control",
            ControlHandler(Arc::clone(control)),
        )?;
        Ok(Self { counters })
    }
}

impl Drop for PortNames<'_> {
    fn drop(&mut self) {
        remove_door(&self.0.config);
        let ports = self.0.ports.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, port) in ports.iter() {
            port.close();
        }
    }
}

/// The port is the control's from here on, which lists it.
fn listen<H: PortHandler>(
    config: &Config,
    control: &Control,
    leaf: &str,
    handler: H,
) -> Result<Arc<ServerPort>, String> {
    let (name, leaf) = (config.port_name(leaf), leaf.to_owned());
    let mut builder = ServerPort::builder(&name)
        .access(Access::host_only(rustix::process::geteuid().as_raw()))
        .max_connections(MOST)
        .notice(move |notice| say(format_args!("port {leaf}: {notice}")));
    if let Some(directory) = &config.port_directory {
        builder = builder.directory(directory);
    }
    let port = Arc::new(
        builder
            .listen(handler)
            .map_err(|error| format!("port {name}: {error}"))?,
    );
    let mut ports = control.ports.lock().unwrap_or_else(PoisonError::into_inner);
    ports.push((name, Arc::clone(&port)));
    Ok(port)
}
