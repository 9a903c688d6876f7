//! Bytes into everything that parses: frames of both sides, names, parts of long frames, and both ends of a connection
//! behind them.
//!
//! What is expected is written down here a second time, as a table of the fields that each kind of frame may use, and
//! compared. The first byte of an input chooses the room.

use fltport_engine::client::{self, Client};
use fltport_engine::connection::{Connection, Violation};
use fltport_engine::output::Output;
use fltport_engine::sim::Bytes;
use fltport_engine::wire::{
    FRAME_HEADER, FRAME_MAX, MessageHeader, ReplyHeader, ToClient, ToHost, VERSION,
};
use fltport_engine::{NtStatus, PortName, Timeout, limits};
use zerocopy::{FromBytes, IntoBytes};

use crate::frames::{Assembler, Frame, packets};

/// Payload bytes of one packet.
const PART: usize = FRAME_MAX - FRAME_HEADER;

/// Packets of one input: enough for a frame of the default limit and something behind it.
const MOST_PACKETS: usize = 40;

/// Bytes of the frames that are cut and joined: a few parts.
const MOST_JOINED: u32 = 100_000;

/// Runs one input.
///
/// # Panics
/// When a parser obeys what it should refuse, refuses what it should take, or loses something on the way.
pub fn run(data: &[u8]) {
    let Some((room, rest)) = data.split_first() else {
        return;
    };
    match room % 5 {
        0 => frame(rest),
        1 => name(rest),
        2 => to_host(rest),
        3 => to_client(rest),
        _ => cut_and_join(rest),
    }
}

/// What a header says, read field by field.
#[derive(Clone, Copy, Debug, Default)]
struct Fields {
    kind: u16,
    flags: u16,
    length: u32,
    token: u64,
    id: u64,
    nanos: u64,
    a: u32,
    b: u32,
}

impl Fields {
    fn read(bytes: &[u8]) -> Option<Self> {
        fn at<const N: usize>(bytes: &[u8], start: usize) -> Option<[u8; N]> {
            bytes.get(start..start + N)?.try_into().ok()
        }
        Some(Self {
            kind: u16::from_ne_bytes(at(bytes, 0)?),
            flags: u16::from_ne_bytes(at(bytes, 2)?),
            length: u32::from_ne_bytes(at(bytes, 4)?),
            token: u64::from_ne_bytes(at(bytes, 8)?),
            id: u64::from_ne_bytes(at(bytes, 16)?),
            nanos: u64::from_ne_bytes(at(bytes, 24)?),
            a: u32::from_ne_bytes(at(bytes, 32)?),
            b: u32::from_ne_bytes(at(bytes, 36)?),
        })
    }

    /// Whether every field but those named is zero.
    fn uses_only(self, names: &str) -> bool {
        let unused = |name: char, zero: bool| zero || names.contains(name);
        unused('f', self.flags == 0)
            && unused('l', self.length == 0)
            && unused('t', self.token == 0)
            && unused('i', self.id == 0)
            && unused('n', self.nanos == 0)
            && unused('a', self.a == 0)
            && unused('b', self.b == 0)
    }

    /// Whether a host takes such a frame.
    fn is_for_host(self) -> bool {
        match self.kind {
            1 => self.token == VERSION && (self.a == 32 || self.a == 64) && self.uses_only("lta"),
            2 => self.uses_only("ta"),
            3 => self.uses_only("t"),
            4 => self.uses_only("ltia"),
            5 => self.uses_only("lta"),
            6..=8 => self.uses_only(""),
            32 => self.uses_only("l"),
            _ => false,
        }
    }

    /// Whether a client takes such a frame.
    fn is_for_client(self) -> bool {
        match self.kind {
            16 => self.token == VERSION && self.uses_only("tab"),
            17 => {
                let limited = self.flags & 2 != 0;
                self.flags < 4 && (limited || self.nanos == 0) && self.uses_only("fltina")
            }
            18 => self.uses_only("tab"),
            19 => self.uses_only("ta"),
            20 => self.uses_only("lta"),
            21 => self.uses_only("i"),
            22 => self.uses_only(""),
            23 => self.uses_only("iab"),
            24 => self.uses_only("t"),
            25 => self.uses_only("l"),
            32 => self.uses_only("l"),
            _ => false,
        }
    }
}

