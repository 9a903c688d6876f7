//! A stand-in for `flthostd` in the tests of `fltctl`: no privilege, no kernel, only the ports and the lifeline.
//!
//! It is played by a script, the file named by `FAKE_HOST_SCRIPT`, one step in a line:
//!
//! | step | does |
//! | --- | --- |
//! | `{...}` | tells it to all listeners |
//! | `listener` | waits for a listener |
//! | `vanish` | takes the events port away and brings it back |
//! | `flood N` | tells N decisions without waiting, and says so on standard error |
//! | `say TEXT` | writes to standard error |
//! | `die CODE` | exits |
//! | `stay` | does not care for its lifeline from now on |
//!
//! What it was started with is written beside the script (`.args`), and that it ended in order (`.ended`).

#![forbid(unsafe_code)]

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fltport::{ClientPort, NtStatus, Peer, PortHandler, ServerPort, Timeout};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let script = std::env::var_os("FAKE_HOST_SCRIPT").ok_or("FAKE_HOST_SCRIPT is not set")?;
    let script = PathBuf::from(script);
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    std::fs::write(script.with_extension("args"), arguments.join("\n"))?;
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let instance = value("--instance").ok_or("--instance is missing")?;
    let directory = value("--port-directory").ok_or("--port-directory is missing")?;

    let stay = Arc::new(AtomicBool::new(false));
    if arguments.iter().any(|argument| argument == "--lifeline") {
        let stays = Arc::clone(&stay);
        let ended = script.with_extension("ended");
        std::thread::spawn(move || end_with_lifeline(&ended, &stays));
    }
    let listeners = Listeners::default();
    let open = || {
        ServerPort::builder(&format!(r"\fltport\{instance}\events"))
            .directory(&directory)
            .max_connections(4)
            .listen(listeners.clone())
    };
    let mut port = Some(open()?);
    for step in std::fs::read_to_string(&script)?.lines() {
        match step.split_once(' ').unwrap_or((step, "")) {
            ("listener", _) => listeners.wait(),
            ("vanish", _) => {
                drop(port.take());
                std::thread::sleep(Duration::from_millis(150));
                port = Some(open()?);
            }
            ("flood", count) => listeners.flood(count.parse()?),
            ("say", text) => eprintln!("{text}"),
            ("die", code) => exit(code.parse()?),
            ("stay", _) => stay.store(true, Ordering::Relaxed),
            _ => listeners.tell(step),
        }
    }
    loop {
        std::thread::park();
    }
}

/// Those who are connected.
#[derive(Clone, Debug, Default)]
struct Listeners(Arc<Mutex<Vec<ClientPort>>>);

impl Listeners {
    fn wait(&self) {
        while self.now().is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn tell(&self, event: &str) {
        for listener in self.now() {
            // A listener that has gone is not told.
            listener
                .notify(event.as_bytes(), Timeout::after(Duration::from_secs(5)))
                .ok();
        }
    }

    fn flood(&self, count: u64) {
        for id in 0..count {
            self.tell(&format!(
                r#"{{"event":"decision","id":{id},"operation":"open","path":"/a/rather/long/path/to/a/file","verdict":"deny","cause":"service"}}"#
            ));
        }
        eprintln!("flooded");
    }

    fn now(&self) -> Vec<ClientPort> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl PortHandler for Listeners {
    type Connection = ();

    fn connect(&self, port: ClientPort, _: &Peer, _: &[u8]) -> Result<(), NtStatus> {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.push(port);
        Ok(())
    }

    fn disconnect(&self, (): (), _: &Peer) {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.clear();
    }
}

fn end_with_lifeline(ended: &Path, stay: &AtomicBool) {
    // Nothing is ever written to it: whatever this returns, it is over.
    std::io::stdin().read_to_end(&mut Vec::new()).ok();
    if !stay.load(Ordering::Relaxed) {
        let written = std::fs::write(ended, "");
        exit(i32::from(written.is_err()));
    }
}

#[expect(
    clippy::exit,
    reason = "this program is a prop, and ends where its script says"
)]
fn exit(code: i32) {
    std::process::exit(code);
}
