//! The callbacks of a real server port: they note what they see and do what the story's script says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fltport::{Caller, ClientPort, NtStatus, Peer, PortHandler, Refusal};

use super::board::Board;
use crate::backend::{Answer, CallId, Callback, ConnId, Event, Inside, Script};

/// The filter's ends that callbacks have been given.
pub(super) type Conns = Arc<Mutex<BTreeMap<ConnId, ClientPort>>>;

/// What the callbacks of one port do.
#[derive(Debug)]
pub(super) struct Scripts {
    connect: Script,
    disconnect: Script,
    message: Script,
}

/// The callbacks of one port.
pub(super) struct Recorder {
    pub(super) board: Arc<Board>,
    pub(super) conns: Conns,
    pub(super) scripts: Arc<Mutex<Scripts>>,
    pub(super) port_cookie: u64,
}

/// The callbacks of a port without a message callback.
pub(super) struct Silent(pub(super) Recorder);

impl PortHandler for Silent {
    type Connection = Cookie;

    fn connect(&self, port: ClientPort, peer: &Peer, context: &[u8]) -> Result<Cookie, NtStatus> {
        self.0.connect(port, peer, context)
    }

    fn disconnect(&self, cookie: Cookie, peer: &Peer) {
        self.0.disconnect(cookie, peer);
    }
}

/// The connection cookie, and whose it is.
pub(super) struct Cookie {
    conn: ConnId,
    value: Option<u64>,
    port: ClientPort,
}

impl Default for Scripts {
    fn default() -> Self {
        let echo = Script {
            inside: None,
            hold: false,
            answer: Answer::Echo,
        };
        Self {
            connect: echo.clone(),
            disconnect: echo.clone(),
            message: echo,
        }
    }
}

impl Scripts {
    pub(super) fn get(&self, callback: Callback) -> Script {
        match callback {
            Callback::Connect => self.connect.clone(),
            Callback::Disconnect => self.disconnect.clone(),
            Callback::Message => self.message.clone(),
        }
    }

    pub(super) fn set(&mut self, callback: Callback, script: Script) {
        match callback {
            Callback::Connect => self.connect = script,
            Callback::Disconnect => self.disconnect = script,
            Callback::Message => self.message = script,
        }
    }
}

/// Locks whatever a failed story left behind.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The status and output of a script for this input, with the claimed length.
pub(super) fn answer(script: &Script, input: &[u8], capacity: usize) -> (NtStatus, Vec<u8>, usize) {
    match &script.answer {
        Answer::Is {
            status,
            output,
            claimed,
            ..
        } => {
            let fits = output[..output.len().min(capacity)].to_vec();
            let length = claimed.unwrap_or(fits.len());
            (*status, fits, length)
        }
        Answer::Echo => {
            let fits = input[..input.len().min(capacity)].to_vec();
            let length = fits.len();
            (NtStatus::SUCCESS, fits, length)
        }
    }
}

/// The connection cookie that a connect callback's script gives.
pub(super) const fn cookie(script: &Script) -> Option<u64> {
    match script.answer {
        Answer::Is { cookie, .. } => cookie,
        Answer::Echo => None,
    }
}

impl Recorder {
    fn call(&self) -> CallId {
        CallId(self.board.number())
    }

    fn script(&self, callback: Callback) -> Script {
        lock(&self.scripts).get(callback)
    }

    /// Does what the script says before the answer.
    fn play(&self, call: CallId, script: &Script, port: &ClientPort) {
        let status = match &script.inside {
            None => None,
            Some(Inside::Close) => {
                port.close();
                Some(NtStatus::SUCCESS)
            }
            Some(Inside::Send(payload, timeout)) => {
                let sent = port.notify(payload, *timeout);
                Some(sent.map_or_else(|error| error.status(), |()| NtStatus::SUCCESS))
            }
        };
        if let Some(status) = status {
            self.board.note(Event::Inside { call, status });
        }
        if script.hold {
            self.board.hold(call);
        }
    }
}

impl PortHandler for Recorder {
    type Connection = Cookie;

    fn connect(&self, port: ClientPort, peer: &Peer, context: &[u8]) -> Result<Cookie, NtStatus> {
        let (call, conn) = (self.call(), ConnId(self.board.number()));
        let script = self.script(Callback::Connect);
        lock(&self.conns).insert(conn, port.clone());
        self.board.note(Event::Connect {
            call,
            conn,
            port_cookie: self.port_cookie,
            context: context.to_vec(),
            pid: peer.pid(),
            uid: peer.uid(),
            bits: peer.bits(),
        });
        self.play(call, &script, &port);
        let (status, ..) = answer(&script, b"", 0);
        self.board.note(Event::Returned { call });
        if !status.is_nt_success() {
            return Err(status);
        }
        Ok(Cookie {
            conn,
            value: cookie(&script),
            port,
        })
    }

    fn disconnect(&self, cookie: Cookie, _: &Peer) {
        let call = self.call();
        let script = self.script(Callback::Disconnect);
        self.board.note(Event::Disconnect {
            call,
            conn: cookie.conn,
            cookie: cookie.value,
        });
        self.play(call, &script, &cookie.port);
        self.board.note(Event::Returned { call });
    }

    fn message(
        &self,
        cookie: &Cookie,
        caller: Caller,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, Refusal> {
        let call = self.call();
        let script = self.script(Callback::Message);
        self.board.note(Event::Message {
            call,
            conn: cookie.conn,
            cookie: cookie.value,
            input: input.to_vec(),
            capacity: output.len(),
            pid: caller.pid,
        });
        self.play(call, &script, &cookie.port);
        let (status, bytes, written) = answer(&script, input, output.len());
        output[..bytes.len()].copy_from_slice(&bytes);
        self.board.note(Event::Returned { call });
        if status == NtStatus::SUCCESS {
            Ok(written)
        } else {
            Err(Refusal { status, written })
        }
    }
}
