//! What happens to containers, told to containerd: in order, and as often as it takes.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::EventsClient;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{MessageField, MessageFull};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};

/// How long containerd may take for one event.
const DEADLINE: Duration = Duration::from_secs(5);

/// Between two attempts, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];

/// Where events go.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Namespace of containerd's.
    pub namespace: String,
    /// Socket of its events service.
    pub ttrpc_address: Option<String>,
    /// Socket of its gRPC API.
    pub address: String,
    /// The program that publishes events where there is no ttrpc socket.
    pub publish_binary: PathBuf,
}

enum Item {
    Event(Box<Envelope>),
    Flush(oneshot::Sender<()>),
}

/// Takes events.
#[derive(Debug, Clone)]
pub struct Events {
    namespace: String,
    items: mpsc::UnboundedSender<Item>,
}

impl Events {
    /// Begins to publish.
    pub fn new(engine: Engine) -> Self {
        // Not bounded: a request or a process of the engine's stands behind each event.
        let (items, queue) = mpsc::unbounded_channel();
        let namespace = engine.namespace.clone();
        tokio::spawn(publish(engine, queue));
        Self { namespace, items }
    }

    /// Adds one to the queue.
    pub fn send<M: MessageFull>(&self, topic: &str, event: &M) {
        let value = event
            .write_to_bytes()
            .expect("a message without required fields can be written");
        let envelope = Envelope {
            timestamp: MessageField::some(Timestamp::from(SystemTime::now())),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: MessageField::some(Any {
                type_url: M::descriptor().full_name().to_owned(),
                value,
                ..Default::default()
            }),
            ..Default::default()
        };
        tracing::debug!(topic, "event");
        // The queue lives as long as the runtime does.
        let _ = self.items.send(Item::Event(Box::new(envelope)));
    }

    /// Waits until everything before has been published, or for so long.
    pub async fn flush(&self, patience: Duration) {
        let (done, flushed) = oneshot::channel();
        let _ = self.items.send(Item::Flush(done));
        if tokio::time::timeout(patience, flushed).await.is_err() {
            tracing::warn!("containerd did not take all events");
        }
    }
}

async fn publish(engine: Engine, mut queue: mpsc::UnboundedReceiver<Item>) {
    let mut client = None;
    while let Some(item) = queue.recv().await {
        let envelope = match item {
            Item::Event(envelope) => *envelope,
            Item::Flush(done) => {
                // Whoever waited may have given up.
                let _ = done.send(());
                continue;
            }
        };
        let mut pause = PAUSES[0];
        while let Err(reason) = engine.forward(&mut client, &envelope).await {
            tracing::debug!(reason, topic = envelope.topic, "an event was not taken");
            client = None;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES[1]);
        }
    }
}

impl Engine {
    async fn forward(
        &self,
        client: &mut Option<EventsClient>,
        envelope: &Envelope,
    ) -> Result<(), String> {
        let Some(address) = &self.ttrpc_address else {
            return self.run(envelope).await;
        };
        if client.is_none() {
            let address = address.trim_start_matches("unix://");
            let connected = ttrpc::asynchronous::Client::connect(&format!("unix://{address}"))
                .await
                .map_err(|error| error.to_string())?;
            *client = Some(EventsClient::new(connected));
        }
        let Some(client) = client else { return Ok(()) };
        let request = ForwardRequest {
            envelope: MessageField::some(envelope.clone()),
            ..Default::default()
        };
        client
            .forward(ttrpc::context::with_duration(DEADLINE), &request)
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    }

    /// containerd's own program publishes one event.
    async fn run(&self, envelope: &Envelope) -> Result<(), String> {
        let failed = |error: std::io::Error| error.to_string();
        let event = protobuf::Message::write_to_bytes(envelope.event.get_or_default())
            .map_err(|error| error.to_string())?;
        let mut publisher = tokio::process::Command::new(&self.publish_binary)
            .args([
                "--address",
                &self.address,
                "publish",
                "--topic",
                &envelope.topic,
            ])
            .args(["--namespace", &self.namespace])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        if let Some(mut input) = publisher.stdin.take() {
            input.write_all(&event).await.map_err(failed)?;
        }
        match publisher.wait().await.map_err(failed)? {
            status if status.success() => Ok(()),
            status => Err(status.to_string()),
        }
    }
}
