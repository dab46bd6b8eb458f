//! TCP connections, whoever holds them (sock_diag(7)).

use std::io;
use std::net::IpAddr;

use rustix::net::netlink;

use crate::Socket;
use crate::cidr::from_octets;
use crate::message::{Message, Reply};

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY` (linux/sock_diag.h).
const LIST: u16 = 20;
const DESTROY: u16 = 21;

/// States of a TCP socket that is the end of no connection: `TCP_TIME_WAIT`, `TCP_CLOSE` and
/// `TCP_LISTEN` (net/tcp_states.h).
pub const AT_REST: [u8; 3] = [6, 7, 10];

/// Bytes of `struct inet_diag_sockid`, which is after four bytes of `struct inet_diag_msg`.
const NAME: usize = 48;
const NAME_AT: usize = 4;

/// One end of a connection that is being made, is there or is being closed. Nobody need
/// have accepted it, and whoever had it may have closed it.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The address of this end. A socket of IPv6 may have one of IPv4 in it.
    pub local: IpAddr,
    family: u8,
    /// Addresses, ports and what tells it from later ones with the same.
    name: [u8; NAME],
}

impl Connection {
    fn read(reply: &Reply) -> Option<Self> {
        let family = reply.byte(0)?;
        let name: [u8; NAME] = reply.body(NAME_AT..NAME_AT + NAME)?.try_into().ok()?;
        // Two ports, then 16 bytes for either address.
        let length = match i32::from(family) {
            libc::AF_INET => 4,
            _ => 16,
        };
        let local = from_octets(&name[4..4 + length])?;
        Some(Self {
            local,
            family,
            name,
        })
    }
}

/// The connections of the namespace in which it was opened.
#[derive(Debug)]
pub struct Connections(Socket);

impl Connections {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        Socket::with_protocol(Some(netlink::SOCK_DIAG)).map(Self)
    }

    /// Every TCP connection, of both families.
    pub fn tcp(&mut self) -> io::Result<Vec<Connection>> {
        let at_rest = AT_REST
            .iter()
            .fold(0_u32, |states, state| states | 1 << state);
        let mut connections = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let body = request(family as u8, !at_rest, &[0; NAME]);
            let replies = self.0.dump(Message::new(LIST, libc::NLM_F_DUMP, &body))?;
            connections.extend(replies.iter().filter_map(Connection::read));
        }
        Ok(connections)
    }

    /// Ends a connection: whoever has it, or accepts it later, is told `ECONNABORTED`. The
    /// other end is sent a reset. One that has ended is no error.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` without `CONFIG_INET_DIAG_DESTROY`.
    pub fn destroy(&mut self, connection: &Connection) -> io::Result<()> {
        let body = request(connection.family, u32::MAX, &connection.name);
        self.0.remove(Message::new(DESTROY, libc::NLM_F_ACK, &body))
    }
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, states: u32, name: &[u8; NAME]) -> Vec<u8> {
    let mut body = vec![family, libc::IPPROTO_TCP as u8, 0, 0];
    body.extend_from_slice(&states.to_ne_bytes());
    body.extend_from_slice(name);
    body
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_is_seen_before_it_is_accepted() {
        for address in ["127.0.0.2:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).expect("a listener");
            let address = listener.local_addr().expect("an address");
            let mut connections = Connections::open().expect("a socket");
            let mut ends = || {
                let all = connections.tcp().expect("a list");
                let port = address.port().to_be_bytes();
                let of = |end: &Connection| end.name[..2] == port && end.local == address.ip();
                all.iter().filter(|end| of(end)).count()
            };
            assert_eq!(ends(), 0, "what listens is none");
            let _near = TcpStream::connect(address).expect("connected");
            assert_eq!(ends(), 1);
        }
    }
}
