//! Names: what is asked of a resolver on the guest's loopback is asked of the one on the
//! loopback of the network namespace whose place the guest has (DNS, RFC 1035).
//!
//! All queries go to the host in one stream, each with its length before it, as over TCP
//! (section 4.2.2), under numbers of our own; the host answers each once.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_vsock::VsockStream;

use crate::error::{Error, Result};

const PORT: u16 = 53;

/// Bytes of a message's header.
const HEADER: usize = 12;

/// Longest answer to a datagram that does not say what it can take (section 4.2.1).
const DATAGRAM: usize = 512;

/// Longest query that is passed on.
const QUERY_LIMIT: usize = 4096;

/// Queries without an answer; more are lost, as datagrams are.
const WAITING_LIMIT: usize = 1024;

/// Connections at once.
const CONNECTIONS: usize = 64;

/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(30);

/// Who has asked.
enum Asker {
    /// With a datagram, which takes an answer of so many bytes.
    Datagram { from: SocketAddr, limit: usize },
    /// Over a connection.
    Connection(oneshot::Sender<Vec<u8>>),
}

/// A query that waits for its answer.
struct Waiting {
    asker: Asker,
    query: Vec<u8>,
}

struct Forwarder<W> {
    datagrams: UdpSocket,
    host: W,
    waiting: HashMap<u16, Waiting>,
    next: u16,
}

/// The addresses at which questions are taken.
#[derive(Debug, Default)]
pub struct Resolvers(Mutex<HashMap<IpAddr, JoinHandle<()>>>);

impl Resolvers {
    /// Begins to forward what is asked at an address, instead of whoever did so before: after
    /// a snapshot that one has no stream to the host any more, and does not learn of it.
    pub async fn forward(&self, address: IpAddr, host: VsockStream) -> Result<()> {
        if !address.is_loopback() {
            return Err(Error::Invalid(format!(
                "{address} is no resolver on the loopback"
            )));
        }
        let mut all = self.0.lock().await;
        if let Some(before) = all.remove(&address) {
            before.abort();
            // Its sockets are closed by then.
            let _ = before.await;
        }
        let at = SocketAddr::new(address, PORT);
        let (datagrams, listener) =
            open(at).map_err(Error::system(format!("listen for questions at {at}")))?;
        let (from_host, to_host) = tokio::io::split(host);
        let serving = tokio::spawn(serve(datagrams, listener, from_host, to_host));
        all.insert(address, serving);
        Ok(())
    }
}