/// Any bytes as one frame, of either side; then as the two headers that Windows programs know.
fn frame(bytes: &[u8]) {
    let fields = Fields::read(bytes);
    same_frame::<ToHost>(bytes, fields.is_some_and(Fields::is_for_host));
    same_frame::<ToClient>(bytes, fields.is_some_and(Fields::is_for_client));
    if let Ok((header, _)) = MessageHeader::read_from_prefix(bytes) {
        assert_eq!(
            header.as_bytes(),
            &bytes[..16],
            "a message's header changed"
        );
        let wanted = header.reply_length.checked_sub(16);
        assert_eq!(header.reply_capacity(), wanted, "{header:?}");
        let clean = MessageHeader::new(header.reply_length, header.message_id);
        assert_eq!(
            clean.as_bytes()[4..8],
            [0; 4],
            "padding that says something"
        );
    }
    if let Ok((header, _)) = ReplyHeader::read_from_prefix(bytes) {
        let clean = ReplyHeader::new(NtStatus(header.status), header.message_id);
        assert_eq!(
            clean.as_bytes()[..4],
            bytes[..4],
            "a reply's status changed"
        );
        assert_eq!(clean.as_bytes()[8..], bytes[8..16], "a reply's id changed");
    }
}

/// What parses is what the table allows, and says the same when it is written again.
fn same_frame<F: Frame + std::fmt::Debug>(bytes: &[u8], allowed: bool) {
    let parsed = F::parse(bytes);
    assert_eq!(parsed.is_ok(), allowed, "{parsed:?} of {bytes:?}");
    if let Ok((frame, payload)) = parsed {
        assert_eq!(frame.header().as_bytes(), &bytes[..FRAME_HEADER]);
        assert_eq!(payload, &bytes[FRAME_HEADER..]);
        let length = u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        assert_eq!(frame.header().length(), length);
    }
}

/// Any text as a port's name.
fn name(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let parsed = PortName::parse(&text);
    let parts = text.strip_prefix('\\').map(|rest| rest.split('\\'));
    let allowed = text.len() <= limits::NAME_MAX
        && !text.contains(|c: char| c == '/' || c.is_control())
        && parts
            .is_some_and(|mut parts| parts.all(|part| !part.is_empty() && !part.starts_with('.')));
    assert_eq!(parsed.is_ok(), allowed, "{text:?}: {parsed:?}");
    if let Ok(name) = parsed {
        let parts: Vec<_> = name.components().collect();
        assert_eq!(format!("\\{}", parts.join("\\")), text);
        assert_eq!(name.as_str(), text);
        for other in [text.to_uppercase(), text.to_lowercase()] {
            let folded = fltport_engine::name::fold(&other);
            assert_eq!(
                folded,
                name.folded(),
                "{text:?} and {other:?} differ in case only"
            );
        }
    }
}

/// A packet as an input writes it down: a header, and how many bytes of what follow. So that long packets are short here.
fn next_packet(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let (written, left) = rest.split_at_checked(FRAME_HEADER + 3)?;
    *rest = left;
    let length = usize::from(u16::from_le_bytes([written[40], written[41]])) % (PART + 2);
    let mut packet = written[..FRAME_HEADER].to_vec();
    packet.resize(FRAME_HEADER + length, written[42]);
    Some(packet)
}

/// Joins packets the slow way.
#[derive(Default)]
struct SlowAssembler {
    frame: Vec<u8>,
    total: usize,
}

