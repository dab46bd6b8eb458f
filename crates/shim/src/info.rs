//! What this runtime is: `-version` and `-info`.

use std::io::Write;

use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::{Message, MessageField};

use crate::RUNTIME;
use crate::error::{Error, Result};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const COMMIT: &str = env!("CAISSON_COMMIT");

/// Name, version and commit, in the form of containerd's own shims.
pub fn version() -> String {
    format!("containerd-shim-caisson-v2:\n  Version:  {VERSION}\n  Revision: {COMMIT}\n")
}

/// Prints a `containerd.types.RuntimeInfo`. What containerd says on standard input are
/// options of runtimes that have some.
pub fn print() -> Result<()> {
    let info = RuntimeInfo {
        name: RUNTIME.to_owned(),
        version: MessageField::some(RuntimeVersion {
            version: VERSION.to_owned(),
            revision: COMMIT.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let bytes = info
        .write_to_bytes()
        .expect("a message without required fields can be written");
    std::io::stdout()
        .write_all(&bytes)
        .map_err(Error::host("write to standard output"))
}
