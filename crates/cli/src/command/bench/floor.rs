//! The least that a machine can run: an init that restarts it at once, which a
//! machine of ours takes for its end.

/// Where the program is in memory, and its file in it.
const ADDRESS: u64 = 0x40_0000;

/// Sizes of the headers of an executable (elf(5)).
const ELF_HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;

/// `reboot(LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_RESTART)`
/// (reboot(2)), and a loop for the moment until it is done.
#[rustfmt::skip]
const CODE: [u8; 24] = [
    0xbf, 0xad, 0xde, 0xe1, 0xfe, // mov edi, 0xfee1dead
    0xbe, 0x69, 0x19, 0x12, 0x28, // mov esi, 0x28121969
    0xba, 0x67, 0x45, 0x23, 0x01, // mov edx, 0x01234567
    0xb8, 0xa9, 0x00, 0x00, 0x00, // mov eax, 169
    0x0f, 0x05,                   // syscall
    0xeb, 0xfe,                   // jmp itself
];

/// An initramfs that holds nothing but that init.
pub fn initramfs() -> Vec<u8> {
    let mut archive = Vec::new();
    append(&mut archive, "init", 0o100_755, &init());
    append(&mut archive, "TRAILER!!!", 0, &[]);
    archive
}

fn init() -> Vec<u8> {
    let headers = u64::from(ELF_HEADER + PROGRAM_HEADER);
    let size = headers + CODE.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    let mut put = |bytes: &[u8]| file.extend_from_slice(bytes);
    put(&2_u16.to_le_bytes()); // an executable
    put(&62_u16.to_le_bytes()); // for x86-64
    put(&1_u32.to_le_bytes());
    put(&(ADDRESS + headers).to_le_bytes()); // its first instruction
    put(&u64::from(ELF_HEADER).to_le_bytes()); // where the program header is
    put(&0_u64.to_le_bytes()); // no sections
    put(&0_u32.to_le_bytes());
    for number in [ELF_HEADER, PROGRAM_HEADER, 1, 0, 0, 0] {
        put(&number.to_le_bytes());
    }
    put(&1_u32.to_le_bytes()); // to be loaded
    put(&5_u32.to_le_bytes()); // readable, executable
    for number in [0, ADDRESS, ADDRESS, size, size, 0x1000] {
        put(&number.to_le_bytes());
    }
    put(&CODE);
    file
}

/// Adds a file in the form "newc" (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst).
fn append(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    archive.extend_from_slice(b"070701");
    // Inode, mode, owner, group, links, time, size, two devices, length of the name, no sum.
    let numbers = [
        1,
        mode,
        0,
        0,
        1,
        0,
        content.len() as u32,
        0,
        0,
        0,
        0,
        name.len() as u32 + 1,
        0,
    ];
    for number in numbers {
        archive.extend_from_slice(format!("{number:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(content);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    // The program is not run: it would restart whatever it is run on.

    #[test]
    fn the_program_begins_at_its_first_instruction() {
        let file = init();
        let number = |at: usize| {
            let bytes: [u8; 8] = file[at..at + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        let entry = usize::try_from(number(24) - ADDRESS).expect("in the file");
        assert_eq!(file[entry..], CODE);
        let header = usize::try_from(number(32)).expect("in the file");
        assert_eq!(
            number(header + 32),
            file.len() as u64,
            "all of it is loaded"
        );
    }

    #[test]
    fn the_archive_has_headers_at_multiples_of_four() {
        let archive = initramfs();
        assert_eq!(&archive[..6], b"070701");
        assert_eq!(&archive[110..116], b"init\0\0");
        let second = 116 + init().len().next_multiple_of(4);
        assert_eq!(&archive[second..second + 6], b"070701");
        assert!(archive.ends_with(b"TRAILER!!!\0\0\0\0"));
    }
}
