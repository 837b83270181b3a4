//! Hostile input: one namespace tries to stop the controller while a bad release in another
//! namespace must be rolled back.
//!
//! The controller runs as a pod with the limits of its chart. For each attack a new bad release is
//! started beside it.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use serin_crds::{Rollout, RolloutCommand};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::chart;
use crate::env::Env;
use crate::manifests::{RolloutOptions, SampleRelease};
use crate::note;
use crate::shop::{Shop, is_aborted, is_stable, stop_and_ensure_no_loss};

const ATTACKER: &str = "serin-e2e-hostile";
/// A Rollout of the attacker in the namespace of the victim.
const COPY: &str = "copy";
/// A bad release without an attack is rolled back after about fifteen seconds on an idle machine of
/// two cores.
const ROLLED_BACK_WITHIN: Duration = Duration::from_secs(60);

/// # Errors
/// If an expectation is not met.
pub async fn hostile_input_in_one_namespace_does_not_stop_a_rollback_in_another(
    env: &Env,
) -> Result<()> {
    chart::install(env, &[]).await?;
    let attacked = attack(env).await;
    let restarts = chart::restart_count(env).await;
    chart::uninstall(env).await?;
    attacked?;
    let restarts = restarts?;
    ensure!(restarts == 0, "controller pods restarted {restarts} times");
    Ok(())
}

async fn attack(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-victim").await?;
    let spec = RolloutOptions::default();
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    let load = shop.start_load(200)?;
    let attacker = Attacker::start(env).await?;
    for (number, attack) in (2..).zip(Attack::ALL) {
        attacker.run(attack, &shop).await?;
        let version = format!("v{number}");
        let started = tokio::time::Instant::now();
        shop.apply_release(&spec, &SampleRelease::failing(&version, "10"))
            .await?;
        let is_this_aborted = |rollout: &Rollout| {
            let observed = rollout
                .status
                .as_ref()
                .map(|status| status.state.observed_generation);
            is_aborted(rollout) && observed == rollout.metadata.generation
        };
        let what = format!("{version} is rolled back ({attack:?})");
        shop.wait_until(&what, ROLLED_BACK_WITHIN, is_this_aborted)
            .await?;
        note!(
            "{attack:?}: rolled back after {:.1} s",
            started.elapsed().as_secs_f64()
        );
        if attack == Attack::HugeAnswer {
            let queries = attacker.queries.load(Ordering::Relaxed);
            ensure!(queries > 0, "the hostile Prometheus was not queried");
        }
        attacker.clean_up(&shop).await?;
    }
    shop.apply_release(&spec, &SampleRelease::good("v1"))
        .await?;
    shop.wait_until("v1 is stable again", Duration::from_secs(60), is_stable)
        .await?;
    stop_and_ensure_no_loss(load).await?;
    attacker.stop().await?;
    shop.delete().await
}

/// What a user of one namespace tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    /// A condition that would build a list of eight million values.
    ConditionThatTakesMemory,
    /// A condition that would run for hours.
    ConditionThatTakesTime,
    /// A query whose patterns would take more than a gigabyte when compiled.
    HugePatterns,
    /// A template of more than a megabyte.
    HugeTemplate,
    /// A Prometheus whose answer of 20 kB would take more than 256 MiB.
    HugeAnswer,
    /// Two commands of more than a megabyte for the Rollout of somebody else, who may be aborted by
    /// the attacker.
    HugeCommands,
    /// Hundreds of commands for the Rollout of somebody else.
    ManyCommands,
    /// Another Rollout with the Services and the route of somebody else.
    SecondClaim,
    /// Hundreds of unfinished requests to the metrics port.
    UnfinishedRequests,
}

impl Attack {
    const ALL: [Self; 9] = [
        Self::ConditionThatTakesMemory,
        Self::ConditionThatTakesTime,
        Self::HugePatterns,
        Self::HugeTemplate,
        Self::HugeAnswer,
        Self::HugeCommands,
        Self::ManyCommands,
        Self::SecondClaim,
        Self::UnfinishedRequests,
    ];
}

