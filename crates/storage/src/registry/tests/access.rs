//! Who may pull, and who gets to know it.

use super::*;

/// Lets in whoever has a token, and gives one for three requests to whoever asks
/// properly.
fn token_rule() -> impl Fn(&Request, usize) -> Option<Reply> {
    let uses = Mutex::new((0, 0));
    move |request, _| {
        let (tokens, left) = &mut *uses.lock().unwrap();
        if request.target.starts_with("/token") {
            let oauth = request.body.contains("refresh_token=refresh")
                && request
                    .body
                    .contains("scope=repository%3Atest%2Fimage%3Apull");
            // The base64 of user:secret.
            let basic = request.header("authorization") == "Basic dXNlcjpzZWNyZXQ="
                && request
                    .target
                    .contains("scope=repository%3Atest%2Fimage%3Apull")
                && request.target.contains("service=the+service");
            if !oauth && !basic {
                return Some(Reply::new(401, ""));
            }
            (*tokens, *left) = (*tokens + 1, 3);
            return Some(Reply::new(200, format!(r#"{{"token":"token{tokens}"}}"#)));
        }
        if *left > 0 && request.header("authorization") == format!("Bearer token{tokens}") {
            *left -= 1;
            return None;
        }
        let challenge = format!(
            r#"Bearer realm="http://{}/token",service="the service",scope="repository:test/image:pull""#,
            request.header("host")
        );
        Some(Reply::new(401, "").header("WWW-Authenticate", challenge))
    }
}

#[tokio::test]
async fn asks_a_token_server() {
    for credentials in [
        password("user"),
        Some(Credentials::IdentityToken("refresh".to_owned())),
    ] {
        let server = Server::with_rule(token_rule()).await;
        serve_image(&server);
        let known = PullOptions {
            credentials,
            concurrency: 1,
            ..options()
        };
        Store::new().pull(&server, "", &known).await.unwrap();
        assert_eq!(
            server.requests("/token").len(),
            2,
            "a token that has expired is renewed, and no more"
        );
    }
    let server = Server::with_rule(token_rule()).await;
    serve_image(&server);
    let stranger = PullOptions {
        credentials: password("stranger"),
        ..options()
    };
    let error = Store::new().pull(&server, "", &stranger).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    assert!(error.to_string().contains("were refused"), "{error}");
    let error = Store::new()
        .pull(&server, "", &options())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("docker login"), "{error}");
}

#[tokio::test]
async fn logs_in_with_what_docker_knows() {
    let server = Server::with_rule(|request, _| {
        // The base64 of user:secret.
        (request.header("authorization") != "Basic dXNlcjpzZWNyZXQ=")
            .then(|| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""))
    })
    .await;
    serve_image(&server);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("config.json"),
        format!(
            r#"{{"auths":{{"{}":{{"auth":"dXNlcjpzZWNyZXQ="}}}}}}"#,
            server.name()
        ),
    )
    .unwrap();
    let known = PullOptions {
        docker_config: Some(folder.path().to_owned()),
        ..options()
    };
    Store::new().pull(&server, "", &known).await.unwrap();
    let wrong = PullOptions {
        credentials: password("stranger"),
        ..options()
    };
    let error = Store::new().pull(&server, "", &wrong).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
}

#[tokio::test]
async fn keeps_secrets_from_other_hosts() {
    let elsewhere = Server::start().await;
    elsewhere.put("/big", layer("big", BIG));
    let target = format!("http://{}/big", elsewhere.name());
    let authorized = token_rule();
    let server = Server::with_rule(move |request, earlier| {
        authorized(request, earlier).or_else(|| {
            is_big(request).then(|| Reply::new(307, "").header("Location", target.clone()))
        })
    })
    .await;
    serve_image(&server);
    let known = PullOptions {
        credentials: password("user"),
        ..options()
    };
    Store::new().pull(&server, "", &known).await.unwrap();
    let requests = elsewhere.requests("/big");
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].header("authorization"), "");
}