/// A server of the container that listens on all addresses may do so, too.
fn open(at: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let family = match at {
        SocketAddr::V4(_) => rustix::net::AddressFamily::INET,
        SocketAddr::V6(_) => rustix::net::AddressFamily::INET6,
    };
    let datagrams = rustix::net::socket_with(
        family,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::net::sockopt::set_socket_reuseaddr(&datagrams, true)?;
    rustix::net::bind(&datagrams, &at)?;
    let stream = match at {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    stream.set_reuseaddr(true)?;
    stream.bind(at)?;
    Ok((
        UdpSocket::from_std(datagrams.into())?,
        stream.listen(CONNECTIONS as u32)?,
    ))
}

async fn serve(
    datagrams: UdpSocket,
    listener: TcpListener,
    from_host: impl AsyncRead + Unpin,
    host: impl AsyncWrite + Unpin,
) {
    let (answered, mut answers) = mpsc::channel(1);
    let mut receiving = pin!(receive(from_host, answered));
    let (asked, mut questions) = mpsc::channel(1);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut forwarder = Forwarder {
        datagrams,
        host,
        waiting: HashMap::new(),
        next: 0,
    };
    let mut buffer = vec![0; QUERY_LIMIT];
    loop {
        let outcome = tokio::select! {
            Some(answer) = answers.recv() => {
                forwarder.answer(answer).await;
                Ok(())
            }
            // The host has gone, and with it the machine.
            () = &mut receiving => return,
            Ok((length, from)) = forwarder.datagrams.recv_from(&mut buffer) => {
                let query = buffer[..length].to_vec();
                let limit = datagram_limit(&query);
                forwarder.ask(Waiting { asker: Asker::Datagram { from, limit }, query }).await
            }
            Some(waiting) = questions.recv() => forwarder.ask(waiting).await,
            Ok((stream, _)) = listener.accept() => {
                // Without room, it is closed.
                if let Ok(place) = Arc::clone(&room).try_acquire_owned() {
                    let asked = asked.clone();
                    tokio::spawn(async move {
                        let _place = place;
                        // Whoever has asked may be gone.
                        drop(converse(stream, asked).await);
                    });
                }
                Ok(())
            }
        };
        if outcome.is_err() {
            return;
        }
    }
}

impl<W: AsyncWrite + Unpin> Forwarder<W> {
    /// Passes a query on, under a number that no other has.
    async fn ask(&mut self, waiting: Waiting) -> io::Result<()> {
        if waiting.query.len() < HEADER || self.waiting.len() >= WAITING_LIMIT {
            return Ok(());
        }
        while self.waiting.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let mut query = waiting.query.clone();
        query[..2].copy_from_slice(&self.next.to_be_bytes());
        self.waiting.insert(self.next, waiting);
        self.next = self.next.wrapping_add(1);
        send(&mut self.host, &query).await
    }

    async fn answer(&mut self, mut answer: Vec<u8>) {
        let Some(number) = answer.first_chunk().map(|bytes| u16::from_be_bytes(*bytes)) else {
            return;
        };
        let Some(Waiting { asker, query }) = self.waiting.remove(&number) else {
            return;
        };
        answer[..2].copy_from_slice(&query[..2]);
        match asker {
            Asker::Datagram { from, limit } => {
                if answer.len() > limit {
                    answer = truncated(&answer, &query);
                }
                // As lost as any datagram.
                drop(self.datagrams.send_to(&answer, from).await);
            }
            // It may have been closed.
            Asker::Connection(asker) => drop(asker.send(answer)),
        }
    }
}

/// Answers the queries of a connection, one after the other.
async fn converse(mut stream: TcpStream, asked: mpsc::Sender<Waiting>) -> io::Result<()> {
    while let Ok(query) = tokio::time::timeout(SILENCE, read(&mut stream, QUERY_LIMIT)).await {
        let (sender, answer) = oneshot::channel();
        let waiting = Waiting {
            asker: Asker::Connection(sender),
            query: query?,
        };
        asked.send(waiting).await.map_err(io::Error::other)?;
        send(&mut stream, &answer.await.map_err(io::Error::other)?).await?;
    }
    Ok(())
}

async fn receive(mut from: impl AsyncRead + Unpin, answered: mpsc::Sender<Vec<u8>>) {
    while let Ok(answer) = read(&mut from, usize::from(u16::MAX)).await {
        if answered.send(answer).await.is_err() {
            return;
        }
    }
}

async fn read(from: &mut (impl AsyncRead + Unpin), limit: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(from.read_u16().await?);
    if length > limit {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    from.read_exact(&mut message).await?;
    Ok(message)
}

async fn send(to: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    to.write_all(&bytes).await
}

/// Where the question of a query ends; none if it has none, or something before it.
fn question_end(query: &[u8]) -> Option<usize> {
    if query.get(4..10)? != [0, 1, 0, 0, 0, 0] {
        return None;
    }
    let mut at = HEADER;
    loop {
        match usize::from(*query.get(at)?) {
            0 => return Some(at + 5),
            label @ 1..=63 => at += 1 + label,
            _ => return None,
        }
    }
}

/// Bytes that whoever sent a query can take in a datagram (EDNS, RFC 6891, section 6.1.2).
fn datagram_limit(query: &[u8]) -> usize {
    const OPT: [u8; 2] = [0, 41];
    let record = question_end(query).and_then(|end| query.get(end..end + 5));
    match record {
        // The root's name, the type, the size in the place of the class.
        Some([0, kind @ .., high, low]) if *kind == OPT => {
            usize::from(u16::from_be_bytes([*high, *low])).max(DATAGRAM)
        }
        _ => DATAGRAM,
    }
}

/// The beginning of an answer that is too long: it says so, and has the question only.
fn truncated(answer: &[u8], query: &[u8]) -> Vec<u8> {
    const TRUNCATED: u8 = 2;
    let mut short = answer[..HEADER.min(answer.len())].to_vec();
    short.resize(HEADER, 0);
    short[2] |= TRUNCATED;
    short[4..].fill(0);
    if let Some(question) = question_end(query).and_then(|end| query.get(HEADER..end)) {
        short[5] = 1;
        short.extend_from_slice(question);
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query for `a.b`, of type A.
    fn query(additional: &[u8]) -> Vec<u8> {
        let mut query = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend_from_slice(b"\x01a\x01b\x00\x00\x01\x00\x01");
        if !additional.is_empty() {
            query[11] = 1;
            query.extend_from_slice(additional);
        }
        query
    }

    #[test]
    fn a_query_says_what_it_can_take() {
        assert_eq!(datagram_limit(&query(&[])), 512);
        let opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
        assert_eq!(datagram_limit(&query(&opt)), 1232);
        for hostile in [&[][..], &[0; 12], &query(&[])[..15], &[0xff; 40]] {
            assert_eq!(datagram_limit(hostile), 512, "{hostile:?}");
        }
    }

    #[test]
    fn what_is_too_long_says_so() {
        let mut answer = query(&[]);
        answer[2] = 0x81;
        answer[7] = 40;
        answer.resize(700, 1);
        let short = truncated(&answer, &query(&[]));
        assert_eq!(short.len(), 12 + 9);
        assert_eq!(short[2], 0x83);
        assert_eq!(short[4..8], [0, 1, 0, 0]);
        assert_eq!(truncated(&[0], &[]).len(), HEADER);
    }

    #[tokio::test]
    async fn each_gets_the_answer_to_its_own_query() {
        let (datagrams, listener) =
            open("127.0.0.1:0".parse().expect("an address")).expect("sockets");
        let places = [
            datagrams.local_addr().expect("an address"),
            listener.local_addr().expect("an address"),
        ];
        let (guest, mut host) = tokio::io::duplex(64 << 10);
        let (from_host, to_host) = tokio::io::split(guest);
        tokio::spawn(serve(datagrams, listener, from_host, to_host));

        let client = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        client.connect(places[0]).await.expect("connected");
        client.send(&query(&[])).await.expect("sent");
        let first = read(&mut host, QUERY_LIMIT).await.expect("passed on");
        let mut connection = TcpStream::connect(places[1]).await.expect("connected");
        send(&mut connection, &query(&[])).await.expect("sent");
        let second = read(&mut host, QUERY_LIMIT).await.expect("passed on");
        assert_ne!(first[..2], second[..2], "numbers of their own");

        for (question, length) in [(second, 700), (first, 600)] {
            let mut answer = question;
            answer.resize(length, 0);
            send(&mut host, &answer).await.expect("answered");
        }
        let answer = read(&mut connection, 1000).await.expect("an answer");
        assert_eq!((answer.len(), &answer[..2]), (700, &[7, 9][..]));
        let mut datagram = [0; 1000];
        let length = client.recv(&mut datagram).await.expect("an answer");
        assert_eq!((length, &datagram[..2]), (21, &[7, 9][..]), "cut");
    }
}
