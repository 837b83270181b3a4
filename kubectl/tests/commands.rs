//! Commands from the command line to the outcome, against the in-memory API server with
//! authentication and authorization in front of it.

#![expect(clippy::unwrap_used, reason = "a test fails at the first error")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use serin_crds::{Rollout, RolloutCommand};
use serin_fake_cluster::FakeCluster;
use serin_kubectl::connect::Connection;
use serin_kubectl::exit::{CliError, Exit};

const EVERY_VERB: [&str; 11] = [
    "create",
    "promote",
    "promoteFull",
    "abort",
    "retry",
    "pause",
    "resume",
    "skipStep",
    "override",
    "giveBack",
    "restart",
];

/// An in-memory cluster and a user.
struct Scene {
    world: FakeCluster,
    user: &'static str,
    may: BTreeSet<&'static str>,
}

impl Scene {
    /// A Rollout at step 2 of 4 with 20 %, in namespace `shop`, and a user with all permissions.
    fn new() -> Self {
        let world = FakeCluster::new(7);
        world.apply_object(rollout("checkout", "shop")).unwrap();
        let scene = Self {
            world,
            user: "ann",
            may: EVERY_VERB.into(),
        };
        scene.set_status(at_20_percent());
        scene
    }

    fn with_verbs(verbs: &[&'static str]) -> Self {
        Self {
            may: verbs.iter().copied().collect(),
            ..Self::new()
        }
    }

    fn set_status(&self, status: Value) {
        self.world
            .edit::<Rollout>("shop", "checkout", |rollout| rollout["status"] = status)
            .unwrap();
    }

    /// Runs a command line. Returns its exit code, output and error.
    async fn run(&self, line: &str) -> (Exit, String, Option<CliError>) {
        self.run_with_answer(line, None).await
    }

    async fn run_with_answer(
        &self,
        line: &str,
        answer: Option<bool>,
    ) -> (Exit, String, Option<CliError>) {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let name = line.split(' ').next().unwrap();
        let invocation = serin_kubectl::cli::parse(name, arguments).unwrap();
        let namespace = invocation
            .options
            .namespace
            .clone()
            .unwrap_or_else(|| "shop".into());
        let connection = Connection {
            client: self.client(),
            namespace,
        };
        let mut out = Vec::new();
        let ended = serin_kubectl::run(&connection, &invocation.task, &|_| answer, &mut out).await;
        let text = anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string();
        match ended {
            Ok(exit) => (exit, text, None),
            Err(failure) => (failure.exit, text, Some(failure)),
        }
    }

    /// A client whose requests pass authentication and the admission policy.
    fn client(&self) -> Client {
        let inner = self.world.client_for("kubectl");
        let (user, may) = (self.user, self.may.clone());
        let service = tower::service_fn(move |request: Request<Body>| {
            let (inner, may) = (inner.clone(), may.clone());
            async move { answer(&inner, user, &may, request).await }
        });
        Client::new(service, "shop")
    }

    fn commands(&self) -> Vec<RolloutCommand> {
        self.world.objects()
    }

    /// Acts as the controller: sets the outcome of the first command and the given Rollout status.
    async fn controller(&self, outcome: &str, message: &str, status: Option<Value>) {
        self.world
            .wait_until(
                |world| !world.objects::<RolloutCommand>().is_empty(),
                Duration::from_secs(10),
            )
            .await
            .unwrap();
        let name = self.commands()[0].metadata.name.clone().unwrap();
        if let Some(status) = status {
            self.set_status(status);
        }
        let done = json!({"outcome": outcome, "message": message, "at": "2026-03-01T12:00:00Z"});
        self.world
            .edit::<RolloutCommand>("shop", &name, |command| command["status"] = done)
            .unwrap();
    }
}

async fn answer(
    inner: &Client,
    user: &str,
    may: &BTreeSet<&str>,
    request: Request<Body>,
) -> Result<Response<Body>, kube::Error> {
    let (parts, body) = request.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let sent: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let path = parts.uri.path().to_owned();
    let json = |code: u16, value: Value| {
        Ok(Response::builder()
            .status(code)
            .body(Body::from(serde_json::to_vec(&value).unwrap()))
            .unwrap())
    };
    if path.ends_with("/selfsubjectreviews") {
        return json(201, json!({"status": {"userInfo": {"username": user}}}));
    }
    if path.ends_with("/selfsubjectaccessreviews") {
        let verb = sent["spec"]["resourceAttributes"]["verb"].as_str().unwrap();
        return json(
            201,
            json!({"spec": {}, "status": {"allowed": may.contains(verb)}}),
        );
    }
    if parts.method == "POST" && path.ends_with("/rolloutcommands") {
        if !may.contains("create") {
            return json(
                403,
                forbidden("rolloutcommands.serin.dev is forbidden: User cannot create"),
            );
        }
        if !may.contains(sent["spec"]["verb"].as_str().unwrap())
            || sent["spec"]["requestedBy"] != user
        {
            return json(
                422,
                json!({"kind": "Status", "status": "Failure", "code": 422, "reason": "Invalid", "message":
                    "rolloutcommands.serin.dev \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no"}),
            );
        }
    }
    let request = Request::from_parts(parts, Body::from(bytes.to_vec()));
    inner.send(request).await
}

fn forbidden(message: &str) -> Value {
    json!({"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden", "message": message})
}

fn rollout(name: &str, namespace: &str) -> Value {
    json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
            "strategy": {"canary": {"trafficRouting": {"gatewayAPI": {"httpRoute": "r"}}, "steps": []}}
        }
    })
}

