//! Migrations from a running Argo Rollouts and a running Flagger, under load and as the how-to pages
//! describe them: convert what is in the cluster, apply the result, and delete the old object.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use serin_crds::names::{ARGO_TEMPLATE_HASH_LABEL, REVISION_LABEL};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::env::Env;
use crate::manifests::{SampleRelease, template};
use crate::note;
use crate::shop::{Shop, gateway, is_stable, stop_and_ensure_no_loss};

const LOAD_PER_SECOND: u32 = 300;
const REPLICAS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(180);
/// Time in which requests that the old controller still disturbs would be lost.
const QUIET: Duration = Duration::from_secs(5);

/// A controller of another project.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its program.
    pub program: PathBuf,
    /// Its CustomResourceDefinitions.
    pub definitions: Vec<Value>,
}

/// A running controller of another project. It is killed on drop.
struct RunningPeer(Child);

impl RunningPeer {
    /// Applies its definitions and starts it.
    async fn start(env: &Env, peer: &Peer, name: &str, arguments: Vec<String>) -> Result<Self> {
        let definitions = Api::<CustomResourceDefinition>::all(env.client.clone());
        for definition in &peer.definitions {
            let name = definition["metadata"]["name"].as_str().unwrap_or_default();
            let apply = PatchParams::apply("serin-e2e").force();
            let patch = Patch::Apply(definition);
            definitions.patch(name, &apply, &patch).await?;
            let established =
                await_condition(definitions.clone(), name, conditions::is_crd_established());
            timeout(PATIENCE, established)
                .await
                .with_context(|| format!("{name} is not served"))??;
        }
        let log = env.checkout.join(format!(".local/{name}.log"));
        let output = File::create(&log)?;
        let child = Command::new(&peer.program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", peer.program.display()))?;
        note!("{name} writes to {}", log.display());
        Ok(Self(child))
    }

    /// Stops it, and removes its definitions with their objects.
    async fn stop(mut self, env: &Env, peer: &Peer) -> Result<()> {
        self.0.kill().await?;
        let definitions = Api::<CustomResourceDefinition>::all(env.client.clone());
        for definition in &peer.definitions {
            let name = definition["metadata"]["name"].as_str().unwrap_or_default();
            definitions.delete(name, &DeleteParams::default()).await?;
        }
        Ok(())
    }
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.port())
}

fn objects_of(shop: &Shop, group: &str, version: &str, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Api::namespaced_with(shop.client.clone(), &shop.namespace, &resource)
}

/// Waits until the status of an object has this phase.
async fn wait_for_phase(shop: &Shop, api: &Api<DynamicObject>, phase: &str) -> Result<()> {
    shop.eventually(&format!("the phase {phase}"), PATIENCE, async || {
        let object = api.get(&shop.name).await?;
        Ok(object.data["status"]["phase"] == phase)
    })
    .await
}

