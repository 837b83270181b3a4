//! Which registries are asked, and with which credentials.

use serde_json::json;
use serin_fake_cluster::{FakeCluster, Fault};
use serin_metrics_analysis::prometheus::RefusedAddresses;

use super::*;

const DOCKER_CONFIG: &str =
    r#"{"auths": {"reg.example": {"username": "ci", "password": "s3cret"}}}"#;

fn registry(cluster: &FakeCluster, allowed: &[&str]) -> HttpImageRegistry {
    // Fails if another test of the process has installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = HttpClient::with_refused_addresses(RefusedAddresses::default()).unwrap();
    let allowed = allowed.iter().map(|address| address.parse().unwrap());
    HttpImageRegistry::new(cluster.client(), http, allowed.collect())
}

#[tokio::test]
async fn only_listed_registries_are_asked_and_only_those_with_http_unencrypted() {
    let cluster = FakeCluster::new(1);
    let open = registry(&cluster, &[]);
    let target = open.target("docker.io/library/nginx").unwrap();
    assert!(!target.is_plain_http && !target.is_trusted);
    let listed = registry(
        &cluster,
        &["https://reg.example/team", "http://10.0.0.5:5000"],
    );
    let target = listed.target("reg.example/team/app").unwrap();
    assert!(!target.is_plain_http && target.is_trusted);
    let target = listed.target("10.0.0.5:5000/app").unwrap();
    assert!(target.is_plain_http && target.is_trusted);
    for refused in [
        "reg.example/other/app",
        "reg.example.evil/team/app",
        "docker.io/library/nginx",
    ] {
        let failure = listed.target(refused).unwrap_err();
        assert!(failure.problem.contains(refused), "{failure:?}");
        assert!(
            failure.fix.contains("registries.allowedAddresses"),
            "{failure:?}"
        );
    }
    let invalid = open.target("reg.example/../app").unwrap_err();
    assert!(invalid.fix.contains("pod template"), "{invalid:?}");
}

#[tokio::test]
async fn addresses_inside_the_cluster_are_refused_unless_they_are_listed() {
    let cluster = FakeCluster::new(2);
    let open = registry(&cluster, &[]);
    for host in ["127.0.0.1:5000", "169.254.169.254", "localhost:5000"] {
        let source = ImageSource {
            namespace: "shop".to_owned(),
            name: format!("{host}/app"),
            pull_secrets: Vec::new(),
        };
        let failure = open.digest(&source, "v1").await.unwrap_err();
        assert!(failure.problem.contains("must not"), "{host}: {failure:?}");
    }
}

#[tokio::test]
async fn credentials_come_from_the_secrets_of_the_pods_and_a_missing_permission_is_named() {
    let cluster = FakeCluster::new(3);
    let secret = |name: &str, key: &str, value: &str| {
        let value = k8s_openapi::ByteString(value.as_bytes().to_vec());
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "namespace": "shop"},
            "data": {key: value},
        });
        cluster.apply_object(secret).unwrap();
    };
    secret("other", "token", "s3cret");
    secret("pull", ".dockerconfigjson", DOCKER_CONFIG);
    let open = registry(&cluster, &[]);
    let repository = Repository::parse("reg.example/app").unwrap();
    let source = |secrets: &[&str]| ImageSource {
        namespace: "shop".to_owned(),
        name: "reg.example/app".to_owned(),
        pull_secrets: secrets.iter().map(|name| (*name).to_owned()).collect(),
    };
    let found = open
        .secrets
        .credentials(&source(&["other", "missing", "pull"]), &repository)
        .await;
    assert_eq!(found.credentials.unwrap().username, "ci");
    let problem = found.problem.unwrap().problem;
    assert!(problem.contains("Secret shop/other"), "{problem}");
    assert!(!problem.contains("s3cret"), "{problem}");
    cluster.inject(Fault::on("get", "secrets").status(403).always());
    let found = open
        .secrets
        .credentials(&source(&["pull"]), &repository)
        .await;
    assert!(found.credentials.is_none());
    let problem = found.problem.unwrap();
    assert!(problem.fix.contains("--resource-name=pull"), "{problem:?}");
}