fn status(
    phase: &str,
    stage: &str,
    step: Option<u32>,
    desired: f64,
    verified: Option<f64>,
) -> Value {
    let step = step.map(|index| json!({"index": index, "startedAt": "2026-03-01T11:00:00Z"}));
    json!({
        "observedGeneration": 1, "phase": phase, "stage": stage, "stableRevision": "v1", "currentRevision": "v2",
        "step": step, "weights": {"desired": desired, "verified": verified}, "replicas": 0, "updatedReplicas": 0,
        "readyReplicas": 0, "availableReplicas": 0,
        "plan": {"hash": "h", "spec": {"strategy": {"canary": {"pace": {"steps": [1, 2, 3, 4]}}}}}
    })
}

fn at_20_percent() -> Value {
    status("Paused", "Progressing", Some(1), 20.0, Some(20.0))
}

fn aborted(verified: Option<f64>) -> Value {
    let mut status = status("Degraded", "Aborted", None, 0.0, verified);
    status["abort"] =
        json!({"revision": "v2", "at": "2026-03-01T12:00:00Z", "cause": "Command", "message": "m"});
    status
}

#[tokio::test(start_paused = true)]
async fn promote_is_bound_to_revision_and_step_and_reports_the_result() {
    let scene = Scene::new();
    let after = status("Progressing", "Progressing", Some(2), 50.0, None);
    let (ran, ()) = tokio::join!(
        scene.run("kubectl-promote checkout --reason release-day"),
        scene.controller(
            "Done",
            "the pause is over: going on with step 3 of 4",
            Some(after)
        ),
    );
    assert_eq!(ran.0, Exit::Done, "{ran:?}");
    assert_eq!(
        ran.1,
        "rollout.serin.dev/checkout promoted: the pause is over: going on with step 3 of 4\n\
         Revision v2 was at step 2/4 with 20 % of traffic, now at step 3/4 with 50 % desired, not verified in effect (Progressing).\n"
    );
    let command = &scene.commands()[0];
    assert!(
        command
            .metadata
            .name
            .as_deref()
            .unwrap()
            .starts_with("checkout-promote-")
    );
    assert_eq!(
        serde_json::to_value(&command.spec).unwrap(),
        json!({
            "rolloutRef": {"name": "checkout"}, "verb": "promote", "preconditions": {"revision": "v2", "step": 1},
            "reason": "release-day", "requestedBy": "ann"
        })
    );
}

#[tokio::test(start_paused = true)]
async fn abort_waits_until_the_router_confirms() {
    let scene = Scene::new();
    let controller = async {
        scene
            .controller("Done", "revision v2 is given up", Some(aborted(None)))
            .await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        scene.set_status(aborted(Some(0.0)));
    };
    let started = tokio::time::Instant::now();
    let (ran, ()) = tokio::join!(scene.run("kubectl-abort checkout"), controller);
    assert_eq!(ran.0, Exit::Done, "{ran:?}");
    assert!(
        started.elapsed() >= Duration::from_secs(3),
        "it did not wait for the router"
    );
    assert!(
        ran.1
            .contains("stable v1 has all traffic, confirmed by the router"),
        "{}",
        ran.1
    );
}

