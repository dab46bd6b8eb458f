//! Packets between the two rings and the connections.

use std::io::{Read, Write};

use virtio_queue::{Queue, QueueOwnedT, QueueT, Reader, Writer};
use vm_memory::GuestMemoryMmap;

use super::HOST_CID;
use super::connection::MAX_PAYLOAD;
use super::device::{Host, Key, MAX_REPLIES, Signals, Vsock};
use super::packet::{Header, Operation, TYPE_STREAM};
use crate::{Error, Result};

impl<H: Host> Vsock<H> {
    /// Moves packets both ways until nothing is left to do or the call has lasted
    /// long enough; then the descriptor is readable again.
    ///
    /// # Errors
    /// [`Error::Queue`] for a ring that makes no sense: the device is of no use until
    /// the driver resets it.
    pub fn process(
        &mut self,
        memory: &GuestMemoryMmap,
        rx: &mut Queue,
        tx: &mut Queue,
    ) -> Result<Signals> {
        self.poll_host()?;
        let mut used = Signals::default();
        // Apart, so that a guest that never stops sending cannot starve itself of the
        // news that it waits for.
        let (mut packets_left, mut buffers_left) = (self.budget, self.budget);
        loop {
            rx.disable_notification(memory).map_err(broken("rx"))?;
            tx.disable_notification(memory).map_err(broken("tx"))?;
            used.tx |= self.take_packets(memory, tx, &mut packets_left)?;
            used.rx |= self.give_packets(memory, rx, &mut buffers_left)?;
            // What the driver adds from here on is either seen now or kicked for.
            let buffers = rx.enable_notification(memory).map_err(broken("rx"))?;
            let packets = tx.enable_notification(memory).map_err(broken("tx"))?;
            if packets_left == 0 || buffers_left == 0 {
                self.wake();
                break;
            }
            let more = (buffers && self.has_output()) || (packets && self.has_room_for_replies());
            if !more {
                break;
            }
        }
        Ok(Signals {
            rx: used.rx && rx.needs_notification(memory).map_err(broken("rx"))?,
            tx: used.tx && tx.needs_notification(memory).map_err(broken("tx"))?,
        })
    }

    fn has_room_for_replies(&self) -> bool {
        self.replies.len() < MAX_REPLIES
    }

    fn has_output(&self) -> bool {
        !self.replies.is_empty() || !self.ready.is_empty()
    }

    /// Takes the guest's packets as long as answers to them can be kept. Returns
    /// whether there were any.
    fn take_packets(
        &mut self,
        memory: &GuestMemoryMmap,
        tx: &mut Queue,
        budget: &mut usize,
    ) -> Result<bool> {
        let mut used = false;
        while *budget > 0 && self.has_room_for_replies() {
            let Some(chain) = tx.iter(memory).map_err(broken("tx"))?.next() else {
                break;
            };
            *budget -= 1;
            let head = chain.head_index();
            // A chain that lies outside of memory is given back unread.
            if let Ok(mut reader) = Reader::new(memory, chain) {
                self.receive(&mut reader);
            }
            tx.add_used(memory, head, 0).map_err(broken("tx"))?;
            used = true;
        }
        Ok(used)
    }

    /// Handles one packet. It is copied once; nothing is read again.
    fn receive(&mut self, packet: &mut impl Read) {
        let mut bytes = [0; Header::LEN];
        if packet.read_exact(&mut bytes).is_err() {
            return;
        }
        let mut header = Header::from_bytes(&bytes);
        if header.src_cid != self.guest_cid {
            return;
        }
        if header.dst_cid != HOST_CID || header.kind != TYPE_STREAM {
            return self.reply_reset(&header);
        }
        let mut length = header.len as usize;
        if length > MAX_PAYLOAD || packet.read_exact(&mut self.payload[..length]).is_err() {
            // Whatever it was meant to be, it is no operation.
            header.op = None;
            length = 0;
        }
        let key = Key {
            host: header.dst_port,
            guest: header.src_port,
        };
        let notice = match self.connections.get_mut(&key) {
            Some(connection) if !connection.is_draining() => {
                connection.receive(&header, &self.payload[..length], &mut self.scratch)
            }
            None if header.op == Some(Operation::Request) => return self.accept(key, &header),
            _ => return self.reply_reset(&header),
        };
        self.tell(notice);
        self.touch(key);
    }

    /// Fills the guest's buffers as long as there is something for it. Returns
    /// whether any was used.
    fn give_packets(
        &mut self,
        memory: &GuestMemoryMmap,
        rx: &mut Queue,
        budget: &mut usize,
    ) -> Result<bool> {
        let mut used = false;
        while *budget > 0 && self.has_output() {
            let Some(chain) = rx.iter(memory).map_err(broken("rx"))?.next() else {
                break;
            };
            *budget -= 1;
            let head = chain.head_index();
            let length = match Writer::new(memory, chain) {
                // Without room for a byte of payload a stream would never move on.
                Ok(mut writer) if writer.available_bytes() > Header::LEN => {
                    let room = writer.available_bytes() - Header::LEN;
                    match self.next_packet(room) {
                        Some(header) => self.write(&mut writer, &header),
                        None => {
                            rx.go_to_previous_position();
                            continue;
                        }
                    }
                }
                // Outside of memory, not writable, or too short: given back empty.
                _ => 0,
            };
            rx.add_used(memory, head, length).map_err(broken("rx"))?;
            used = true;
        }
        Ok(used)
    }

    /// The header of the next packet for the guest, whose payload, at most `room`
    /// bytes, is at the start of `self.payload`.
    fn next_packet(&mut self, room: usize) -> Option<Header> {
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        // Each connection has its turn once: one without a packet after all is asked
        // again by the next call.
        for _ in 0..self.ready.len() {
            let key = self.ready.pop_front()?;
            let Some(connection) = self.connections.get_mut(&key) else {
                continue;
            };
            connection.queued = false;
            let payload = &mut self.payload[..room.min(MAX_PAYLOAD)];
            let packet = connection.next_packet(payload, &mut self.scratch);
            self.touch(key);
            if let Some(packet) = packet {
                return Some(Header {
                    src_cid: HOST_CID,
                    dst_cid: self.guest_cid,
                    src_port: key.host,
                    dst_port: key.guest,
                    len: packet.len,
                    kind: TYPE_STREAM,
                    op: Some(packet.op),
                    flags: packet.flags,
                    buf_alloc: packet.buf_alloc,
                    fwd_cnt: packet.fwd_cnt,
                });
            }
        }
        None
    }

    /// Writes a packet into a buffer that has room for it. Returns its length.
    fn write(&self, writer: &mut impl Write, header: &Header) -> u32 {
        let payload = &self.payload[..header.len as usize];
        let written = writer
            .write_all(&header.to_bytes())
            .and_then(|()| writer.write_all(payload));
        match written {
            Ok(()) => Header::LEN as u32 + header.len,
            // Cannot happen with a chain whose every piece lies in memory.
            Err(_) => 0,
        }
    }
}

fn broken(queue: &'static str) -> impl Fn(virtio_queue::Error) -> Error {
    move |source| Error::Queue { queue, source }
}
