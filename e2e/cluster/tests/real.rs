//! End-to-end test of a cluster: pods, Service addresses, the gateway, Prometheus and faults.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test, outside its functions"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use serin_cluster::{
    Cluster, Component, ComponentState, GATEWAY, GATEWAY_NAMESPACE, Image, Instance, Progress,
    build_static,
};

const NAMESPACE: &str = "serin-cluster-test";

struct ClusterFixture {
    cluster: Cluster,
    api: Client,
}

impl ClusterFixture {
    async fn new() -> Self {
        let instance = Instance::containing(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        let cluster = Cluster::up(instance, Progress::detect()).await.unwrap();
        let file = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(file, &options)
            .await
            .unwrap();
        let api = Client::try_from(config).unwrap();
        Self { cluster, api }
    }

    async fn get(&self, path: &str) -> Result<Value, String> {
        let request = Request::get(path).body(Vec::new()).unwrap();
        self.api
            .request(request)
            .await
            .map_err(|error| error.to_string())
    }

    async fn apply(&self, path: &str, object: Value) {
        let request = Request::patch(format!("{path}?fieldManager=test&force=true"))
            .header("content-type", "application/apply-patch+yaml")
            .body(serde_json::to_vec(&object).unwrap())
            .unwrap();
        self.api.request::<Value>(request).await.unwrap();
    }

    async fn delete(&self, path: &str) {
        let request = Request::delete(path).body(Vec::new()).unwrap();
        let _ = self.api.request::<Value>(request).await;
        wait_until("the deletion", async || match self.get(path).await {
            Err(error) if error.contains("not found") => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }

    /// Runs an instant query. Returns the values by one label.
    async fn query(&self, query: &str, label: &str) -> Result<BTreeMap<String, f64>, String> {
        let text = fetch(
            &self.cluster.prometheus_url(),
            &format!("/api/v1/query?query={}", percent_encoded(query)),
        )
        .await?;
        let answer: Value = serde_json::from_str(&text).unwrap();
        let series = answer["data"]["result"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        Ok(series
            .iter()
            .map(|one| {
                let name = one["metric"][label].as_str().unwrap_or_default().to_owned();
                (name, one["value"][1].as_str().unwrap().parse().unwrap())
            })
            .collect())
    }
}

fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// Polls until the probe succeeds. Fails with its last error.
async fn wait_until<T>(what: &str, mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match probe().await {
            Ok(value) => {
                eprintln!("{what}: {:.2} s", began.elapsed().as_secs_f64());
                return value;
            }
            Err(error) if began.elapsed() > Duration::from_secs(30) => panic!("{what}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn fetch(base: &str, path: &str) -> Result<String, String> {
    let mut config = Config::new(base.parse().unwrap());
    config.default_retry = false;
    let client = Client::try_from(config).unwrap();
    let request = Request::get(path).body(Vec::new()).unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(2), client.request_text(request)).await;
    answer
        .map_err(|_| "no answer".to_owned())?
        .map_err(|error| error.to_string())
}

fn deployment(version: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": format!("sample-{version}")},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"version": version}},
            "template": {
                "metadata": {
                    "labels": {"version": version},
                    "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"},
                },
                "spec": {"terminationGracePeriodSeconds": 5, "containers": [{
                    "name": "sample",
                    "image": "serin-sample:test",
                    "imagePullPolicy": "IfNotPresent",
                    "env": [{"name": "VERSION", "value": version}, {"name": "DRAIN_MS", "value": "100"}],
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
                    "securityContext": {
                        "runAsNonRoot": true,
                        "readOnlyRootFilesystem": true,
                        "allowPrivilegeEscalation": false,
                        "capabilities": {"drop": ["ALL"]},
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                }]},
            },
        },
    })
}

fn service(version: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": format!("sample-{version}")},
        "spec": {"selector": {"version": version}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

fn route() -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "sample"},
        "spec": {
            "parentRefs": [{"name": GATEWAY, "namespace": GATEWAY_NAMESPACE}],
            "hostnames": ["sample.test"],
            "rules": [{"name": "main", "backendRefs": [
                {"name": "sample-one", "port": 80, "weight": 90},
                {"name": "sample-two", "port": 80, "weight": 10},
            ]}],
        },
    })
}

async fn deploy(fixture: &ClusterFixture) {
    let checkout = fixture.cluster.instance().checkout();
    let binary = build_static(checkout, "serin-sample", "serin-sample")
        .await
        .unwrap();
    let image = Image::local("serin-sample:test", binary);
    let began = Instant::now();
    fixture.cluster.load_image(&image).await.unwrap();
    eprintln!("image loaded: {:.2} s", began.elapsed().as_secs_f64());
    let namespace = format!("/api/v1/namespaces/{NAMESPACE}");
    let restricted = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    fixture
        .apply(
            &namespace,
            json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": NAMESPACE, "labels": restricted}}),
        )
        .await;
    for version in ["one", "two"] {
        let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/sample-{version}");
        fixture.apply(&path, deployment(version)).await;
        fixture
            .apply(
                &format!("{namespace}/services/sample-{version}"),
                service(version),
            )
            .await;
    }
    for version in ["one", "two"] {
        let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/sample-{version}");
        wait_until("two pods ready", async || {
            let deployment = fixture.get(&path).await?;
            match deployment["status"]["readyReplicas"].as_i64() {
                Some(2) => Ok(()),
                _ => Err(deployment["status"].to_string()),
            }
        })
        .await;
    }
}

