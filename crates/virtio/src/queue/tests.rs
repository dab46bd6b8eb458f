//! Queues against rings written by hand.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;

const LAYOUT: Layout = Layout {
    size: 8,
    descriptors: 0x1000,
    available: 0x2000,
    used: 0x3000,
};
const BUFFERS: u64 = 0x4000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// What a driver does in memory.
trait Driver: Sized {
    fn set<T: vm_memory::ByteValued>(&self, at: u64, value: T);

    fn get<T: vm_memory::ByteValued>(&self, at: u64) -> T;

    fn descriptor(&self, table: u64, index: u64, fields: (u64, u32, u16, u16)) {
        let at = table + 16 * index;
        self.set(at, fields.0);
        self.set(at + 8, fields.1);
        self.set(at + 12, fields.2);
        self.set(at + 14, fields.3);
    }

    /// Makes a descriptor available as the entry with this index.
    fn offer(&self, index: u16, head: u16) {
        self.set(
            LAYOUT.available + 4 + 2 * u64::from(index % LAYOUT.size),
            head,
        );
        self.set(LAYOUT.available + 2, index.wrapping_add(1));
    }
}

impl Driver for GuestMemoryMmap {
    fn set<T: vm_memory::ByteValued>(&self, at: u64, value: T) {
        self.write_obj(value, GuestAddress(at)).unwrap();
    }

    fn get<T: vm_memory::ByteValued>(&self, at: u64) -> T {
        self.read_obj(GuestAddress(at)).unwrap()
    }
}

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0x1000), 0x7000)]).unwrap()
}

fn queue(memory: &GuestMemoryMmap, next_available: u16, event_index: bool) -> Queue {
    Queue::new(memory, LAYOUT, next_available, event_index).unwrap()
}

#[test]
fn layouts_that_are_not_allowed_are_refused() {
    let memory = memory();
    let refused = |change: fn(&mut Layout)| {
        let mut layout = LAYOUT;
        change(&mut layout);
        Queue::new(&memory, layout, 0, true).is_err()
    };
    assert!(!refused(|_| {}));
    assert!(refused(|layout| layout.size = 0));
    assert!(refused(|layout| layout.size = 12));
    assert!(refused(|layout| layout.size = 2048));
    assert!(refused(|layout| layout.descriptors += 8));
    assert!(refused(|layout| layout.available += 1));
    assert!(refused(|layout| layout.used += 2));
    assert!(refused(|layout| layout.descriptors = 0xff0));
    assert!(refused(|layout| layout.available = 0x7ff0));
    assert!(refused(|layout| layout.used = 0x7fbc));
    assert!(refused(|layout| layout.used = u64::MAX - 3));
}

#[test]
fn a_table_may_be_larger_than_what_is_copied() {
    const COUNT: u16 = 1024;
    let ranges = [(GuestAddress(0x1000), 0x1_0000)];
    let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    let mut table = Table::new(0x1000, COUNT);
    for index in 0..COUNT {
        let at = 0x1000 + 16 * u64::from(index);
        memory
            .write_obj(u32::from(index), GuestAddress(at + 8))
            .unwrap();
    }
    for (first, last) in [
        (0, 0),
        (5, 9),
        (1023, 1023),
        (1020, COUNT),
        (0, 1023),
        (700, 960),
    ] {
        table.copy(&memory, first, last).unwrap();
        for index in 0..COUNT {
            let descriptor = table.get(&memory, index).unwrap().unwrap();
            assert_eq!(descriptor.length, u32::from(index), "{first} to {last}");
        }
        assert!(table.get(&memory, COUNT).unwrap().is_none());
    }
}

