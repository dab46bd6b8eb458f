//! Packets between the two rings and the connections.

use super::HOST_CID;
use super::connection::MAX_PAYLOAD;
use super::device::{Host, Key, MAX_REPLIES, Signals, Vsock};
use super::packet::{Header, Operation, TYPE_STREAM};
use crate::memory::GuestMemory;
use crate::queue::Queue;
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
        memory: &dyn GuestMemory,
        rx: &mut Queue,
        tx: &mut Queue,
    ) -> Result<Signals> {
        self.poll_host()?;
        // Apart, so that a guest that never stops sending cannot starve itself of the
        // news that it waits for.
        let (mut packets_left, mut buffers_left) = (self.budget, self.budget);
        loop {
            rx.disable_kicks(memory).map_err(broken("rx"))?;
            tx.disable_kicks(memory).map_err(broken("tx"))?;
            self.take_packets(memory, tx, &mut packets_left)
                .map_err(broken("tx"))?;
            self.give_packets(memory, rx, &mut buffers_left)
                .map_err(broken("rx"))?;
            if packets_left == 0 || buffers_left == 0 {
                // The driver may stay quiet: this comes again by itself.
                self.wake();
                break;
            }
            // What the driver adds from here on is either seen now or kicked for, where
            // anything waits for it.
            let buffers = self.has_output() && rx.enable_kicks(memory).map_err(broken("rx"))?;
            let packets =
                self.has_room_for_replies() && tx.enable_kicks(memory).map_err(broken("tx"))?;
            if !buffers && !packets {
                break;
            }
        }
        Ok(Signals {
            rx: rx.needs_interrupt(memory).map_err(broken("rx"))?,
            tx: tx.needs_interrupt(memory).map_err(broken("tx"))?,
        })
    }

    fn has_room_for_replies(&self) -> bool {
        self.replies.len() < MAX_REPLIES
    }

    fn has_output(&self) -> bool {
        !self.replies.is_empty() || !self.ready.is_empty()
    }

    /// Takes the guest's packets as long as answers to them can be kept.
    fn take_packets(
        &mut self,
        memory: &dyn GuestMemory,
        tx: &mut Queue,
        budget: &mut usize,
    ) -> Result<()> {
        while *budget > 0 && self.has_room_for_replies() {
            let Some(chain) = tx.take(memory)? else {
                break;
            };
            *budget -= 1;
            match chain.read(memory, &mut self.packet) {
                Ok(count) => self.receive(count),
                // A chain that lies outside of memory is given back unread.
                Err(Error::OutsideMemory { .. }) => {}
                Err(error) => return Err(error),
            }
            tx.give_back(memory, &chain, 0)?;
        }
        tx.publish(memory)
    }

    /// Handles the packet in the first `count` bytes of `self.packet`. It was copied
    /// once; nothing is read again.
    fn receive(&mut self, count: usize) {
        let Some((bytes, payload)) = self.packet[..count].split_first_chunk() else {
            return;
        };
        let mut header = Header::from_bytes(bytes);
        if header.src_cid != self.guest_cid {
            return;
        }
        if header.dst_cid != HOST_CID || header.kind != TYPE_STREAM {
            return self.reply_reset(&header);
        }
        let payload = payload.get(..header.len as usize).unwrap_or_else(|| {
            // Whatever it was meant to be, it is no operation.
            header.op = None;
            &[]
        });
        let key = Key {
            host: header.dst_port,
            guest: header.src_port,
        };
        // An idle connection of which the guest says something is no longer what was noted.
        self.idle.retain(|known| known.key() != key);
        let notice = match self.connections.get_mut(&key) {
            Some(connection) if !connection.is_draining() => {
                connection.receive(&header, payload, &mut self.scratch)
            }
            None if header.op == Some(Operation::Request) => return self.accept(key, &header),
            _ => return self.reply_reset(&header),
        };
        self.tell(notice);
        self.touch(key);
    }

    /// Fills the guest's buffers as long as there is something for it.
    fn give_packets(
        &mut self,
        memory: &dyn GuestMemory,
        rx: &mut Queue,
        budget: &mut usize,
    ) -> Result<()> {
        while *budget > 0 && self.has_output() {
            let Some(chain) = rx.take(memory)? else {
                break;
            };
            *budget -= 1;
            // Without room for a byte of payload a stream would never move on. A buffer
            // that is too short, not writable or outside of memory is given back empty.
            let mut length = 0;
            if let Some(room @ 1..) = chain.room(memory).checked_sub(Header::LEN) {
                let Some(packet) = self.next_packet(room) else {
                    rx.put_back(chain);
                    continue;
                };
                chain.write(memory, &self.packet[..packet])?;
                length = packet as u32;
            }
            rx.give_back(memory, &chain, length)?;
        }
        rx.publish(memory)
    }

    /// Puts the next packet for the guest, with a payload of at most `room` bytes, into
    /// `self.packet`. Returns its length.
    fn next_packet(&mut self, room: usize) -> Option<usize> {
        let header = self.next_header(room)?;
        self.packet[..Header::LEN].copy_from_slice(&header.to_bytes());
        Some(Header::LEN + header.len as usize)
    }

    /// The header of the next packet, whose payload is in its place already.
    fn next_header(&mut self, room: usize) -> Option<Header> {
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
            let payload = &mut self.packet[Header::LEN..][..room.min(MAX_PAYLOAD)];
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
}

fn broken(queue: &'static str) -> impl Fn(Error) -> Error {
    move |source| Error::Queue {
        queue,
        source: Box::new(source),
    }
}
