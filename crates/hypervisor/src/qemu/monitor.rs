//! QMP, QEMU's control protocol: one JSON object for each line.

use std::io;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// Longest line: QEMU's longest answer to what we ask has a few hundred bytes.
const LINE_LIMIT: u64 = 64 << 10;

/// A QMP connection.
#[derive(Debug)]
pub(super) struct Monitor {
    stream: BufReader<UnixStream>,
    negotiated: bool,
}

impl Monitor {
    /// Takes a connection that QEMU is given the other end of. Nothing is said
    /// before the first command, so that a start does not wait for it.
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream: BufReader::new(stream),
            negotiated: false,
        }
    }

    /// Runs a command and returns its answer.
    pub(super) async fn execute(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        if !self.negotiated {
            self.request("qmp_capabilities", json!({})).await?;
            self.negotiated = true;
        }
        self.request(command, arguments).await
    }

    async fn request(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes()).await?;
        loop {
            // The greeting and events come in between.
            let mut message = self.message().await?;
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = message.get("error") {
                let description = error["desc"].as_str().unwrap_or("no reason given");
                return Err(io::Error::other(format!("{command}: {description}")));
            }
        }
    }

    async fn message(&mut self) -> io::Result<Value> {
        let mut line = Vec::new();
        (&mut self.stream)
            .take(LINE_LIMIT)
            .read_until(b'\n', &mut line)
            .await?;
        if line.last() != Some(&b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_slice(&line).map_err(io::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_are_found_among_events() {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        let qemu = tokio::spawn(async move {
            let mut qemu = BufReader::new(theirs);
            qemu.write_all(b"{\"QMP\": {}}\n").await.expect("greeting");
            for answer in [
                "{\"return\": {}}\n",
                "{\"event\": \"STOP\"}\n{\"return\": {\"status\": \"paused\"}}\n",
                "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n",
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
        assert!(monitor.execute("cont", json!({})).await.is_err(), "gone");
        qemu.await.expect("ended");
    }
}