async fn send_through_the_gateway(
    fixture: &ClusterFixture,
    count: usize,
) -> BTreeMap<String, usize> {
    let mut config = Config::new(fixture.cluster.gateway_url().parse().unwrap());
    config.default_retry = false;
    let client = Client::try_from(config).unwrap();
    let mut versions = BTreeMap::new();
    for _ in 0..count {
        let request = Request::get("/")
            .header("host", "sample.test")
            .body(kube::client::Body::empty());
        let answer = client.send(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        let version = answer.headers()["x-version"].to_str().unwrap().to_owned();
        *versions.entry(version).or_default() += 1;
    }
    versions
}

#[tokio::test]
#[ignore = "starts a real cluster: needs root, and many minutes for the first run"]
async fn pods_run_behind_services_and_the_gateway_and_are_scraped() {
    let fixture = ClusterFixture::new().await;
    let namespace = format!("/api/v1/namespaces/{NAMESPACE}");
    fixture.delete(&namespace).await;
    deploy(&fixture).await;

    let service = fixture
        .get(&format!("{namespace}/services/sample-one"))
        .await
        .unwrap();
    let address = service["spec"]["clusterIP"].as_str().unwrap();
    wait_until("the Service's address from the host", async || {
        fetch(&format!("http://{address}"), "/").await
    })
    .await;

    let path =
        format!("/apis/gateway.networking.k8s.io/v1/namespaces/{NAMESPACE}/httproutes/sample");
    fixture.apply(&path, route()).await;
    wait_until("the route to be accepted", async || {
        let route = fixture.get(&path).await?;
        let conditions = &route["status"]["parents"][0]["conditions"];
        let holds = |kind: &str| {
            let all = conditions.as_array().into_iter().flatten();
            all.filter(|one| one["type"] == kind)
                .any(|one| one["status"] == "True")
        };
        if holds("Accepted") && holds("ResolvedRefs") {
            Ok(())
        } else {
            Err(route["status"].to_string())
        }
    })
    .await;
    wait_until("the gateway to serve the route", async || {
        let mut config = Config::new(fixture.cluster.gateway_url().parse().unwrap());
        config.default_retry = false;
        let client = Client::try_from(config).unwrap();
        let request = Request::get("/")
            .header("host", "sample.test")
            .body(kube::client::Body::empty());
        match client
            .send(request.unwrap())
            .await
            .map(|answer| answer.status().as_u16())
        {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let versions = send_through_the_gateway(&fixture, 200).await;
    assert_eq!(
        versions,
        BTreeMap::from([("one".into(), 180), ("two".into(), 20)])
    );

    wait_until("Prometheus to have both versions' pods", async || {
        let up = fixture
            .query(&format!("up{{namespace=\"{NAMESPACE}\"}}"), "pod")
            .await?;
        if up.len() == 4 && up.values().all(|up| *up > 0.0) {
            Ok(())
        } else {
            Err(format!("{up:?}"))
        }
    })
    .await;
    wait_until("Prometheus to have the gateway's counts", async || {
        let counts = fixture
            .query("traefik_service_requests_total", "service")
            .await?;
        let count_for = |version: &str| {
            let name = format!("sample-{version}");
            counts
                .iter()
                .filter(|(service, _)| service.contains(&name))
                .map(|(_, count)| *count)
                .sum::<f64>()
        };
        if count_for("one") >= 180.0 && count_for("two") >= 20.0 {
            Ok(())
        } else {
            Err(format!("{counts:?}"))
        }
    })
    .await;
    fixture.delete(&namespace).await;
    check_faults(&fixture).await;
}

/// Checks that components can be suspended, killed and restarted, and that the status reports it.
async fn check_faults(fixture: &ClusterFixture) {
    let cluster = &fixture.cluster;
    let state = async |component: Component| {
        let all = cluster.status().await.unwrap();
        all.into_iter()
            .find(|one| one.component == component)
            .unwrap()
            .state
    };
    cluster.suspend(Component::Prometheus).unwrap();
    assert_eq!(
        state(Component::Prometheus).await,
        ComponentState::Suspended
    );
    assert_eq!(fixture.query("up", "job").await.unwrap_err(), "no answer");
    cluster.resume_component(Component::Prometheus).unwrap();
    wait_until("Prometheus to respond again", async || {
        fixture.query("up", "job").await
    })
    .await;

    for component in [
        Component::ApiServer,
        Component::Prometheus,
        Component::Traefik,
    ] {
        cluster.kill(component).await.unwrap();
        assert_eq!(state(component).await, ComponentState::Ended);
        assert!(cluster.suspend(component).is_err());
        cluster.start(component).await.unwrap();
        assert_eq!(state(component).await, ComponentState::Healthy);
    }
    fixture.get("/api/v1/namespaces/default").await.unwrap();
}
