//! The real Gatekeeper, whose audit reports violations of its constraints in their status.

use std::fs::File;
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use serin_cluster::{GoModule, Progress, build_programs, module_sources};
use serin_core::hold::HoldCode;
use tokio::process::{Child, Command};

use crate::env::Env;
use crate::guardrails::{
    ForeignKind, apply_policy, apply_to_cluster, ensure_message, passed, policy,
    remove_from_cluster,
};
use crate::manifests::{self, RolloutOptions, SampleRelease};
use crate::note;
use crate::objects::apply_crds;
use crate::shop::{Shop, eventually, is_stable, stop_and_ensure_no_loss};

const MODULE: GoModule = GoModule {
    name: "gatekeeper",
    version: "Gatekeeper 3.23.1",
    linker: "",
    programs: &[("gatekeeper", PACKAGE)],
};
const PACKAGE: &str = "github.com/open-policy-agent/gatekeeper/v3";
/// The namespace in which it writes the status of each of its processes.
const NAMESPACE: &str = "gatekeeper-system";
const LOAD_PER_SECOND: u32 = 300;
/// Time between two audits, in seconds.
const AUDIT_SECONDS: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(90);

/// A running Gatekeeper, which audits and does not admit. It is killed on drop.
struct Gatekeeper {
    process: Child,
}

impl Gatekeeper {
    /// Builds it if necessary, applies its definitions, and starts it.
    async fn start(env: &Env) -> Result<Self> {
        let tools = env.checkout.join("e2e/tests/tools");
        let programs = build_programs(&tools, &[MODULE], Progress::detect()).await?;
        let program = programs
            .get(MODULE.name)
            .context("gatekeeper is not pinned")?;
        let sources = module_sources(&tools.join(MODULE.name), PACKAGE).await?;
        apply_crds(&env.client, &sources.join("charts/gatekeeper/crds")).await?;
        apply_to_cluster(env, &namespace()).await?;
        let log = env.checkout.join(".local/gatekeeper.log");
        let output = File::create(&log)?;
        let process = Command::new(program)
            .args([
                "--operation=audit",
                "--operation=status",
                "--disable-cert-rotation",
                "--enable-external-data=false",
                // It runs on this host instead of in a pod.
                "--debug-use-fake-pod",
            ])
            .arg(format!("--audit-interval={AUDIT_SECONDS}"))
            .arg(format!("--health-addr=127.0.0.1:{}", free_port()?))
            .arg(format!("--prometheus-port={}", free_port()?))
            .arg(format!("--kubeconfig={}", env.kubeconfig.display()))
            .env("POD_NAMESPACE", NAMESPACE)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        note!("Gatekeeper writes to {}", log.display());
        Ok(Self { process })
    }

    async fn stop(mut self) -> Result<()> {
        self.process.kill().await?;
        Ok(())
    }
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.port())
}

fn namespace() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
}

/// Removes its definitions with their objects.
async fn remove_definitions(env: &Env) -> Result<()> {
    let definitions = Api::<CustomResourceDefinition>::all(env.client.clone());
    let all = definitions.list(&ListParams::default()).await?;
    let is_own =
        |definition: &&CustomResourceDefinition| definition.spec.group.ends_with("gatekeeper.sh");
    for definition in all.iter().filter(is_own) {
        let parameters = DeleteParams::default();
        definitions
            .delete(&definition.name_any(), &parameters)
            .await?;
    }
    Ok(())
}

/// The kind of the constraint.
fn template() -> Value {
    let rego = r#"
        package requiredlabels

        violation[{"msg": message}] {
            label := input.parameters.labels[_]
            not input.review.object.metadata.labels[label]
            message := sprintf("the label %v is missing", [label])
        }
    "#;
    let parameters = json!({"type": "object", "properties": {
        "labels": {"type": "array", "items": {"type": "string"}},
    }});
    json!({
        "apiVersion": "templates.gatekeeper.sh/v1", "kind": "ConstraintTemplate",
        "metadata": {"name": "k8srequiredlabels"},
        "spec": {
            "crd": {"spec": {
                "names": {"kind": "K8sRequiredLabels"},
                "validation": {"openAPIV3Schema": parameters},
            }},
            "targets": [{"target": "admission.k8s.gatekeeper.sh", "rego": rego}],
        },
    })
}

