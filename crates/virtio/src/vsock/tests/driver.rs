//! A driver that builds its rings by hand, so that it can also build wrong ones.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestMemory as _, GuestMemoryMmap};

use crate::Result;
use crate::memory::{ForeignMemory, GuestMemory, Region, Regions};
use crate::queue::{Layout, Queue};
use crate::vsock::packet::{Header, Operation, TYPE_STREAM};
use crate::vsock::{HOST_CID, Host, Signals, Vsock};

pub const CID: u64 = 3;
/// The port of the host that the guest may connect to.
pub const HOST_PORT: u32 = 1025;
pub const QUEUE_SIZE: u16 = 32;

pub const RX_RING: u64 = 0x1_0000;
pub const TX_RING: u64 = 0x2_0000;
/// Receive buffers, one for each descriptor.
pub const RX_BUFFERS: u64 = 0x10_0000;
pub const RX_BUFFER_LEN: u32 = 0x1_1000;
pub const TX_BUFFERS: u64 = 0x80_0000;
const TX_BUFFER_LEN: u64 = 0x1_1000;
pub const MEMORY_LEN: usize = 0x100_0000;

const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;

const F_NEXT: u16 = 1;
const F_WRITE: u16 = 2;

/// What the device told the host.
#[derive(Debug, Default)]
pub struct Recorder {
    pub connected: Vec<u64>,
    pub refused: Vec<u64>,
    pub incoming: Vec<(u32, UnixStream)>,
    pub full: bool,
}

impl Host for Recorder {
    fn connected(&mut self, id: u64) {
        self.connected.push(id);
    }

    fn refused(&mut self, id: u64) {
        self.refused.push(id);
    }

    fn incoming(&mut self, port: u32, stream: OwnedFd) -> io::Result<()> {
        if self.full {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.incoming.push((port, stream.into()));
        Ok(())
    }
}

/// One split ring as the driver sees it.
pub struct Ring {
    base: u64,
    next: u16,
    seen: u16,
}

impl Ring {
    pub fn write_descriptor(
        &self,
        memory: &GuestMemoryMmap,
        index: u16,
        descriptor: (u64, u32, u16, u16),
    ) {
        let at = self.base + 16 * u64::from(index);
        let (address, len, flags, next) = descriptor;
        memory.write_obj(address, GuestAddress(at)).unwrap();
        memory.write_obj(len, GuestAddress(at + 8)).unwrap();
        memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
        memory.write_obj(next, GuestAddress(at + 14)).unwrap();
    }

    pub fn publish(&mut self, memory: &GuestMemoryMmap, head: u16) {
        let slot = self.base + AVAIL + 4 + 2 * u64::from(self.next % QUEUE_SIZE);
        memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.next = self.next.wrapping_add(1);
        self.set_avail_index(memory, self.next);
    }

    pub fn set_avail_index(&self, memory: &GuestMemoryMmap, index: u16) {
        let at = GuestAddress(self.base + AVAIL + 2);
        memory.write_obj(index, at).unwrap();
    }

    /// Descriptors the device has used since the last call, with the bytes written.
    fn take_used(&mut self, memory: &GuestMemoryMmap) -> Vec<(u16, u32)> {
        let index: u16 = memory.read_obj(GuestAddress(self.base + USED + 2)).unwrap();
        let mut used = Vec::new();
        while self.seen != index {
            let at = self.base + USED + 4 + 8 * u64::from(self.seen % QUEUE_SIZE);
            let head: u32 = memory.read_obj(GuestAddress(at)).unwrap();
            let len: u32 = memory.read_obj(GuestAddress(at + 4)).unwrap();
            used.push((u16::try_from(head).unwrap(), len));
            self.seen = self.seen.wrapping_add(1);
        }
        // `used_event`: the next one is to interrupt.
        let at = self.base + AVAIL + 4 + 2 * u64::from(QUEUE_SIZE);
        memory.write_obj(self.seen, GuestAddress(at)).unwrap();
        used
    }