impl SlowAssembler {
    /// The whole frame with its first header, when it is complete; `Err` for a lie.
    fn take(
        &mut self,
        packet: &[u8],
        limit: u32,
        allowed: fn(Fields) -> bool,
    ) -> Result<Option<Vec<u8>>, ()> {
        let fields = Fields::read(packet)
            .filter(|fields| allowed(*fields))
            .ok_or(())?;
        let payload = &packet[FRAME_HEADER..];
        let said = usize::try_from(fields.length).map_err(|_| ())?;
        let is_part = fields.kind == 32;
        if is_part == self.frame.is_empty() {
            return Err(());
        }
        if is_part {
            let expected = PART.min(FRAME_HEADER + self.total - self.frame.len());
            if payload.len() != expected || said != expected {
                return Err(());
            }
            self.frame.extend_from_slice(payload);
        } else {
            if fields.length > limit || payload.len() != PART.min(said) {
                return Err(());
            }
            self.frame = packet.to_vec();
            self.total = said;
        }
        let whole = self.frame.len() == FRAME_HEADER + self.total;
        Ok(whole.then(|| std::mem::take(&mut self.frame)))
    }
}

/// Packets to the engine, joined twice; every complete frame to `deliver`, until one is a lie.
fn join<F: Frame>(
    mut rest: &[u8],
    allowed: fn(Fields) -> bool,
    mut deliver: impl FnMut(F, Bytes) -> Result<(), Violation>,
) {
    let limit = limits::MESSAGE_DEFAULT;
    let mut slow = SlowAssembler::default();
    let mut assembler = Assembler::<F>::new();
    for _ in 0..MOST_PACKETS {
        let Some(packet) = next_packet(&mut rest) else {
            return;
        };
        let expected = slow.take(&packet, limit, allowed);
        let Ok(taken) = assembler.take(&packet, limit) else {
            assert_eq!(expected, Err(()), "an honest packet was refused");
            return;
        };
        let bytes = taken
            .as_ref()
            .map(|(frame, body)| [frame.header().as_bytes(), body].concat());
        assert_eq!(Ok(&bytes), expected.as_ref(), "joined otherwise");
        assert_eq!(assembler.is_unfinished(), bytes.is_none());
        let Some((frame, body)) = taken else {
            continue;
        };
        if deliver(frame, Bytes(body)).is_err() {
            return;
        }
    }
}

/// A lying client and a filter that sends now and then. Whatever comes, all sends end once, and the end is reported once.
fn to_host(bytes: &[u8]) {
    let mut host = Connection::<Bytes, u64>::new(limits::MESSAGE_DEFAULT);
    let mut seen = Seen::default();
    let mut greeted = false;
    let mut sends = 0;
    join::<ToHost>(bytes, Fields::is_for_host, |frame, body| {
        if !greeted {
            let ToHost::Hello { length, .. } = frame else {
                return Err(Violation("no greeting"));
            };
            if length > limits::CONTEXT_MAX {
                return Err(Violation("a long context"));
            }
            greeted = true;
            host.handle_connect_returned(NtStatus::SUCCESS);
        } else {
            match frame {
                ToHost::Get { get, size } => host.handle_get(get, size)?,
                ToHost::CancelGet { get } => host.handle_get_cancelled(get),
                ToHost::Reply {
                    reply,
                    message_id,
                    status,
                    ..
                } => {
                    host.handle_reply(reply, message_id, status, body);
                }
                ToHost::Request {
                    request, capacity, ..
                } => host.handle_request(request, body, capacity),
                ToHost::Close => host.handle_client_closing(),
                ToHost::Hello { .. } | ToHost::Attach | ToHost::Kick | ToHost::Chunk { .. } => {
                    return Err(Violation("not now"));
                }
            }
        }
        sends += 1;
        let reply = (sends % 2 == 0).then_some(8);
        host.handle_send(
            Default::default(),
            Bytes(vec![7; 8]),
            reply,
            Timeout::Never,
            sends,
        );
        seen.look(&mut host);
        assert!(host.posted() <= limits::GETS_PER_CONNECTION);
        Ok(())
    });
    host.handle_peer_closed();
    seen.look(&mut host);
    host.handle_disconnect_returned();
    seen.look(&mut host);
    assert_eq!(host.pending(), (0, 0));
    assert_eq!(host.posted(), 0);
    seen.finished.sort_unstable();
    assert!(seen.finished.iter().copied().eq(1..=sends), "{seen:?}");
    let accepted = u32::from(greeted);
    assert_eq!((seen.disconnects, seen.releases), (accepted, accepted));
}

