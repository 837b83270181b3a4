//! The client against a registry in this process that answers as registries do, and as none should.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly, as tests may"
)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use serin_registry::{
    Connections, Credentials, Registry, RegistryError, Repository, StoredSignature, Target,
};
use sha2::{Digest, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// An answer of the registry.
#[derive(Clone, Default)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Whether the body never ends.
    hangs: bool,
}

fn answer(status: u16, headers: &[(&'static str, &str)], body: impl Into<Vec<u8>>) -> Answer {
    let headers = headers
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()));
    Answer {
        status,
        headers: headers.collect(),
        body: body.into(),
        hangs: false,
    }
}

/// Path with query, and the header `Authorization`.
type Exchange = (String, Option<String>);

#[derive(Clone, Default)]
struct FakeRegistry {
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    /// What requests must have in `Authorization`, and the challenge without it.
    demands: Arc<Mutex<Option<(String, String)>>>,
    seen: Arc<Mutex<Vec<Exchange>>>,
}

struct Scene {
    fake: FakeRegistry,
    address: SocketAddr,
}

async fn handle(State(fake): State<FakeRegistry>, request: Request) -> Response<Body> {
    let path = request.uri().path_and_query().unwrap().to_string();
    let header = |headers: &HeaderMap| {
        let value = headers.get("authorization")?;
        Some(value.to_str().unwrap().to_owned())
    };
    let authorization = header(request.headers());
    fake.seen
        .lock()
        .unwrap()
        .push((path.clone(), authorization.clone()));
    let demanded = fake.demands.lock().unwrap().clone();
    let is_open = path.starts_with("/token");
    if let Some((value, challenge)) = demanded.filter(|_| !is_open)
        && authorization != Some(value)
    {
        let denied = answer(401, &[("www-authenticate", &challenge)], "");
        return respond(denied);
    }
    let path = path.split('?').next().unwrap().to_owned();
    let found = fake.answers.lock().unwrap().get(&path).cloned();
    respond(found.unwrap_or_else(|| answer(404, &[], "{}")))
}

fn respond(answer: Answer) -> Response<Body> {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    let body = if answer.hangs {
        Body::from_stream(Hanging)
    } else {
        Body::from(answer.body)
    };
    response.body(body).unwrap()
}

/// A body that never has data.
struct Hanging;

impl futures::Stream for Hanging {
    type Item = Result<Vec<u8>, std::io::Error>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Pending
    }
}

impl Scene {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fake = FakeRegistry::default();
        let router = Router::new().fallback(handle).with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { fake, address }
    }

    fn set(&self, path: &str, answer: Answer) {
        let path = format!("/v2/team/app/{path}");
        self.fake.answers.lock().unwrap().insert(path, answer);
    }

    fn set_path(&self, path: &str, answer: Answer) {
        self.fake
            .answers
            .lock()
            .unwrap()
            .insert(path.to_owned(), answer);
    }

    fn demand(&self, authorization: &str, challenge: &str) {
        let demand = (authorization.to_owned(), challenge.to_owned());
        *self.fake.demands.lock().unwrap() = Some(demand);
    }

    fn seen(&self) -> Vec<Exchange> {
        self.fake.seen.lock().unwrap().clone()
    }

    fn target(&self, credentials: Option<(&str, &str)>) -> Target {
        let name = format!("{}/team/app", self.address);
        Target {
            repository: Repository::parse(&name).unwrap(),
            is_plain_http: true,
            is_trusted: true,
            credentials: credentials.map(|(username, password)| Credentials {
                username: username.to_owned(),
                password: password.to_owned(),
            }),
        }
    }

    async fn digest(&self) -> Result<String, RegistryError> {
        registry().digest(&self.target(None), "v1").await
    }

    async fn signatures(&self) -> Result<Vec<StoredSignature>, RegistryError> {
        registry().signatures(&self.target(None), &image()).await
    }

    /// Stores a blob. Returns its digest.
    fn store(&self, content: &[u8]) -> String {
        let digest = digest_of(content);
        self.set(&format!("blobs/{digest}"), answer(200, &[], content));
        digest
    }
}

fn registry() -> Registry {
    // Fails if another test of the process has installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = || {
        let builder = reqwest::Client::builder().no_proxy();
        let builder = builder.redirect(reqwest::redirect::Policy::none());
        builder.tls_certs_only([]).build().unwrap()
    };
    let check = |url: &str| url.contains("127.0.0.1").then_some("a loopback address");
    Registry::new(Connections {
        trusted: client(),
        restricted: client(),
        check: Arc::new(check),
    })
}

fn digest_of(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    let mut hex = String::new();
    for byte in &hash {
        write!(hex, "{byte:02x}").unwrap();
    }
    format!("sha256:{hex}")
}

/// The digest of the image in the tests.
fn image() -> String {
    digest_of(b"image")
}

/// An answer whose header has that digest.
fn manifest_of_image(body: &str) -> Answer {
    answer(200, &[("docker-content-digest", &image())], body)
}

