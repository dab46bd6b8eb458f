//! Requests to one repository of a registry.

use reqwest::header::{ACCEPT, RANGE};
use reqwest::{Response, StatusCode, Url};
use tokio::sync::Mutex;

use super::auth::{Authorization, Challenge, TokenRequest, TokenResponse};
use super::credentials::Credentials;
use super::http::{chain, http_client, is_local, message, retry_after};
use super::retry::{Attempts, Failure, RetryPolicy};
use super::{PullOptions, blocking};
use crate::manifest::{ACCEPTED_TYPES, Blob, MAX_MANIFEST};
use crate::{Digest, Error, Reference, Result};

/// Largest answer of a token server, in bytes.
const MAX_TOKEN: u64 = 1 << 20;
/// Largest error message that is read, in bytes.
const MAX_MESSAGE: u64 = 16 << 10;

/// Asks for the manifests and blobs of one repository.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    /// `https://registry/v2/repository/`
    base: String,
    reference: Reference,
    /// Whether the registry may be spoken to in the clear, secrets included.
    plain: bool,
    credentials: Option<Credentials>,
    authorization: Mutex<Authorization>,
    retry: RetryPolicy,
}

impl Client {
    pub(super) async fn new(reference: &Reference, options: &PullOptions) -> Result<Self> {
        let registry = reference.registry().to_owned();
        let plain = is_local(&registry) || options.insecure_registries.contains(&registry);
        let credentials = match &options.credentials {
            Some(credentials) => Some(credentials.clone()),
            None => {
                let folder = options.docker_config.clone();
                let registry = registry.clone();
                blocking(move || Credentials::from_docker_config(folder.as_deref(), &registry))
                    .await?
            }
        };
        let host = match registry.as_str() {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let scheme = if plain { "http" } else { "https" };
        Ok(Self {
            http: http_client(is_local(&registry)).map_err(|error| Error::Registry {
                registry: registry.clone(),
                reason: chain(&error),
            })?,
            base: format!("{scheme}://{host}/v2/{}/", reference.repository()),
            reference: reference.clone(),
            plain,
            credentials,
            authorization: Mutex::default(),
            retry: options.retry,
        })
    }

    pub(super) fn retry(&self) -> RetryPolicy {
        self.retry
    }

    /// Fetches a manifest or index by tag or digest.
    pub(super) async fn manifest(
        &self,
        wanted: &str,
        digest: Option<&Digest>,
    ) -> Result<(Digest, Vec<u8>)> {
        let path = format!("manifests/{wanted}");
        let text = self
            .small(&path, Some(ACCEPTED_TYPES), MAX_MANIFEST)
            .await?;
        let actual = Digest::of(&text);
        match digest {
            Some(expected) if *expected != actual => Err(self.wrong_digest(expected, &actual)),
            _ => Ok((actual, text)),
        }
    }

    /// Fetches a blob that is kept in memory.
    pub(super) async fn small_blob(&self, blob: &Blob, limit: u64) -> Result<Vec<u8>> {
        let text = self.small(&blob_path(&blob.digest), None, limit).await?;
        let actual = Digest::of(&text);
        if actual != blob.digest {
            return Err(self.wrong_digest(&blob.digest, &actual));
        }
        Ok(text)
    }

    /// Begins to fetch a blob from `offset` on. One attempt; the answer is 200
    /// (all of it), 206 (the rest) or 416 (there is no rest).
    pub(super) async fn blob(
        &self,
        digest: &Digest,
        offset: u64,
    ) -> std::result::Result<Response, Failure> {
        self.get(&blob_path(digest), None, offset).await
    }

    pub(super) fn wrong_digest(&self, expected: &Digest, actual: &Digest) -> Error {
        Error::Registry {
            registry: self.reference.registry().to_owned(),
            reason: format!(
                "what it sent for {} as {expected} has the digest {actual}: it was changed on the way or in the registry",
                self.reference.name()
            ),
        }
    }

    pub(super) fn failed(&self, reason: String) -> Error {
        Error::Registry {
            registry: self.reference.registry().to_owned(),
            reason,
        }
    }

    /// An interrupted connection, or one that was never made.
    pub(super) fn lost(&self, error: &reqwest::Error) -> Failure {
        let hint = if error.is_connect() && !self.plain {
            " (if it speaks plain http, name it as an insecure registry in the configuration)"
        } else {
            ""
        };
        Failure::passing(Error::Connection {
            registry: self.reference.registry().to_owned(),
            reason: format!("{}{hint}", chain(error)),
        })
    }

    async fn small(&self, path: &str, accept: Option<&str>, limit: u64) -> Result<Vec<u8>> {
        let mut attempts = Attempts::new(self.retry);
        loop {
            let result = match self.get(path, accept, 0).await {
                Ok(response) => self.body(response, path, limit).await,
                Err(failure) => Err(failure),
            };
            match result {
                Ok(body) => return Ok(body),
                Err(failure) => attempts.failed(failure).await?,
            }
        }
    }

    /// All of an answer that must be small.
    async fn body(
        &self,
        mut response: Response,
        what: &str,
        limit: u64,
    ) -> std::result::Result<Vec<u8>, Failure> {
        let too_large =
            || Failure::Lasting(self.failed(format!("{what} has more than {limit} bytes")));
        if response
            .content_length()
            .is_some_and(|length| length > limit)
        {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.lost(&error))? {
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// One request, or two if the registry wants to know who asks.
    async fn get(
        &self,
        path: &str,
        accept: Option<&str>,
        offset: u64,
    ) -> std::result::Result<Response, Failure> {
        let mut used = self.authorization.lock().await.clone();
        let mut renewed = false;
        loop {
            let mut request = self.http.get(format!("{}{path}", self.base));
            if let Some(types) = accept {
                request = request.header(ACCEPT, types);
            }
            if offset > 0 {
                request = request.header(RANGE, format!("bytes={offset}-"));
            }
            let response = used
                .apply(request)
                .send()
                .await
                .map_err(|error| self.lost(&error))?;
            match response.status() {
                StatusCode::OK => return Ok(response),
                StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if offset > 0 => {
                    return Ok(response);
                }
                StatusCode::UNAUTHORIZED if !renewed => {
                    renewed = true;
                    used = self.renew(&used, response).await?;
                }
                _ => return Err(self.refused(response, path).await),
            }
        }
    }

    /// Gets the authorization that a refusal asks for. `used` is the one that
    /// was refused: another request may have got a new one meanwhile.
    async fn renew(
        &self,
        used: &Authorization,
        response: Response,
    ) -> std::result::Result<Authorization, Failure> {
        let mut current = self.authorization.lock().await;
        if *current != *used {
            return Ok(current.clone());
        }
        let Some(challenge) = Challenge::of(response.headers()) else {
            return Err(self.refused(response, "").await);
        };
        *current = match (challenge, &self.credentials) {
            (Challenge::Basic, Some(Credentials::Password { username, password })) => {
                if *current != Authorization::None {
                    return Err(self.refused(response, "").await);
                }
                Authorization::Basic {
                    username: username.clone(),
                    password: password.clone(),
                }
            }
            (Challenge::Basic, _) => return Err(self.refused(response, "").await),
            (
                Challenge::Bearer {
                    realm,
                    service,
                    scope,
                },
                credentials,
            ) => {
                let default = format!("repository:{}:pull", self.reference.repository());
                let request = TokenRequest {
                    realm: self.token_server(&realm)?,
                    service: service.as_deref(),
                    scope: scope.as_deref().unwrap_or(&default),
                    credentials: credentials.as_ref(),
                };
                Authorization::Bearer(self.token(request).await?)
            }
        };
        Ok(current.clone())
    }

    /// Secrets go to a token server in the clear only if they may go to the
    /// registry so.
    fn token_server(&self, realm: &str) -> Result<Url> {
        let refuse = |reason: &str| self.failed(format!("its token server {realm:?} {reason}"));
        let url = Url::parse(realm).map_err(|_| refuse("has no valid address"))?;
        match url.scheme() {
            "https" => Ok(url),
            "http" if self.plain => Ok(url),
            "http" => Err(refuse("is not protected by https")),
            _ => Err(refuse("speaks neither https nor http")),
        }
    }

    async fn token(&self, request: TokenRequest<'_>) -> std::result::Result<String, Failure> {
        let response = request
            .build(&self.http)
            .send()
            .await
            .map_err(|error| self.lost(&error))?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(response, "").await);
        }
        let body = self.body(response, "its token", MAX_TOKEN).await?;
        let parsed: TokenResponse = serde_json::from_slice(&body).map_err(|_| {
            Failure::Lasting(self.failed("its token server's answer is no JSON".to_owned()))
        })?;
        parsed.into_token().ok_or_else(|| {
            Failure::Lasting(self.failed("its token server's answer has no token".to_owned()))
        })
    }

    /// What an answer that is no success means.
    async fn refused(&self, response: Response, path: &str) -> Failure {
        let status = response.status();
        let after = retry_after(response.headers());
        let message = match self.body(response, "its message", MAX_MESSAGE).await {
            Ok(body) => message(&body),
            Err(_) => None,
        };
        let said = message.map_or_else(|| status.to_string(), |text| format!("{status}: {text}"));
        let registry = self.reference.registry().to_owned();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Failure::Lasting(Error::Unauthorized {
                    reference: self.reference.to_string(),
                    hint: if self.credentials.is_some() {
                        "the credentials were refused: check them"
                    } else {
                        "it may not exist, or you have to log in"
                    },
                    registry,
                    said,
                })
            }
            StatusCode::NOT_FOUND if path.starts_with("manifests/") => {
                Failure::Lasting(Error::NotFound {
                    reference: self.reference.to_string(),
                    said,
                })
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Failure::Passing {
                error: Error::Registry {
                    registry,
                    reason: said,
                },
                after,
            },
            _ if status.is_server_error() => Failure::Passing {
                error: Error::Registry {
                    registry,
                    reason: format!("{path}: {said}"),
                },
                after,
            },
            _ => Failure::Lasting(Error::Registry {
                registry,
                reason: format!("{path}: {said}"),
            }),
        }
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn secrets_stay_off_the_open_net() {
        let options = PullOptions {
            docker_config: Some("/nonexistent".into()),
            insecure_registries: vec!["old.example:5000".to_owned()],
            ..PullOptions::default()
        };
        let client = async |name: &str| {
            Client::new(&Reference::parse(name).unwrap(), &options)
                .await
                .unwrap()
        };
        let hub = client("alpine").await;
        assert_eq!(hub.base, "https://registry-1.docker.io/v2/library/alpine/");
        assert!(hub.token_server("https://auth.docker.io/token").is_ok());
        for realm in ["http://auth.docker.io/token", "file:///etc/passwd", "x"] {
            assert!(hub.token_server(realm).is_err(), "{realm}");
        }
        let old = client("old.example:5000/a").await;
        assert_eq!(old.base, "http://old.example:5000/v2/a/");
        assert!(old.token_server("http://old.example:5001/token").is_ok());
        assert!(
            client("old.example:5001/a")
                .await
                .base
                .starts_with("https://")
        );
        assert!(client("localhost:1/a").await.base.starts_with("http://"));
    }
}