fn constraint(shop: &Shop) -> Value {
    json!({
        "apiVersion": "constraints.gatekeeper.sh/v1beta1", "kind": "K8sRequiredLabels",
        "metadata": {"name": "serin-e2e-team"},
        "spec": {
            "match": {
                "kinds": [{"apiGroups": [""], "kinds": ["Pod"]}],
                "namespaces": [shop.namespace],
            },
            "parameters": {"labels": ["team"]},
        },
    })
}

fn report_policy(shop: &Shop) -> Value {
    let guardrails = json!({"policyReports": {"mode": "Enforce", "requireReport": true}});
    policy(
        "serin-e2e-gatekeeper",
        &shop.namespace,
        json!({"guardrails": guardrails}),
    )
}

fn options() -> RolloutOptions {
    RolloutOptions {
        steps: Some(json!([{"setWeight": 50}, {"pause": {"duration": "2s"}}])),
        analysis: None,
        ..RolloutOptions::default()
    }
}

/// A release whose pods have the label, or not.
fn release(shop: &Shop, version: &str, has_team: bool) -> Value {
    let mut rollout = manifests::rollout(&shop.name, &options(), &SampleRelease::good(version));
    if has_team {
        rollout["spec"]["template"]["metadata"]["labels"]["team"] = json!("checkout");
    }
    rollout
}

/// A release whose pods violate a constraint gets no request once Gatekeeper has audited them, nor
/// before. The next commit mends it.
///
/// # Errors
/// If an expectation is not met.
pub async fn the_audit_of_gatekeeper_holds_a_release_until_it_is_mended(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-gatekeeper").await?;
    let gatekeeper = Gatekeeper::start(env).await?;
    let checked = Box::pin(check(env, &shop)).await;
    // The template goes while Gatekeeper runs, so that it removes the kind of the constraint.
    for object in [report_policy(&shop), constraint(&shop), template()] {
        remove_from_cluster(env, &object).await?;
    }
    ForeignKind::CONSTRAINT.remove(env, &["v1beta1"]).await?;
    gatekeeper.stop().await?;
    remove_definitions(env).await?;
    remove_from_cluster(env, &namespace()).await?;
    checked?;
    shop.delete().await
}

async fn check(env: &Env, shop: &Shop) -> Result<()> {
    apply_to_cluster(env, &template()).await?;
    eventually("the constraint is accepted", PATIENCE, async || {
        Ok(apply_to_cluster(env, &constraint(shop)).await.is_ok())
    })
    .await?;
    shop.deploy_first(&options(), &SampleRelease::good("v1"))
        .await?;
    let group_kind =
        GroupVersionKind::gvk("constraints.gatekeeper.sh", "v1beta1", "K8sRequiredLabels");
    let resource = ApiResource::from_gvk_with_plural(&group_kind, "k8srequiredlabels");
    let constraints: Api<DynamicObject> = Api::all_with(env.client.clone(), &resource);
    eventually("the audit finds the pods of v1", PATIENCE, async || {
        let audited = constraints.get("serin-e2e-team").await?;
        let found = audited.data["status"]["totalViolations"].as_u64();
        Ok(found.is_some_and(|found| found > 0))
    })
    .await?;
    apply_policy(env, &report_policy(shop)).await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;

    shop.apply(release(shop, "v2", false)).await?;
    let violated = HoldCode::PolicyViolated;
    let held = shop.wait_for_holds(&[violated], PATIENCE).await?;
    let parts = [
        "Pod shop-",
        "K8sRequiredLabels serin-e2e-team",
        "the label team is missing",
    ];
    ensure_message(&held, violated, &parts)?;

    shop.apply(release(shop, "v3", true)).await?;
    let rollout = shop.wait_until("v3 is stable", PATIENCE, is_stable).await?;
    ensure!(
        passed(&rollout) == Some(("True", "Passed")),
        "{:?}",
        passed(&rollout)
    );
    let report = stop_and_ensure_no_loss(load).await?;
    note!("{}", report.summary());
    ensure!(
        report.all().of_version("v2").counts().total() == 0,
        "v2 got a request"
    );
    ensure!(
        report.all().of_version("v3").counts().total() > 0,
        "v3 got no request"
    );
    Ok(())
}