#[derive(Debug, Default)]
struct Seen {
    finished: Vec<u64>,
    disconnects: u32,
    releases: u32,
}

impl Seen {
    /// Does what the engine asks for; callbacks return at once.
    fn look(&mut self, host: &mut Connection<Bytes, u64>) {
        while let Some(output) = host.poll_output() {
            match output {
                Output::RunMessage {
                    request,
                    input,
                    capacity,
                } => {
                    assert!(capacity <= limits::MESSAGE_DEFAULT);
                    let length = u32::try_from(input.0.len()).unwrap_or(u32::MAX);
                    host.handle_request_returned(request, length, NtStatus::SUCCESS, None);
                }
                Output::Finished { sender, .. } => self.finished.push(sender),
                Output::RunDisconnect => self.disconnects += 1,
                Output::ReleaseSlot => self.releases += 1,
                _ => {}
            }
        }
    }
}

/// A lying host and a client with a call of each kind under way. Whatever comes, each call ends once.
fn to_client(bytes: &[u8]) {
    let mut client = Client::<Bytes, u64>::new(limits::MESSAGE_DEFAULT);
    let mut started = 0;
    let mut ended = Vec::new();
    let mut look = |client: &mut Client<Bytes, u64>| {
        while let Some(output) = client.poll_output() {
            match output {
                client::Output::Message { mark, .. } | client::Output::Done { mark, .. } => {
                    ended.push(mark);
                }
                _ => {}
            }
        }
    };
    join::<ToClient>(bytes, Fields::is_for_client, |frame, body| {
        client.start_get(64, started + 1);
        client.start_reply(started, NtStatus::SUCCESS, Bytes(vec![1; 4]), started + 2);
        client.start_request(Bytes(vec![2; 4]), 16, started + 3);
        started += 3;
        match frame {
            ToClient::Message { get, header, .. } => client.handle_message(get, header, body)?,
            ToClient::GetFailed {
                get,
                status,
                needed,
            } => {
                client.handle_get_failed(get, status, needed)?;
            }
            ToClient::ReplyDone { reply, status } => client.handle_reply_done(reply, status)?,
            ToClient::RequestDone {
                request, status, ..
            } => {
                client.handle_request_done(request, status, Some(body))?;
            }
            ToClient::Disconnected => client.handle_disconnected(),
            ToClient::Connected { .. }
            | ToClient::Abandoned { .. }
            | ToClient::Attached { .. }
            | ToClient::Ring { .. }
            | ToClient::Files { .. }
            | ToClient::Chunk { .. } => {}
        }
        look(&mut client);
        Ok(())
    });
    client.handle_closed();
    look(&mut client);
    assert_eq!(client.pending(), 0);
    ended.sort_unstable();
    assert!(ended.into_iter().eq(1..=started), "a call did not end once");
}

/// A frame of any length, cut and joined, is the frame.
fn cut_and_join(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_at_checked(3) else {
        return;
    };
    let length = u32::from_le_bytes([length[0], length[1], length[2], 0]) % MOST_JOINED;
    let pattern = [rest, b"123"].concat();
    let mut payload = pattern.repeat(length as usize / pattern.len() + 1);
    payload.truncate(length as usize);
    let frame = ToHost::Request {
        request: 1,
        capacity: length,
        length,
    };
    let mut assembler = Assembler::<ToHost>::new();
    let mut joined = None;
    for packet in packets(&frame, payload.len()) {
        assert!(joined.is_none(), "a packet behind the last");
        let bytes = [packet.head(), &payload[packet.payload.clone()]].concat();
        assert!(bytes.len() <= FRAME_MAX);
        joined = assembler.take(&bytes, length).expect("an honest packet");
    }
    assert_eq!(joined, Some((frame, payload)));
}
