//! Names: what the guest asks a resolver on its loopback is asked of the one on the
//! loopback of the network namespace whose place it has. Docker's is there.
//!
//! The guest is not trusted: what it sends is passed on to that resolver and to nobody else,
//! a bounded number of queries at once, each for a bounded time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use caisson_network::Attachment;
use caisson_protocol::agent::ForwardResolverRequest;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Mutex, Semaphore};

use crate::{Result, Sandbox, agent};

const PORT: u16 = 53;

/// Bytes of a message's header (RFC 1035, section 4.1.1).
const HEADER: usize = 12;

/// Queries at once. More wait in the stream.
const QUERIES: usize = 64;

/// How long a resolver may take.
const PATIENCE: Duration = Duration::from_secs(10);

impl Sandbox {
    /// Lets the guest use a resolver that listens on a loopback address of the network
    /// namespace. Without a namespace there is none to use.
    pub async fn forward_resolver(&self, address: IpAddr) -> Result<()> {
        if self.inner.network.is_none() {
            return Ok(());
        }
        let _open = self.open().await;
        self.forward(address).await?;
        let mut forwarded = self.inner.resolvers.lock().await;
        if !forwarded.contains(&address) {
            forwarded.push(address);
        }
        Ok(())
    }

    /// Lets the guest use its resolvers after a snapshot, which has cut the streams to them.
    /// The caller sees to it that nobody cuts the connection.
    pub(crate) async fn forward_resolvers_again(&self) {
        for address in self.inner.resolvers.lock().await.iter() {
            if let Err(error) = self.forward(*address).await {
                tracing::warn!(%error, %address, "a resolver is out of reach after a snapshot");
            }
        }
    }

    async fn forward(&self, address: IpAddr) -> Result<()> {
        let Some(attachment) = self.inner.network.clone() else {
            return Ok(());
        };
        let doing = "forwarding a resolver";
        let (number, stream) = self.open_stream().await?;
        let request = ForwardResolverRequest {
            address: address.to_string(),
            stream: number,
            ..Default::default()
        };
        self.call_with(
            doing,
            async |agent| agent.forward_resolver(agent::bounded(), &request).await,
            agent::failed(doing),
        )
        .await?;
        tokio::spawn(relay(stream, attachment, SocketAddr::new(address, PORT)));
        Ok(())
    }
}

/// Answers until the guest ends.
async fn relay(stream: UnixStream, attachment: Attachment, resolver: SocketAddr) {
    let (mut from, to) = stream.into_split();
    let to = Arc::new(Mutex::new(to));
    let room = Arc::new(Semaphore::new(QUERIES));
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        let Ok(query) = read(&mut from).await else {
            return;
        };
        let (attachment, to) = (attachment.clone(), Arc::clone(&to));
        tokio::spawn(async move {
            let _place = place;
            let asked = ask(&attachment, resolver, &query);
            let answer = match tokio::time::timeout(PATIENCE, asked).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => {
                    tracing::debug!(%error, %resolver, "a name is not resolved");
                    failure(&query)
                }
                Err(_) => failure(&query),
            };
            // The guest may have ended.
            drop(send(&mut *to.lock().await, &answer).await);
        });
    }
}

async fn ask(attachment: &Attachment, resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let attachment = attachment.clone();
    let connecting = tokio::task::spawn_blocking(move || attachment.connect(resolver, PATIENCE));
    let stream = connecting.await?.map_err(io::Error::other)?;
    stream.set_nonblocking(true)?;
    let mut stream = TcpStream::from_std(stream)?;
    send(&mut stream, query).await?;
    read(&mut stream).await
}

/// Says that the server has failed, under the query's number.
fn failure(query: &[u8]) -> Vec<u8> {
    const ANSWER: u8 = 0x80;
    const SERVER_FAILURE: u8 = 2;
    let mut answer = query.to_vec();
    answer.truncate(HEADER);
    answer.resize(HEADER, 0);
    answer[2] |= ANSWER;
    answer[3] = SERVER_FAILURE;
    // It has no sections, not even the question.
    answer[4..].fill(0);
    answer
}

/// A message with its length before it (RFC 1035, section 4.2.2).
async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(from.read_u16().await?)];
    from.read_exact(&mut message).await?;
    Ok(message)
}

async fn send(to: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    to.write_all(&bytes).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_the_number_of_its_query() {
        let query = [7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1];
        assert_eq!(failure(&query), [7, 9, 0x81, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(failure(&[]).len(), HEADER);
    }
}
