//! QMP, QEMU's control protocol: one JSON object for each line.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;

use super::descriptor_set::DescriptorSet;

/// Longest line: QEMU's longest answer to what we ask has a few hundred bytes.
const LINE_LIMIT: u64 = 64 << 10;

/// Events that are kept until somebody waits for them; older ones are forgotten.
const EVENTS_KEPT: usize = 32;

/// A QMP connection. Whoever waits for an answer may give up.
#[derive(Debug)]
pub(super) struct Monitor {
    stream: BufReader<UnixStream>,
    /// What has come of a line.
    line: Vec<u8>,
    /// Commands that have not been answered. They are, in their order.
    unanswered: usize,
    negotiated: bool,
    events: VecDeque<Value>,
    /// The way to the machine's address space.
    door: Option<BufReader<UnixStream>>,
}

/// Name of that way in QEMU, which calls it `qtest`.
const DOOR: &str = "registers";

impl Monitor {
    /// Takes a connection that QEMU is given the other end of. Nothing is said
    /// before the first command, so that a start does not wait for it.
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream: BufReader::new(stream),
            line: Vec::new(),
            unanswered: 0,
            negotiated: false,
            events: VecDeque::new(),
            door: None,
        }
    }

    /// Takes a connection to a QEMU that goes on: another one has negotiated with it.
    pub(super) fn resumed(stream: UnixStream) -> Self {
        Self {
            negotiated: true,
            ..Self::new(stream)
        }
    }

    /// Runs a command and returns its answer.
    pub(super) async fn execute(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        self.negotiate().await?;
        self.request(command, arguments).await
    }

    /// Gives QEMU a descriptor under a name.
    pub(super) async fn give(&mut self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.pass("getfd", json!({ "fdname": name }), descriptor)
            .await
            .map(drop)
    }

    /// Adds a descriptor to a set of QEMU's. Returns its number there.
    pub(super) async fn add(
        &mut self,
        set: DescriptorSet,
        descriptor: BorrowedFd<'_>,
    ) -> io::Result<i64> {
        let added = self.pass("add-fd", set.argument(), descriptor).await?;
        added["fd"]
            .as_i64()
            .ok_or_else(|| io::Error::other("QEMU does not tell a descriptor's number"))
    }

    /// Takes a set away.
    pub(super) async fn remove(&mut self, set: DescriptorSet) -> io::Result<()> {
        self.execute("remove-fd", set.argument()).await.map(drop)
    }

    /// Runs a command that takes a descriptor.
    async fn pass(
        &mut self,
        command: &str,
        arguments: Value,
        descriptor: BorrowedFd<'_>,
    ) -> io::Result<Value> {
        self.negotiate().await?;
        let line = line(command, arguments);
        let stream = self.stream.get_ref();
        let sent = stream
            .async_io(Interest::WRITABLE, || {
                send(stream.as_fd(), line.as_bytes(), descriptor)
            })
            .await?;
        if sent != line.len() {
            // An empty socket takes a short line whole.
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.unanswered += 1;
        self.answer(command).await
    }

    /// Makes a connected socket a character device of QEMU's, of the same name.
    pub(super) async fn connect(&mut self, name: &str, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.give(name, socket).await?;
        let socket = json!({
            "addr": { "type": "fd", "data": { "str": name } },
            "server": false,
        });
        let backend = json!({ "type": "socket", "data": socket });
        let chardev = json!({ "id": name, "backend": backend });
        self.execute("chardev-add", chardev).await.map(drop)
    }

    /// Writes values to addresses of the machine, as a CPU would.
    pub(super) async fn write(&mut self, writes: &[(u64, u32)]) -> io::Result<()> {
        if self.door.is_none() {
            self.door = Some(self.open_door().await?);
        }
        let Some(door) = &mut self.door else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        // A line each way (`softmmu/qtest.c`). They fit into the socket, so that QEMU
        // need not be waited for after each.
        let lines: String = writes
            .iter()
            .map(|(address, value)| format!("writel {address:#x} {value:#x}\n"))
            .collect();
        door.get_mut().write_all(lines.as_bytes()).await?;
        for line in lines.lines() {
            let mut answer = String::new();
            (&mut *door).take(64).read_line(&mut answer).await?;
            if answer.trim() != "OK" {
                let message = format!("{line:?} was answered {answer:?}");
                return Err(io::Error::other(message));
            }
        }
        Ok(())
    }

    /// There is one for each QEMU, for good: 7.2 answers a second one through the first.
    async fn open_door(&mut self) -> io::Result<BufReader<UnixStream>> {
        let (ours, theirs) = UnixStream::pair()?;
        let theirs = theirs.into_std()?;
        self.connect(DOOR, theirs.as_fd()).await?;
        let object = json!({
            "qom-type": "qtest",
            "id": DOOR,
            "chardev": DOOR,
            "log": "none",
        });
        self.execute("object-add", object).await?;
        Ok(BufReader::new(ours))
    }

    /// Waits until QEMU has told of an event, unless it already has.
    pub(super) async fn event(&mut self, name: &str) -> io::Result<()> {
        self.told(|event| event["event"] == name).await
    }

    /// Waits until QEMU has let go of a device that was taken away.
    pub(super) async fn deleted(&mut self, device: &str) -> io::Result<()> {
        self.told(|event| event["event"] == "DEVICE_DELETED" && event["data"]["device"] == device)
            .await
    }

    async fn told(&mut self, wanted: impl Fn(&Value) -> bool) -> io::Result<()> {
        loop {
            if let Some(index) = self.events.iter().position(&wanted) {
                self.events.remove(index);
                return Ok(());
            }
            let message = self.message().await?;
            self.keep(message);
        }
    }

    async fn negotiate(&mut self) -> io::Result<()> {
        if !self.negotiated {
            self.request("qmp_capabilities", json!({})).await?;
            self.negotiated = true;
        }
        Ok(())
    }

    fn keep(&mut self, message: Value) {
        if message["event"].is_string() {
            if self.events.len() == EVENTS_KEPT {
                self.events.pop_front();
            }
            self.events.push_back(message);
        }
    }

    async fn request(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        let line = line(command, arguments);
        self.stream.get_mut().write_all(line.as_bytes()).await?;
        self.unanswered += 1;
        self.answer(command).await
    }

    async fn answer(&mut self, command: &str) -> io::Result<Value> {
        loop {
            // The greeting and events come in between.
            let mut message = self.message().await?;
            // Others are those of whoever has given up.
            if self.unanswered > 0 {
                self.keep(message);
                continue;
            }
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = message.get("error") {
                let description = error["desc"].as_str().unwrap_or("no reason given");
                return Err(io::Error::other(format!("{command}: {description}")));
            }
            self.keep(message);
        }
    }

    async fn message(&mut self) -> io::Result<Value> {
        let rest = LINE_LIMIT.saturating_sub(self.line.len() as u64);
        (&mut self.stream)
            .take(rest)
            .read_until(b'\n', &mut self.line)
            .await?;
        let line = std::mem::take(&mut self.line);
        if line.last() != Some(&b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let message: Value = serde_json::from_slice(&line)?;
        if message.get("return").or(message.get("error")).is_some() {
            self.unanswered = self.unanswered.saturating_sub(1);
        }
        Ok(message)
    }
}

fn line(command: &str, arguments: Value) -> String {
    json!({ "execute": command, "arguments": arguments }).to_string() + "\n"
}

fn send(socket: BorrowedFd<'_>, line: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    assert!(
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)),
        "the buffer has room for one descriptor"
    );
    Ok(rustix::net::sendmsg(
        socket,
        &[IoSlice::new(line)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_that_nobody_waits_for_is_nobody_elses() {
        let (ours, mut theirs) = UnixStream::pair().expect("pair");
        theirs
            .write_all(b"{\"return\": {}}\n{\"retu")
            .await
            .expect("half of it");
        let mut monitor = Monitor::new(ours);
        for _ in 0..2 {
            let patience = std::time::Duration::from_millis(20);
            let answer = monitor.execute("query-name", json!({}));
            let given_up = tokio::time::timeout(patience, answer).await;
            given_up.expect_err("it is not answered");
        }
        theirs
            .write_all(b"rn\": 1}\n{\"error\": {}}\n{\"return\": 3}\n")
            .await
            .expect("the rest");
        let answer = monitor.execute("query-status", json!({})).await;
        assert_eq!(answer.expect("answer"), 3);
    }

    #[tokio::test]
    async fn answers_are_found_among_events() {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        let qemu = tokio::spawn(async move {
            let mut qemu = BufReader::new(theirs);
            qemu.write_all(b"{\"QMP\": {}}\n").await.expect("greeting");
            for answer in [
                "{\"return\": {}}\n",
                "{\"event\": \"STOP\"}\n{\"return\": {\"status\": \"paused\"}}\n",
                concat!(
                    "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n",
                    "{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"a\"}}\n",
                    "{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"b\"}}\n",
                ),
            ] {
                let mut line = String::new();
                qemu.read_line(&mut line).await.expect("command");
                qemu.write_all(answer.as_bytes()).await.expect("answer");
            }
        });
        let mut monitor = Monitor::new(ours);
        let answer = monitor.execute("query-status", json!({})).await;
        assert_eq!(answer.expect("answer")["status"], "paused");
        let error = monitor.execute("stop", json!({})).await;
        assert_eq!(error.expect_err("refused").to_string(), "stop: no");
        monitor.event("STOP").await.expect("it was told before");
        monitor.deleted("b").await.expect("it is told later");
        assert!(monitor.event("STOP").await.is_err(), "only once");
        assert!(monitor.execute("cont", json!({})).await.is_err(), "gone");
        qemu.await.expect("ended");
    }
}
