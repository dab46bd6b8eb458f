//! One stream between a port of the guest and a socket of the host.

use std::collections::VecDeque;

use rustix::event::epoll::EventFlags;

use super::handover::Standing;
use super::packet::{Header, Operation, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::stream::{HostStream, Received, Sent};

/// Most bytes of payload in one packet, in either direction. Linux never sends more
/// (`VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`).
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// Where a connection is in its life.
#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// The host asks for it under this number; the guest has not answered.
    Requested { id: u64, sent: bool },
    /// Data may flow. `answer`: the guest has yet to be told so.
    Open { answer: bool },
    /// All that is left is to send the guest a `RST`.
    Resetting,
    /// The guest has forgotten the connection, the host has not read everything.
    Draining,
    /// To be removed.
    Over,
}

/// What the device has to tell the host's side about a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Notice {
    /// The connection with this number is open.
    Connected(u64),
    /// The guest refused the connection with this number.
    Refused(u64),
}

/// A packet for the guest, without its addresses.
#[derive(Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub op: Operation,
    pub flags: u32,
    /// Bytes of payload, at the start of the buffer handed to
    /// [`Connection::next_packet`].
    pub len: u32,
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
}

/// The state of a connection. Its memory is bounded by the buffer size promised to
/// the guest.
#[derive(Debug)]
pub struct Connection {
    phase: Phase,
    stream: Option<HostStream>,
    /// The guest asked for it, not the host.
    pub guest_initiated: bool,
    /// It waits in the device's list of connections with something for the guest.
    pub queued: bool,

    /// Bytes from the guest that the host's socket had no room for.
    backlog: VecDeque<u8>,
    /// Size promised to the guest for `backlog`.
    buf_alloc: u32,
    /// Bytes handed to the host, wrapping.
    fwd_cnt: u32,
    /// The `fwd_cnt` that the guest was told last.
    told_fwd_cnt: u32,
    /// The guest asked for our credit.
    credit_asked: bool,

    /// Bytes sent to the guest, wrapping.
    tx_cnt: u32,
    /// The guest's last word on its own buffer.
    peer_buf_alloc: u32,
    peer_fwd_cnt: u32,
    /// The guest was asked for credit since it last had some.
    asked_for_credit: bool,

    /// `SHUTDOWN` flags that the guest sent.
    guest_shutdown: u32,
    /// `SHUTDOWN` flags that hold for the host.
    host_shutdown: u32,
    /// Those of them that the guest was told.
    told_shutdown: u32,
    /// The host's socket was told that the guest sends no more.
    write_ended: bool,
}

impl Connection {
    fn new(phase: Phase, stream: HostStream, buf_alloc: u32) -> Self {
        Self {
            guest_initiated: matches!(phase, Phase::Open { .. }),
            phase,
            stream: Some(stream),
            queued: false,
            backlog: VecDeque::new(),
            buf_alloc,
            fwd_cnt: 0,
            told_fwd_cnt: 0,
            credit_asked: false,
            tx_cnt: 0,
            peer_buf_alloc: 0,
            peer_fwd_cnt: 0,
            asked_for_credit: false,
            guest_shutdown: 0,
            host_shutdown: 0,
            told_shutdown: 0,
            write_ended: false,
        }
    }

    /// A connection that the host asks for.
    pub fn requested(id: u64, stream: HostStream, buf_alloc: u32) -> Self {
        Self::new(Phase::Requested { id, sent: false }, stream, buf_alloc)
    }

    /// A connection that the guest asked for and the host accepted.
    pub fn accepted(request: &Header, stream: HostStream, buf_alloc: u32) -> Self {
        let mut connection = Self::new(Phase::Open { answer: true }, stream, buf_alloc);
        connection.learn_credit(request);
        connection
    }

    /// A connection of which the guest knows, and that another device had before.
    pub fn taken_over(known: &Standing, stream: HostStream) -> Self {
        Self {
            guest_initiated: known.guest_initiated,
            fwd_cnt: known.fwd_cnt,
            told_fwd_cnt: known.told_fwd_cnt,
            tx_cnt: known.tx_cnt,
            peer_buf_alloc: known.peer_buf_alloc,
            peer_fwd_cnt: known.peer_fwd_cnt,
            ..Self::new(Phase::Open { answer: false }, stream, known.buf_alloc)
        }
    }

