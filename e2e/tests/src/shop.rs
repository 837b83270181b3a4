//! One service under load in a namespace of its own: what a case works on.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::wait::await_condition;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use serin_core::units::Weight;
use serin_crds::{Rollout, RolloutCommand, RolloutStatus};
use serin_load::{Load, LoadHandle, Options, Report};

use crate::env::Env;
use crate::manifests::{self, Release, Spec};

/// The Gateway of the local cluster: namespace and name; another by `GATEWAY` as `namespace/name`.
pub fn gateway() -> (String, String) {
    let named = std::env::var("GATEWAY").ok();
    let named = named.as_deref().and_then(|named| named.split_once('/'));
    named.map_or_else(
        || ("gateway-system".into(), "local".into()),
        |(space, name)| (space.into(), name.into()),
    )
}

/// One service in a namespace of its own.
pub struct Shop {
    /// The administrator's client.
    pub client: Client,
    /// Its namespace.
    pub namespace: String,
    /// The name of the Rollout, its route and its stable Service.
    pub name: String,
    /// The host that its route answers to.
    pub host: String,
    gateway_url: String,
}

impl Shop {
    /// Makes the namespace (restricted pod security) and the route; a left-over one of a killed run
    /// is removed first.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn open(env: &Env, namespace: &str) -> Result<Self> {
        Self::open_named(env, namespace, "shop").await
    }

    /// Same as [`Self::open`] for a Rollout, a route and a stable Service of another name.
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn open_named(env: &Env, namespace: &str, name: &str) -> Result<Self> {
        let shop = Self::open_without_route(env, namespace, name).await?;
        shop.apply(shop.route()).await?;
        Ok(shop)
    }

    /// Creates the namespace only, for a cluster without the Gateway API.
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn open_without_route(env: &Env, namespace: &str, name: &str) -> Result<Self> {
        let shop = Self {
            client: env.client.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            host: format!("{namespace}.example"),
            gateway_url: env.gateway_url.clone(),
        };
        shop.let_go_of_rollouts().await?;
        shop.remove_namespace().await?;
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        });
        let namespaces = Api::<Namespace>::all(shop.client.clone());
        namespaces
            .create(&PostParams::default(), &serde_json::from_value(object)?)
            .await?;
        Ok(shop)
    }

    /// The route as the user writes it.
    pub fn route(&self) -> Value {
        let (gateway_namespace, gateway_name) = gateway();
        manifests::http_route(&self.name, &self.host, (&gateway_namespace, &gateway_name))
    }

    /// Another Rollout of the same namespace, behind the same host.
    #[must_use]
    pub fn sibling(&self, name: &str) -> Self {
        Self {
            client: self.client.clone(),
            namespace: self.namespace.clone(),
            name: name.to_owned(),
            host: self.host.clone(),
            gateway_url: self.gateway_url.clone(),
        }
    }

    /// Removes the namespace and waits until it is gone.
    ///
    /// # Errors
    /// When it is not gone after two minutes.
    pub async fn close(self) -> Result<()> {
        self.remove_namespace().await
    }

    /// A killed run has left Rollouts behind, and perhaps no controller runs that could restore
    /// their routes, which go anyway.
    async fn let_go_of_rollouts(&self) -> Result<()> {
        let rollouts = self.api::<Rollout>();
        let left = rollouts.list_metadata(&ListParams::default()).await?;
        for rollout in left
            .items
            .iter()
            .filter(|rollout| !rollout.finalizers().is_empty())
        {
            let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            rollouts
                .patch_metadata(&rollout.name_any(), &PatchParams::default(), &none)
                .await?;
        }
        Ok(())
    }

    async fn remove_namespace(&self) -> Result<()> {
        let namespaces = Api::<Namespace>::all(self.client.clone());
        if namespaces.get_opt(&self.namespace).await?.is_none() {
            return Ok(());
        }
        // Rollouts first, while the controller can still restore their routes.
        let rollouts = self.api::<Rollout>();
        if rollouts
            .list(&ListParams::default())
            .await
            .is_ok_and(|list| !list.items.is_empty())
        {
            rollouts
                .delete_collection(&DeleteParams::default(), &ListParams::default())
                .await?;
            self.eventually(
                "the Rollouts are gone",
                Duration::from_secs(60),
                async || {
                    Ok(rollouts
                        .list(&ListParams::default())
                        .await?
                        .items
                        .is_empty())
                },
            )
            .await?;
        }
        namespaces
            .delete(&self.namespace, &DeleteParams::default())
            .await?;
        self.eventually(
            "the namespace is gone",
            Duration::from_secs(120),
            async || Ok(namespaces.get_opt(&self.namespace).await?.is_none()),
        )
        .await
    }

    /// The API of a namespaced kind here.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The API of HTTPRoutes here.
    pub fn routes(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
        Api::namespaced_with(
            self.client.clone(),
            &self.namespace,
            &ApiResource::from_gvk(&kind),
        )
    }

    /// Applies any object of this namespace, as `kubectl apply --server-side` does.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn apply(&self, object: Value) -> kube::Result<DynamicObject> {
        let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
        let (group, version) = text("apiVersion").split_once('/').map_or_else(
            || (String::new(), text("apiVersion")),
            |(group, version)| (group.to_owned(), version.to_owned()),
        );
        let resource =
            ApiResource::from_gvk(&GroupVersionKind::gvk(&group, &version, &text("kind")));
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        api.patch(
            &name,
            &PatchParams::apply("serin-e2e").force(),
            &Patch::Apply(&object),
        )
        .await
    }

    /// Declares a release, as Git would.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn declare(&self, spec: &Spec, release: &Release) -> Result<Rollout> {
        let object = self
            .apply(manifests::rollout(&self.name, spec, release))
            .await?;
        Ok(object.try_parse()?)
    }

    /// Declares a first release and waits until it is stable and answers through the gateway.
    ///
    /// # Errors
    /// When it does not become stable within a minute and a half.
    pub async fn first(&self, spec: &Spec, release: &Release) -> Result<()> {
        self.declare(spec, release).await?;
        self.until(
            "the first release is stable",
            Duration::from_secs(90),
            is_stable,
        )
        .await?;
        self.answers().await
    }

    /// Waits until the gateway passes requests on to the service.
    ///
    /// # Errors
    /// When it does not within half a minute.
    pub async fn answers(&self) -> Result<()> {
        self.until_answered("/", |_| true).await
    }

    /// Waits until a version that is expected answers a path through the gateway.
    ///
    /// # Errors
    /// If none does within half a minute.
    pub async fn until_answered(
        &self,
        path: &str,
        is_expected: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let (url, host) = (format!("{}{path}", self.gateway_url), self.host.clone());
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(2))
            .build()?;
        self.eventually(
            &format!("the gateway answers {path}"),
            Duration::from_secs(30),
            async || {
                let answer = http.get(&url).header("host", &host).send().await?;
                let version = answer
                    .headers()
                    .get("x-version")
                    .and_then(|version| version.to_str().ok());
                Ok(version.is_some_and(&is_expected))
            },
        )
        .await
    }

    /// The Rollout as it stands.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn rollout(&self) -> Result<Rollout> {
        Ok(self.api::<Rollout>().get(&self.name).await?)
    }

    /// Its status as it stands; empty while there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn status(&self) -> Result<RolloutStatus> {
        Ok(self.rollout().await?.status.unwrap_or_default())
    }

    /// Waits until the Rollout is as asked, by watch.
    ///
    /// # Errors
    /// When it is not in time; the error tells what it says of itself instead.
    pub async fn until(
        &self,
        what: &str,
        time: Duration,
        done: impl Fn(&Rollout) -> bool,
    ) -> Result<Rollout> {
        let condition = |rollout: Option<&Rollout>| rollout.is_some_and(&done);
        let found = async {
            loop {
                // An API server that has just come back refuses the first lists.
                match await_condition(self.api::<Rollout>(), &self.name, condition).await {
                    Ok(rollout) => return rollout.context("the Rollout is gone"),
                    Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                }
            }
        };
        match tokio::time::timeout(time, found).await {
            Ok(found) => found,
            Err(_) => {
                let status = self.status().await?;
                let seen = json!({
                    "phase": status.phase, "stage": status.stage, "message": status.message, "step": status.step,
                    "weights": status.weights, "abort": status.abort, "evidence": status.evidence,
                    "conditions": status.conditions.iter().filter(|condition| condition.status == "False")
                        .map(|condition| format!("{}: {}", condition.type_, condition.message)).collect::<Vec<_>>(),
                });
                bail!(
                    "{}: not within {time:?}: {what}; it says {seen:#}",
                    self.namespace
                )
            }
        }
    }

    /// Waits until a question about the cluster is answered with yes; a failed question counts as
    /// no.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn eventually(
        &self,
        what: &str,
        time: Duration,
        ask: impl AsyncFn() -> Result<bool>,
    ) -> Result<()> {
        eventually(&format!("{}: {what}", self.namespace), time, ask).await
    }

    /// Waits like [`Self::until`], and fails at once if the release is aborted meanwhile.
    ///
    /// # Errors
    /// If the release is aborted, or if the Rollout does not become as expected in time.
    pub async fn until_unless_aborted(
        &self,
        what: &str,
        time: Duration,
        done: impl Fn(&Rollout) -> bool,
    ) -> Result<Rollout> {
        let rollout = self
            .until(what, time, |rollout| is_aborted(rollout) || done(rollout))
            .await?;
        ensure!(
            !is_aborted(&rollout),
            "{}: aborted before: {what}: {}",
            self.namespace,
            abort_message(&rollout)
        );
        Ok(rollout)
    }

    /// Lets the release run for a while.
    ///
    /// # Errors
    /// If the release is aborted meanwhile.
    pub async fn runs_without_abort(&self, time: Duration) -> Result<()> {
        let condition = |rollout: Option<&Rollout>| rollout.is_some_and(is_aborted);
        match tokio::time::timeout(
            time,
            await_condition(self.api::<Rollout>(), &self.name, condition),
        )
        .await
        {
            Err(_elapsed) => Ok(()),
            Ok(found) => {
                let message = found?.as_ref().map(abort_message).unwrap_or_default();
                bail!("{}: {} was aborted: {message}", self.namespace, self.name)
            }
        }
    }

    /// Sets `spec.replicas` through the scale subresource, as `kubectl scale` and autoscalers do.
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn scale(&self, replicas: u32) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        self.api::<Rollout>()
            .patch_scale(&self.name, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    /// Waits until this many pods of a revision are available.
    ///
    /// # Errors
    /// If they are not available in time.
    pub async fn until_available(&self, revision: &str, count: i32, time: Duration) -> Result<()> {
        let sets = self.api::<ReplicaSet>();
        let selector = ListParams::default().labels(&format!("serin.dev/revision={revision}"));
        self.eventually(
            &format!("{revision} has {count} available pods"),
            time,
            async || {
                let sets = sets.list(&selector).await?.items;
                let available = |set: &ReplicaSet| {
                    set.status
                        .as_ref()
                        .and_then(|status| status.available_replicas)
                };
                Ok(sets.iter().filter_map(available).sum::<i32>() == count)
            },
        )
        .await
    }

    /// Starts load through the gateway.
    ///
    /// # Errors
    /// When the gateway's address is not one of this machine.
    pub fn load(&self, rate_per_second: u32) -> Result<LoadHandle> {
        self.load_on("/", rate_per_second)
    }

    /// Starts load on one path through the gateway.
    ///
    /// # Errors
    /// If the gateway's address is not one of this machine.
    pub fn load_on(&self, path: &str, rate_per_second: u32) -> Result<LoadHandle> {
        let options = Options {
            host: Some(self.host.clone()),
            rate_per_second,
            duration: Some(Duration::from_secs(3_600)),
            // A machine short of processors answers late, which is not the same as not at all.
            timeout: Duration::from_secs(10),
            fresh_connection_fraction: 0.05,
            ..Options::new(format!("{}{path}", self.gateway_url))
        };
        Ok(Load::start(&options)?)
    }

    /// The canary's share in the route.
    ///
    /// # Errors
    /// When the route cannot be read.
    pub async fn route_share(&self) -> Result<Weight> {
        let route = self.routes().get(&self.name).await?;
        Ok(share_of(&route, &format!("{}-canary", self.name)))
    }

    /// Desired replicas by revision.
    ///
    /// # Errors
    /// When the ReplicaSets cannot be read.
    pub async fn desired(&self) -> Result<BTreeMap<String, i32>> {
        let sets = self
            .api::<ReplicaSet>()
            .list(&ListParams::default())
            .await?;
        let desired = sets.iter().map(|set| {
            let revision = set
                .labels()
                .get("serin.dev/revision")
                .cloned()
                .unwrap_or_default();
            (
                revision,
                set.spec
                    .as_ref()
                    .and_then(|spec| spec.replicas)
                    .unwrap_or(1),
            )
        });
        Ok(desired.collect())
    }

    /// Desired replicas of this Rollout alone, of all revisions together.
    ///
    /// # Errors
    /// If the ReplicaSets cannot be read.
    pub async fn desired_of_rollout(&self) -> Result<i32> {
        let sets = self
            .api::<ReplicaSet>()
            .list(&ListParams::default())
            .await?;
        let is_own = |set: &&ReplicaSet| {
            set.owner_references()
                .iter()
                .any(|owner| owner.name == self.name)
        };
        Ok(sets
            .iter()
            .filter(is_own)
            .filter_map(|set| set.spec.as_ref()?.replicas)
            .sum())
    }

    /// The pods here.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        Ok(self.api::<Pod>().list(&ListParams::default()).await?.items)
    }

    /// The notes of the Events with this reason about the Rollout.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn events(&self, reason: &str) -> Result<Vec<String>> {
        let events = self.api::<Event>().list(&ListParams::default()).await?;
        let of_reason = events
            .items
            .into_iter()
            .filter(|event| event.reason.as_deref() == Some(reason));
        Ok(of_reason.filter_map(|event| event.note).collect())
    }

    /// Creates a command as its client does, and waits for its outcome.
    ///
    /// # Errors
    /// When the API server refuses it, or it has no outcome within 20 s.
    pub async fn command(&self, verb: &str, preconditions: Value) -> Result<(bool, String)> {
        let review = Api::<SelfSubjectReview>::all(self.client.clone());
        let review = review
            .create(&PostParams::default(), &SelfSubjectReview::default())
            .await?;
        let requested_by = review.status.and_then(|status| status.user_info?.username);
        let object = json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "RolloutCommand",
            "metadata": {"generateName": format!("{}-{}-", self.name, verb.to_lowercase())},
            "spec": {"rolloutRef": {"name": self.name}, "verb": verb, "preconditions": preconditions, "reason": "a case",
                "requestedBy": requested_by,
            },
        });
        let commands = self.api::<RolloutCommand>();
        let made = commands
            .create(&PostParams::default(), &serde_json::from_value(object)?)
            .await?;
        let done = |command: Option<&RolloutCommand>| {
            command
                .and_then(|command| command.status.as_ref())
                .is_some_and(|status| status.outcome.is_some())
        };
        let name = made.name_any();
        let waited = tokio::time::timeout(
            Duration::from_secs(20),
            await_condition(commands, &name, done),
        );
        let command = waited
            .await
            .context("no outcome within 20 s")??
            .context("the command is gone")?;
        let status = command.status.unwrap_or_default();
        let is_done = status.outcome == Some(serin_crds::command::CommandResult::Done);
        Ok((is_done, status.message.unwrap_or_default()))
    }
}

