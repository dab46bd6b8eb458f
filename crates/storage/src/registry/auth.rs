//! How a registry is told who asks: RFC 7235 challenges, and the token servers
//! of the distribution project.

use http_auth::parser::ChallengeParser;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use reqwest::{RequestBuilder, Url};
use serde::Deserialize;

use super::credentials::Credentials;

/// What a request carries in `Authorization`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Authorization {
    #[default]
    None,
    Basic {
        username: String,
        password: String,
    },
    Bearer(String),
}

impl Authorization {
    pub(super) fn apply(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::None => request,
            Self::Basic { username, password } => request.basic_auth(username, Some(password)),
            Self::Bearer(token) => request.bearer_auth(token),
        }
    }
}

/// What a registry that refused a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        /// Address of the token server.
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// The best of what a response asks for.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let challenges: Vec<Self> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| ChallengeParser::new(value).map_while(|parsed| parsed.ok()))
            .filter_map(|challenge| {
                let parameter = |name: &str| {
                    challenge
                        .params
                        .iter()
                        .find(|(key, _)| key.eq_ignore_ascii_case(name))
                        .map(|(_, value)| value.to_unescaped())
                };
                match challenge.scheme.to_ascii_lowercase().as_str() {
                    "basic" => Some(Self::Basic),
                    "bearer" => Some(Self::Bearer {
                        realm: parameter("realm")?,
                        service: parameter("service"),
                        scope: parameter("scope"),
                    }),
                    _ => None,
                }
            })
            .collect();
        challenges
            .iter()
            .find(|challenge| matches!(challenge, Self::Bearer { .. }))
            .or_else(|| challenges.first())
            .cloned()
    }
}

/// A question to a token server.
#[derive(Debug)]
pub(super) struct TokenRequest<'a> {
    pub(super) realm: Url,
    pub(super) service: Option<&'a str>,
    pub(super) scope: &'a str,
    pub(super) credentials: Option<&'a Credentials>,
}

impl TokenRequest<'_> {
    /// The request by which the token is asked for: `GET` with the name and
    /// password if there are any, `POST` (OAuth 2) with an identity token.
    pub(super) fn build(&self, http: &reqwest::Client) -> RequestBuilder {
        let mut parameters = vec![("scope", self.scope)];
        if let Some(service) = self.service {
            parameters.push(("service", service));
        }
        match self.credentials {
            Some(Credentials::IdentityToken(token)) => {
                parameters.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", "caisson"),
                    ("refresh_token", token),
                ]);
                http.post(self.realm.clone()).form(&parameters)
            }
            Some(Credentials::Password { username, password }) => http
                .get(self.url(&parameters))
                .basic_auth(username, Some(password)),
            None => http.get(self.url(&parameters)),
        }
    }

    fn url(&self, parameters: &[(&str, &str)]) -> Url {
        let mut url = self.realm.clone();
        url.query_pairs_mut().extend_pairs(parameters);
        url
    }
}

/// A token server's answer. Older servers say `token`, newer ones both.
#[derive(Deserialize)]
pub(super) struct TokenResponse {
    token: Option<String>,
    access_token: Option<String>,
}

impl TokenResponse {
    pub(super) fn into_token(self) -> Option<String> {
        self.token
            .into_iter()
            .chain(self.access_token)
            .find(|token| !token.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn challenge(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap());
        }
        Challenge::of(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        })
    }

    #[test]
    fn reads_what_registries_ask_for() {
        assert_eq!(
            challenge(&[
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#
            ]),
            bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                Some("repository:library/alpine:pull")
            )
        );
        assert_eq!(
            challenge(&[r#"Basic realm="Registry Realm""#]),
            Some(Challenge::Basic)
        );
        let both = bearer("https://t", None, None);
        assert_eq!(
            challenge(&[r#"Basic realm="x", Bearer realm="https://t""#]),
            both
        );
        assert_eq!(
            challenge(&[r#"Basic realm="x""#, r#"bearer REALM="https://t""#]),
            both
        );
    }

    #[test]
    fn does_not_guess() {
        for values in [
            &[][..],
            &[""],
            &["Bearer service=x"],
            &["Negotiate"],
            &["Bearer \"\u{7f}"],
        ] {
            if let Ok(_valid) = HeaderValue::from_str(values.first().copied().unwrap_or_default()) {
                assert_eq!(challenge(values), None, "{values:?}");
            }
        }
    }

    #[test]
    fn takes_whichever_token_there_is() {
        for (text, token) in [
            (
                r#"{"token":"a","access_token":"a","expires_in":300}"#,
                Some("a"),
            ),
            (r#"{"access_token":"b"}"#, Some("b")),
            (r#"{"token":"","access_token":"c"}"#, Some("c")),
            ("{}", None),
        ] {
            let parsed: TokenResponse = serde_json::from_str(text).unwrap();
            assert_eq!(parsed.into_token().as_deref(), token);
        }
    }
}