/// Converts the named kinds of the namespace as they are in the cluster.
async fn convert(env: &Env, shop: &Shop, kinds: &str, options: &[&str]) -> Result<Vec<Value>> {
    let read = ["get", kinds, "--namespace", &shop.namespace, "-o", "yaml"];
    let objects = env.run_kubectl(&read, &Value::Null).await?;
    let mut child = Command::new(env.program("kubectl-serin"))
        .args(["convert", "-f", "-"])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("kubectl-serin is not built: cargo build --package serin-kubectl")?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(objects.as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    note!("{text}\n{errors}");
    ensure!(output.status.success(), "convert: {errors}");
    let converted: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    let is_object = |object: &Value| object["kind"].is_string();
    Ok(converted.into_iter().filter(is_object).collect())
}

async fn apply_all(shop: &Shop, objects: Vec<Value>) -> Result<()> {
    for object in objects {
        shop.apply(object).await?;
    }
    Ok(())
}

async fn delete_and_wait(shop: &Shop, api: &Api<DynamicObject>, how: &DeleteParams) -> Result<()> {
    api.delete(&shop.name, how).await?;
    shop.eventually("the old object is gone", PATIENCE, async || {
        Ok(api.get_opt(&shop.name).await?.is_none())
    })
    .await
}

/// Waits until Argo Rollouts has removed its key from the selectors of the Services.
async fn wait_for_released_services(shop: &Shop) -> Result<()> {
    let services = shop.api::<Service>();
    let what = "Argo Rollouts selects with no Service";
    shop.eventually(what, PATIENCE, async || {
        let list = services.list(&ListParams::default()).await?;
        let is_selecting = |service: &Service| {
            let spec = service.spec.as_ref();
            let selector = spec.and_then(|spec| spec.selector.as_ref());
            selector.is_some_and(|selector| selector.contains_key(ARGO_TEMPLATE_HASH_LABEL))
        };
        Ok(!list.iter().any(is_selecting))
    })
    .await
}

/// Waits until only pods of the Rollout are left.
async fn wait_for_own_pods(shop: &Shop) -> Result<()> {
    let pods = shop.api::<Pod>();
    shop.eventually("only pods of the Rollout are left", PATIENCE, async || {
        let list = pods.list(&ListParams::default()).await?;
        let own = |pod: &Pod| pod.labels().contains_key(REVISION_LABEL);
        Ok(list.items.len() == REPLICAS as usize && list.iter().all(own))
    })
    .await
}

/// Releases another version by a change of the template of `kind`, and waits until it is stable.
async fn release_v2(shop: &Shop, api: &Api<DynamicObject>) -> Result<()> {
    let change = json!({"spec": {"template": {"spec": {"containers": [{
        "name": "sample", "env": [{"name": "VERSION", "value": "v2"}, {"name": "ERROR_RATE", "value": "0.05"}],
    }]}}}});
    let mut object = api.get(&shop.name).await?;
    object.metadata.managed_fields = None;
    let containers = &change["spec"]["template"]["spec"]["containers"];
    object.data["spec"]["template"]["spec"]["containers"][0]["env"] = containers[0]["env"].clone();
    api.replace(&shop.name, &PostParams::default(), &object)
        .await?;
    let before = shop.status().await?.state.stable_revision;
    shop.wait_until("the next release is stable", PATIENCE, |rollout| {
        let status = rollout.status.as_ref();
        let stable = status.and_then(|status| status.state.stable_revision.as_ref());
        is_stable(rollout) && stable != before.as_ref()
    })
    .await?;
    Ok(())
}

/// A canary by replica counts with two Services, as in the quick start of Argo Rollouts.
fn argo_rollout(shop: &Shop) -> Value {
    json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": {"name": shop.name},
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": {"app": shop.name}},
            "template": template(&shop.name, &SampleRelease::good("v1")),
            "strategy": {"canary": {
                "stableService": shop.name, "canaryService": format!("{}-canary", shop.name),
                "maxSurge": 1, "maxUnavailable": 0,
                "steps": [{"setWeight": 34}, {"pause": {"duration": "5s"}}],
            }},
        },
    })
}

fn service(shop: &Shop, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {
            "selector": {"app": shop.name},
            "ports": [{"name": "http", "port": 8080, "targetPort": "http"}],
        },
    })
}

/// Moves a service from Argo Rollouts to Serin.
///
/// # Errors
/// If a request is lost, or if a step does not succeed.
pub async fn from_argo_rollouts(env: &Env, argo: &Peer) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-from-argo").await?;
    let arguments = vec![
        format!("--kubeconfig={}", env.kubeconfig.display()),
        format!("--namespace={}", shop.namespace),
        "--namespaced".to_owned(),
        "--leader-elect=false".to_owned(),
        format!("--metricsPort={}", free_port()?),
        format!("--healthzPort={}", free_port()?),
    ];
    let controller = RunningPeer::start(env, argo, "argo-rollouts", arguments).await?;
    for name in [shop.name.clone(), format!("{}-canary", shop.name)] {
        shop.apply(service(&shop, &name)).await?;
    }
    shop.apply(argo_rollout(&shop)).await?;
    let old = objects_of(&shop, "argoproj.io", "v1alpha1", "Rollout");
    wait_for_phase(&shop, &old, "Healthy").await?;
    shop.wait_until_answering().await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    let kinds = "rollouts.argoproj.io,services,httproutes";
    let converted = convert(env, &shop, kinds, &[]).await?;
    delete_and_wait(&shop, &old, &DeleteParams::orphan()).await?;
    wait_for_released_services(&shop).await?;
    apply_all(&shop, converted).await?;
    shop.wait_until("the Rollout is stable", PATIENCE, is_stable)
        .await?;
    let of_argo = ListParams::default().labels(ARGO_TEMPLATE_HASH_LABEL);
    shop.api::<ReplicaSet>()
        .delete_collection(&DeleteParams::default(), &of_argo)
        .await?;
    wait_for_own_pods(&shop).await?;
    let new = objects_of(&shop, "serin.dev", "v1alpha1", "Rollout");
    release_v2(&shop, &new).await?;
    sleep(QUIET).await;
    let report = stop_and_ensure_no_loss(load).await?;
    note!("from Argo Rollouts: {}", report.summary());
    shop.delete().await?;
    controller.stop(env, argo).await
}

/// What differs between two Canaries of Flagger.
#[derive(Clone, Copy, Debug)]
struct CanaryOptions {
    namespace: &'static str,
    reverts_on_deletion: bool,
    /// Whether the apex Service exists before the Canary, so that Flagger does not own it.
    has_own_service: bool,
}

