//! Calls that `ctr` does not make: containerd's Tasks service
//! (api/services/tasks/v1/tasks.proto).

use caisson_end_to_end::COMMAND_DEADLINE;
use caisson_end_to_end::engine::Containerd;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;

/// What goes with a call: the namespace of containerd's.
const NAMESPACE: (&str, &str) = ("containerd-namespace", "default");

/// `CheckpointTaskRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct CheckpointTask {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(message, optional, tag = "3")]
    options: Option<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `containerd.runc.v1.CheckpointOptions`.
#[derive(Clone, PartialEq, prost::Message)]
struct Options {
    #[prost(bool, tag = "1")]
    exit: bool,
}

/// `CheckpointTaskResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct Checkpointed {
    #[prost(message, repeated, tag = "1")]
    descriptors: Vec<Descriptor>,
}

/// `containerd.types.Descriptor`: where the content is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Descriptor {
    #[prost(string, tag = "1")]
    pub media_type: String,
    #[prost(string, tag = "2")]
    pub digest: String,
}

/// Makes a checkpoint of a task, which is to end by that.
pub fn checkpoint_and_exit(engine: &Containerd, container: &str) -> Vec<Descriptor> {
    let options = prost::Message::encode_to_vec(&Options { exit: true });
    let mut request = tonic::Request::new(CheckpointTask {
        container_id: container.to_owned(),
        options: Some(Any {
            type_url: "containerd.runc.v1.CheckpointOptions".to_owned(),
            value: options,
        }),
    });
    let (key, value) = NAMESPACE;
    let value = value.parse().expect("ASCII");
    request.metadata_mut().insert(key, value);
    let address = format!("unix://{}", engine.socket().display());
    let endpoint = Endpoint::from_shared(address)
        .expect("an address")
        .timeout(COMMAND_DEADLINE);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let channel = endpoint.connect().await.expect("connected");
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.expect("ready");
        let path = PathAndQuery::from_static("/containerd.services.tasks.v1.Tasks/Checkpoint");
        let codec = tonic_prost::ProstCodec::<CheckpointTask, Checkpointed>::default();
        let answer = client.unary(request, path, codec).await;
        let answer = answer.unwrap_or_else(|status| panic!("{status}"));
        answer.into_inner().descriptors
    })
}
