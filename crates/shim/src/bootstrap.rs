//! What containerd says to `start` and how it wants to be answered.
//!
//! - containerd 1.6 and older read the bare address of the socket.
//! - 1.7 and 2.0 to 2.2 say the highest version that they know in `MAX_SHIM_VERSION` and
//!   read JSON (a bare address is taken for version 2). 1.7 refuses a version above 2.
//! - 2.3 and newer write a `BootstrapParams` message to standard input and read a
//!   `BootstrapResult`. Older ones write the runtime's options there, an `Any`, which
//!   parses as `BootstrapParams` too: only the new message names the container.

use std::path::PathBuf;

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, LogLevel};
use protobuf::Message;
use serde::Serialize;

use crate::address;
use crate::arguments::Arguments;

/// Newest version of the Task service that we serve.
const NEWEST: i32 = 3;

/// How the answer is to be written.
#[derive(Debug, PartialEq, Eq)]
pub enum Form {
    /// The address alone.
    Bare,
    /// JSON, with a version.
    Json(i32),
    /// A `BootstrapResult`.
    Message,
}

/// What containerd wants to be started.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// How to answer.
    pub form: Form,
    /// Say more.
    pub debug: bool,
    /// Folder of sockets, if it is not the usual one.
    pub socket_folder: Option<PathBuf>,
    /// Socket of containerd's events service.
    pub ttrpc_address: Option<String>,
}

#[derive(Serialize)]
struct Answer<'a> {
    version: i32,
    address: &'a str,
    protocol: &'a str,
}

impl Request {
    /// Reads what was said on the command line, on standard input and in the environment.
    pub fn read(
        arguments: &Arguments,
        input: &[u8],
        environment: impl Fn(&str) -> Option<String>,
    ) -> Self {
        let given = |name| environment(name).filter(|value| !value.is_empty());
        let socket_folder = given("SHIM_SOCKET_DIR").map(PathBuf::from);
        let said = BootstrapParams::parse_from_bytes(input)
            .ok()
            .filter(|said| {
                said.instance_id == arguments.id && said.namespace == arguments.namespace
            });
        if let Some(said) = said {
            let verbose = said.log_level.value() <= LogLevel::LOG_LEVEL_DEBUG as i32;
            return Self {
                form: Form::Message,
                debug: arguments.debug || verbose,
                socket_folder: said
                    .socket_dir
                    .filter(|dir| !dir.is_empty())
                    .map(PathBuf::from)
                    .or(socket_folder),
                ttrpc_address: Some(said.containerd_ttrpc_address)
                    .filter(|address| !address.is_empty())
                    .or_else(|| given("TTRPC_ADDRESS")),
            };
        }
        let form = match given("MAX_SHIM_VERSION").and_then(|version| version.parse().ok()) {
            Some(version @ 2..) => Form::Json(NEWEST.min(version)),
            _ => Form::Bare,
        };
        Self {
            form,
            debug: arguments.debug,
            socket_folder,
            ttrpc_address: given("TTRPC_ADDRESS"),
        }
    }

    /// The answer that names a socket.
    pub fn answer(&self, socket: &std::path::Path) -> Vec<u8> {
        let address = address::unix(socket);
        match self.form {
            Form::Bare => address.into_bytes(),
            Form::Json(version) => serde_json::to_vec(&Answer {
                version,
                address: &address,
                protocol: "ttrpc",
            })
            .expect("strings and a number can be written as JSON"),
            Form::Message => BootstrapResult {
                version: NEWEST,
                address,
                protocol: "ttrpc".to_owned(),
                ..Default::default()
            }
            .write_to_bytes()
            .expect("a message without required fields can be written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use protobuf::well_known_types::any::Any;

    use super::*;

    fn read(input: &[u8], newest: Option<&str>) -> Request {
        let arguments = Arguments {
            id: "a".to_owned(),
            namespace: "default".to_owned(),
            ..Arguments::default()
        };
        Request::read(&arguments, input, |name| match name {
            "MAX_SHIM_VERSION" => newest.map(str::to_owned),
            "TTRPC_ADDRESS" => Some("/c.sock.ttrpc".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn each_engine_is_answered_in_kind() {
        let socket = Path::new("/s/x");
        assert_eq!(read(b"", None).answer(socket), b"unix:///s/x");
        assert_eq!(
            read(b"", Some("2")).answer(socket),
            br#"{"version":2,"address":"unix:///s/x","protocol":"ttrpc"}"#
        );
        assert_eq!(read(b"", Some("7")).form, Form::Json(3));

        let said = BootstrapParams {
            instance_id: "a".to_owned(),
            namespace: "default".to_owned(),
            containerd_ttrpc_address: "/other.ttrpc".to_owned(),
            socket_dir: Some("/short".to_owned()),
            ..Default::default()
        };
        let request = read(&said.write_to_bytes().expect("written"), Some("3"));
        assert_eq!(request.form, Form::Message);
        assert_eq!(request.ttrpc_address.as_deref(), Some("/other.ttrpc"));
        assert_eq!(request.socket_folder.as_deref(), Some(Path::new("/short")));
        let answer = BootstrapResult::parse_from_bytes(&request.answer(socket)).expect("parsed");
        assert_eq!(
            (answer.version, answer.address.as_str()),
            (3, "unix:///s/x")
        );
    }

    #[test]
    fn the_options_of_an_older_engine_are_not_its_parameters() {
        let options = Any {
            type_url: "containerd.runc.v1.Options".to_owned(),
            value: b"default".to_vec(),
            ..Default::default()
        };
        let request = read(&options.write_to_bytes().expect("written"), None);
        assert_eq!(request.form, Form::Bare);
        assert_eq!(request.ttrpc_address.as_deref(), Some("/c.sock.ttrpc"));
        // containerd 2.1 has the same to say of every runtime.
        let options = Any {
            type_url: "runtimeoptions.v1.Options".to_owned(),
            value: b"\x0a\x01a".to_vec(),
            ..Default::default()
        };
        let request = read(&options.write_to_bytes().expect("written"), Some("3"));
        assert_eq!(request.form, Form::Json(3));
    }
}