#[tokio::test]
async fn the_digest_comes_from_the_header_or_from_the_bytes_of_the_manifest() {
    let scene = Scene::start().await;
    scene.set("manifests/v1", manifest_of_image("{}"));
    assert_eq!(scene.digest().await, Ok(image()));
    assert_eq!(scene.seen().len(), 1, "{:?}", scene.seen());
    scene.set("manifests/v1", answer(200, &[], "the manifest"));
    assert_eq!(scene.digest().await, Ok(digest_of(b"the manifest")));
    let other = [("docker-content-digest", "sha512:12")];
    scene.set("manifests/v1", answer(200, &other, ""));
    assert!(matches!(
        scene.digest().await,
        Err(RegistryError::Unusable(_))
    ));
    scene.set("manifests/v1", answer(404, &[], ""));
    assert_eq!(scene.digest().await, Err(RegistryError::NotFound));
    scene.set("manifests/v1", answer(503, &[], ""));
    assert_eq!(
        scene.digest().await,
        Err(RegistryError::Status { status: 503 })
    );
    let invalid = registry().digest(&scene.target(None), "../v1").await;
    assert!(matches!(invalid, Err(RegistryError::InvalidImage(_))));
}

#[tokio::test]
async fn a_token_is_requested_for_pulling_from_this_repository_only() {
    let scene = Scene::start().await;
    scene.set("manifests/v1", manifest_of_image(""));
    let realm = format!("http://{}/token", scene.address);
    let challenge =
        format!(r#"Bearer realm="{realm}",service="reg",scope="repository:other/app:push""#);
    scene.demand("Bearer t0ken", &challenge);
    scene.set_path("/token", answer(200, &[], r#"{"token": "t0ken"}"#));
    assert_eq!(scene.digest().await, Ok(image()));
    let seen = scene.seen();
    let expected = "/token?service=reg&scope=repository%3Ateam%2Fapp%3Apull";
    assert_eq!(seen[1], (expected.to_owned(), None));
    // With credentials, the server for tokens gets them, and the registry only the token.
    let with_credentials = scene.target(Some(("ci", "s3cret")));
    let found = registry().digest(&with_credentials, "v1").await;
    assert_eq!(found, Ok(image()));
    let basic = format!("Basic {}", STANDARD.encode("ci:s3cret"));
    let seen = scene.seen();
    let with_password: Vec<&Exchange> = seen
        .iter()
        .filter(|(_, authorization)| authorization.as_ref() == Some(&basic))
        .collect();
    assert_eq!(with_password.len(), 1);
    assert_eq!(with_password[0].0, expected);
    // A token that does not suffice is no reason to ask forever.
    scene.set_path("/token", answer(200, &[], r#"{"token": "other"}"#));
    assert_eq!(
        scene.digest().await,
        Err(RegistryError::Denied { status: 401 })
    );
}

#[tokio::test]
async fn a_password_is_sent_only_if_the_registry_demands_one() {
    let scene = Scene::start().await;
    scene.set("manifests/v1", manifest_of_image(""));
    let basic = format!("Basic {}", STANDARD.encode("ci:s3cret"));
    scene.demand(&basic, r#"Basic realm="reg""#);
    assert_eq!(
        scene.digest().await,
        Err(RegistryError::Denied { status: 401 })
    );
    let target = scene.target(Some(("ci", "s3cret")));
    assert_eq!(registry().digest(&target, "v1").await, Ok(image()));
    assert_eq!(scene.seen()[1].1, None, "the first request is anonymous");
}

#[tokio::test]
async fn redirects_and_token_servers_on_other_hosts_must_use_https_and_are_checked() {
    let scene = Scene::start().await;
    for (location, problem) in [
        ("http://10.0.0.1/x", "does not use https"),
        ("https://127.0.0.1:1/x", "a loopback address"),
        ("ftp://10.0.0.1/x", "does not use https"),
    ] {
        scene.set("manifests/v1", answer(307, &[("location", location)], ""));
        let error = scene.digest().await.unwrap_err();
        assert!(
            matches!(error, RegistryError::AddressRefused(_)),
            "{error:?}"
        );
        assert!(error.to_string().contains(problem), "{location}: {error}");
    }
    // A redirect on the registry itself is followed, but not in circles.
    scene.set(
        "manifests/v1",
        answer(307, &[("location", "/v2/team/app/manifests/v2")], ""),
    );
    scene.set("manifests/v2", answer(200, &[], "two"));
    assert_eq!(scene.digest().await, Ok(digest_of(b"two")));
    scene.set("manifests/v2", answer(307, &[("location", "v1")], ""));
    assert!(matches!(
        scene.digest().await,
        Err(RegistryError::Unusable(_))
    ));
    scene.demand("Bearer x", r#"Bearer realm="http://169.254.169.254/token""#);
    assert!(matches!(
        scene.digest().await,
        Err(RegistryError::AddressRefused(_))
    ));
    // The address of an image that the installer has not listed is checked, too.
    let unlisted = Target {
        is_trusted: false,
        ..scene.target(None)
    };
    let error = registry().digest(&unlisted, "v1").await.unwrap_err();
    assert!(error.to_string().contains("a loopback address"), "{error}");
}

#[tokio::test]
async fn answers_are_bounded_in_size_and_time() {
    let scene = Scene::start().await;
    scene.set("manifests/v1", answer(200, &[], vec![b' '; (4 << 20) + 1]));
    let error = scene.digest().await.unwrap_err();
    assert_eq!(error, RegistryError::TooLarge { limit: 4 << 20 });
    let tag = image().replace(':', "-");
    let large = vec![b' '; (256 << 10) + 1];
    scene.set(&format!("manifests/{tag}.sig"), answer(200, &[], large));
    let error = scene.signatures().await.unwrap_err();
    assert_eq!(error, RegistryError::TooLarge { limit: 256 << 10 });
    let hanging = Answer {
        hangs: true,
        ..answer(200, &[], "")
    };
    scene.set("manifests/v1", hanging);
    let began = Instant::now();
    assert_eq!(scene.digest().await, Err(RegistryError::Timeout));
    assert!(
        began.elapsed() < Duration::from_secs(9),
        "{:?}",
        began.elapsed()
    );
}

fn payload(digest: &str) -> Vec<u8> {
    let critical = json!({
        "identity": {"docker-reference": ""},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    });
    json!({"critical": critical, "optional": null})
        .to_string()
        .into_bytes()
}

fn signed_manifest(layers: &[(String, &str)]) -> Value {
    let layer = |(digest, signature): &(String, &str)| {
        let annotation = STANDARD.encode(signature);
        json!({
            "mediaType": SIMPLE_SIGNING, "digest": digest, "size": 1,
            "annotations": {"dev.cosignproject.cosign/signature": annotation},
        })
    };
    let layers: Vec<Value> = layers.iter().map(layer).collect();
    json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers})
}

#[tokio::test]
async fn signatures_are_found_in_all_places_where_cosign_stores_them() {
    let scene = Scene::start().await;
    assert_eq!(
        scene.signatures().await,
        Ok(Vec::new()),
        "an image without any"
    );
    let tag = image().replace(':', "-");
    let of_image = scene.store(&payload(&image()));
    let of_other = scene.store(&payload(&digest_of(b"another image")));
    let manifest = signed_manifest(&[(of_other, "foreign"), (of_image.clone(), "one")]);
    scene.set(
        &format!("manifests/{tag}.sig"),
        answer(200, &[], manifest.to_string()),
    );
    // A list of referrers with a bundle and a manifest of signatures.
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": image().replace("sha256:", "")}}],
        "predicateType": "https://sigstore.dev/cosign/sign/v1",
    });
    let envelope = json!({
        "payload": STANDARD.encode(statement.to_string()),
        "payloadType": "application/vnd.in-toto+json",
        "signatures": [{"sig": STANDARD.encode("two")}],
    });
    let bundle = json!({"mediaType": BUNDLE, "dsseEnvelope": envelope}).to_string();
    let bundle = scene.store(bundle.as_bytes());
    let of_bundle = json!({"layers": [{"mediaType": BUNDLE, "digest": bundle}]}).to_string();
    let of_artifact = signed_manifest(&[(of_image, "three")]).to_string();
    let mut referrers = Vec::new();
    for (kind, content) in [
        (BUNDLE, of_bundle),
        (
            "application/vnd.dev.cosign.artifact.sig.v1+json",
            of_artifact,
        ),
        ("application/spdx+json", "{}".to_owned()),
    ] {
        let digest = digest_of(content.as_bytes());
        scene.set(&format!("manifests/{digest}"), answer(200, &[], content));
        referrers.push(json!({"mediaType": MANIFEST, "digest": digest, "artifactType": kind}));
    }
    let index = json!({"schemaVersion": 2, "manifests": referrers}).to_string();
    scene.set(
        &format!("referrers/{}", image()),
        answer(200, &[], index.clone()),
    );
    let texts = |found: Vec<StoredSignature>| -> Vec<String> {
        let text = |one: StoredSignature| String::from_utf8(one.signature).unwrap();
        found.into_iter().map(text).collect()
    };
    assert_eq!(
        texts(scene.signatures().await.unwrap()),
        ["one", "two", "three"]
    );
    // Without the API for referrers, clients write the list to a tag.
    scene.set(&format!("referrers/{}", image()), answer(404, &[], ""));
    scene.set(&format!("manifests/{tag}"), answer(200, &[], index));
    assert_eq!(
        texts(scene.signatures().await.unwrap()),
        ["one", "two", "three"]
    );
    // What cannot be read is not "no signature".
    scene.set(&format!("referrers/{}", image()), answer(500, &[], ""));
    assert_eq!(
        scene.signatures().await,
        Err(RegistryError::Status { status: 500 })
    );
}
