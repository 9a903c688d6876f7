//! Everybody who is asked: the ports of services, the filters that ask there, and the scanners that the host starts.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fltport::ServerPort;
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::config::Config;
use crate::control::policies_of;
use crate::events::Events;
use crate::exempt::Exempt;
use crate::filter::Filter;
use crate::filters::{Ask, Desk, Panel};
use crate::judge::{Judge, Surge};
use crate::pulse::Pulse;
use crate::say::say;
use crate::scanner::{Scanner, scanner_uid};
use crate::service_port::{REMOTE, SCAN, ServicePort};

/// Where services are asked.
#[derive(Debug)]
pub(crate) struct Services {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    port: ServicePort,
    desk: Desk,
    /// The host starts scanners for it.
    has_scanner: bool,
}

/// One port to listen at.
pub(crate) struct Counter {
    pub(crate) leaf: String,
    pub(crate) ask: Ask,
    pub(crate) grant_mutes: bool,
    /// It is for network and FUSE filesystems.
    is_remote: bool,
    /// The host starts a scanner for it.
    pub(crate) has_scanner: bool,
}

/// How long the first start waits for the scanner before it guards without one.
const SCANNER_WAIT: Duration = Duration::from_secs(30);

impl Services {
    /// Ports without services yet. `remote`: some filesystem may keep whoever reads it waiting.
    ///
    /// # Errors
    /// The system's, when no thread can be started.
    pub(crate) fn new(config: &Config, cache: &Arc<Cache>, remote: bool) -> io::Result<Self> {
        let row = |port: &ServicePort| {
            let policies = port.policies.unwrap_or(config.policies);
            let ask = |name: String| {
                // Where nothing is denied there is nothing to be released.
                let surge = if config.monitor {
                    Surge::Never
                } else {
                    config.surge
                };
                let judge = Judge::new(name, policies, surge);
                Ask::new(judge, config.more_time, Arc::clone(cache))
            };
            let name = &port.name;
            let has_scanner = port.name == SCAN && config.scanner.is_some();
            let desk = Desk {
                local: ask(name.clone())?,
                remote: match remote {
                    true => Some(ask(format!("{name}{REMOTE}"))?),
                    false => None,
                },
                remote_is_kept: has_scanner,
            };
            if let Some(remote) = desk.remote.as_ref().filter(|_| !has_scanner) {
                remote.ask_elsewhere(&desk.local);
                remote.share_deadly(&desk.local);
            }
            let port = port.clone();
            Ok(Row {
                port,
                desk,
                has_scanner,
            })
        };
        let rows = config.services.iter().map(row);
        let mut rows = rows.collect::<io::Result<Vec<Row>>>()?;
        rows.sort_by_key(|row| std::cmp::Reverse(row.port.altitude));
        Ok(Self { rows })
    }

    /// The filters that ask: one for each altitude.
    pub(crate) fn filters(&self, config: &Config) -> Vec<Arc<dyn Filter>> {
        let same = |a: &Row, b: &Row| a.port.altitude == b.port.altitude;
        let panels: Vec<&[Row]> = self.rows.chunk_by(same).collect();
        let turns = (1..=panels.len()).rev();
        let filter = |(rows, turns): (&&[Row], usize)| {
            let names: Vec<&str> = rows.iter().map(|row| row.port.name.as_str()).collect();
            let desks = rows.iter().map(|row| row.desk.clone()).collect();
            let altitude = rows.first()?.port.altitude;
            let turns = u32::try_from(turns).unwrap_or(u32::MAX);
            let panel = Panel::new(names.join("+"), altitude, desks, config.agree, turns);
            Some(Arc::new(panel) as Arc<dyn Filter>)
        };
        panels.iter().zip(turns).filter_map(filter).collect()
    }

    /// The ports to listen at.
    pub(crate) fn counters(&self) -> impl Iterator<Item = Counter> {
        self.rows.iter().flat_map(|row| {
            let counter = |leaf: String, ask: &Ask, is_remote| Counter {
                leaf,
                is_remote,
                ask: ask.clone(),
                grant_mutes: row.port.grant_mutes,
                has_scanner: row.has_scanner,
            };
            let name = &row.port.name;
            let local = counter(name.clone(), &row.desk.local, false);
            let remote = row.desk.remote.as_ref();
            let remote = remote.map(|remote| counter(format!("{name}{REMOTE}"), remote, true));
            std::iter::once(local).chain(remote)
        })
    }

