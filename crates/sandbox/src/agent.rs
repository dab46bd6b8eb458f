//! The connection to the agent in the guest.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use caisson_protocol::agent_ttrpc::AgentClient;
use tokio::io::AsyncWriteExt;
use ttrpc::context::Context;

use crate::{Error, Result, console};

/// How long any call may take that only does work in the guest.
const CALL_DEADLINE: Duration = Duration::from_secs(60);

/// Longest message of the agent that is shown to a user, in characters.
const MESSAGE_LIMIT: usize = 1000;

/// Fresh random bytes given to each guest.
const ENTROPY_BYTES: usize = 64;

/// Random bytes of the host, for a guest.
pub(crate) fn entropy() -> Result<Vec<u8>> {
    let mut entropy = vec![0; ENTROPY_BYTES];
    let filled = rustix::rand::getrandom(&mut entropy[..], rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Error::Host {
        doing: "drawing random bytes for the guest",
        source: error.into(),
    })?;
    entropy.truncate(filled);
    Ok(entropy)
}

/// Tells the agent the number of a stream to its port for streams.
pub(crate) async fn number(stream: UnixStream, number: u64) -> Result<tokio::net::UnixStream> {
    let number_it = async {
        stream.set_nonblocking(true)?;
        let mut stream = tokio::net::UnixStream::from_std(stream)?;
        stream.write_all(&number.to_be_bytes()).await?;
        Ok(stream)
    };
    number_it
        .await
        .map_err(Error::host("opening a stream to the guest"))
}

/// Speaks ttrpc over a stream to the agent's port.
pub(crate) fn connect(stream: UnixStream) -> Result<AgentClient> {
    let stream = stream
        .set_nonblocking(true)
        .and_then(|()| tokio::net::UnixStream::from_std(stream))
        .map_err(Error::host("using the stream to the agent"))?;
    let socket = ttrpc::r#async::transport::Socket::new(stream);
    Ok(AgentClient::new(ttrpc::r#async::Client::new(socket)))
}

/// For calls that answer as soon as the guest has done its work.
pub(crate) fn bounded() -> Context {
    ttrpc::context::with_duration(CALL_DEADLINE)
}

/// For calls that last as long as a process or a stream does.
pub(crate) fn unbounded() -> Context {
    Context::default()
}

/// Translates an answer of the agent, which is not to be trusted: it is cleaned
/// and cut before anybody sees it.
pub(crate) fn failed(doing: &'static str) -> impl FnOnce(ttrpc::Error) -> Error {
    move |error| Error::Agent {
        doing,
        message: message(&error),
    }
}

/// As [`failed`], for calls that execute a program.
pub(crate) fn not_executed(doing: &'static str) -> impl FnOnce(ttrpc::Error) -> Error {
    move |error| match &error {
        ttrpc::Error::RpcStatus(status) if status.code() == ttrpc::Code::NOT_FOUND => {
            Error::ProgramNotFound(message(&error))
        }
        ttrpc::Error::RpcStatus(status) if status.code() == ttrpc::Code::PERMISSION_DENIED => {
            Error::ProgramNotExecutable(message(&error))
        }
        _ => Error::Agent {
            doing,
            message: message(&error),
        },
    }
}

fn message(error: &ttrpc::Error) -> String {
    let text = match error {
        ttrpc::Error::RpcStatus(status) => status.message().to_owned(),
        other => other.to_string(),
    };
    console::printable(&text)
        .chars()
        .take(MESSAGE_LIMIT)
        .collect()
}