#[test]
fn chains_come_in_order_and_go_back_around_the_ring() {
    for event_index in [false, true] {
        let memory = memory();
        memory.set(LAYOUT.used + 2, 0xfffa_u16);
        let mut queue = queue(&memory, 0xfffa, event_index);
        for round in 0..20_u16 {
            let index = 0xfffa_u16.wrapping_add(round);
            let head = round % 8;
            memory.descriptor(LAYOUT.descriptors, head.into(), (BUFFERS, 4, WRITE, 0));
            memory.offer(index, head);
            let chain = queue.take(&memory).unwrap().unwrap();
            assert_eq!(chain.head(), head);
            queue.put_back(chain);
            assert_eq!(queue.next_available(), index);
            let chain = queue.take(&memory).unwrap().unwrap();
            assert_eq!(chain.head(), head);
            assert!(queue.take(&memory).unwrap().is_none());
            queue.give_back(&memory, &chain, u32::from(round)).unwrap();
            assert_eq!(memory.get::<u16>(LAYOUT.used + 2), index);
            queue.publish(&memory).unwrap();
            assert_eq!(memory.get::<u16>(LAYOUT.used + 2), index.wrapping_add(1));
            let entry = LAYOUT.used + 4 + 8 * u64::from(index % 8);
            assert_eq!(memory.get::<u32>(entry), u32::from(head));
            assert_eq!(memory.get::<u32>(entry + 4), u32::from(round));
        }
    }
}

#[test]
fn what_is_given_back_together_may_wrap() {
    let memory = memory();
    memory.set(LAYOUT.used + 2, 6_u16);
    let mut queue = queue(&memory, 0, true);
    for head in 0..4 {
        memory.offer(head, head);
    }
    while let Some(chain) = queue.take(&memory).unwrap() {
        queue.give_back(&memory, &chain, 9).unwrap();
    }
    queue.publish(&memory).unwrap();
    let heads = [6, 7, 0, 1].map(|slot| memory.get::<u32>(LAYOUT.used + 4 + 8 * slot));
    assert_eq!(heads, [0, 1, 2, 3]);
    assert_eq!(memory.get::<u16>(LAYOUT.used + 2), 10);
}

#[test]
fn the_driver_hears_of_what_it_asked_for() {
    let memory = memory();
    let used_event = LAYOUT.available + 4 + 16;
    let mut queue = queue(&memory, 0, true);
    assert!(!queue.needs_interrupt(&memory).unwrap());
    for (index, (event, heard)) in [(0, true), (3, false), (9, false), (3, true)]
        .into_iter()
        .enumerate()
    {
        memory.offer(index as u16, 0);
        let chain = queue.take(&memory).unwrap().unwrap();
        queue.give_back(&memory, &chain, 0).unwrap();
        queue.publish(&memory).unwrap();
        memory.set(used_event, event as u16);
        assert_eq!(queue.needs_interrupt(&memory).unwrap(), heard, "{index}");
    }
    assert!(!queue.enable_kicks(&memory).unwrap());
    assert_eq!(memory.get::<u16>(LAYOUT.used + 4 + 64), 4);
    memory.offer(4, 0);
    assert!(queue.enable_kicks(&memory).unwrap());
}

#[test]
fn without_event_indexes_flags_do_the_same() {
    let memory = memory();
    let mut queue = queue(&memory, 0, false);
    let mut interrupts = |flags: u16, index: u16| {
        memory.set(LAYOUT.available, flags);
        memory.offer(index, 0);
        queue.disable_kicks(&memory).unwrap();
        assert_eq!(memory.get::<u16>(LAYOUT.used), 1);
        let chain = queue.take(&memory).unwrap().unwrap();
        queue.give_back(&memory, &chain, 0).unwrap();
        queue.publish(&memory).unwrap();
        assert_eq!(memory.get::<u16>(LAYOUT.used + 2), index + 1);
        assert!(!queue.enable_kicks(&memory).unwrap());
        assert_eq!(memory.get::<u16>(LAYOUT.used), 0);
        queue.needs_interrupt(&memory).unwrap()
    };
    assert!(interrupts(0, 0));
    assert!(!interrupts(1, 1));
    assert!(interrupts(0, 2));
}

