//! A process in the guest and its standard streams.

use caisson_protocol::agent::{ProcessRequest, ResizeRequest, SignalRequest, Stdio};
use tokio::net::UnixStream;

use crate::{Result, Sandbox, agent};

/// Which standard streams a process shall have.
#[derive(Debug, Clone, Copy, Default)]
pub struct StreamRequest {
    /// Connect standard input; without it, the process reads end of file.
    pub stdin: bool,
    /// Give the process a terminal of this size: input and both outputs share it.
    pub terminal: Option<TerminalSize>,
}

/// Size of a terminal in characters; 0 by 0 if unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TerminalSize {
    /// Height.
    pub rows: u16,
    /// Width.
    pub columns: u16,
}

/// Our ends of a process's standard streams. Closing the write half of `stdin`
/// is end of file for the process.
#[derive(Debug)]
pub struct ProcessStreams {
    /// Standard input; with a terminal, output comes back the same way.
    pub stdin: Option<UnixStream>,
    /// Standard output, unless there is a terminal.
    pub stdout: Option<UnixStream>,
    /// Standard error, unless there is a terminal.
    pub stderr: Option<UnixStream>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255; 128 + n if signal n ended it.
    pub code: u8,
    /// It was ended because its container ran out of memory.
    pub oom_killed: bool,
}

/// A process of a container.
#[derive(Clone)]
pub struct Process {
    pub(crate) sandbox: Sandbox,
    pub(crate) container: String,
    /// Empty for the container's init process.
    pub(crate) exec: String,
    /// In the guest, as the agent sees it.
    pub(crate) pid: u32,
}

impl Process {
    /// Process id in the guest, outside of the container's pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the end of the process. Any number of callers may wait.
    pub async fn wait(&self) -> Result<Exit> {
        let request = ProcessRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            ..Default::default()
        };
        let doing = "waiting for the process";
        let answer = loop {
            let link = self.sandbox.link_number();
            let answer = self.sandbox.call_with(
                doing,
                async |agent| agent.wait_process(agent::unbounded(), &request).await,
                agent::failed(doing),
            );
            match answer.await {
                Ok(answer) => break answer,
                Err(error) => {
                    // A snapshot cuts the connection, and makes another.
                    drop(self.sandbox.open().await);
                    if self.sandbox.link_number() == link {
                        return Err(error);
                    }
                }
            }
        };
        Ok(Exit {
            code: u8::try_from(answer.exit_code).unwrap_or(u8::MAX),
            oom_killed: answer.oom_killed,
        })
    }

    /// Sends a signal, to every process of the container if `all`.
    pub async fn signal(&self, signal: u32, all: bool) -> Result<()> {
        let request = SignalRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            signal,
            all,
            ..Default::default()
        };
        self.sandbox
            .call("sending a signal", async |agent| {
                agent.signal_process(agent::bounded(), &request).await
            })
            .await
            .map(drop)
    }

    /// Tells the process's terminal its new size.
    pub async fn resize(&self, size: TerminalSize) -> Result<()> {
        let request = ResizeRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            rows: size.rows.into(),
            columns: size.columns.into(),
            ..Default::default()
        };
        self.sandbox
            .call("resizing the terminal", async |agent| {
                agent.resize_terminal(agent::bounded(), &request).await
            })
            .await
            .map(drop)
    }
}

/// Opens the streams that a process shall have, and describes them to the agent.
pub(crate) async fn open_streams(
    sandbox: &Sandbox,
    wanted: StreamRequest,
) -> Result<(Stdio, ProcessStreams)> {
    let mut stdio = Stdio::new();
    let mut streams = ProcessStreams {
        stdin: None,
        stdout: None,
        stderr: None,
    };
    if let Some(size) = wanted.terminal {
        let (number, stream) = sandbox.open_stream().await?;
        stdio.stdin = number;
        stdio.terminal = true;
        stdio.rows = size.rows.into();
        stdio.columns = size.columns.into();
        streams.stdin = Some(stream);
        return Ok((stdio, streams));
    }
    if wanted.stdin {
        let (number, stream) = sandbox.open_stream().await?;
        stdio.stdin = number;
        streams.stdin = Some(stream);
    }
    let ((stdout, stdout_stream), (stderr, stderr_stream)) =
        tokio::try_join!(sandbox.open_stream(), sandbox.open_stream())?;
    stdio.stdout = stdout;
    stdio.stderr = stderr;
    streams.stdout = Some(stdout_stream);
    streams.stderr = Some(stderr_stream);
    Ok((stdio, streams))
}
