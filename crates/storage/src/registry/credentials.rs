//! Who asks: what the user has told `docker login`.

use std::path::{Path, PathBuf};

use docker_credential::{CredentialRetrievalError, DockerCredential};

use crate::error::IoContext;
use crate::{Error, Result};

/// Largest `config.json` that is read, in bytes.
const MAX_CONFIG_JSON: u64 = 4 << 20;

/// Who asks a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Name and password.
    Password {
        /// Name.
        username: String,
        /// Password or access token.
        password: String,
    },
    /// A token for which the registry's token server gives others (OAuth 2
    /// refresh token).
    IdentityToken(String),
}

impl std::fmt::Debug for Credentials {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password { username, .. } => write!(f, "Password({username:?})"),
            Self::IdentityToken(_) => f.write_str("IdentityToken"),
        }
    }
}

impl Credentials {
    /// What Docker's configuration in `folder` (None: `$DOCKER_CONFIG` or
    /// `~/.docker`) has for a registry: in `auths`, or in the program that
    /// `credHelpers` or `credsStore` names. Blocks while that program runs.
    pub fn from_docker_config(folder: Option<&Path>, registry: &str) -> Result<Option<Self>> {
        let Some(path) = folder.map(Path::to_owned).or_else(default_folder) else {
            return Ok(None);
        };
        let path = path.join("config.json");
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error).context("read", &path),
        };
        for server in server_names(registry) {
            match docker_credential::get_credential_from_reader(text.as_slice(), &server) {
                Ok(DockerCredential::UsernamePassword(username, password)) => {
                    return Ok(Some(Self::Password { username, password }));
                }
                Ok(DockerCredential::IdentityToken(token)) if token.is_empty() => {}
                Ok(DockerCredential::IdentityToken(token)) => {
                    return Ok(Some(Self::IdentityToken(token)));
                }
                Err(error) if says_nothing(&error) => {}
                Err(error) => {
                    return Err(Error::Credentials {
                        path,
                        registry: registry.to_owned(),
                        reason: error.to_string().trim_end().to_owned(),
                    });
                }
            }
        }
        Ok(None)
    }
}

fn default_folder() -> Option<PathBuf> {
    std::env::var_os("DOCKER_CONFIG")
        .filter(|folder| !folder.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker")))
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    std::io::Read::read_to_end(
        &mut std::io::Read::take(std::fs::File::open(path)?, MAX_CONFIG_JSON),
        &mut text,
    )?;
    Ok(text)
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
    )
}

/// Under which names a registry may be in the configuration. Docker keeps its
/// own hub under the address of a protocol that is long gone.
fn server_names(registry: &str) -> Vec<String> {
    if registry == "docker.io" {
        [
            "https://index.docker.io/v1/",
            "index.docker.io",
            "docker.io",
        ]
        .map(str::to_owned)
        .to_vec()
    } else {
        vec![registry.to_owned()]
    }
}

/// Whether an error only means that there are no credentials.
fn says_nothing(error: &CredentialRetrievalError) -> bool {
    match error {
        CredentialRetrievalError::NoCredentialConfigured => true,
        // The words are fixed by docker-credential-helpers.
        CredentialRetrievalError::HelperFailure { stdout, stderr, .. } => [stdout, stderr]
            .iter()
            .any(|text| text.contains("credentials not found")),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(config: &str, registry: &str) -> Result<Option<Credentials>> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        Credentials::from_docker_config(Some(folder.path()), registry)
    }

    fn user(name: &str) -> Option<Credentials> {
        Some(Credentials::Password {
            username: name.to_owned(),
            password: "p:w".to_owned(),
        })
    }

    #[test]
    fn reads_what_docker_login_writes() {
        // The base64 of u:p:w.
        let config = r#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"dTpwOnc="},
            "localhost:5000":{"auth":"dTpwOnc="},
            "https://quay.io":{"auth":"dTpwOnc="},
            "plain.io":{"username":"u","password":"p:w"},
            "token.io":{"auth":"PHRva2VuPjo=","identitytoken":"secret"},
            "kept-elsewhere.io":{}}}"#;
        for registry in ["docker.io", "localhost:5000", "quay.io", "plain.io"] {
            assert_eq!(lookup(config, registry).unwrap(), user("u"), "{registry}");
        }
        assert_eq!(
            lookup(config, "token.io").unwrap(),
            Some(Credentials::IdentityToken("secret".to_owned()))
        );
        for registry in ["localhost:5001", "other.io", "kept-elsewhere.io"] {
            assert_eq!(lookup(config, registry).unwrap(), None, "{registry}");
        }
    }

    #[test]
    fn no_configuration_means_anonymous() {
        let folder = tempfile::tempdir().unwrap();
        let found = Credentials::from_docker_config(Some(folder.path()), "docker.io");
        assert_eq!(found.unwrap(), None);
        assert_eq!(lookup("{}", "docker.io").unwrap(), None);
    }

    #[test]
    fn a_broken_configuration_is_named() {
        for config in ["", "{", r#"{"auths":{"a.io":{"auth":"!"}}}"#] {
            let error = lookup(config, "a.io").unwrap_err().to_string();
            assert!(
                error.contains("config.json") && error.contains("a.io"),
                "{error}"
            );
        }
        let missing = r#"{"credsStore":"caisson-test-no-such-helper"}"#;
        assert!(lookup(missing, "a.io").is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!(
            "{:?} {:?}",
            user("u"),
            Credentials::IdentityToken("secret".into())
        );
        assert!(
            !shown.contains("p:w") && !shown.contains("secret"),
            "{shown}"
        );
    }
}
