//! `/proc/PID/maps` and what else `/proc` tells of an address space.

use std::fs;
use std::path::PathBuf;

use crate::image::{Layout, Range};
use crate::{Error, Result, state};

/// A line of `/proc/PID/maps` (proc_pid_maps(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where it is mapped.
    pub range: Range,
    /// `PROT_*` (mmap(2)).
    pub(crate) protection: i32,
    /// Whether what is written goes to the file.
    pub shared: bool,
    /// Where it begins in the file, bytes.
    pub offset: u64,
    /// The file's; 0 if there is none.
    pub inode: u64,
    /// A path, a name in brackets, or nothing.
    pub(crate) name: String,
    /// Whether a child of the process would find zeros there (`MADV_WIPEONFORK`,
    /// `MAP_DROPPABLE`): it holds the state of something random.
    pub(crate) is_wiped: bool,
}

/// The address space of a process.
pub(crate) fn of(process: u32) -> Result<Vec<Line>> {
    let text = fs::read_to_string(format!("/proc/{process}/maps"))
        .map_err(Error::system("read what the process has mapped"))?;
    let lines = text.lines().map(|line| {
        Line::parse(line)
            .ok_or_else(|| Error::Unsupported(format!("a mapping that reads `{line}`")))
    });
    lines.collect()
}

/// The same, with what only a longer file tells.
pub(crate) fn with_flags(process: u32) -> Result<Vec<Line>> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps"))
        .map_err(Error::system("read what the process has mapped"))?;
    let mut lines: Vec<Line> = Vec::new();
    for text in text.lines() {
        match text.strip_prefix("VmFlags:") {
            Some(flags) => {
                let mut flags = flags.split_ascii_whitespace();
                let is_wiped = flags.any(|flag| flag == "wf" || flag == "dp");
                if let Some(line) = lines.last_mut() {
                    line.is_wiped = is_wiped;
                }
            }
            // Figures have a name before a colon.
            None => lines.extend(Line::parse(text)),
        }
    }
    match lines.is_empty() {
        true => Err(Error::Unsupported(
            "mappings that cannot be read".to_owned(),
        )),
        false => Ok(lines),
    }
}

impl Line {
    /// Reads one; none if it is no such line.
    pub fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (begin, end) = fields.next()?.split_once('-')?;
        let permissions = fields.next()?.as_bytes();
        let offset = fields.next()?;
        let _device = fields.next()?;
        let inode = fields.next()?.parse().ok()?;
        let name = fields.next().unwrap_or_default().trim_start();
        let number = |text| u64::from_str_radix(text, 16).ok();
        let [read, write, execute, sharing] = permissions else {
            return None;
        };
        let flags = [
            (read, b'r', libc::PROT_READ),
            (write, b'w', libc::PROT_WRITE),
            (execute, b'x', libc::PROT_EXEC),
        ];
        let set = flags.into_iter().filter(|(found, is, _)| *found == is);
        Some(Self {
            range: Range {
                begin: number(begin)?,
                end: number(end)?,
            },
            protection: set.fold(0, |all, (_, _, flag)| all | flag),
            shared: *sharing == b's',
            offset: number(offset)?,
            inode,
            name: name.to_owned(),
            is_wiped: false,
        })
    }

    /// Whether the kernel has mapped it for every process, at an address of its choice.
    pub(crate) fn is_kernels(&self) -> bool {
        self.name.starts_with("[vvar") || self.name == "[vdso]"
    }

    /// Whether it is where no process maps anything.
    pub(crate) fn is_fixed(&self) -> bool {
        self.name == "[vsyscall]"
    }

    /// The file of the host's that is mapped.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        self.name
            .starts_with('/')
            .then(|| PathBuf::from(&self.name))
    }
}

/// What the kernel knows of the address space (proc_pid_stat(5)), and the end of the heap,
/// which only the process itself is told.
pub(crate) fn layout(process: u32, end_of_heap: u64) -> Result<Layout> {
    parse_layout(&state::read(&format!("{process}/stat"))?, end_of_heap)
        .ok_or_else(|| Error::Unsupported("a state that cannot be read".to_owned()))
}

fn parse_layout(stat: &str, end_of_heap: u64) -> Option<Layout> {
    let fields = state::fields(stat)?;
    // They are counted from 1; the number and the name come before.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Layout {
        start_code: field(26)?,
        end_code: field(27)?,
        start_data: field(45)?,
        end_data: field(46)?,
        start_brk: field(47)?,
        brk: end_of_heap,
        start_stack: field(28)?,
        env_start: field(50)?,
        env_end: field(51)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read() {
        let line = "7f00000000-7f00003000 r-xp 00002000 fe:01 4711     /usr/lib/a b.so";
        let found = Line::parse(line).expect("a line");
        assert_eq!(found.range.length(), 0x3000);
        assert_eq!(found.protection, libc::PROT_READ | libc::PROT_EXEC);
        assert_eq!((found.offset, found.inode), (0x2000, 4711));
        assert_eq!(found.path(), Some("/usr/lib/a b.so".into()));
        assert!(!found.shared);
        let heap = Line::parse("1000-2000 rw-p 00000000 00:00 0   [heap]").expect("a line");
        assert_eq!(heap.path(), None);
        assert!(Line::parse("1000 rw-p").is_none());
        let own = of(std::process::id()).expect("our own");
        assert!(own.iter().any(Line::is_kernels));
        let flagged = with_flags(std::process::id()).expect("our own");
        assert!(flagged.iter().any(Line::is_kernels));
        assert!(!flagged[0].is_wiped);
    }

    #[test]
    fn the_layout_is_that_of_a_name_with_spaces() {
        let numbers: Vec<_> = (3..=52).map(|number| number.to_string()).collect();
        let text = format!("1 (a ) b) {}", numbers.join(" "));
        let layout = parse_layout(&text, 7).expect("a layout");
        assert_eq!((layout.start_code, layout.env_end), (26, 51));
        assert_eq!((layout.start_brk, layout.brk), (47, 7));
        assert!(parse_layout("1 (a) 2 3", 7).is_none());
    }
}
