//! The header that starts every packet (virtio 1.2, section 5.10.6).

use vm_memory::{ByteValued, Le16, Le32, Le64};

/// `virtio_vsock_hdr.type` of a stream, the only type served.
pub const TYPE_STREAM: u16 = 1;

/// `SHUTDOWN` flag: the sender will not receive any more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// `SHUTDOWN` flag: the sender will not send any more.
pub const SHUTDOWN_SEND: u32 = 2;
/// Both `SHUTDOWN` flags.
pub const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// `virtio_vsock_hdr.op`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Operation {
    /// Asks for a connection.
    Request = 1,
    /// Accepts it.
    Response = 2,
    /// Refuses it, or ends it at once.
    Reset = 3,
    /// Tells that no more will be sent or received.
    Shutdown = 4,
    /// Carries data (`VIRTIO_VSOCK_OP_RW`).
    Data = 5,
    /// Tells the free space of the sender's buffer.
    CreditUpdate = 6,
    /// Asks for a [`Operation::CreditUpdate`].
    CreditRequest = 7,
}

impl Operation {
    fn from_raw(raw: u16) -> Option<Self> {
        Some(match raw {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// `struct virtio_vsock_hdr` as it lies in guest memory, little endian.
#[derive(Clone, Copy, Default)]
#[repr(C, packed)]
struct RawHeader {
    src_cid: Le64,
    dst_cid: Le64,
    src_port: Le32,
    dst_port: Le32,
    len: Le32,
    kind: Le16,
    op: Le16,
    flags: Le32,
    buf_alloc: Le32,
    fwd_cnt: Le32,
}

// SAFETY: every field is an integer for which any bit pattern is valid, and the
// packed layout has no padding.
unsafe impl ByteValued for RawHeader {}

/// A header in host memory and host byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Address of the sender.
    pub src_cid: u64,
    /// Address of the receiver.
    pub dst_cid: u64,
    /// Port of the sender.
    pub src_port: u32,
    /// Port of the receiver.
    pub dst_port: u32,
    /// Bytes of payload that follow.
    pub len: u32,
    /// Socket type, see [`TYPE_STREAM`].
    pub kind: u16,
    /// What the packet asks for; `None` when the number means nothing.
    pub op: Option<Operation>,
    /// Depends on the operation.
    pub flags: u32,
    /// Size in bytes of the sender's receive buffer for this connection.
    pub buf_alloc: u32,
    /// Bytes that the sender has taken out of that buffer so far, wrapping.
    pub fwd_cnt: u32,
}

impl Header {
    /// Bytes of a header in guest memory.
    pub const LEN: usize = size_of::<RawHeader>();

    /// Decodes a header that was copied out of guest memory.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let mut raw = RawHeader::default();
        raw.as_mut_slice().copy_from_slice(bytes);
        Self {
            src_cid: { raw.src_cid }.into(),
            dst_cid: { raw.dst_cid }.into(),
            src_port: { raw.src_port }.into(),
            dst_port: { raw.dst_port }.into(),
            len: { raw.len }.into(),
            kind: { raw.kind }.into(),
            op: Operation::from_raw({ raw.op }.into()),
            flags: { raw.flags }.into(),
            buf_alloc: { raw.buf_alloc }.into(),
            fwd_cnt: { raw.fwd_cnt }.into(),
        }
    }

    /// Encodes the header for guest memory.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let raw = RawHeader {
            src_cid: self.src_cid.into(),
            dst_cid: self.dst_cid.into(),
            src_port: self.src_port.into(),
            dst_port: self.dst_port.into(),
            len: self.len.into(),
            kind: self.kind.into(),
            op: self.op.map_or(0, |op| op as u16).into(),
            flags: self.flags.into(),
            buf_alloc: self.buf_alloc.into(),
            fwd_cnt: self.fwd_cnt.into(),
        };
        let mut bytes = [0; Self::LEN];
        bytes.copy_from_slice(raw.as_slice());
        bytes
    }

    /// The `RST` that answers this packet.
    pub(super) fn reset_reply(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            len: 0,
            kind: self.kind,
            op: Some(Operation::Reset),
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_layout_is_the_specifications() {
        let header = Header {
            src_cid: 0x0102_0304_0506_0708,
            dst_cid: 2,
            src_port: 0x1112_1314,
            dst_port: 1024,
            len: 0x2122_2324,
            kind: TYPE_STREAM,
            op: Some(Operation::Data),
            flags: 3,
            buf_alloc: 0x3132_3334,
            fwd_cnt: 0x4142_4344,
        };
        let bytes = header.to_bytes();
        assert_eq!(bytes.len(), 44);
        assert_eq!(bytes[..8], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(bytes[16..20], [0x14, 0x13, 0x12, 0x11]);
        assert_eq!(bytes[24..28], [0x24, 0x23, 0x22, 0x21]);
        assert_eq!(bytes[28..32], [1, 0, 5, 0]);
        assert_eq!(bytes[40..44], [0x44, 0x43, 0x42, 0x41]);
        assert_eq!(Header::from_bytes(&bytes), header);
    }

    #[test]
    fn unknown_operations_are_not_guessed() {
        let mut bytes = [0; Header::LEN];
        for op in [0u16, 8, 0xffff] {
            bytes[30..32].copy_from_slice(&op.to_le_bytes());
            assert_eq!(Header::from_bytes(&bytes).op, None);
        }
    }
}
