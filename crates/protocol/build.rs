//! Generates the Rust side of `proto/agent.proto`.

use std::path::PathBuf;
use std::{env, fs, io};

use ttrpc_codegen::{Codegen, Customize};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=proto/agent.proto");
    let out = PathBuf::from(env::var("OUT_DIR").map_err(io::Error::other)?);
    Codegen::new()
        .out_dir(&out)
        .inputs(["proto/agent.proto"])
        .include("proto")
        .rust_protobuf()
        .customize(Customize {
            async_all: true,
            ..Default::default()
        })
        .run()?;
    // Generated files begin with inner attributes, which `include!` does not
    // take; as modules with a path they keep them.
    let modules = ["agent", "agent_ttrpc"].map(|module| {
        format!(
            "#[path = {:?}]\npub mod {module};\n",
            out.join(module).with_extension("rs")
        )
    });
    fs::write(out.join("modules.rs"), modules.concat())
}
