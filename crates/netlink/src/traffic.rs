//! Traffic control (tc(8)): every packet that comes in here goes out there, or every
//! packet that a program accepts.

use std::io;

use crate::message::Message;
use crate::{Instruction, Socket};

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

/// Longest classic BPF program (`BPF_MAXINSNS`).
const LONGEST_PROGRAM: usize = 4096;

/// `TC_ACT_SHOT`: the packet is dropped.
const DROP: u32 = 2;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_BPF_ACT: u16 = 1;
const TCA_BPF_OPS_LEN: u16 = 4;
const TCA_BPF_OPS: u16 = 5;
const TCA_BPF_FLAGS: u16 = 8;
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

/// `tcm_info` of a filter for packets of every protocol; lower priorities come first.
fn every_protocol(priority: u32) -> u32 {
    priority << 16 | u32::from((libc::ETH_P_ALL as u16).to_be())
}

impl Socket {
    /// Sends everything that arrives at device `from` out of device `to`. It ends with
    /// either device.
    pub fn redirect(&mut self, from: u32, to: u32) -> io::Result<()> {
        self.add_ingress(from)?;
        let create = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        // `u32` with a key that any packet has: `matchall` is not in every kernel.
        self.request(
            Message::new(
                libc::RTM_NEWTFILTER,
                create,
                &body(from, 0, INGRESS_HANDLE, every_protocol(1)),
            )
            .text(TCA_KIND, "u32")
            .nested(TCA_OPTIONS, |options| {
                options
                    .attribute(TCA_U32_SEL, &selector())
                    .nested(TCA_U32_ACT, |actions| redirection(actions, to))
            }),
        )
    }

    /// As [`Self::redirect`], for the packets that a program accepts: it sees them from
    /// their Ethernet header on and returns `u32::MAX`. All others are dropped.
    pub fn redirect_accepted(
        &mut self,
        from: u32,
        to: u32,
        program: &[Instruction],
    ) -> io::Result<()> {
        self.add_ingress(from)?;
        // First what drops, so that at no time anything else gets through.
        let everything = [Instruction {
            code: (libc::BPF_RET | libc::BPF_K) as u16,
            jt: 0,
            jf: 0,
            k: DROP,
        }];
        /// `TCA_BPF_FLAG_ACT_DIRECT`: what it returns is the verdict. `gact`, the action
        /// that drops, is not in every kernel.
        const DIRECT: u32 = 1;
        self.program(from, 2, &everything, |options| {
            options.number(TCA_BPF_FLAGS, DIRECT)
        })?;
        self.accept(from, to, program)
    }

    /// Puts another program in the place of the one of [`Self::redirect_accepted`]. Each
    /// packet meets the old one or the new one.
    pub fn accept(&mut self, from: u32, to: u32, program: &[Instruction]) -> io::Result<()> {
        self.program(from, 1, program, |options| {
            options.nested(TCA_BPF_ACT, |actions| redirection(actions, to))
        })
    }

    /// Adds the only program of a priority, or replaces it.
    fn program(
        &mut self,
        device: u32,
        priority: u32,
        program: &[Instruction],
        fill: impl FnOnce(Message) -> Message,
    ) -> io::Result<()> {
        if program.len() > LONGEST_PROGRAM {
            let message = format!("a filter of {} instructions is too long", program.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let mut bytes = Vec::with_capacity(size_of_val(program));
        for instruction in program {
            bytes.extend_from_slice(&instruction.code.to_ne_bytes());
            bytes.extend_from_slice(&[instruction.jt, instruction.jf]);
            bytes.extend_from_slice(&instruction.k.to_ne_bytes());
        }
        let length = program.len() as u16;
        self.request(
            Message::new(
                libc::RTM_NEWTFILTER,
                libc::NLM_F_ACK | libc::NLM_F_CREATE,
                &body(device, 1, INGRESS_HANDLE, every_protocol(priority)),
            )
            .text(TCA_KIND, "bpf")
            .nested(TCA_OPTIONS, |options| {
                fill(
                    options
                        .attribute(TCA_BPF_OPS_LEN, &length.to_ne_bytes())
                        .attribute(TCA_BPF_OPS, &bytes),
                )
            }),
        )
    }

    fn add_ingress(&mut self, device: u32) -> io::Result<()> {
        self.request(
            Message::new(
                libc::RTM_NEWQDISC,
                libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL,
                &body(device, INGRESS_HANDLE, INGRESS_PARENT, 0),
            )
            .text(TCA_KIND, "ingress"),
        )
    }

    /// Ends what [`Self::redirect`] or [`Self::redirect_accepted`] has begun. Nothing to end is no error.
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

/// The one action of a filter: the packet goes out of another device.
fn redirection(actions: Message, to: u32) -> Message {
    actions.nested(1, |action| {
        action
            .text(TCA_ACT_KIND, "mirred")
            .nested(TCA_ACT_OPTIONS, |options| {
                options.attribute(TCA_MIRRED_PARMS, &mirred(to))
            })
    })
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
