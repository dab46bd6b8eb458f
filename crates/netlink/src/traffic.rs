//! Traffic control (tc(8)): every packet that comes in here goes out there.

use std::io;

use crate::Socket;
use crate::message::Message;

/// Bytes of `struct tcmsg`.
const BODY: usize = 20;

/// Major number of the ingress qdisc, by convention.
const INGRESS_HANDLE: u32 = 0xffff_0000;

/// `TC_H_INGRESS`.
const INGRESS_PARENT: u32 = 0xffff_fff1;

/// `TC_ACT_STOLEN`: the packet is not for this device any more.
const STOLEN: i32 = 4;

/// `TCA_EGRESS_REDIR` of `linux/tc_act/tc_mirred.h`.
const REDIRECT: i32 = 1;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;

fn body(link: u32, handle: u32, parent: u32, info: u32) -> [u8; BODY] {
    let mut body = [0; BODY];
    body[4..8].copy_from_slice(&link.to_ne_bytes());
    body[8..12].copy_from_slice(&handle.to_ne_bytes());
    body[12..16].copy_from_slice(&parent.to_ne_bytes());
    body[16..20].copy_from_slice(&info.to_ne_bytes());
    body
}

impl Socket {
    /// Sends everything that arrives at device `from` out of device `to`. It ends with
    /// either device.
    pub fn redirect(&mut self, from: u32, to: u32) -> io::Result<()> {
        let create = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.request(
            Message::new(
                libc::RTM_NEWQDISC,
                create,
                &body(from, INGRESS_HANDLE, INGRESS_PARENT, 0),
            )
            .text(TCA_KIND, "ingress"),
        )?;
        // `u32` with a key that any packet has: `matchall` is not in every kernel.
        let every_protocol = u32::from((libc::ETH_P_ALL as u16).to_be());
        let priority = 1 << 16;
        self.request(
            Message::new(
                libc::RTM_NEWTFILTER,
                create,
                &body(from, 0, INGRESS_HANDLE, priority | every_protocol),
            )
            .text(TCA_KIND, "u32")
            .nested(TCA_OPTIONS, |options| {
                options
                    .attribute(TCA_U32_SEL, &selector())
                    .nested(TCA_U32_ACT, |actions| {
                        actions.nested(1, |action| {
                            action
                                .text(TCA_ACT_KIND, "mirred")
                                .nested(TCA_ACT_OPTIONS, |options| {
                                    options.attribute(TCA_MIRRED_PARMS, &mirred(to))
                                })
                        })
                    })
            }),
        )
    }

    /// Ends what [`Self::redirect`] has begun. Nothing to end is no error.
    pub fn end_redirect(&mut self, from: u32) -> io::Result<()> {
        let message = Message::new(
            libc::RTM_DELQDISC,
            libc::NLM_F_ACK,
            &body(from, INGRESS_HANDLE, INGRESS_PARENT, 0),
        );
        match self.request(message) {
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)
                ) =>
            {
                Ok(())
            }
            other => other,
        }
    }
}

/// `struct tc_u32_sel` with one `struct tc_u32_key` whose mask is 0.
fn selector() -> [u8; 32] {
    const TERMINAL: u8 = 1;
    let mut selector = [0; 32];
    selector[0] = TERMINAL;
    selector[2] = 1;
    selector
}

/// `struct tc_mirred`.
fn mirred(to: u32) -> [u8; 28] {
    let mut mirred = [0; 28];
    mirred[8..12].copy_from_slice(&STOLEN.to_ne_bytes());
    mirred[20..24].copy_from_slice(&REDIRECT.to_ne_bytes());
    mirred[24..28].copy_from_slice(&to.to_ne_bytes());
    mirred
}