#[tokio::test(start_paused = true)]
async fn an_unconfirmed_abort_says_so() {
    let scene = Scene::new();
    let (ran, ()) = tokio::join!(
        scene.run("kubectl-abort checkout"),
        scene.controller("Done", "given up", Some(aborted(None)))
    );
    assert_eq!(ran.0, Exit::Done, "{ran:?}");
    assert!(
        ran.1.contains("the router has not confirmed it yet"),
        "{}",
        ran.1
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusal_by_the_controller_is_reported_with_its_reason() {
    let scene = Scene::new();
    let refusal = "made for revision v1, but the current revision is v2";
    let (ran, ()) = tokio::join!(
        scene.run("kubectl-promote checkout --revision v1"),
        scene.controller("Refused", refusal, None)
    );
    assert_eq!(ran.0, Exit::Refused);
    assert_eq!(
        ran.2.unwrap().message,
        format!("promote of checkout was refused: {refusal}")
    );
    // The current step belongs to v2; the step of v1 is unknown.
    assert_eq!(
        serde_json::to_value(&scene.commands()[0].spec.preconditions).unwrap(),
        json!({"revision": "v1"})
    );
}

#[tokio::test(start_paused = true)]
async fn a_missing_verb_is_reported_with_the_allowed_verbs_and_the_required_role() {
    let scene = Scene::with_verbs(&["create", "abort"]);
    let (exit, _, failure) = scene.run("kubectl-promote checkout").await;
    assert_eq!(exit, Exit::Refused);
    insta::assert_snapshot!(failure.unwrap().to_string());
    assert!(scene.commands().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_missing_create_permission_is_reported_with_the_required_role() {
    let scene = Scene::with_verbs(&["abort"]);
    let (exit, _, failure) = scene.run("kubectl-abort checkout").await;
    assert_eq!(exit, Exit::Refused);
    insta::assert_snapshot!(failure.unwrap().to_string());
}

#[tokio::test(start_paused = true)]
async fn an_unhandled_command_times_out_and_remains() {
    let scene = Scene::new();
    let started = tokio::time::Instant::now();
    let (exit, _, failure) = scene.run("kubectl-promote checkout --timeout 5s").await;
    assert_eq!(exit, Exit::TimedOut);
    assert!(started.elapsed() >= Duration::from_secs(5));
    let text = failure.unwrap().to_string();
    let name = scene.commands()[0].metadata.name.clone().unwrap();
    assert!(
        text.contains(&format!("kubectl -n shop delete rolloutcommand {name}")),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_outcome_of_a_deleted_command_is_read_from_the_rollout() {
    let scene = Scene::new();
    let controller = async {
        let world = &scene.world;
        world
            .wait_until(
                |world| !world.objects::<RolloutCommand>().is_empty(),
                Duration::from_secs(10),
            )
            .await
            .unwrap();
        let command = scene.commands().remove(0);
        let mut status = status("Progressing", "Progressing", Some(2), 50.0, None);
        status["commands"] = json!([{"uid": command.metadata.uid, "outcome": {"result": "Refused", "message": "too late"}}]);
        scene.set_status(status);
        world
            .delete::<RolloutCommand>("shop", command.metadata.name.as_deref().unwrap())
            .unwrap();
    };
    let (ran, ()) = tokio::join!(scene.run("kubectl-promote checkout"), controller);
    assert_eq!(ran.0, Exit::Refused, "{ran:?}");
    assert!(ran.2.unwrap().message.ends_with("too late"));
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_retried_while_waiting() {
    let scene = Scene::new();
    let controller = async {
        scene
            .world
            .wait_until(
                |world| !world.objects::<RolloutCommand>().is_empty(),
                Duration::from_secs(10),
            )
            .await
            .unwrap();
        scene.world.take_api_down_for(Duration::from_secs(4));
        tokio::time::sleep(Duration::from_secs(6)).await;
        scene
            .controller("Done", "given up", Some(aborted(Some(0.0))))
            .await;
    };
    let (ran, ()) = tokio::join!(
        scene.run("kubectl-abort checkout --timeout 60s"),
        controller
    );
    assert_eq!(ran.0, Exit::Done, "{ran:?}");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_name_suggests_similar_names_and_other_namespaces() {
    let scene = Scene::new();
    scene
        .world
        .apply_object(rollout("chekout", "other"))
        .unwrap();
    let (exit, _, failure) = scene.run("kubectl-abort chekout").await;
    assert_eq!(exit, Exit::Usage);
    assert_eq!(
        failure.unwrap().to_string(),
        "Rollout chekout not found in namespace shop\n  Did you mean checkout?\n  \
         It exists in namespace other: use -n other"
    );
}

#[tokio::test(start_paused = true)]
async fn an_unconfirmed_full_promotion_creates_no_command() {
    let scene = Scene::new();
    let (exit, ..) = scene
        .run_with_answer("kubectl-promote checkout --full", Some(false))
        .await;
    assert_eq!(exit, Exit::Refused);
    assert!(scene.commands().is_empty());
    let (exit, out, _) = scene
        .run_with_answer("kubectl-promote checkout --full --no-wait", Some(true))
        .await;
    assert_eq!(exit, Exit::Done);
    assert!(
        out.starts_with("rolloutcommand.serin.dev/checkout-promote-full-"),
        "{out}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_rollout_with_an_unknown_spec_can_be_aborted() {
    let scene = Scene::new();
    scene
        .world
        .edit::<Rollout>("shop", "checkout", |rollout| {
            rollout["spec"]["strategy"] = json!({"ofTheFuture": {}});
        })
        .unwrap();
    let (ran, ()) = tokio::join!(
        scene.run("kubectl-abort checkout"),
        scene.controller("Done", "given up", Some(aborted(Some(0.0))))
    );
    assert_eq!(ran.0, Exit::Done, "{ran:?}");
}

#[tokio::test(start_paused = true)]
async fn status_and_list_show_the_rollout() {
    let scene = Scene::new();
    let (exit, out, _) = scene.run("kubectl-serin status checkout").await;
    assert_eq!(exit, Exit::Done);
    assert!(out.contains("Paused · Progressing · step 2/4"), "{out}");
    assert!(
        out.contains("httproutes.gateway.networking.k8s.io"),
        "the missing route is reported: {out}"
    );
    let (_, yaml, _) = scene.run("kubectl-serin status checkout -o yaml").await;
    assert!(yaml.contains("currentRevision: v2"), "{yaml}");
    let (_, list, _) = scene.run("kubectl-serin list -A").await;
    assert!(
        list.lines()
            .nth(1)
            .unwrap()
            .starts_with("shop       checkout  Paused  2/4   20 %    v2"),
        "{list}"
    );
    let (_, none, _) = scene.run("kubectl-serin list -n empty").await;
    assert_eq!(none, "No Rollouts in namespace empty.\n");
}

#[tokio::test(start_paused = true)]
async fn an_override_requires_a_reason_and_its_own_verb() {
    let arguments = ["kubectl-serin", "override", "checkout"].map(OsString::from);
    assert!(
        serin_kubectl::cli::parse("kubectl-serin", arguments.to_vec()).is_err(),
        "a reason is required"
    );
    let scene = Scene::with_verbs(&["create", "promote"]);
    let (exit, _, failure) = scene
        .run("kubectl-serin override checkout --reason incident")
        .await;
    assert_eq!(exit, Exit::Refused);
    assert!(failure.unwrap().to_string().contains("override"));
    let scene = Scene::new();
    let run = scene.run("kubectl-serin override checkout --reason incident --no-wait");
    assert_eq!(run.await.0, Exit::Done);
    let command = scene.commands().remove(0);
    assert_eq!(
        serde_json::to_value(&command.spec).unwrap()["verb"],
        "override"
    );
    assert_eq!(command.spec.reason.as_deref(), Some("incident"));
    assert_eq!(
        command.spec.preconditions.unwrap().revision.as_deref(),
        Some("v2")
    );
}
