//! Where a shim's socket is: containerd computes the same.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Folder of shims' sockets. Not below the state folder, whose path may be too long for
/// the name of a socket.
const SOCKETS: &str = "/run/containerd/s";

/// File in a bundle that holds the address, for a containerd that was restarted.
pub const ADDRESS_FILE: &str = "address";

/// The socket of the shim that serves `group`, as containerd's `shim.SocketAddress` has it.
pub fn socket(
    folder: Option<&Path>,
    engine: &str,
    namespace: &str,
    group: &str,
    debug: bool,
) -> PathBuf {
    let mut identity = PathBuf::from(engine).join(namespace).join(group);
    if debug {
        identity.push("debug");
    }
    let digest = Sha256::digest(identity.as_os_str().as_encoded_bytes());
    let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    folder.unwrap_or(Path::new(SOCKETS)).join(name)
}

/// A socket's path as an address of ttrpc.
pub fn unix(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_containerds() {
        // echo -n /run/containerd/containerd.sock/default/a | sha256sum
        let socket = socket(
            None,
            "/run/containerd/containerd.sock",
            "default",
            "a",
            false,
        );
        assert_eq!(
            socket,
            Path::new(
                "/run/containerd/s/82795ca4b9b166c1139546afbf9dfd59d74776e0b49c8edfbb195f9d8b9e94a6"
            )
        );
    }
}
