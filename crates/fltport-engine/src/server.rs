//! A server port: whether it listens, how many connections it counts, who may connect; and the filter that owns ports.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::limits;
use crate::status::NtStatus;

/// A server port.
///
/// ```text
///   Listening ── close ──▶ Closed      connections live on, with their callbacks
/// ```
#[derive(Debug)]
pub struct Port {
    state: PortState,
    access: Access,
    max_connections: u32,
    connections: u32,
    handshakes: BTreeMap<u32, usize>,
}

/// Whether a port takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// The name exists.
    Listening,
    /// The name is gone; live connections are not touched.
    Closed,
}

/// Who a connecting process is, as far as access is concerned. The kernel says so, never the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Who may connect to a port: the counterpart of its security descriptor. Decided once, when a client connects, before
/// a byte of it is read; afterwards the connection itself is the authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    everyone: bool,
    users: Vec<u32>,
    groups: Vec<u32>,
}

impl Access {
    /// Root and the user that the host runs as: the default, as SYSTEM and Administrators are on Windows.
    #[must_use]
    pub fn host_only(host_uid: u32) -> Self {
        let mut users = Vec::from([0, host_uid]);
        users.dedup();
        Self {
            everyone: false,
            users,
            groups: Vec::new(),
        }
    }

    /// Everyone on the machine (a NULL DACL).
    #[must_use]
    pub const fn everyone() -> Self {
        Self {
            everyone: true,
            users: Vec::new(),
            groups: Vec::new(),
        }
    }

    /// Nobody at all (an empty DACL): only connections that the host itself hands out.
    #[must_use]
    pub const fn nobody() -> Self {
        Self {
            everyone: false,
            users: Vec::new(),
            groups: Vec::new(),
        }
    }

    /// Also this user.
    #[must_use]
    pub fn allow_user(mut self, uid: u32) -> Self {
        self.users.push(uid);
        self
    }

    /// Also the members of this group.
    #[must_use]
    pub fn allow_group(mut self, gid: u32) -> Self {
        self.groups.push(gid);
        self
    }

    /// Whether `who` may connect.
    #[must_use]
    pub fn allows(&self, who: &Credentials) -> bool {
        self.everyone
            || self.users.contains(&who.uid)
            || self.groups.contains(&who.gid)
            || who.groups.iter().any(|gid| self.groups.contains(gid))
    }

    /// Whether a process other than root and `host_uid` may ever be allowed.
    #[must_use]
    pub fn is_wider_than(&self, host_uid: u32) -> bool {
        self.everyone
            || !self.groups.is_empty()
            || self.users.iter().any(|uid| *uid != 0 && *uid != host_uid)
    }
}