    /// What another device needs to go on with it; none if something is under way.
    pub fn standing(&self, host_port: u32, guest_port: u32) -> Option<Standing> {
        let is_at_rest = self.phase == Phase::Open { answer: false }
            && self.backlog.is_empty()
            && !self.credit_asked
            && self.guest_shutdown == 0
            && self.host_shutdown == 0;
        is_at_rest.then_some(Standing {
            host_port,
            guest_port,
            guest_initiated: self.guest_initiated,
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.fwd_cnt,
            told_fwd_cnt: self.told_fwd_cnt,
            tx_cnt: self.tx_cnt,
            peer_buf_alloc: self.peer_buf_alloc,
            peer_fwd_cnt: self.peer_fwd_cnt,
        })
    }

    /// Bytes held for the host.
    #[cfg(test)]
    pub fn backlog_len(&self) -> usize {
        self.backlog.len()
    }

    /// Bytes promised to the guest.
    #[cfg(test)]
    pub fn buf_alloc(&self) -> u32 {
        self.buf_alloc
    }

    /// It can be dropped.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// The guest has forgotten it, so that a packet for it is a stray.
    pub fn is_draining(&self) -> bool {
        self.phase == Phase::Draining
    }

    /// The number under which the host waits for an answer whose request the guest
    /// has seen, or has not seen.
    pub fn pending_request(&self) -> Option<(u64, bool)> {
        match self.phase {
            Phase::Requested { id, sent } => Some((id, sent)),
            _ => None,
        }
    }

    /// Handles a packet of the guest. `payload` has `header.len` bytes.
    pub fn receive(
        &mut self,
        header: &Header,
        payload: &[u8],
        scratch: &mut [u8],
    ) -> Option<Notice> {
        self.learn_credit(header);
        let notice = match (header.op, &self.phase) {
            (Some(Operation::Reset), Phase::Resetting) => {
                self.phase = Phase::Over;
                None
            }
            (_, Phase::Resetting | Phase::Draining | Phase::Over) => None,
            (Some(Operation::Reset), &Phase::Requested { id, .. }) => {
                self.finish(Phase::Over, scratch);
                Some(Notice::Refused(id))
            }
            (Some(Operation::Reset), Phase::Open { .. }) => {
                // What the guest sent before is still the host's to read.
                self.guest_shutdown = SHUTDOWN_BOTH;
                self.phase = Phase::Draining;
                None
            }
            (Some(Operation::Response), &Phase::Requested { id, sent: true }) => {
                self.phase = Phase::Open { answer: false };
                Some(Notice::Connected(id))
            }
            (Some(Operation::Shutdown), Phase::Open { .. }) => {
                self.guest_shutdown |= header.flags & SHUTDOWN_BOTH;
                if self.guest_shutdown & SHUTDOWN_RECEIVE != 0
                    && let Some(stream) = &self.stream
                {
                    stream.shutdown_read();
                }
                None
            }
            (Some(Operation::Data), Phase::Open { .. })
                if self.guest_shutdown & SHUTDOWN_SEND == 0 =>
            {
                self.accept_data(payload, scratch);
                None
            }
            (Some(Operation::CreditUpdate), Phase::Open { .. }) => None,
            (Some(Operation::CreditRequest), Phase::Open { .. }) => {
                self.credit_asked = true;
                None
            }
            (_, &Phase::Requested { id, .. }) => {
                self.finish(Phase::Resetting, scratch);
                Some(Notice::Refused(id))
            }
            // Anything else breaks the protocol, a second request for the same ports
            // included.
            _ => {
                self.break_off(scratch);
                None
            }
        };
        self.settle(scratch);
        notice
    }

