//! What a machine was doing when its time was up: QEMU's monitor is asked for it.
//!
//! The protocol is QMP (docs/interop/qmp-spec.txt in QEMU's source).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How often the processors are looked at: at one place they stand, at many they work.
const LOOKS: usize = 5;

/// How long is waited between two looks, and at most for an answer.
const BETWEEN: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(20);

/// Where each processor is, in a line for each look. Never fails: it is for an error.
pub fn processors(stream: UnixStream) -> String {
    look(stream).unwrap_or_else(|error| format!("QEMU's monitor does not tell: {error:#}\n"))
}

fn look(stream: UnixStream) -> Result<String> {
    for direction in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
        direction(&stream, Some(PATIENCE)).context("cannot limit the wait")?;
    }
    let mut to = stream.try_clone().context("cannot copy a socket")?;
    let mut from = BufReader::new(stream);
    ask(&mut to, &mut from, &json!({"execute": "qmp_capabilities"}))?;
    let command = json!({
        "execute": "human-monitor-command",
        "arguments": {"command-line": "info registers -a"},
    });
    let mut seen = String::new();
    for look in 0..LOOKS {
        if look > 0 {
            thread::sleep(BETWEEN);
        }
        let answer = ask(&mut to, &mut from, &command)?;
        let registers = answer.as_str().context("the registers are no text")?;
        seen.push_str(&places(registers));
    }
    Ok(seen)
}

/// Sends a command and gives what it returns; the greeting and events are passed over.
fn ask(to: &mut impl Write, from: &mut impl BufRead, command: &Value) -> Result<Value> {
    writeln!(to, "{command}").context("cannot write to it")?;
    let mut line = String::new();
    loop {
        line.clear();
        if from.read_line(&mut line).context("cannot read from it")? == 0 {
            bail!("it has ended");
        }
        let mut message: Value = serde_json::from_str(&line).context("it sends no JSON")?;
        if let Some(error) = message.get("error") {
            bail!("{error}");
        }
        if let Some(value) = message.get_mut("return") {
            return Ok(value.take());
        }
    }
}

/// The lines that tell where a processor is (`RIP=...`, with its privilege and whether it
/// is halted) and whose page table it has (`CR0=... CR3=...`).
fn places(registers: &str) -> String {
    let lines = registers.lines().map(str::trim);
    let telling = lines.filter(|line| {
        ["CPU#", "RIP=", "EIP=", "CR0="]
            .iter()
            .any(|start| line.starts_with(start))
    });
    let mut places = String::new();
    for line in telling {
        places.push_str(line);
        places.push(if line.starts_with("CR0=") { '\n' } else { ' ' });
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_processor_has_a_line() {
        let registers = "\r\nCPU#0\r\nRAX=1 RBX=2\r\nRIP=ff RFL=46 CPL=0 HLT=1\r\n\
            ES =0000\r\nCR0=80 CR2=0 CR3=1000 CR4=6f0\r\n\r\nCPU#1\r\nRIP=fe CPL=3\r\nCR0=81\r\n";
        assert_eq!(
            places(registers),
            "CPU#0 RIP=ff RFL=46 CPL=0 HLT=1 CR0=80 CR2=0 CR3=1000 CR4=6f0\n\
             CPU#1 RIP=fe CPL=3 CR0=81\n"
        );
    }

    #[test]
    fn a_greeting_and_an_event_are_no_answer() {
        let said = b"{\"QMP\": {}}\n{\"event\": \"STOP\"}\n{\"return\": \"yes\"}\n";
        let mut sent = Vec::new();
        let answer = ask(&mut sent, &mut &said[..], &json!({"execute": "x"})).expect("one");
        assert_eq!(answer, "yes");
        assert_eq!(sent, b"{\"execute\":\"x\"}\n");
        let said = b"{\"error\": {\"desc\": \"no\"}}\n";
        assert!(ask(&mut sent, &mut &said[..], &json!({})).is_err());
        assert!(ask(&mut sent, &mut &b""[..], &json!({})).is_err());
    }
}