impl Port {
    /// A port that listens.
    ///
    /// # Errors
    /// `STATUS_INVALID_PARAMETER` for a limit of zero connections.
    pub fn new(access: Access, max_connections: u32) -> Result<Self, NtStatus> {
        if max_connections == 0 {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        let state = PortState::Listening;
        Ok(Self {
            state,
            access,
            max_connections,
            connections: 0,
            handshakes: BTreeMap::new(),
        })
    }

    /// A client has connected its transport. Access is checked first, then how many of its user's connects are under
    /// way. Each success is followed by one [`Self::handle_greeting_over`].
    ///
    /// # Errors
    /// The status that the client is told.
    pub fn handle_arrival(&mut self, who: &Credentials) -> Result<(), NtStatus> {
        if self.state == PortState::Closed {
            return Err(NtStatus::OBJECT_NAME_NOT_FOUND);
        }
        if !self.access.allows(who) {
            return Err(NtStatus::ACCESS_DENIED);
        }
        let pending = self.handshakes.entry(who.uid).or_insert(0);
        if *pending >= limits::HANDSHAKES_PER_USER {
            return Err(NtStatus::INSUFFICIENT_RESOURCES);
        }
        *pending = pending.saturating_add(1);
        Ok(())
    }

    /// The greeting of a client of `uid` is complete, or failed.
    pub fn handle_greeting_over(&mut self, uid: u32) {
        if let Some(pending) = self.handshakes.get_mut(&uid) {
            *pending = pending.saturating_sub(1);
            if *pending == 0 {
                self.handshakes.remove(&uid);
            }
        }
    }

    /// A client asks to be connected: its slot is counted before the connect callback runs. Each success is followed by
    /// one [`Self::handle_release`].
    ///
    /// # Errors
    /// The status that the client is told; the callback must not run.
    pub fn handle_connect(&mut self) -> Result<(), NtStatus> {
        if self.state == PortState::Closed {
            return Err(NtStatus::OBJECT_NAME_NOT_FOUND);
        }
        if self.connections >= self.max_connections {
            return Err(NtStatus::CONNECTION_COUNT_LIMIT);
        }
        self.connections = self.connections.saturating_add(1);
        Ok(())
    }

    /// A connection no longer counts.
    pub fn handle_release(&mut self) {
        self.connections = self.connections.saturating_sub(1);
    }

    /// The port is closed (`FltCloseCommunicationPort`). Says whether this call did it.
    pub fn handle_close(&mut self) -> bool {
        let was = core::mem::replace(&mut self.state, PortState::Closed);
        was == PortState::Listening
    }

    /// Whether the port takes connections.
    #[must_use]
    pub const fn state(&self) -> PortState {
        self.state
    }

    /// Connections that count, and how many may.
    #[must_use]
    pub const fn connections(&self) -> (u32, u32) {
        (self.connections, self.max_connections)
    }

    /// Who may connect.
    #[must_use]
    pub const fn access(&self) -> &Access {
        &self.access
    }
}

/// The owner of ports. Unregistering waits until all its ports are closed, and ends their connections.
///
/// ```text
///   Registered ── unregister ──▶ Unregistering ── last port closed, last callback returned ──▶ Unregistered
/// ```
#[derive(Debug, Default)]
pub struct Filter {
    state: FilterState,
    open_ports: u32,
    connections: u32,
}

/// Where a filter is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FilterState {
    /// Ports may be made.
    #[default]
    Registered,
    /// No more ports, no more connections; existing ones end.
    Unregistering,
    /// No callback runs or will run.
    Unregistered,
}

impl Filter {
    /// A registered filter without ports.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A port is being made.
    ///
    /// # Errors
    /// `STATUS_FLT_DELETING_OBJECT` once unregistering has begun.
    pub fn handle_create(&mut self) -> Result<(), NtStatus> {
        if self.state != FilterState::Registered {
            return Err(NtStatus::FLT_DELETING_OBJECT);
        }
        self.open_ports = self.open_ports.saturating_add(1);
        Ok(())
    }

    /// A port was closed, or could not be made after all.
    pub fn handle_port_closed(&mut self) {
        self.open_ports = self.open_ports.saturating_sub(1);
        self.settle();
    }

    /// A connection begins.
    ///
    /// # Errors
    /// `STATUS_FLT_DELETING_OBJECT` once unregistering has begun.
    pub fn handle_connect(&mut self) -> Result<(), NtStatus> {
        if self.state != FilterState::Registered {
            return Err(NtStatus::FLT_DELETING_OBJECT);
        }
        self.connections = self.connections.saturating_add(1);
        Ok(())
    }

    /// A connection has ended, its disconnect callback returned.
    pub fn handle_connection_ended(&mut self) {
        self.connections = self.connections.saturating_sub(1);
        self.settle();
    }

    /// Unregistering begins. It is over when [`Self::state`] says so.
    pub fn handle_unregister(&mut self) {
        if self.state == FilterState::Registered {
            self.state = FilterState::Unregistering;
        }
        self.settle();
    }

    /// Where the filter is in its life.
    #[must_use]
    pub const fn state(&self) -> FilterState {
        self.state
    }

    fn settle(&mut self) {
        if self.state == FilterState::Unregistering && self.open_ports == 0 && self.connections == 0
        {
            self.state = FilterState::Unregistered;
        }
    }
}
