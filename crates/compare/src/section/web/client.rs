//! An HTTP client that measures: one request after the other on a connection that is kept, every
//! status and every body read to its end. What it talks to is a container, so all sizes are bounded.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Neither a connection nor an answer may take longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes of the head of an answer.
const MOST_HEAD: u64 = 16 << 10;

/// Bytes of a body.
const MOST_BODY: u64 = 16 << 20;

const MOST_HEADERS: usize = 64;

/// A connection.
pub struct Client {
    stream: BufReader<TcpStream>,
    request: String,
}

/// How the length of a body is told (RFC 9112, section 6).
enum Body {
    Sized(u64),
    Chunked,
    ToTheEnd,
}

impl Client {
    /// Connects.
    pub fn connect(address: SocketAddr, path: &str) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(stream),
            request: format!(
                "GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: */*\r\n\
                 User-Agent: caisson-compare\r\n\r\n"
            ),
        })
    }

    /// Asks once; anything but a whole answer with status 200 is an error.
    pub fn get(&mut self) -> io::Result<()> {
        self.stream.get_mut().write_all(self.request.as_bytes())?;
        let head = self.head()?;
        let (status, body) = parse(&head)?;
        match body {
            Body::Sized(size) => self.skip(size)?,
            Body::Chunked => self.skip_chunks()?,
            Body::ToTheEnd => {
                let mut rest = (&mut self.stream).take(MOST_BODY);
                io::copy(&mut rest, &mut io::sink())?;
            }
        }
        if status == 200 {
            Ok(())
        } else {
            Err(io::Error::other(format!("HTTP status {status}")))
        }
    }

    fn head(&mut self) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        let mut bounded = (&mut self.stream).take(MOST_HEAD);
        while !head.ends_with(b"\r\n\r\n") {
            if bounded.read_until(b'\n', &mut head)? == 0 {
                return Err(broken("the answer ended in its head"));
            }
        }
        Ok(head)
    }

    fn skip(&mut self, size: u64) -> io::Result<()> {
        if size > MOST_BODY {
            return Err(broken("the answer is too long"));
        }
        let copied = io::copy(&mut (&mut self.stream).take(size), &mut io::sink())?;
        if copied < size {
            return Err(broken("the answer ended in its body"));
        }
        Ok(())
    }

    /// Chunks with their sizes before them; the last one has none (RFC 9112, section 7.1).
    fn skip_chunks(&mut self) -> io::Result<()> {
        let mut whole = 0;
        loop {
            let mut line = String::new();
            (&mut self.stream).take(MOST_HEAD).read_line(&mut line)?;
            let digits = line.trim_end().split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(digits, 16)
                .map_err(|_| broken("a chunk of the answer has no size"))?;
            whole += size.min(MOST_BODY);
            if whole > MOST_BODY {
                return Err(broken("the answer is too long"));
            }
            // The line's end after it as well.
            self.skip(size + 2)?;
            if size == 0 {
                return Ok(());
            }
        }
    }
}

fn parse(head: &[u8]) -> io::Result<(u16, Body)> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    response
        .parse(head)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let status = response.code.ok_or_else(|| broken("there is no status"))?;
    let header = |name: &str| {
        let found = response
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok().map(str::trim)
    };
    let chunked = header("transfer-encoding").is_some_and(|value| value.ends_with("chunked"));
    let body = match header("content-length") {
        _ if chunked => Body::Chunked,
        Some(size) => Body::Sized(
            size.parse()
                .map_err(|_| broken("its length is no number"))?,
        ),
        None => Body::ToTheEnd,
    };
    Ok((status, body))
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    /// A server that gives each of these answers once, on one connection.
    fn server(answers: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let mut reader = BufReader::new(stream);
            for answer in answers {
                let mut line = String::new();
                while line != "\r\n" {
                    line.clear();
                    if reader.read_line(&mut line).expect("a line") == 0 {
                        return;
                    }
                }
                reader.get_mut().write_all(answer.as_bytes()).expect("sent");
            }
        });
        address
    }

    #[test]
    fn answers_follow_each_other_on_one_connection() {
        let address = server(&[
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1;x\r\nd\r\n0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
        ]);
        let mut client = Client::connect(address, "/").expect("connected");
        client.get().expect("the first");
        client.get().expect("the second");
        let error = client.get().expect_err("the third").to_string();
        assert!(error.contains("404"), "{error}");
        client.get().expect("the fourth");
    }

    #[test]
    fn half_an_answer_is_none() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nshort",
            "HTTP/1.1 200 OK\r\nConten",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffff\r\n",
            "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        ] {
            let answers: &'static [&'static str] = vec![answer].leak();
            let mut client = Client::connect(server(answers), "/").expect("connected");
            assert!(client.get().is_err(), "{answer}");
        }
    }
}
