//! Who may exempt a Rollout from a guardrail.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use serin_core::hold::HoldCode;
use serin_crds::{Rollout, RolloutPolicy};

use crate::env::Env;
use crate::guardrails::{
    apply_policy, apply_to_cluster, ensure_message, passed, policy, remove_from_cluster,
    short_rollout,
};
use crate::shop::{Shop, is_stable};

const PATIENCE: Duration = Duration::from_secs(60);
const AUTHOR: &str = "serin-e2e-author";
const EXEMPTER: &str = "serin-e2e-exempter";

/// The roles and the admission policy for authors as the chart installs them, for one namespace and
/// with names of their own.
async fn author_objects(env: &Env, namespace: &str) -> Result<Vec<Value>> {
    let chart = env.checkout.join("charts/serin");
    let chart = chart.to_string_lossy();
    let namespaces = format!("watchNamespaces={{{namespace}}}");
    let rendered = env
        .run_helm(&[
            "template",
            "serin-e2e-except",
            &chart,
            "--show-only",
            "templates/user-roles.yaml",
            "--show-only",
            "templates/admission-authors.yaml",
            "--set",
            "rbac.aggregate=false",
            "--set",
            "rbac.aggregateCommands=false",
            "--set",
            &namespaces,
        ])
        .await?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&rendered)?;
    Ok(objects
        .into_iter()
        .filter(|object| object["kind"].is_string())
        .collect())
}

/// # Errors
/// If an expectation is not met.
pub async fn an_exception_from_guardrails_needs_the_verb_except(env: &Env) -> Result<()> {
    let shop = Shop::create_without_route(env, "serin-e2e-exceptions", "shop").await?;
    let objects = author_objects(env, &shop.namespace).await?;
    for object in &objects {
        apply_to_cluster(env, object).await?;
    }
    let guardrails = json!({"priority": {"mode": "Enforce"}});
    let policy = policy(
        "serin-e2e-excepted",
        &shop.namespace,
        json!({"guardrails": guardrails}),
    );
    let checked = Box::pin(check_exceptions(env, &shop, &objects, &policy)).await;
    remove_from_cluster(env, &policy).await?;
    for object in objects.iter().rev() {
        remove_from_cluster(env, object).await?;
    }
    checked?;
    shop.delete().await
}

/// Lets both users edit Rollouts, and one of them except Rollouts from guardrails.
async fn bind_users(shop: &Shop, objects: &[Value]) -> Result<()> {
    let role = |suffix: &str| {
        let mut names = objects
            .iter()
            .filter_map(|object| object["metadata"]["name"].as_str());
        let found = names.find(|name| name.ends_with(suffix));
        found
            .map(ToOwned::to_owned)
            .with_context(|| format!("no ClusterRole {suffix}"))
    };
    let (editor, exempter) = (role("-editor")?, role("-exempter")?);
    shop.apply(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "workloads"},
        "rules": [{"apiGroups": ["apps"], "resources": ["replicasets"], "verbs": ["create"]}],
    }))
    .await?;
    for (name, kind, role, users) in [
        ("workloads", "Role", "workloads", vec![AUTHOR, EXEMPTER]),
        (
            "editors",
            "ClusterRole",
            editor.as_str(),
            vec![AUTHOR, EXEMPTER],
        ),
        (
            "exempters",
            "ClusterRole",
            exempter.as_str(),
            vec![EXEMPTER],
        ),
    ] {
        shop.apply(binding(name, kind, role, &users)).await?;
    }
    Ok(())
}