const CANARIES: [CanaryOptions; 2] = [
    CanaryOptions {
        namespace: "serin-e2e-from-flagger",
        reverts_on_deletion: true,
        has_own_service: false,
    },
    CanaryOptions {
        namespace: "serin-e2e-from-flagger-2",
        reverts_on_deletion: false,
        has_own_service: true,
    },
];

/// A canary with a route of the Gateway API.
fn flagger_canary(shop: &Shop, options: CanaryOptions) -> Value {
    let (gateway_namespace, gateway_name) = gateway();
    json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"name": shop.name},
        "spec": {
            "provider": "gatewayapi:v1",
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": shop.name},
            "revertOnDeletion": options.reverts_on_deletion,
            "service": {
                "port": 8080, "targetPort": "http", "portName": "http", "hosts": [shop.host],
                "gatewayRefs": [{"name": gateway_name, "namespace": gateway_namespace}],
            },
            "analysis": {
                "interval": "5s", "threshold": 2, "maxWeight": 40, "stepWeight": 20,
                "metrics": [{"name": "request-success-rate", "interval": "30s", "thresholdRange": {"min": 99}}],
            },
        },
    })
}

/// Runs a command of kubectl in the namespace of the shop.
async fn kubectl(env: &Env, shop: &Shop, command: &str, input: &Value) -> Result<()> {
    let mut arguments = vec!["--namespace", shop.namespace.as_str()];
    arguments.extend(command.split(' '));
    let output = env.run_kubectl(&arguments, input).await?;
    note!("kubectl {command}: {output}");
    Ok(())
}

/// Creates the Deployment and the Canary, and waits until Flagger serves with its copy.
async fn start_canary(shop: &Shop, options: CanaryOptions) -> Result<()> {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": shop.name},
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": {"app": shop.name}},
            "template": template(&shop.name, &SampleRelease::good("v1")),
        },
    });
    shop.apply(deployment).await?;
    if options.has_own_service {
        shop.apply(service(shop, &shop.name)).await?;
    }
    shop.apply(flagger_canary(shop, options)).await?;
    let canaries = objects_of(shop, "flagger.app", "v1beta1", "Canary");
    wait_for_phase(shop, &canaries, "Initialized").await?;
    shop.wait_until_answering().await
}

/// Moves the shop as docs/how-to/from-flagger.md describes it.
async fn switch_from_flagger(env: &Env, shop: &Shop) -> Result<()> {
    let kinds = "canaries.flagger.app,deployments,services,httproutes";
    let converted = convert(env, shop, kinds, &["--indicator", "traefik"]).await?;
    let name = &shop.name;
    let none = Value::Null;
    let scale = format!("scale deployment {name} --replicas={REPLICAS}");
    kubectl(env, shop, &scale, &none).await?;
    kubectl(
        env,
        shop,
        &format!("rollout status deployment {name}"),
        &none,
    )
    .await?;
    let patch = r#"{"metadata":{"finalizers":null},"spec":{"revertOnDeletion":false}}"#;
    let patch = format!("patch canary {name} --type=merge --patch={patch}");
    kubectl(env, shop, &patch, &none).await?;
    let delete = format!("delete canary {name} --cascade=orphan");
    kubectl(env, shop, &delete, &none).await?;
    let list = json!({"apiVersion": "v1", "kind": "List", "items": converted});
    kubectl(env, shop, "apply -f -", &list).await?;
    shop.wait_until("the Rollout is stable", PATIENCE, is_stable)
        .await?;
    let delete = format!("delete deployment,service {name}-primary");
    kubectl(env, shop, &delete, &none).await?;
    wait_for_own_pods(shop).await
}

/// Moves services from Flagger to Serin.
///
/// # Errors
/// If a request is lost, or if a step does not succeed.
pub async fn from_flagger(env: &Env, flagger: &Peer) -> Result<()> {
    for options in CANARIES {
        let shop = Shop::create_without_route(env, options.namespace, "shop").await?;
        let arguments = vec![
            format!("-kubeconfig={}", env.kubeconfig.display()),
            "-mesh-provider=gatewayapi:v1".to_owned(),
            format!("-metrics-server={}", env.prometheus_url),
            format!("-port={}", free_port()?),
            format!("-namespace={}", shop.namespace),
        ];
        let controller = RunningPeer::start(env, flagger, "flagger", arguments).await?;
        start_canary(&shop, options).await?;
        let load = shop.start_load(LOAD_PER_SECOND)?;
        switch_from_flagger(env, &shop).await?;
        let deployments = objects_of(&shop, "apps", "v1", "Deployment");
        release_v2(&shop, &deployments).await?;
        sleep(QUIET).await;
        let report = stop_and_ensure_no_loss(load).await?;
        note!("from Flagger, {options:?}: {}", report.summary());
        shop.delete().await?;
        controller.stop(env, flagger).await?;
    }
    Ok(())
}