    /// Handles events of the host's socket.
    pub fn host_event(&mut self, events: EventFlags, scratch: &mut [u8]) -> Option<Notice> {
        let stream = self.stream.as_mut()?;
        if events.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR)
        {
            stream.readable = true;
        }
        if events.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR) {
            stream.set_writable();
        }
        if events.contains(EventFlags::HUP) {
            // Nobody is left to read; what was sent before is still the guest's.
            self.host_stopped_reading();
            if let Phase::Requested { id, sent: false } = self.phase {
                self.finish(Phase::Over, scratch);
                return Some(Notice::Refused(id));
            }
        }
        self.flush();
        self.settle(scratch);
        None
    }

    /// Whether [`Connection::next_packet`] may have a packet.
    pub fn wants_to_send(&self) -> bool {
        match self.phase {
            Phase::Resetting | Phase::Requested { sent: false, .. } => true,
            Phase::Requested { sent: true, .. } | Phase::Draining | Phase::Over => false,
            Phase::Open { answer } => {
                answer
                    || self.host_shutdown != self.told_shutdown
                    || self.credit_update_due()
                    || (self.has_input() && (self.credit() > 0 || !self.asked_for_credit))
            }
        }
    }

    /// The next packet for the guest, its payload at the start of `payload`.
    pub fn next_packet(&mut self, payload: &mut [u8], scratch: &mut [u8]) -> Option<Outgoing> {
        match &mut self.phase {
            Phase::Resetting => {
                self.phase = Phase::Over;
                return Some(self.packet(Operation::Reset, 0, 0));
            }
            Phase::Requested { sent, .. } if !*sent => {
                *sent = true;
                return Some(self.packet(Operation::Request, 0, 0));
            }
            Phase::Open { answer } if *answer => {
                *answer = false;
                return Some(self.packet(Operation::Response, 0, 0));
            }
            Phase::Open { .. } => {}
            _ => return None,
        }
        if let Some(count) = self.read_host(payload) {
            self.tx_cnt = self.tx_cnt.wrapping_add(count);
            return Some(self.packet(Operation::Data, 0, count));
        }
        if self.host_shutdown != self.told_shutdown {
            self.told_shutdown = self.host_shutdown;
            let packet = self.packet(Operation::Shutdown, self.told_shutdown, 0);
            self.settle(scratch);
            return Some(packet);
        }
        if self.credit_update_due() {
            return Some(self.packet(Operation::CreditUpdate, 0, 0));
        }
        if self.has_input() && self.credit() == 0 && !self.asked_for_credit {
            self.asked_for_credit = true;
            return Some(self.packet(Operation::CreditRequest, 0, 0));
        }
        None
    }

    /// Ends the connection as after a reset of the whole device.
    pub fn abandon(&mut self, scratch: &mut [u8]) {
        self.backlog = VecDeque::new();
        self.finish(Phase::Over, scratch);
    }

    fn packet(&mut self, op: Operation, flags: u32, len: u32) -> Outgoing {
        // Every packet tells our credit (virtio 1.2, 5.10.6.3).
        self.told_fwd_cnt = self.fwd_cnt;
        self.credit_asked = false;
        Outgoing {
            op,
            flags,
            len,
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.fwd_cnt,
        }
    }

    fn learn_credit(&mut self, header: &Header) {
        self.peer_buf_alloc = header.buf_alloc;
        self.peer_fwd_cnt = header.fwd_cnt;
        if self.credit() > 0 {
            self.asked_for_credit = false;
        }
    }

    /// Bytes that the guest has room for. A guest that claims to have forwarded more
    /// than it was sent only starves itself.
    fn credit(&self) -> u32 {
        let in_flight = self.tx_cnt.wrapping_sub(self.peer_fwd_cnt);
        self.peer_buf_alloc.saturating_sub(in_flight)
    }

    /// The host's socket may have bytes or an end that the guest wants.
    fn has_input(&self) -> bool {
        self.guest_shutdown & SHUTDOWN_RECEIVE == 0
            && self.host_shutdown & SHUTDOWN_SEND == 0
            && self.stream.as_ref().is_some_and(|stream| stream.readable)
    }

    /// Whether the guest should hear of room it does not know of. Often enough that
    /// it never waits in vain, seldom enough that a slow host does not cause a packet
    /// for every few bytes it reads.
    fn credit_update_due(&self) -> bool {
        if self.credit_asked {
            return true;
        }
        let untold = self.fwd_cnt.wrapping_sub(self.told_fwd_cnt);
        // At most `buf_alloc` bytes are held, so the cast is lossless.
        let believed_used = untold.saturating_add(self.backlog.len() as u32);
        untold > 0
            && believed_used >= self.buf_alloc / 2
            && (untold >= self.buf_alloc / 4 || self.backlog.is_empty())
            && self.guest_shutdown & SHUTDOWN_SEND == 0
    }

    fn read_host(&mut self, payload: &mut [u8]) -> Option<u32> {
        if !self.has_input() {
            return None;
        }
        let limit = payload.len().min(self.credit() as usize).min(MAX_PAYLOAD);
        if limit == 0 {
            return None;
        }
        match self.stream.as_mut()?.receive(&mut payload[..limit]) {
            Received::Bytes(count) => Some(count as u32),
            Received::Blocked => None,
            Received::End => {
                self.host_shutdown |= SHUTDOWN_SEND;
                None
            }
        }
    }

    fn accept_data(&mut self, payload: &[u8], scratch: &mut [u8]) {
        let free = (self.buf_alloc as usize).saturating_sub(self.backlog.len());
        if payload.len() > free {
            // More than it was promised room for.
            self.break_off(scratch);
            return;
        }
        let mut rest = payload;
        if self.host_shutdown & SHUTDOWN_RECEIVE != 0 {
            // In flight when the host stopped reading; the guest has been told.
            self.forwarded(payload.len());
            return;
        }
        if self.backlog.is_empty()
            && let Some(stream) = &mut self.stream
        {
            match stream.send(payload) {
                Sent::Bytes(count) => {
                    rest = &payload[count..];
                    self.forwarded(count);
                }
                Sent::Broken => {
                    self.forwarded(payload.len());
                    self.host_stopped_reading();
                    return;
                }
            }
        }
        if self.backlog.capacity() == 0 && !rest.is_empty() {
            // All at once: a buffer that grows by doubling takes more than was promised.
            self.backlog.reserve_exact(self.buf_alloc as usize);
        }
        self.backlog.extend(rest);
    }

    /// Offers the backlog to the host.
    fn flush(&mut self) {
        while !self.backlog.is_empty() {
            let Some(stream) = &mut self.stream else {
                return;
            };
            let (bytes, _) = self.backlog.as_slices();
            let offered = bytes.len();
            match stream.send(bytes) {
                Sent::Bytes(count) => {
                    self.backlog.drain(..count);
                    self.forwarded(count);
                    if count < offered {
                        return;
                    }
                }
                Sent::Broken => self.host_stopped_reading(),
            }
        }
        // Most connections never need one: an idle connection keeps no buffer.
        self.backlog = VecDeque::new();
    }

    fn forwarded(&mut self, count: usize) {
        self.fwd_cnt = self.fwd_cnt.wrapping_add(count as u32);
    }

    fn host_stopped_reading(&mut self) {
        self.forwarded(self.backlog.len());
        self.backlog = VecDeque::new();
        self.host_shutdown |= SHUTDOWN_RECEIVE;
    }

    /// Draws the conclusions of what both sides have said so far.
    fn settle(&mut self, scratch: &mut [u8]) {
        if !self.backlog.is_empty() {
            return;
        }
        if self.guest_shutdown & SHUTDOWN_SEND != 0
            && !self.write_ended
            && let Some(stream) = &self.stream
        {
            self.write_ended = true;
            stream.shutdown_write();
        }
        match self.phase {
            Phase::Draining => self.finish(Phase::Over, scratch),
            Phase::Open { .. } if self.guest_shutdown == SHUTDOWN_BOTH => {
                self.finish(Phase::Resetting, scratch);
            }
            // The guest answers with a RST once its program has read the rest.
            Phase::Open { .. } if self.told_shutdown == SHUTDOWN_BOTH => {
                self.stream = None;
            }
            _ => {}
        }
    }

    /// Ends the connection because the guest broke the protocol.
    fn break_off(&mut self, scratch: &mut [u8]) {
        self.backlog = VecDeque::new();
        self.finish(Phase::Resetting, scratch);
    }

    fn finish(&mut self, phase: Phase, scratch: &mut [u8]) {
        if let Some(stream) = self.stream.take() {
            stream.close(scratch);
        }
        self.phase = phase;
    }
}