async fn check_exceptions(env: &Env, shop: &Shop, objects: &[Value], policy: &Value) -> Result<()> {
    bind_users(shop, objects).await?;
    let (author, exempter) = (env.client_as(AUTHOR).await?, env.client_as(EXEMPTER).await?);
    shop.apply(short_rollout("shop", 1, "v1")).await?;
    shop.wait_until("v1 is stable", PATIENCE, is_stable).await?;
    apply_policy(env, policy).await?;
    shop.apply(short_rollout("shop", 1, "v2")).await?;
    shop.wait_for_holds(&[HoldCode::PriorityMissing], PATIENCE)
        .await?;

    let ends = Timestamp::now() + SignedDuration::from_hours(48);
    // The admission policy takes effect after a short delay.
    shop.eventually("the author may not except", PATIENCE, async || {
        let refusal = except(shop, &author, ends, true).await.err();
        let refusal = refusal.map(|error| error.to_string()).unwrap_or_default();
        Ok(refusal.contains("must be allowed to except the Rollout")
            && refusal.contains("priority"))
    })
    .await?;
    let changed = except(shop, &author, ends, false).await;
    ensure!(changed.is_err(), "the author can add an exception");
    except(shop, &exempter, ends, false).await?;
    let promoted = |rollout: &Rollout| is_stable(rollout) && passed(rollout).is_some();
    let rollout = shop.wait_until("v2 is stable", PATIENCE, promoted).await?;
    ensure!(
        passed(&rollout) == Some(("True", "Warnings")),
        "{:?}",
        passed(&rollout)
    );
    // It ends in two days, which is reported, and nobody else may prolong it.
    shop.eventually("an Event reports the exception", PATIENCE, async || {
        let warnings = shop.events("GuardrailWarning").await?;
        Ok(warnings.iter().any(|note| note.contains("priority class")))
    })
    .await?;
    let later = ends + SignedDuration::from_hours(1);
    ensure!(
        except(shop, &author, later, false).await.is_err(),
        "the author can prolong it"
    );
    // Everything else is the author's, also to remove the exception.
    let change = json!({"spec": {"replicas": 2}});
    patch(shop, &author, change, false).await?;
    patch(
        shop,
        &author,
        json!({"spec": {"guardrailExceptions": null}}),
        false,
    )
    .await?;
    // After its end, the next release is held.
    except(
        shop,
        &exempter,
        Timestamp::now() + SignedDuration::from_secs(-60),
        false,
    )
    .await?;
    let mut next = short_rollout("shop", 2, "v3");
    next["spec"]["guardrailExceptions"] =
        serde_json::to_value(&shop.rollout().await?.spec.guardrail_exceptions)?;
    shop.apply(next).await?;
    let held = shop
        .wait_for_holds(&[HoldCode::PriorityMissing], PATIENCE)
        .await?;
    ensure_message(
        &held,
        HoldCode::PriorityMissing,
        &["the exception ended at"],
    )?;
    // Who may edit Rollouts may not edit policies.
    let policies = Api::<RolloutPolicy>::all(author);
    let edited = policies
        .patch(
            "serin-e2e-excepted",
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"guardrails": null}})),
        )
        .await;
    ensure!(
        matches!(&edited, Err(kube::Error::Api(status)) if status.code == 403),
        "the author can edit policies: {edited:?}"
    );
    Ok(())
}

fn binding(name: &str, kind: &str, role: &str, users: &[&str]) -> Value {
    let group = "rbac.authorization.k8s.io";
    let subjects: Vec<Value> = users
        .iter()
        .map(|user| json!({"apiGroup": group, "kind": "User", "name": user}))
        .collect();
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": kind, "name": role}, "subjects": subjects,
    })
}

/// Adds an exception from the guardrail `priority` as a user.
async fn except(shop: &Shop, user: &Client, ends: Timestamp, dry_run: bool) -> kube::Result<()> {
    let exception = json!({
        "guardrail": "priority", "reason": "the class is created next week",
        "expires": ends.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    });
    patch(
        shop,
        user,
        json!({"spec": {"guardrailExceptions": [exception]}}),
        dry_run,
    )
    .await
}

async fn patch(shop: &Shop, user: &Client, change: Value, dry_run: bool) -> kube::Result<()> {
    let rollouts = Api::<Rollout>::namespaced(user.clone(), &shop.namespace);
    let params = PatchParams {
        dry_run,
        ..PatchParams::default()
    };
    rollouts
        .patch(&shop.name, &params, &Patch::Merge(change))
        .await?;
    Ok(())
}