#[test]
fn a_malformed_chain_is_empty() {
    const TABLE: u64 = 0x5000;
    let memory = memory();
    memory.descriptor(TABLE, 0, (BUFFERS, 16, NEXT, 1));
    memory.descriptor(TABLE, 1, (BUFFERS + 32, 8, WRITE, 0));
    // The second is what it is when it is reached directly.
    let second = (BUFFERS + 16, 32, WRITE, 0);
    for (first, second, read, room) in [
        ((BUFFERS, 8, 0, 0), second, Some(8), 0),
        ((BUFFERS, 8, NEXT, 1), second, Some(8), 32),
        ((BUFFERS, 8, WRITE, 0), second, Some(0), 8),
        ((TABLE, 32, INDIRECT, 0), second, Some(16), 8),
        // Memory that is none.
        ((0x7ffc, 8, 0, 0), second, None, 0),
        (
            (BUFFERS, 8, NEXT, 1),
            (u64::MAX - 3, 8, WRITE, 0),
            Some(8),
            0,
        ),
        ((0xfff, 64, INDIRECT, 0), second, Some(0), 0),
        // Loops, and links to nowhere.
        ((BUFFERS, 8, NEXT, 0), second, Some(0), 0),
        ((BUFFERS, 8, NEXT, 8), second, Some(0), 0),
        ((TABLE, 16, INDIRECT, 0), second, Some(0), 0),
        // Tables in tables, of half a descriptor, of none, of too many, and not last.
        ((LAYOUT.descriptors, 16, INDIRECT, 0), second, Some(0), 0),
        ((TABLE, 24, INDIRECT, 0), second, Some(0), 0),
        ((TABLE, 0, INDIRECT, 0), second, Some(0), 0),
        ((TABLE, 144, INDIRECT, 0), second, Some(0), 0),
        ((TABLE, 32, INDIRECT | NEXT, 1), second, Some(0), 0),
        ((BUFFERS, 8, NEXT, 1), (TABLE, 32, INDIRECT, 0), Some(0), 0),
        // More bytes than can be counted.
        ((BUFFERS, u32::MAX, NEXT, 1), second, Some(0), 0),
    ] {
        memory.descriptor(LAYOUT.descriptors, 0, first);
        memory.descriptor(LAYOUT.descriptors, 1, second);
        memory.offer(0, 0);
        let chain = queue(&memory, 0, true).take(&memory).unwrap().unwrap();
        let count = chain.read(&memory, &mut [0; 64]).ok();
        assert_eq!((count, chain.room(&memory)), (read, room), "{first:x?}");
        assert_eq!(chain.head(), 0);
    }
}

#[test]
fn bytes_cross_from_piece_to_piece() {
    let memory = memory();
    memory.descriptor(LAYOUT.descriptors, 0, (BUFFERS, 3, NEXT, 1));
    memory.descriptor(LAYOUT.descriptors, 1, (BUFFERS + 8, 5, NEXT, 2));
    memory.descriptor(LAYOUT.descriptors, 2, (BUFFERS + 16, 2, WRITE | NEXT, 3));
    memory.descriptor(LAYOUT.descriptors, 3, (BUFFERS + 32, 9, WRITE, 0));
    memory.set(BUFFERS, *b"abc-----defgh---");
    memory.offer(0, 0);
    let chain = queue(&memory, 0, true).take(&memory).unwrap().unwrap();
    let mut bytes = [0; 12];
    assert_eq!(chain.read(&memory, &mut bytes).unwrap(), 8);
    assert_eq!(&bytes, b"abcdefgh\0\0\0\0");
    assert_eq!(chain.read(&memory, &mut bytes[..4]).unwrap(), 4);
    assert_eq!(chain.room(&memory), 11);
    chain.write(&memory, b"12345").unwrap();
    assert_eq!(&memory.get::<[u8; 3]>(BUFFERS + 16), b"12\0");
    assert_eq!(&memory.get::<[u8; 4]>(BUFFERS + 32), b"345\0");
}

#[test]
fn a_ring_with_a_descriptor_that_does_not_exist_is_an_error() {
    let memory = memory();
    memory.offer(0, LAYOUT.size);
    assert!(queue(&memory, 0, true).take(&memory).is_err());
}
