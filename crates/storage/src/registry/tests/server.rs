//! A registry that does what a test wants.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::Digest;

#[derive(Debug, Clone)]
pub(super) struct Request {
    /// With what follows the question mark.
    pub(super) target: String,
    /// Names in lower case.
    pub(super) headers: HashMap<String, String>,
    pub(super) body: String,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn range_start(&self) -> Option<usize> {
        let range = self.header("range").strip_prefix("bytes=")?;
        range.strip_suffix('-')?.parse().ok()
    }
}

#[derive(Clone, Default)]
pub(super) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// The connection ends after so many bytes of the body.
    cut: Option<usize>,
    /// Waited for before the answer is sent.
    gate: Option<Arc<Semaphore>>,
}

impl Reply {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn cut_after(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    pub(super) fn behind(mut self, gate: &Arc<Semaphore>) -> Self {
        self.gate = Some(gate.clone());
        self
    }
}

/// What a test does about a request: answer it, or let it be. The number says how
/// many requests with the same target came before.
type Rule = dyn Fn(&Request, usize) -> Option<Reply> + Send + Sync;

/// Serves what it was given, at an address of its own.
pub(super) struct Server {
    address: SocketAddr,
    content: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    requests: Arc<Mutex<Vec<Request>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::with_rule(|_, _| None).await
    }

    pub(super) async fn with_rule(
        rule: impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (content, requests) = (Arc::default(), Arc::default());
        let state = State {
            rule: Arc::new(rule),
            content: Arc::clone(&content),
            requests: Arc::clone(&requests),
        };
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let state = state.clone();
                // A client may go away at any time.
                tokio::spawn(async move { state.answer(stream).await.ok() });
            }
        });
        Self {
            address,
            content,
            requests,
            task,
        }
    }

    /// `127.0.0.1:<port>`
    pub(super) fn name(&self) -> String {
        self.address.to_string()
    }

    pub(super) fn put(&self, target: impl Into<String>, content: impl Into<Vec<u8>>) {
        self.content
            .lock()
            .unwrap()
            .insert(target.into(), content.into());
    }

    /// Adds a blob of the repository `test/image`.
    pub(super) fn blob(&self, content: impl Into<Vec<u8>>) -> Digest {
        let content = content.into();
        let digest = Digest::of(&content);
        self.put(format!("/v2/test/image/blobs/{digest}"), content);
        digest
    }

    /// Adds a manifest of the repository `test/image` by its digest.
    pub(super) fn manifest(&self, content: impl Into<Vec<u8>>) -> Digest {
        let content = content.into();
        let digest = Digest::of(&content);
        self.put(format!("/v2/test/image/manifests/{digest}"), content);
        digest
    }

    /// The requests so far whose target contains this.
    pub(super) fn requests(&self, part: &str) -> Vec<Request> {
        let requests = self.requests.lock().unwrap();
        requests
            .iter()
            .filter(|request| request.target.contains(part))
            .cloned()
            .collect()
    }
}

#[derive(Clone)]
struct State {
    rule: Arc<Rule>,
    content: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl State {
    async fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let request = read_request(&mut stream).await?;
        let earlier = {
            let mut requests = self.requests.lock().unwrap();
            let same = |other: &&Request| other.target == request.target;
            let earlier = requests.iter().filter(same).count();
            requests.push(request.clone());
            earlier
        };
        let reply = (self.rule)(&request, earlier).unwrap_or_else(|| self.content(&request));
        if let Some(gate) = &reply.gate {
            gate.acquire().await.unwrap().forget();
        }
        let mut head = format!(
            "HTTP/1.1 {} Whatever\r\nConnection: close\r\nContent-Length: {}\r\n",
            reply.status,
            reply.body.len()
        );
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).await?;
        let sent = reply.cut.unwrap_or(reply.body.len());
        stream.write_all(&reply.body[..sent]).await?;
        stream.shutdown().await
    }

    fn content(&self, request: &Request) -> Reply {
        let content = self.content.lock().unwrap();
        let Some(body) = content.get(&request.target) else {
            return Reply::new(
                404,
                r#"{"errors":[{"code":"UNKNOWN","message":"not here"}]}"#,
            );
        };
        match request.range_start() {
            Some(start) => Reply::new(206, &body[start..]).header(
                "Content-Range",
                format!("bytes {start}-{}/{}", body.len() - 1, body.len()),
            ),
            None => Reply::new(200, body.as_slice()),
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> std::io::Result<Request> {
    let mut text = Vec::new();
    let head_end = loop {
        if let Some(end) = text.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut text).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    };
    let head = String::from_utf8(text[..head_end].to_vec()).unwrap();
    let mut lines = head.lines();
    let target = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    while text.len() < head_end + length {
        if stream.read_buf(&mut text).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Request {
        target,
        headers,
        body: String::from_utf8(text[head_end..].to_vec()).unwrap(),
    })
}
