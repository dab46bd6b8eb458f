//! Section 2: which kernel, which processor.

use super::question::{Question, difference};
use crate::context::Context;
use crate::error::Result;
use crate::model::{Row, Section, Subject};

/// The note of an answer that is the host's.
pub const THE_HOSTS: &str = "as the host's";

/// The note of an answer that is not.
pub const NOT_THE_HOSTS: &str = "not the host's";

const QUESTIONS: &[Question] = &[
    Question {
        id: "kernel/uname",
        title: "Kernel (uname)",
        script: "uname -a",
        shows: "Which kernel answers the container's system calls. The second word is the container's own host name and is not compared.",
        does_not_show: "That the answer is true: a kernel in user space (gVisor) says what it likes.",
    },
    Question {
        id: "kernel/version",
        title: "Kernel (/proc/version)",
        script: "cat /proc/version",
        shows: "Who built the kernel, with which compiler. Two kernels that differ here are two kernels.",
        does_not_show: "How well either is patched.",
    },
    Question {
        id: "kernel/boot-id",
        title: "Boot",
        script: "cat /proc/sys/kernel/random/boot_id",
        shows: "A number that a kernel draws once for each boot: another number is another running kernel. This is the strongest proof here, since two machines may well have the same version.",
        does_not_show: "Where that kernel runs.",
    },
    Question {
        id: "kernel/cmdline",
        title: "Kernel's command line",
        script: "cat /proc/cmdline",
        shows: "How the kernel was started. A container of the host's kernel reads the host's, with whatever is in it.",
        does_not_show: "Anything, if the runtime masks the file.",
    },
    Question {
        id: "kernel/cpu-model",
        title: "Processor",
        script: "grep -m1 'model name' /proc/cpuinfo",
        shows: "The processor that the kernel sees: the real one, or a virtual machine's.",
        does_not_show: "Another kernel, where it is the same: virtual machines with hardware virtualisation usually show the host's processor.",
    },
    Question {
        id: "kernel/cpu-flags",
        title: "Processor's features",
        script: "grep -m1 '^flags' /proc/cpuinfo | cut -d: -f2 | tr -s ' ' '\\n' | grep . | sort",
        shows: "What programs may use of the processor, one a line. What only one side has explains differences of speed.",
        does_not_show: "That a feature is fast: an emulator can offer what the host's processor has not.",
    },
    Question {
        id: "kernel/cgroup",
        title: "Control groups",
        script: "cat /proc/self/cgroup",
        shows: "Which version counts and limits the container's processes: one line that begins with `0::` is version 2, numbered lines are version 1. With runc they are the host's.",
        does_not_show: "The limits themselves.",
    },
];

/// Makes the section.
pub fn section(context: &Context<'_>) -> Result<Section> {
    let mut rows = Vec::new();
    for question in QUESTIONS {
        let (mut row, mut answers) = question.ask(context, |_| {})?;
        question.ask_host(context, &mut row, &mut answers)?;
        row.difference = difference(&answers).filter(|_| question.id == "kernel/cpu-flags");
        if let Some(host) = answers.get(&Subject::Host) {
            for (subject, text) in &answers {
                note(
                    &mut row,
                    *subject,
                    comparable(question.id, text) == comparable(question.id, host),
                );
            }
        }
        rows.push(row);
    }
    Ok(Section {
        id: "kernel".to_owned(),
        title: "Kernel and CPU".to_owned(),
        intro: "A container of runc is a group of processes of the host's kernel, so it must answer as the host does. A virtual machine has a kernel of its own and must not. The rows about kernel and boot prove another kernel; those about the processor only hint at it.".to_owned(),
        rows,
    })
}

/// The part of an answer in which two containers of one kernel must agree.
fn comparable(id: &str, text: &str) -> String {
    if id == "kernel/uname" {
        let words = text.split(' ').enumerate();
        let words: Vec<_> = words
            .filter(|(number, _)| *number != 1)
            .map(|(_, word)| word)
            .collect();
        // GNU and busybox add different words for the processor at the end.
        return words
            .join(" ")
            .replace(" unknown", "")
            .replace(" GNU/Linux", "");
    }
    if id == "kernel/cgroup" {
        let version2 = text.lines().all(|line| line.starts_with("0::"));
        return if version2 { "v2" } else { "v1" }.to_owned();
    }
    text.to_owned()
}

fn note(row: &mut Row, subject: Subject, same: bool) {
    let Some(cell) = row
        .cells
        .get_mut(&subject)
        .filter(|_| subject != Subject::Host)
    else {
        return;
    };
    let text = if same { THE_HOSTS } else { NOT_THE_HOSTS };
    cell.note = Some(text.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_name_does_not_make_another_kernel() {
        let host = "Linux build 6.18.5 #1 SMP Thu x86_64 GNU/Linux";
        let container = "Linux 1f5c 6.18.5 #1 SMP Thu x86_64 GNU/Linux";
        let machine = "Linux 1f5c 6.12.1 #1 SMP Thu x86_64 GNU/Linux";
        let key = |text| comparable("kernel/uname", text);
        assert_eq!(key(host), key(container));
        assert_ne!(key(host), key(machine));
    }

    #[test]
    fn control_groups_are_compared_by_version() {
        let key = |text| comparable("kernel/cgroup", text);
        assert_eq!(key("0::/a"), key("0::/"));
        assert_ne!(key("0::/a"), key("3:cpu:/a\n0::/a"));
    }
}
