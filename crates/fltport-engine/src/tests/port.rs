//! The port around its connections: count, access, closing; and the filter around its ports.

use super::*;
use crate::server::{Access, Credentials, Filter, FilterState, Port, PortState};

/// A filter with one port and the connections of both, wired as a driver wires them.
#[derive(Debug)]
pub(super) struct House {
    pub(super) filter: Filter,
    pub(super) port: Port,
    pub(super) pairs: Vec<Pair>,
    settled: Vec<(u32, bool)>,
}

impl House {
    /// A port that everyone may connect to.
    pub(super) fn new(max_connections: u32) -> Self {
        Self::with(Access::everyone(), max_connections)
    }

    fn with(access: Access, max_connections: u32) -> Self {
        let mut filter = Filter::new();
        filter.handle_create().unwrap();
        Self {
            filter,
            port: Port::new(access, max_connections).unwrap(),
            pairs: Vec::new(),
            settled: Vec::new(),
        }
    }

    /// A client connects as far as the connect callback, which runs from now on.
    pub(super) fn begin(&mut self, who: &Credentials) -> Result<usize, NtStatus> {
        self.port.handle_arrival(who)?;
        self.port.handle_greeting_over(who.uid);
        self.port.handle_connect()?;
        if let Err(status) = self.filter.handle_connect() {
            self.port.handle_release();
            return Err(status);
        }
        self.pairs.push(Pair::connecting());
        self.settled.push((0, false));
        Ok(self.pairs.len() - 1)
    }

    /// The connect callback of this connection returns.
    pub(super) fn finish(&mut self, pair: usize, verdict: NtStatus) -> Option<NtStatus> {
        self.pairs[pair].host.handle_connect_returned(verdict);
        self.settle();
        self.pairs[pair].connected
    }

    pub(super) fn connect(&mut self) -> Result<usize, NtStatus> {
        let pair = self.begin(&user(1_000))?;
        self.finish(pair, NtStatus::SUCCESS);
        Ok(pair)
    }

    /// The client of this connection closes its handle and the disconnect callback returns.
    pub(super) fn close(&mut self, pair: usize) {
        self.pairs[pair].close_client();
        self.pairs[pair].disconnect_returns();
        self.settle();
    }

    pub(super) fn close_port(&mut self) {
        if self.port.handle_close() {
            self.filter.handle_port_closed();
        }
    }

    pub(super) fn unregister(&mut self) {
        self.filter.handle_unregister();
        for pair in &mut self.pairs {
            pair.host.handle_unregister();
        }
        self.settle();
    }

    /// Passes on what connections have released.
    pub(super) fn settle(&mut self) {
        for (pair, (released, over)) in self.pairs.iter_mut().zip(&mut self.settled) {
            pair.drive();
            for _ in *released..pair.releases {
                self.port.handle_release();
            }
            *released = pair.releases;
            if pair.host.state() == State::Ended && !*over {
                *over = true;
                self.filter.handle_connection_ended();
            }
        }
    }
}

pub(super) fn user(uid: u32) -> Credentials {
    Credentials {
        uid,
        gid: uid,
        groups: Vec::new(),
    }
}

const LIMIT: Result<usize, NtStatus> = Err(NtStatus::CONNECTION_COUNT_LIMIT);
const DENIED: Result<usize, NtStatus> = Err(NtStatus::ACCESS_DENIED);
const NO_NAME: Result<usize, NtStatus> = Err(NtStatus::OBJECT_NAME_NOT_FOUND);

#[test]
fn a3_a_port_for_no_connections_is_an_argument_that_is_wrong() {
    let refused = Port::new(Access::everyone(), 0).unwrap_err();
    assert_eq!(refused, NtStatus::INVALID_PARAMETER);
}

#[test]
fn a8_a_filter_that_is_being_unregistered_makes_no_ports() {
    let mut house = House::new(1);
    house.unregister();
    assert_eq!(
        house.filter.handle_create(),
        Err(NtStatus::FLT_DELETING_OBJECT)
    );
    assert_eq!(NtStatus::FLT_DELETING_OBJECT.to_hresult().0, 0x801F_000B);
}

#[test]
fn a17_a_port_that_could_not_be_made_does_not_hold_the_filter() {
    let mut filter = Filter::new();
    filter.handle_create().unwrap();
    assert!(Port::new(Access::everyone(), 0).is_err());
    filter.handle_port_closed();
    filter.handle_unregister();
    assert_eq!(filter.state(), FilterState::Unregistered);
}

#[test]
fn a19_a_hundred_ports_in_a_row_leave_nothing_behind() {
    let mut filter = Filter::new();
    for _ in 0..100 {
        filter.handle_create().unwrap();
        let mut port = Port::new(Access::everyone(), 1).unwrap();
        assert!(port.handle_close());
        filter.handle_port_closed();
    }
    filter.handle_unregister();
    assert_eq!(filter.state(), FilterState::Unregistered);
}

#[test]
fn b2_b25_j2_a_closed_port_has_no_name() {
    let mut house = House::new(1);
    house.close_port();
    assert_eq!(house.connect(), NO_NAME);
    assert_eq!(house.port.state(), PortState::Closed);
    assert_eq!(NtStatus::OBJECT_NAME_NOT_FOUND.to_hresult().0, 0x8007_0002);
}