struct Attacker {
    client: Client,
    prometheus: String,
    server: JoinHandle<()>,
    /// How often the hostile Prometheus was queried.
    queries: Arc<AtomicUsize>,
    controller_pods: Vec<IpAddr>,
    connections: std::sync::Mutex<Vec<TcpStream>>,
}

impl Attacker {
    async fn start(env: &Env) -> Result<Self> {
        // The address of this host as the pods see it: the one from which it reaches the cluster.
        let cluster = reqwest::Url::parse(&env.prometheus_url)?;
        let route = tokio::net::UdpSocket::bind("0.0.0.0:0").await?;
        route
            .connect((cluster.host_str().context("a host")?, 9))
            .await?;
        let listener = tokio::net::TcpListener::bind((route.local_addr()?.ip(), 0)).await?;
        let prometheus = format!("http://{}", listener.local_addr()?);
        let body = huge_answer()?;
        let queries = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&queries);
        let answer = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            let body = body.clone();
            async move {
                let headers = [
                    (header::CONTENT_ENCODING, "gzip"),
                    (header::CONTENT_TYPE, "application/json"),
                ];
                (headers, body).into_response()
            }
        };
        let server = tokio::spawn(async move {
            let _ended = axum::serve(listener, Router::new().fallback(answer)).await;
        });
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ATTACKER}});
        Api::<Namespace>::all(env.client.clone())
            .create(&PostParams::default(), &serde_json::from_value(namespace)?)
            .await?;
        let pods = Api::<Pod>::namespaced(env.client.clone(), chart::NAMESPACE)
            .list(&ListParams::default())
            .await?;
        let addresses = pods.items.into_iter().filter_map(|pod| pod.status?.pod_ip);
        Ok(Self {
            client: env.client.clone(),
            prometheus,
            server,
            queries,
            controller_pods: addresses.map(|ip| ip.parse()).collect::<Result<_, _>>()?,
            connections: std::sync::Mutex::default(),
        })
    }

    /// Starts an attack. Of the objects, the API server refuses only the huge commands.
    async fn run(&self, attack: Attack, victim: &Shop) -> Result<()> {
        match attack {
            Attack::HugeCommands => self.send_commands(victim, 2, 1_400_000).await,
            Attack::ManyCommands => self.send_commands(victim, 300, 40).await,
            Attack::UnfinishedRequests => self.connect().await?,
            Attack::SecondClaim => {
                let mut copy = poison(COPY, &Value::Null);
                copy["spec"]["strategy"]["canary"]["trafficRouting"] =
                    json!({"gatewayAPI": {"httpRoute": victim.name}});
                copy["spec"]["strategy"]["canary"]["stableService"] = json!(victim.name);
                copy["spec"]["strategy"]["canary"]["canaryService"] =
                    json!(format!("{}-canary", victim.name));
                self.create(&victim.namespace, &copy).await?;
            }
            _ => {
                for number in 0..3 {
                    let rollout = self.poisoned_rollout(attack, &format!("poison-{number}"));
                    self.create(ATTACKER, &rollout).await?;
                }
            }
        }
        Ok(())
    }

    fn poisoned_rollout(&self, attack: Attack, name: &str) -> Value {
        let check = |query: &str, condition: &str| json!({"checks": [{"name": "c", "query": query, "condition": condition, "dryRun": true}]});
        match attack {
            Attack::ConditionThatTakesMemory => poison(
                name,
                &check(
                    "vector(1)",
                    "result[99] > -1.0 && size((result+result).map(a, (result+result).map(b, result+result))) > 0",
                ),
            ),
            Attack::ConditionThatTakesTime => {
                let list = vec!["result"; 20].join("+");
                poison(
                    name,
                    &check(
                        "vector(1)",
                        &format!(
                            "result[99]>-1.0&&({list}).all(a,({list}).all(b,!(-2.0 in ({list}))))"
                        ),
                    ),
                )
            }
            Attack::HugePatterns => {
                let matchers = vec!["a=~`\\w{100}`"; 300].join(",");
                poison(
                    name,
                    &check(&format!("up{{{matchers}}}"), "result[0] > 0.0"),
                )
            }
            Attack::HugeTemplate => {
                let mut rollout = poison(name, &Value::Null);
                rollout["spec"]["template"]["spec"]["zeros"] = json!(vec![0; 500_000]);
                rollout
            }
            _ => {
                let mut analysis = check("up", "result[0] > 0.0");
                analysis["prometheus"] = json!({"address": self.prometheus});
                analysis["objectives"] =
                    json!([{"name": "o", "objective": 99.9, "indicator": "pod"}]);
                poison(name, &analysis)
            }
        }
    }

    async fn create(&self, namespace: &str, object: &Value) -> Result<()> {
        let api: Api<kube::core::DynamicObject> = Api::namespaced_with(
            self.client.clone(),
            namespace,
            &kube::core::ApiResource::erase::<Rollout>(&()),
        );
        let object = serde_json::from_value(object.clone())?;
        api.create(&PostParams::default(), &object).await?;
        Ok(())
    }

    /// Sends commands with a revision of this length, all for another revision than the current one.
    async fn send_commands(&self, victim: &Shop, count: usize, length: usize) {
        let commands = victim.api::<RolloutCommand>();
        let mut refused = 0;
        for _ in 0..count {
            let object = json!({
                "apiVersion": "serin.dev/v1alpha1", "kind": "RolloutCommand",
                "metadata": {"generateName": "hostile-"},
                "spec": {"rolloutRef": {"name": victim.name}, "verb": "pause", "reason": "x",
                    "preconditions": {"revision": "r".repeat(length)}, "requestedBy": "admin"},
            });
            let Ok(command) = serde_json::from_value(object) else {
                continue;
            };
            refused += usize::from(
                commands
                    .create(&PostParams::default(), &command)
                    .await
                    .is_err(),
            );
        }
        note!("{count} commands of {length} characters, {refused} refused by the API server");
    }

    /// Opens connections to the metrics port and sends half a header on each.
    async fn connect(&self) -> Result<()> {
        let half = format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(400_000));
        for pod in &self.controller_pods {
            for _ in 0..350 {
                let address = SocketAddr::new(*pod, 8080);
                let opened =
                    tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(address)).await;
                let Ok(Ok(mut connection)) = opened else {
                    continue;
                };
                // The server may refuse at any time.
                let _refused = tokio::time::timeout(
                    Duration::from_millis(50),
                    connection.write_all(half.as_bytes()),
                )
                .await;
                self.connections
                    .lock()
                    .map_err(|_| anyhow::anyhow!("a poisoned lock"))?
                    .push(connection);
            }
        }
        Ok(())
    }

    async fn clean_up(&self, victim: &Shop) -> Result<()> {
        self.connections
            .lock()
            .map_err(|_| anyhow::anyhow!("a poisoned lock"))?
            .clear();
        Api::<Rollout>::namespaced(self.client.clone(), ATTACKER)
            .delete_collection(&DeleteParams::default(), &ListParams::default())
            .await?;
        let copies = victim.api::<Rollout>();
        if copies.get_opt(COPY).await?.is_some() {
            copies.delete(COPY, &DeleteParams::default()).await?;
        }
        Ok(())
    }

    async fn stop(self) -> Result<()> {
        self.server.abort();
        Api::<Namespace>::all(self.client)
            .delete(ATTACKER, &DeleteParams::default())
            .await?;
        Ok(())
    }
}

/// A Rollout without pods.
fn poison(name: &str, analysis: &Value) -> Value {
    let mut rollout = json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout", "metadata": {"name": name},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": name}},
            "strategy": {"canary": {"steps": [{"setWeight": 50}]}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "x"}]}},
        },
    });
    if !analysis.is_null() {
        rollout["spec"]["analysis"] = analysis.clone();
    }
    rollout
}

/// An answer of Prometheus with 441,501 series that have an empty label, compressed.
fn huge_answer() -> Result<Vec<u8>> {
    const SERIES: &str = r#"{"metric":{"":""}}"#;
    let mut answer =
        String::from(r#"{"status":"success","data":{"resultType":"vector","result":["#);
    for _ in 0..441_500 {
        answer.push_str(SERIES);
        answer.push(',');
    }
    answer.push_str(SERIES);
    answer.push_str("]}}");
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(answer.as_bytes())?;
    Ok(encoder.finish()?)
}