    fn asks(&self) -> impl Iterator<Item = &Ask> {
        let desks = self.rows.iter().map(|row| &row.desk);
        desks.flat_map(|desk| std::iter::once(&desk.local).chain(&desk.remote))
    }

    /// Scanners that the host starts are on their way, and, if it follows another, that one's services.
    pub(crate) fn expect(&self, follows: bool) {
        for counter in self.counters() {
            // Services come back to a port of remote filesystems only if they were there; meanwhile the other is asked.
            let comes_back = follows && !counter.is_remote;
            counter
                .ask
                .expect_service(counter.has_scanner || comes_back);
        }
    }

    /// Services of the last host that are not here by now do not come.
    pub(crate) fn expect_no_more(&self) {
        let own = |counter: &Counter| !counter.has_scanner;
        for counter in self.counters().filter(own) {
            counter.ask.expect_service(false);
        }
    }

    /// The keepers of deadlines are watched from now on.
    pub(crate) fn watch(&self, pulse: &Arc<Pulse>) {
        self.asks().for_each(|ask| ask.watch(Arc::clone(pulse)));
    }

    /// Takes the locks that questions need, and gives them back.
    pub(crate) fn touch(&self) {
        self.asks().for_each(Ask::touch);
    }

    /// Decides what waits by policy, and ends the threads.
    pub(crate) fn stop(&self) {
        self.asks().for_each(Ask::stop);
    }

    /// Services connected, questions with them, questions that wait.
    pub(crate) fn load(&self) -> (usize, usize, usize) {
        let loads = self.asks().map(Ask::load);
        loads.fold((0, 0, 0), |sum, load| {
            (sum.0 + load.0, sum.1 + load.1, sum.2 + load.2)
        })
    }

    /// The same for each port.
    pub(crate) fn list(&self) -> Value {
        let rows = self.rows.iter().flat_map(|row| {
            let altitude = row.port.altitude.0;
            let policies = row.port.policies.as_ref().map(policies_of);
            // Another is not asked in the place of this one.
            let kept = |is_remote: bool| !is_remote || row.desk.remote_is_kept;
            let one = move |leaf: String, ask: &Ask, is_remote| {
                let (services, asked, waiting) = ask.load();
                json!({
                    "port": leaf, "altitude": altitude, "services": services,
                    "with_services": asked, "waiting": waiting, "released": ask.is_released(),
                    "kept": kept(is_remote), "policies": policies,
                })
            };
            let name = &row.port.name;
            let remote = row.desk.remote.as_ref();
            let remote = remote.map(|ask| one(format!("{name}{REMOTE}"), ask, true));
            std::iter::once(one(name.clone(), &row.desk.local, false)).chain(remote)
        });
        rows.collect()
    }
}

/// Starts to keep a scanner running at this port.
///
/// # Errors
/// In words.
pub(crate) fn start_scanner(
    config: &Config,
    counter: &Counter,
    port: &Arc<ServerPort>,
    exempt: &Arc<Exempt>,
    events: &Arc<Events>,
) -> Result<Option<Scanner>, String> {
    let program = config.scanner.as_ref().filter(|_| counter.has_scanner);
    let Some(program) = program else {
        return Ok(None);
    };
    let uid = if rustix::process::geteuid().is_root() {
        scanner_uid().map_err(|error| format!("cannot choose a user for the scanner: {error}"))?
    } else {
        rustix::process::geteuid().as_raw()
    };
    let scanner = Scanner::start(
        program.clone(),
        config.rules.clone(),
        uid,
        Arc::clone(port),
        counter.ask.clone(),
        Arc::clone(exempt),
        Arc::clone(events),
    );
    scanner
        .map(Some)
        .map_err(|error| format!("cannot start the scanner: {error}"))
}

/// Waits until the first scanner is connected. One that cannot use its rules ends the start; one that is only slow, or
/// cannot be run at all, does not.
///
/// # Errors
/// In words, when it has said itself why.
pub(crate) fn wait_for_scanner(ask: &Ask, scanner: &Scanner) -> Result<(), String> {
    let end = Instant::now() + SCANNER_WAIT;
    while ask.load().0 == 0 && ask.expects_service() && Instant::now() < end {
        if scanner.gave_up() {
            return Err("the scanner cannot start; it says why above".to_owned());
        }
        thread::sleep(Duration::from_millis(2));
    }
    if ask.load().0 == 0 {
        say("the scanner is not ready yet; guarding by policy until it is");
    }
    Ok(())
}
