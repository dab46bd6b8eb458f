//! A VMM's end of vhost-user and a guest's end of the rings.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap, MmapRegion,
};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

/// Chains in a queue, each of one readable and one writable buffer.
pub const SLOTS: u16 = 16;
const QUEUE_SIZE: u16 = 2 * SLOTS;
const QUEUES: u16 = 2;
/// Room for 64 KiB and any header.
const BUFFER: u64 = 0x1_1000;
const BUFFERS: u64 = 0x10_0000;
const MEMORY: usize = 0x80_0000;
/// Where a VMM claims to have memory that nobody reaches through it.
const VMM_ADDRESS: u64 = 0x7000_0000_0000;
/// What a template has where the guest has nothing else.
const TEMPLATE: u8 = 0x5a;
/// The rings lie below.
const RINGS_END: usize = 0x2_0000;

const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;
const F_NEXT: u16 = 1;
const F_WRITE: u16 = 2;

const VERSION_1: u64 = 1 << 32;
const PATIENCE: Timespec = Timespec {
    tv_sec: 60,
    tv_nsec: 0,
};

/// One split ring as the driver sees it.
pub struct Queue {
    memory: GuestMemoryMmap,
    index: u16,
    next: u16,
    seen: u16,
    kick: EventFd,
    call: EventFd,
}

/// What a machine is to its device.
pub struct Guest {
    frontend: Frontend,
    file: File,
    /// Where the VMM has the guest's memory.
    vmm_address: u64,
    /// Interrupts that nobody hears.
    masked: EventFd,
    pub queues: [Queue; 2],
}

impl Guest {
    /// Starts the device as QEMU does.
    pub fn new(connection: UnixStream) -> Self {
        let file = File::from(rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(MEMORY as u64).unwrap();
        let offset = FileOffset::new(file.try_clone().unwrap(), 0);
        let memory =
            GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), MEMORY, Some(offset))])
                .unwrap();
        Self::with(connection, file, memory, VMM_ADDRESS)
    }

    /// Starts the device of a fork: the memory is this process's own, see
    /// [`Guest::assert_template_is_whole`].
    pub fn fork(connection: UnixStream) -> Self {
        let file = File::from(rustix::fs::memfd_create("template", MemfdFlags::CLOEXEC).unwrap());
        let mut template = vec![0; RINGS_END];
        template.resize(MEMORY, TEMPLATE);
        file.write_all_at(&template, 0).unwrap();
        let offset = FileOffset::new(file.try_clone().unwrap(), 0);
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
        let region = MmapRegion::build(Some(offset), MEMORY, protection, flags).unwrap();
        let region = GuestRegionMmap::new(region, GuestAddress(0)).unwrap();
        let memory = GuestMemoryMmap::from_regions(vec![region]).unwrap();
        let address = memory.get_host_address(GuestAddress(0)).unwrap() as u64;
        Self::with(connection, file, memory, address)
    }

    fn with(connection: UnixStream, file: File, memory: GuestMemoryMmap, vmm_address: u64) -> Self {
        let queue = |index| Queue {
            memory: memory.clone(),
            index,
            next: 0,
            seen: 0,
            kick: EventFd::new(EFD_CLOEXEC).unwrap(),
            call: EventFd::new(EFD_CLOEXEC).unwrap(),
        };
        let mut guest = Self {
            frontend: Frontend::from_stream(connection, QUEUES.into()),
            file,
            vmm_address,
            masked: EventFd::new(EFD_CLOEXEC).unwrap(),
            queues: [queue(0), queue(1)],
        };
        guest.frontend.set_owner().unwrap();
        let offered = guest.frontend.get_features().unwrap();
        assert_ne!(offered & VERSION_1, 0);
        guest.frontend.get_protocol_features().unwrap();
        guest
            .frontend
            .set_protocol_features(VhostUserProtocolFeatures::MQ)
            .unwrap();
        guest.resume();
        guest
    }

    /// Ends the connection, as a VMM that ends. The guest's memory stays as long as
    /// the queues: a device that is just reading it must find no hole.
    pub fn disconnect(self) -> [Queue; 2] {
        self.queues
    }

    /// Lets the device serve the rings from where they stand.
    pub fn resume(&mut self) {
        let frontend = &mut self.frontend;
        let features = VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        frontend.set_features(features).unwrap();
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: MEMORY as u64,
            userspace_addr: self.vmm_address,
            mmap_offset: 0,
            mmap_handle: self.file.as_raw_fd(),
        };
        frontend.set_mem_table(&[region]).unwrap();
        for (index, queue) in self.queues.iter().enumerate() {
            let ring = self.vmm_address + queue.ring();
            frontend.set_vring_num(index, QUEUE_SIZE).unwrap();
            let config = VringConfigData {
                queue_max_size: QUEUE_SIZE,
                queue_size: QUEUE_SIZE,
                flags: 0,
                desc_table_addr: ring,
                used_ring_addr: ring + USED,
                avail_ring_addr: ring + AVAIL,
                log_addr: None,
            };
            frontend.set_vring_addr(index, &config).unwrap();
            // The test pauses the device only when it has taken everything.
            frontend.set_vring_base(index, queue.seen).unwrap();
            frontend.set_vring_call(index, &self.masked).unwrap();
            frontend.set_vring_kick(index, &queue.kick).unwrap();
        }
        for index in 0..self.queues.len() {
            frontend.set_vring_enable(index, true).unwrap();
        }
        // Only now, as QEMU does. Nobody looks at what came before.
        for (index, queue) in self.queues.iter().enumerate() {
            frontend.set_vring_call(index, &queue.call).unwrap();
        }
        // Its answer tells that the device has read all that came before.
        frontend.get_features().unwrap();
    }

    /// A driver that starts afresh, with nothing in its rings.
    pub fn reset_driver(&mut self) {
        self.pause();
        for queue in &mut self.queues {
            let zeroes = [0; 0x1_0000];
            let ring = GuestAddress(queue.ring());
            queue.memory.write_slice(&zeroes, ring).unwrap();
            (queue.next, queue.seen) = (0, 0);
        }
        self.resume();
    }

    /// What the guest of a fork does and receives is not in the template.
    pub fn assert_template_is_whole(&self) {
        let mut template = vec![0; MEMORY];
        self.file.read_exact_at(&mut template, 0).unwrap();
        assert!(template[..RINGS_END].iter().all(|byte| *byte == 0));
        assert!(template[RINGS_END..].iter().all(|byte| *byte == TEMPLATE));
    }

    /// Tells the device of memory at these addresses. It may not like them.
    pub fn tell_regions(&mut self, regions: &[(u64, u64)]) {
        let regions: Vec<_> = regions
            .iter()
            .map(
                |&(guest_phys_addr, memory_size)| VhostUserMemoryRegionInfo {
                    guest_phys_addr,
                    memory_size,
                    userspace_addr: self.vmm_address,
                    mmap_offset: 0,
                    mmap_handle: self.file.as_raw_fd(),
                },
            )
            .collect();
        // The device may have ended at once.
        let _ = self.frontend.set_mem_table(&regions);
    }

    /// Stops the rings, as when the machine is paused. Returns where each stands.
    pub fn pause(&mut self) -> [u32; 2] {
        [0, 1].map(|index| self.frontend.get_vring_base(index).unwrap())
    }
}

