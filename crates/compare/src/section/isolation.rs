//! Section 3: what a container sees, under runc and in Caisson.

use super::question::{Question, difference};
use crate::context::Context;
use crate::error::Result;
use crate::model::{Row, Section};

const LOG: Question = Question {
    id: "isolation/dmesg",
    title: "Kernel's log",
    script: "dmesg > /tmp/log 2>&1; head -n 8 /tmp/log",
    shows: "Whose kernel's log a container reads with the engine's default privileges. A refusal is an answer too.",
    does_not_show: "That the log is safe from a container with more privileges: see the next row.",
};

const LOG_WITH_CAPABILITY: Question = Question {
    id: "isolation/dmesg-syslog",
    title: "Kernel's log, with CAP_SYSLOG",
    script: LOG.script,
    shows: "Whose log it is: with this capability a container of runc reads the host's, addresses and devices included, and one of Caisson that of its own guest.",
    does_not_show: "An escape: the capability was given.",
};

const QUESTIONS: &[Question] = &[
    Question {
        id: "isolation/proc",
        title: "Entries of /proc",
        script: "ls /proc | grep -v '^[0-9]'",
        shows: "What the kernel tells of itself. Entries that only runc has come with drivers and features of the host's kernel, which are reachable from the container.",
        does_not_show: "Isolation by the number of entries: two kernels with the same features have the same entries. Many of those are masked or may not be written.",
    },
    Question {
        id: "isolation/dev",
        title: "Devices",
        script: "find /dev | sort",
        shows: "The devices that the runtime has put there. Both make the same few.",
        does_not_show: "Which devices the kernel would let be opened if they were made with mknod.",
    },
    Question {
        id: "isolation/capabilities",
        title: "Capabilities",
        script: "grep ^Cap /proc/self/status",
        shows: "The rights of root in the container, as capabilities(7) numbers them. Under runc they are rights over the host's kernel, in Caisson over the guest's.",
        does_not_show: "A difference of the runtimes where the engine gives both the same: whose kernel they are about is the difference.",
    },
    Question {
        id: "isolation/seccomp",
        title: "System call filter and NoNewPrivs",
        script: "grep -E '^(Seccomp|NoNewPrivs)' /proc/self/status",
        shows: "Whether system calls are filtered (Seccomp: 2) and whether set-uid programs gain rights (NoNewPrivs: 0), by the engine's defaults.",
        does_not_show: "What the filter lets through. `ctr run` and a bundle of `runc spec` have none, `docker run` and `caisson run` have Docker's.",
    },
    Question {
        id: "isolation/modules",
        title: "Kernel's modules",
        script: "ls /sys/module",
        shows: "Built-in and loaded parts of the kernel that the container talks to. What only runc has is code of the host's kernel within reach.",
        does_not_show: "That each of them can be reached by a system call of an ordinary container.",
    },
    Question {
        id: "isolation/network",
        title: "Network interfaces",
        script: "ip -o address",
        shows: "That the container has interfaces of its own. These containers have no network, so it is the loopback.",
        does_not_show: "How packets leave: that depends on the engine's network.",
    },
    Question {
        id: "isolation/mounts",
        title: "Mounts",
        script: "cat /proc/self/mounts",
        shows: "Where the container's files are. Under runc the rootfs is a mount of the host's kernel, and its options name folders of the host; in Caisson it is the guest's.",
        does_not_show: "That the host's files are out of reach: a bind mount would be listed here too.",
    },
    Question {
        id: "isolation/processes",
        title: "Visible processes",
        script: "ps -o pid,comm",
        shows: "That a container sees its own processes only. It is the same with a namespace and with a machine.",
        does_not_show: "Who sees the container's processes: the host sees those of runc, and of Caisson the machine only.",
    },
];

const HOST_PROCESSES: Question = Question {
    id: "isolation/processes-host",
    title: "Visible processes, with --pid=host",
    script: "ps -o pid,comm",
    shows: "What the flag opens: under runc every process of the host. A machine cannot join a namespace of another kernel: `caisson run` and Docker's flag are refused, and a specification without a process namespace shows the processes of the guest, the agent among them.",
    does_not_show: "A fault of runc: the flag asks for it.",
};

/// Makes the section.
pub fn section(context: &Context<'_>) -> Result<Section> {
    let mut rows = vec![
        row(context, &LOG, |_| {})?,
        row(context, &LOG_WITH_CAPABILITY, |container| {
            container.capabilities = vec!["CAP_SYSLOG".to_owned()];
        })?,
    ];
    for question in QUESTIONS {
        rows.push(row(context, question, |_| {})?);
    }
    rows.push(row(context, &HOST_PROCESSES, |container| {
        container.host_pid = true;
    })?);
    Ok(Section {
        id: "isolation".to_owned(),
        title: "Isolation".to_owned(),
        intro: "What a container sees, as differences between runc and Caisson. The host is no column here: a container of any kind differs from its host, so that would show nothing about a virtual machine.".to_owned(),
        rows,
    })
}

fn row(
    context: &Context<'_>,
    question: &Question,
    change: impl Fn(&mut crate::runtime::Container),
) -> Result<Row> {
    let (mut row, answers) = question.ask(context, change)?;
    row.difference = difference(&answers);
    Ok(row)
}