/// The share that a route's first rule gives to one of its backends.
pub fn share_of(route: &DynamicObject, backend: &str) -> Weight {
    let backends = route.data["spec"]["rules"][0]["backendRefs"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let weight = |backend: &Value| backend["weight"].as_u64().unwrap_or(1);
    let total: u64 = backends.iter().map(weight).sum();
    let share: u64 = backends
        .iter()
        .filter(|found| found["name"] == backend)
        .map(weight)
        .sum();
    let thousandths = (share * 100_000).checked_div(total).unwrap_or(0);
    Weight::from_thousandths(u32::try_from(thousandths).unwrap_or(u32::MAX))
}

/// Whether the Rollout's own revision is stable and it says so of the newest generation.
pub fn is_stable(rollout: &Rollout) -> bool {
    rollout.status.as_ref().is_some_and(|status| {
        status.phase.as_deref() == Some("Healthy")
            && status.observed_generation == rollout.metadata.generation
            && status.stable_revision.is_some()
            && status.stable_revision == status.current_revision
    })
}

/// Whether the newest release was given up.
pub fn is_aborted(rollout: &Rollout) -> bool {
    rollout.status.as_ref().is_some_and(|status| {
        status.stage.as_deref() == Some("Aborted")
            && status.observed_generation == rollout.metadata.generation
    })
}

/// Whether the release waits for a person or for time, and the newest generation is observed.
pub fn is_paused(rollout: &Rollout) -> bool {
    rollout.status.as_ref().is_some_and(|status| {
        status.pause.is_some() && status.observed_generation == rollout.metadata.generation
    })
}

/// The reason of the abort.
fn abort_message(rollout: &Rollout) -> String {
    let abort = rollout
        .status
        .as_ref()
        .and_then(|status| status.abort.as_ref());
    abort
        .map(|abort| format!("{}: {}", abort.cause, abort.message))
        .unwrap_or_default()
}

/// Ends the load; what it has seen.
///
/// # Errors
/// When a request was lost to routing.
pub async fn stop_without_loss(load: LoadHandle) -> Result<Report> {
    let report = load.stop().await;
    ensure!(
        report.lost_nothing(),
        "{}\n{:#?}",
        report.summary(),
        report.details
    );
    Ok(report)
}

/// The canary's share that was last verified, in percent.
pub fn verified(rollout: &Rollout) -> Option<f64> {
    rollout.status.as_ref()?.weights.as_ref()?.verified
}

/// Waits until a question is answered with yes; a failed question counts as no.
///
/// # Errors
/// When it is not in time, with the last failure.
pub async fn eventually(
    what: &str,
    time: Duration,
    ask: impl AsyncFn() -> Result<bool>,
) -> Result<()> {
    let mut last = None;
    let asking = async {
        loop {
            match ask().await {
                Ok(true) => return,
                Ok(false) => last = None,
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    match tokio::time::timeout(time, asking).await {
        Ok(()) => Ok(()),
        Err(_) => match last {
            Some(error) => Err(error.context(format!("not within {time:?}: {what}"))),
            None => bail!("not within {time:?}: {what}"),
        },
    }
}