impl Queue {
    fn ring(&self) -> u64 {
        u64::from(self.index) << 16
    }

    fn buffers(&self, slot: u16) -> (u64, u64) {
        let first = BUFFERS + u64::from(2 * (self.index * SLOTS + slot)) * BUFFER;
        (first, first + BUFFER)
    }

    fn write<T: vm_memory::ByteValued>(&self, value: T, at: u64) {
        self.memory.write_obj(value, GuestAddress(at)).unwrap();
    }

    /// Gives the device a chain: bytes to read and room to write to. An empty part is
    /// left out.
    pub fn add(&mut self, slot: u16, out: &[u8], room: u32) {
        let (readable, writable) = self.buffers(slot);
        self.memory
            .write_slice(out, GuestAddress(readable))
            .unwrap();
        let descriptor = |queue: &Self, index: u16, address: u64, len: u32, flags: u16| {
            let at = queue.ring() + 16 * u64::from(index);
            queue.write(address, at);
            queue.write(len, at + 8);
            queue.write(flags, at + 12);
            queue.write(2 * slot + 1, at + 14);
        };
        let chained = if room > 0 { F_NEXT } else { 0 };
        descriptor(self, 2 * slot, readable, out.len() as u32, chained);
        descriptor(self, 2 * slot + 1, writable, room, F_WRITE);
        let head = 2 * slot + u16::from(out.is_empty());
        let place = self.ring() + AVAIL + 4 + 2 * u64::from(self.next % QUEUE_SIZE);
        self.write(head, place);
        self.next = self.next.wrapping_add(1);
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.write(self.next, self.ring() + AVAIL + 2);
    }

    /// Gives the device more chains than there can be.
    pub fn break_it(&self) {
        self.write(self.next.wrapping_add(1000), self.ring() + AVAIL + 2);
        self.kick();
    }

    pub fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// A chain that the device is done with: its slot and what was written.
    pub fn take(&mut self) -> Option<(u16, Vec<u8>)> {
        let index: u16 = self
            .memory
            .read_obj(GuestAddress(self.ring() + USED + 2))
            .unwrap();
        if index == self.seen {
            return None;
        }
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let at = self.ring() + USED + 4 + 8 * u64::from(self.seen % QUEUE_SIZE);
        let head: u32 = self.memory.read_obj(GuestAddress(at)).unwrap();
        let len: u32 = self.memory.read_obj(GuestAddress(at + 4)).unwrap();
        self.seen = self.seen.wrapping_add(1);
        let slot = (head / 2) as u16;
        let mut bytes = vec![0; len as usize];
        self.memory
            .read_slice(&mut bytes, GuestAddress(self.buffers(slot).1))
            .unwrap();
        Some((slot, bytes))
    }

    /// Chains that the device has.
    pub fn in_flight(&self) -> u16 {
        self.next.wrapping_sub(self.seen)
    }

    fn interrupt(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the queue's, which is borrowed as long.
        unsafe { BorrowedFd::borrow_raw(self.call.as_raw_fd()) }
    }
}

/// Waits for an interrupt of any of these queues.
pub fn wait(queues: &[&Queue]) {
    let mut polled: Vec<_> = queues
        .iter()
        .map(|queue| PollFd::from_borrowed_fd(queue.interrupt(), PollFlags::IN))
        .collect();
    let ready = poll(&mut polled, Some(&PATIENCE)).unwrap();
    assert!(ready > 0, "no interrupt came");
    for (queue, polled) in queues.iter().zip(&polled) {
        if polled.revents().contains(PollFlags::IN) {
            queue.call.read().unwrap();
        }
    }
}

/// Waits until a descriptor can be read.
pub fn wait_readable(fd: impl AsFd) {
    let mut polled = [PollFd::new(&fd, PollFlags::IN)];
    assert!(
        poll(&mut polled, Some(&PATIENCE)).unwrap() > 0,
        "nothing came"
    );
}