    fn in_flight(&self) -> u16 {
        self.next.wrapping_sub(self.seen)
    }
}

fn queue(memory: &dyn GuestMemory, ring: u64) -> Queue {
    let layout = Layout {
        size: QUEUE_SIZE,
        descriptors: ring,
        available: ring + AVAIL,
        used: ring + USED,
    };
    Queue::new(memory, layout, 0, true).unwrap()
}

/// Guest and device together.
pub struct Machine {
    /// As the guest sees it.
    pub memory: GuestMemoryMmap,
    /// As the device sees it.
    view: Box<dyn GuestMemory>,
    pub device: Vsock<Recorder>,
    pub rx: Ring,
    pub tx: Ring,
    pub rx_queue: Queue,
    pub tx_queue: Queue,
    rx_free: Vec<u16>,
    /// What the guest says of its own buffer in every packet.
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
}

impl Machine {
    pub fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_LEN)]).unwrap();
        let view = Box::new(memory.clone());
        Self::with(memory, view)
    }

    /// One whose device reaches the memory through `/proc/self/mem`.
    pub fn foreign() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_LEN)]).unwrap();
        let region = Region {
            guest: 0,
            user: memory.get_host_address(GuestAddress(0)).unwrap() as u64,
            size: MEMORY_LEN as u64,
        };
        let own = File::options()
            .read(true)
            .write(true)
            .open("/proc/self/mem")
            .unwrap();
        let regions = Regions::new(vec![region]).unwrap();
        let view = Box::new(ForeignMemory::new(Arc::new(own.into()), regions));
        Self::with(memory, view)
    }

    fn with(memory: GuestMemoryMmap, view: Box<dyn GuestMemory>) -> Self {
        let queue = |ring| queue(view.as_ref(), ring);
        let mut machine = Self {
            rx_queue: queue(RX_RING),
            tx_queue: queue(TX_RING),
            memory,
            view,
            device: Vsock::new(CID, vec![HOST_PORT], Recorder::default()).unwrap(),
            rx: Ring {
                base: RX_RING,
                next: 0,
                seen: 0,
            },
            tx: Ring {
                base: TX_RING,
                next: 0,
                seen: 0,
            },
            rx_free: Vec::new(),
            buf_alloc: 1 << 20,
            fwd_cnt: 0,
        };
        machine.reset_driver();
        machine
    }

    /// A driver that starts afresh.
    pub fn reset_driver(&mut self) {
        for (base, used) in [(RX_RING, &mut self.rx_queue), (TX_RING, &mut self.tx_queue)] {
            self.memory
                .write_slice(&[0; 0x3000], GuestAddress(base))
                .unwrap();
            *used = queue(self.view.as_ref(), base);
        }
        self.rx = Ring {
            base: RX_RING,
            next: 0,
            seen: 0,
        };
        self.tx = Ring {
            base: TX_RING,
            next: 0,
            seen: 0,
        };
        self.rx_free = (0..QUEUE_SIZE).rev().collect();
    }

    /// Gives the device up to `count` receive buffers of `len` bytes.
    pub fn post_rx(&mut self, count: usize, len: u32) {
        for _ in 0..count {
            let Some(index) = self.rx_free.pop() else {
                return;
            };
            let address = RX_BUFFERS + u64::from(index) * u64::from(RX_BUFFER_LEN);
            self.rx
                .write_descriptor(&self.memory, index, (address, len, F_WRITE, 0));
            self.rx.publish(&self.memory, index);
        }
    }

    /// A header from a port of the guest to one of the host.
    pub fn header(&self, guest: u32, host: u32, op: Operation) -> Header {
        Header {
            src_cid: CID,
            dst_cid: HOST_CID,
            src_port: guest,
            dst_port: host,
            len: 0,
            kind: TYPE_STREAM,
            op: Some(op),
            flags: 0,
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.fwd_cnt,
        }
    }

    /// Queues a packet whose header says the payload's length. `parts` is the number
    /// of descriptors after the first.
    pub fn push(&mut self, header: Header, payload: &[u8], parts: usize) {
        let header = Header {
            len: payload.len() as u32,
            ..header
        };
        self.push_raw(&header.to_bytes(), payload, parts);
    }

    /// Queues a packet of any bytes.
    pub fn push_raw(&mut self, header: &[u8], payload: &[u8], parts: usize) {
        self.tx.take_used(&self.memory);
        assert_eq!(self.tx.in_flight(), 0, "one packet at a time");
        self.memory
            .write_slice(header, GuestAddress(TX_BUFFERS))
            .unwrap();
        let data = TX_BUFFERS + 0x100;
        assert!(payload.len() as u64 <= TX_BUFFER_LEN);
        self.memory
            .write_slice(payload, GuestAddress(data))
            .unwrap();
        let parts = if payload.is_empty() { 0 } else { parts.max(1) };
        let flags = |last: bool| if last { 0 } else { F_NEXT };
        self.tx.write_descriptor(
            &self.memory,
            0,
            (TX_BUFFERS, header.len() as u32, flags(parts == 0), 1),
        );
        let step = payload.len().div_ceil(parts.max(1));
        for part in 0..parts {
            let from = (part * step).min(payload.len());
            let to = ((part + 1) * step).min(payload.len());
            let index = part as u16 + 1;
            self.tx.write_descriptor(
                &self.memory,
                index,
                (
                    data + from as u64,
                    (to - from) as u32,
                    flags(part + 1 == parts),
                    index + 1,
                ),
            );
        }
        self.tx.publish(&self.memory, 0);
    }

    /// Lets the device work.
    pub fn process(&mut self) -> Signals {
        self.try_process().unwrap()
    }

    /// Lets the device work on rings that may be wrong.
    pub fn try_process(&mut self) -> Result<Signals> {
        self.device
            .process(self.view.as_ref(), &mut self.rx_queue, &mut self.tx_queue)
    }

    /// Sends a packet and lets the device work.
    pub fn send(&mut self, header: Header, payload: &[u8]) {
        self.push(header, payload, 1);
        self.process();
    }

    /// Whether the device has taken the last packet.
    pub fn tx_is_empty(&mut self) -> bool {
        self.tx.take_used(&self.memory);
        self.tx.in_flight() == 0
    }

    /// What the device has put into receive buffers.
    pub fn received(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut packets = Vec::new();
        for (index, len) in self.rx.take_used(&self.memory) {
            self.rx_free.push(index);
            let address = RX_BUFFERS + u64::from(index) * u64::from(RX_BUFFER_LEN);
            let mut bytes = vec![0; len as usize];
            self.memory
                .read_slice(&mut bytes, GuestAddress(address))
                .unwrap();
            let (header, payload) = bytes.split_first_chunk().unwrap();
            let header = Header::from_bytes(header);
            assert_eq!(header.len as usize, payload.len());
            assert_eq!(header.dst_cid, CID);
            packets.push((header, payload.to_vec()));
        }
        packets
    }

    /// Takes used receive buffers without looking into them.
    pub fn take_raw(&mut self) {
        for (index, _) in self.rx.take_used(&self.memory) {
            self.rx_free.push(index);
        }
    }

    /// Gives buffers, lets the device work and takes what came, until nothing comes.
    pub fn drain(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut all = Vec::new();
        loop {
            self.post_rx(QUEUE_SIZE.into(), 4096);
            self.process();
            let packets = self.received();
            if packets.is_empty() {
                return all;
            }
            all.extend(packets);
        }
    }

    /// Opens a connection from a port of the guest.
    pub fn open_from_guest(&mut self, guest: u32) -> UnixStream {
        let request = self.header(guest, HOST_PORT, Operation::Request);
        self.send(request, &[]);
        let packets = self.drain();
        assert_eq!(operations(&packets), [Operation::Response]);
        let (port, stream) = self.device.host_mut().incoming.pop().unwrap();
        assert_eq!(port, HOST_PORT);
        stream
    }

    /// Opens a connection to a port of the guest, under this number.
    pub fn open_from_host(&mut self, id: u64, guest: u32) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.device.connect(id, guest, theirs.into());
        let packets = self.drain();
        assert_eq!(operations(&packets), [Operation::Request]);
        let response = self.header(guest, packets[0].0.src_port, Operation::Response);
        self.send(response, &[]);
        assert_eq!(self.device.host_mut().connected.pop(), Some(id));
        ours
    }
}

/// The operations of these packets.
pub fn operations(packets: &[(Header, Vec<u8>)]) -> Vec<Operation> {
    packets
        .iter()
        .map(|(header, _)| header.op.unwrap())
        .collect()
}

/// All payloads in a row.
pub fn payload(packets: &[(Header, Vec<u8>)]) -> Vec<u8> {
    packets
        .iter()
        .flat_map(|(_, bytes)| bytes.clone())
        .collect()
}
