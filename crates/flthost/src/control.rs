//! The control port: what the host is and does, for its command line.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use fltport::protocol::control::Request;
use fltport::protocol::explain::Explain;
use fltport::{Caller, ClientPort, NtStatus, Peer, PortHandler, Refusal, ServerPort};
use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::decision::Decider;
use crate::events::Guard;
use crate::explain::{Watched, explain};
use crate::fanotify::Notifier;
use crate::filters::Trace;
use crate::mutes::Mutes;
use crate::neighbours;
use crate::notice::Notices;
use crate::policy::{Actions, Policies};
use crate::services::Services;
use crate::stack::Stack;
use crate::volumes::Volumes;

/// What the control port tells of.
#[derive(Debug)]
pub struct Control {
    pub(crate) config: Config,
    /// What the kernel cannot do, and what follows.
    pub(crate) missing: Vec<String>,
    pub(crate) decider: Arc<Decider>,
    pub(crate) stack: Arc<Stack>,
    pub(crate) services: Arc<Services>,
    pub(crate) trace: Arc<Trace>,
    /// The supervisor's process; 0 when it has died.
    pub(crate) supervisor: AtomicU32,
    pub(crate) volumes: std::sync::OnceLock<Arc<Volumes>>,
    pub(crate) notifier: Option<Arc<Notifier>>,
    pub(crate) notices: Arc<Notices>,
    pub(crate) mutes: Arc<Mutes>,
    pub(crate) watched: Vec<Watched>,
    pub(crate) guards: std::sync::Mutex<Vec<Guard>>,
    pub(crate) ports: std::sync::Mutex<Vec<(String, Arc<ServerPort>)>>,
}

/// The callbacks of the control port.
#[derive(Debug)]
pub struct ControlHandler(pub Arc<Control>);

impl PortHandler for ControlHandler {
    type Connection = ();

    fn connect(&self, _: ClientPort, _: &Peer, _: &[u8]) -> Result<(), NtStatus> {
        Ok(())
    }

    fn message(
        &self,
        (): &(),
        _: Caller,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, Refusal> {
        if let Some(question) = Explain::parse(input) {
            let explained = explain(&question, &self.0.watched, &self.0.mutes);
            return write(&explained, output);
        }
        let request = Request::parse(input).ok_or(NtStatus::INVALID_PARAMETER)?;
        let value = match request {
            Request::Status => self.0.status(),
            Request::Ports => self.0.list_ports(),
            Request::Connections => self.0.list_connections(),
            Request::Filters => self.0.list_filters(),
            Request::Instances => self.0.list_instances(),
            Request::Mutes => self.0.mutes.list(),
            _ => return Err(NtStatus::NOT_SUPPORTED.into()),
        };
        write(&value, output)
    }
}

fn write(value: &Value, output: &mut [u8]) -> Result<usize, Refusal> {
    let text = value.to_string();
    let room = output
        .get_mut(..text.len())
        .ok_or(NtStatus::BUFFER_TOO_SMALL)?;
    room.copy_from_slice(text.as_bytes());
    Ok(text.len())
}

impl Control {
    fn status(&self) -> Value {
        let counters = self.decider.counters();
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let policies = self.decider.policies();
        let (services, asked, waiting) = self.services.load();
        let supervisor = self.supervisor.load(Ordering::Relaxed);
        let (opens, execs) = self.trace.counts();
        let (cached, in_kernel) = self.decider.cache().counts();
        json!({
            "instance": self.config.instance,
            "version": env!("CARGO_PKG_VERSION"),
            "worker": std::process::id(),
            "supervisor": supervisor,
            "guards": *self.guards.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
            "monitor": self.config.monitor,
            "grants_mutes": self.config.services.iter().any(|port| port.grant_mutes),
            "missing": self.missing,
            "policies": policies_of(policies),
            "surge": self.config.surge.name(),
            "operations": {
                "pending": self.decider.pending(), "with_services": asked, "waiting": waiting,
                "opens": opens, "execs": execs,
                "allowed": count(&counters.allowed), "denied": count(&counters.denied),
                "would_deny": count(&counters.would_deny),
                "by_service": count(&counters.by_service), "by_policy": count(&counters.by_policy),
                "exempt": count(&counters.exempt), "unanswered": count(&counters.unanswered),
                "unopenable": count(&counters.unopenable), "unlogged": count(&counters.unlogged),
                "cached": cached, "in_kernel": in_kernel,
            },
            "services": services,
            "service_ports": self.services.list(),
            "others": neighbours::list(self.watched.iter().map(Watched::place), supervisor),
            "volumes": self.volumes.get().map(|volumes| volumes.list()),
            "notices": self.notifier.as_ref().map(|notifier| json!({
                "told": count(&self.notices.told), "lost": count(&self.notices.lost),
                "unmarked": notifier.unmarked(),
            })),
        })
    }

    fn list_ports(&self) -> Value {
        let ports = self
            .ports
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let rows = ports.iter().map(|(name, port)| {
            json!({ "name": name, "connections": port.connections().len(), "max_connections": port.max_connections() })
        });
        rows.collect()
    }

    fn list_connections(&self) -> Value {
        let ports = self
            .ports
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let rows = ports.iter().flat_map(|(name, port)| {
            port.connections().into_iter().map(move |connection| {
                let info = connection.info();
                json!({
                    "port": name, "id": info.id, "pid": connection.peer().pid(), "uid": connection.peer().uid(),
                    "gets": info.gets, "waiting": info.waiting, "outstanding": info.outstanding,
                    "delivered": info.delivered, "replied": info.replied, "timed_out": info.timed_out,
                    "late_replies": info.late_replies,
                })
            })
        });
        rows.collect()
    }

    fn list_filters(&self) -> Value {
        let guards = self
            .guards
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .len();
        let rows = self.stack.list().map(
            |(name, altitude)| json!({ "name": name, "altitude": altitude.0, "instances": guards }),
        );
        rows.collect()
    }

    fn list_instances(&self) -> Value {
        let guards = self
            .guards
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let rows = self.stack.list().flat_map(|(name, altitude)| {
            guards.iter().map(move |guard| {
                json!({
                    "filter": name, "altitude": altitude.0, "volume": guard.path, "mark": guard.kind,
                    "directories": guard.directories,
                })
            })
        });
        rows.collect()
    }
}

/// Policies as JSON: those of executions apart, because they may differ.
pub(crate) fn policies_of(policies: &Policies) -> Value {
    let actions = |actions: &Actions| -> Map<String, Value> {
        let list = actions.list().into_iter();
        list.map(|(cause, action)| (cause.to_owned(), action.name().into()))
            .collect()
    };
    let mut value = actions(&policies.open);
    let deadline = u64::try_from(policies.deadline.as_millis()).unwrap_or(u64::MAX);
    value.insert("deadline_ms".to_owned(), deadline.into());
    value.insert("exec".to_owned(), actions(&policies.exec).into());
    value.into()
}