#[test]
fn b13_b20_a_thousand_refusals_leak_no_slot_and_call_no_disconnect() {
    let mut house = House::new(1);
    for _ in 0..1_000 {
        let pair = house.begin(&user(1_000)).unwrap();
        let told = house.finish(pair, NtStatus::ACCESS_DENIED);
        assert_eq!(told, Some(NtStatus::ACCESS_DENIED));
        assert_eq!(house.port.connections(), (0, 1));
    }
    assert!(house.pairs.iter().all(|pair| pair.disconnects == 0));
    let pair = house.connect().unwrap();
    assert_eq!(house.pairs[pair].connected, Some(NtStatus::SUCCESS));
}

#[test]
fn b16_one_connection_too_many_is_refused_before_the_callback() {
    let mut house = House::new(1);
    house.connect().unwrap();
    assert_eq!(house.connect(), LIMIT);
    assert_eq!(house.pairs.len(), 1);
    assert_eq!(NtStatus::CONNECTION_COUNT_LIMIT.to_hresult().0, 0x8007_04D6);
}

#[test]
fn b16_the_slot_is_counted_while_the_connect_callback_runs() {
    let mut house = House::new(1);
    let first = house.begin(&user(1_000)).unwrap();
    assert_eq!(house.connect(), LIMIT);
    house.finish(first, NtStatus::ACCESS_DENIED);
    assert!(house.connect().is_ok());
}

#[test]
fn b17_one_after_the_other_may_connect() {
    let mut house = House::new(1);
    for _ in 0..10 {
        let pair = house.connect().unwrap();
        house.close(pair);
    }
    assert_eq!(house.port.connections(), (0, 1));
}

#[test]
fn b18_a_connection_counts_until_its_disconnect_callback_has_returned() {
    let mut house = House::new(1);
    let pair = house.connect().unwrap();
    house.pairs[pair].close_client();
    house.settle();
    assert_eq!(house.pairs[pair].disconnects, 1);
    assert_eq!(house.connect(), LIMIT);
    house.pairs[pair].disconnect_returns();
    house.settle();
    assert!(house.connect().is_ok());
}

#[test]
fn b19_of_ten_that_connect_at_once_exactly_three_may() {
    let mut house = House::new(3);
    let begun: Vec<_> = (0..10).map(|_| house.begin(&user(1_000))).collect();
    assert_eq!(begun.iter().filter(|begun| begun.is_ok()).count(), 3);
    assert_eq!(begun.iter().filter(|begun| **begun == LIMIT).count(), 7);
    for pair in begun.into_iter().flatten() {
        assert_eq!(
            house.finish(pair, NtStatus::SUCCESS),
            Some(NtStatus::SUCCESS)
        );
    }
}

#[test]
fn c1_c2_c12_the_default_lets_in_root_and_the_host_and_no_other_user() {
    let mut house = House::with(Access::host_only(900), 4);
    assert!(house.begin(&user(0)).is_ok());
    assert!(house.begin(&user(900)).is_ok());
    assert_eq!(house.begin(&user(1_000)), DENIED);
    assert_eq!(house.pairs.len(), 2);
    assert_eq!(NtStatus::ACCESS_DENIED.to_hresult().0, 0x8007_0005);
}

#[test]
fn c3_a_refused_user_takes_no_slot() {
    let mut house = House::with(Access::host_only(0), 1);
    for _ in 0..100 {
        assert_eq!(house.begin(&user(1_000)), DENIED);
    }
    assert_eq!(house.port.connections(), (0, 1));
    assert!(house.begin(&user(0)).is_ok());
}

#[test]
fn c5_everyone_is_everyone() {
    let mut house = House::with(Access::everyone(), 1);
    assert!(house.begin(&user(65_534)).is_ok());
}

#[test]
fn c6_a_user_or_a_group_can_be_named() {
    let access = Access::host_only(0).allow_user(1_000).allow_group(50);
    assert!(access.allows(&user(1_000)));
    assert!(!access.allows(&user(1_001)));
    let mut member = user(1_001);
    member.groups = Vec::from([7, 50]);
    assert!(access.allows(&member));
    let mut primary = user(1_001);
    primary.gid = 50;
    assert!(access.allows(&primary));
}

#[test]
fn c6_a_user_number_is_no_group_number() {
    let access = Access::nobody().allow_user(50);
    let mut member = user(1_001);
    member.gid = 50;
    assert!(!access.allows(&member));
    assert!(
        !Access::nobody()
            .allow_group(50)
            .allows(&Credentials { gid: 1, ..user(50) })
    );
}

#[test]
fn c7_c8_a_port_for_nobody_refuses_root_too() {
    let mut house = House::with(Access::nobody(), 1);
    assert_eq!(house.begin(&user(0)), DENIED);
    assert_eq!(house.begin(&user(1_000)), DENIED);
}

#[test]
fn c6_a_port_knows_whether_strangers_may_ever_connect() {
    assert!(!Access::host_only(900).is_wider_than(900));
    assert!(!Access::nobody().is_wider_than(900));
    assert!(Access::everyone().is_wider_than(900));
    assert!(Access::host_only(900).allow_user(5).is_wider_than(900));
    assert!(Access::host_only(900).allow_group(5).is_wider_than(900));
}

#[test]
fn p2_a_port_is_closed_once() {
    let mut house = House::new(1);
    assert!(house.port.handle_close());
    assert!(!house.port.handle_close());
}

#[test]
fn n4_connecting_and_closing_against_port_closing_gives_only_legal_results() {
    let mut house = House::new(1);
    let held = house.connect().unwrap();
    assert_eq!(house.connect(), LIMIT);
    house.close_port();
    assert_eq!(house.connect(), NO_NAME);
    house.close(held);
    assert_eq!(house.connect(), NO_NAME);
    house.port = Port::new(Access::everyone(), 1).unwrap();
    assert!(house.connect().is_ok());
}
