//! Commands from the arguments to the outcome, against the API server in memory, with a door that
//! knows who may do what.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall fail there"
)]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use serin_crds::{Rollout, RolloutCommand};
use serin_fake_cluster::World;
use serin_kubectl::connect::Connection;
use serin_kubectl::exit::{Exit, Failure};

const EVERY_VERB: [&str; 9] = [
    "create",
    "promote",
    "promoteFull",
    "abort",
    "retry",
    "pause",
    "resume",
    "skipStep",
    "override",
];

/// A cluster in memory and a user of it.
struct Scene {
    world: World,
    user: &'static str,
    may: BTreeSet<&'static str>,
}

impl Scene {
    /// A Rollout at step 2 of 4 with 20 %, in namespace `shop`, and a user who may do everything.
    fn new() -> Self {
        let world = World::new(7);
        world.apply_object(rollout("checkout", "shop")).unwrap();
        let scene = Self {
            world,
            user: "ann",
            may: EVERY_VERB.into(),
        };
        scene.set_status(at_20_percent());
        scene
    }

    fn who_may_only(verbs: &[&'static str]) -> Self {
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

    /// Runs a command line and gives its exit code, what it printed and why it failed.
    async fn run(&self, line: &str) -> (Exit, String, Option<Failure>) {
        self.run_asked(line, None).await
    }

    async fn run_asked(&self, line: &str, answer: Option<bool>) -> (Exit, String, Option<Failure>) {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let name = line.split(' ').next().unwrap();
        let invocation = serin_kubectl::cli::parse(name, arguments).unwrap();
        let namespace = invocation
            .options
            .namespace
            .clone()
            .unwrap_or_else(|| "shop".into());
        let connection = Connection {
            client: self.door(),
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

    /// A client for which the API server knows who it is and asks the admission policy before it
    /// takes a command.
    fn door(&self) -> Client {
        let inner = self.world.client_of("kubectl");
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

    /// Acts as the controller does, once: takes the first command and lets the Rollout's status be
    /// what it then is.
    async fn controller(&self, outcome: &str, message: &str, status: Option<Value>) {
        self.world
            .until(
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

fn status(phase: &str, stage: &str, step: Option<u32>, asked: f64, verified: Option<f64>) -> Value {
    let step = step.map(|index| json!({"index": index, "startedAt": "2026-03-01T11:00:00Z"}));
    json!({
        "observedGeneration": 1, "phase": phase, "stage": stage, "stableRevision": "v1", "currentRevision": "v2",
        "step": step, "weights": {"desired": asked, "verified": verified}, "replicas": 0, "updatedReplicas": 0,
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
async fn promote_is_bound_to_what_was_seen_and_tells_what_happened() {
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
         Revision v2 was at step 2/4 with 20 % of the traffic, now at step 3/4 with 50 % (not yet confirmed) (Progressing).\n"
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
            .contains("stable v1 has all traffic, as the router confirms"),
        "{}",
        ran.1
    );
}

#[tokio::test(start_paused = true)]
async fn an_abort_that_no_router_confirms_says_so() {
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
async fn what_the_controller_refuses_is_told_with_its_reason() {
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
    // The step at hand belongs to v2: nothing is assumed about v1's.
    assert_eq!(
        serde_json::to_value(&scene.commands()[0].spec.preconditions).unwrap(),
        json!({"revision": "v1"})
    );
}

#[tokio::test(start_paused = true)]
async fn who_may_only_abort_is_told_so_and_how_to_get_more() {
    let scene = Scene::who_may_only(&["create", "abort"]);
    let (exit, _, failure) = scene.run("kubectl-promote checkout").await;
    assert_eq!(exit, Exit::Refused);
    insta::assert_snapshot!(failure.unwrap().to_string());
    assert!(scene.commands().is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_may_not_create_commands_is_told_what_it_takes() {
    let scene = Scene::who_may_only(&["abort"]);
    let (exit, _, failure) = scene.run("kubectl-abort checkout").await;
    assert_eq!(exit, Exit::Refused);
    insta::assert_snapshot!(failure.unwrap().to_string());
}

#[tokio::test(start_paused = true)]
async fn a_command_that_nobody_acts_on_times_out_and_stands() {
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
async fn a_command_that_was_cleared_away_has_its_outcome_in_the_rollout() {
    let scene = Scene::new();
    let controller = async {
        let world = &scene.world;
        world
            .until(
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
async fn a_broken_connection_while_it_waits_is_taken_up_again() {
    let scene = Scene::new();
    let controller = async {
        scene
            .world
            .until(
                |world| !world.objects::<RolloutCommand>().is_empty(),
                Duration::from_secs(10),
            )
            .await
            .unwrap();
        scene.world.api_away_for(Duration::from_secs(4));
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
async fn a_name_that_does_not_exist_suggests_near_ones_and_other_namespaces() {
    let scene = Scene::new();
    scene
        .world
        .apply_object(rollout("chekout", "other"))
        .unwrap();
    let (exit, _, failure) = scene.run("kubectl-abort chekout").await;
    assert_eq!(exit, Exit::Usage);
    assert_eq!(
        failure.unwrap().to_string(),
        "there is no Rollout chekout in namespace shop\n  Did you mean checkout?\n  \
         There is one in namespace other: add -n other"
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_promotion_that_is_not_confirmed_asks_for_nothing() {
    let scene = Scene::new();
    let (exit, ..) = scene
        .run_asked("kubectl-promote checkout --full", Some(false))
        .await;
    assert_eq!(exit, Exit::Refused);
    assert!(scene.commands().is_empty());
    let (exit, out, _) = scene
        .run_asked("kubectl-promote checkout --full --no-wait", Some(true))
        .await;
    assert_eq!(exit, Exit::Done);
    assert!(
        out.starts_with("rolloutcommand.serin.dev/checkout-promote-full-"),
        "{out}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_rollout_whose_spec_this_plugin_cannot_read_can_be_aborted() {
    let scene = Scene::new();
    scene
        .world
        .edit::<Rollout>("shop", "checkout", |rollout| {
            rollout["spec"]["strategy"] = json!({"ofTheFuture": {}})
        })
        .unwrap();
    let (ran, ()) = tokio::join!(
        scene.run("kubectl-abort checkout"),
        scene.controller("Done", "given up", Some(aborted(Some(0.0))))
    );
    assert_eq!(ran.0, Exit::Done, "{ran:?}");
}

#[tokio::test(start_paused = true)]
async fn status_and_list_show_what_there_is() {
    let scene = Scene::new();
    let (exit, out, _) = scene.run("kubectl-serin status checkout").await;
    assert_eq!(exit, Exit::Done);
    assert!(out.contains("Paused · Progressing · step 2/4"), "{out}");
    assert!(
        out.contains("httproutes.gateway.networking.k8s.io"),
        "the missing route is told: {out}"
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
async fn an_override_takes_a_reason_and_a_right_of_its_own() {
    let arguments = ["kubectl-serin", "override", "checkout"].map(OsString::from);
    assert!(
        serin_kubectl::cli::parse("kubectl-serin", arguments.to_vec()).is_err(),
        "it is asked for with a reason"
    );
    let scene = Scene::who_may_only(&["create", "promote"]);
    let (exit, _, failure) = scene
        .run("kubectl-serin override checkout --reason incident")
        .await;
    assert_eq!(exit, Exit::Refused);
    assert!(failure.unwrap().to_string().contains("override"));
    let scene = Scene::new();
    let asking = scene.run("kubectl-serin override checkout --reason incident --no-wait");
    assert_eq!(asking.await.0, Exit::Done);
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
