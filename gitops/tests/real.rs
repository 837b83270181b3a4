//! The files for Kustomize and Argo CD with the real programs: Kustomize inside kubectl, and the Lua
//! of Argo CD. They are compiled with Go on the first run.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test, outside its functions"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use serin_cluster::{GoModule, Progress, build_cluster_programs, build_programs};
use serin_crds::RolloutCommand;
use serin_gitops::argocd::{ACTIONS, action};

/// Makes tests of these functions. Their programs are compiled with Go.
macro_rules! tests_that_need_go {
    ($($name:ident),+ $(,)?) => {
        mod needs_go {
            $(
                #[tokio::test]
                #[ignore = "needs Go: cargo xtask test"]
                async fn $name() {
                    super::$name().await;
                }
            )+
        }
    };
}

tests_that_need_go! {
    argo_cd_reads_the_health_of_a_rollout,
    argo_cd_offers_the_actions_that_the_controller_permits,
    each_action_of_argo_cd_creates_a_command,
    kustomize_renames_what_a_rollout_refers_to,
    kustomize_sets_images_replicas_and_labels_of_a_rollout,
    a_strategic_merge_patch_merges_the_lists_of_a_rollout_by_name,
}

/// The interpreter that Argo CD uses.
const LUA: GoModule = GoModule {
    name: "lua",
    version: "gopher-lua 1.1.1",
    linker: "",
    programs: &[("glua", "github.com/yuin/gopher-lua/cmd/glua")],
};

/// Runs a script as Argo CD does, with few libraries, and prints its result as JSON.
const HARNESS: &str = r#"
local emit = print
local function json(value)
  if type(value) == "table" then
    local parts = {}
    if #value > 0 then
      for _, item in ipairs(value) do parts[#parts + 1] = json(item) end
      return "[" .. table.concat(parts, ",") .. "]"
    end
    for key, item in pairs(value) do parts[#parts + 1] = string.format("%q", key) .. ":" .. json(item) end
    return "{" .. table.concat(parts, ",") .. "}"
  end
  if type(value) == "string" then return string.format("%q", value) end
  return tostring(value)
end
os = {time = os.time, date = os.date}
io, debug, package, require, dofile, loadfile, load, loadstring = nil
"#;

fn gitops() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

async fn lua() -> PathBuf {
    let built = build_programs(&gitops().join("tools"), &[LUA], Progress::detect()).await;
    built.unwrap()["glua"].clone()
}

/// A value as a Lua expression.
fn lua_value(value: &Value) -> String {
    match value {
        Value::Null => "nil".to_owned(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(lua_value).collect();
            format!("{{{}}}", items.join(","))
        }
        Value::Object(fields) => {
            let fields = fields.iter();
            let fields = fields.map(|(name, field)| format!("[{name:?}]={}", lua_value(field)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        plain => plain.to_string(),
    }
}

/// The result of a script for a Rollout.
fn run_lua(lua: &Path, script: &str, obj: &Value) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("script.lua");
    let text = format!(
        "{HARNESS}\nobj = {}\nlocal function run()\n{script}\nend\nemit(json(run()))\n",
        lua_value(obj)
    );
    std::fs::write(&file, text).unwrap();
    let output = Command::new(lua).arg(&file).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text} {errors}"))
}

fn script(path: &str) -> String {
    std::fs::read_to_string(gitops().join("argocd").join(path)).unwrap()
}

fn rollout(status: Value) -> Value {
    json!({
        "metadata": {"name": "shop", "namespace": "web", "generation": 2},
        "spec": {"strategy": {"canary": {}}},
        "status": status,
    })
}

/// A release that waits at a pause step.
fn paused() -> Value {
    rollout(json!({
        "observedGeneration": 2, "phase": "Paused", "stage": "Progressing", "message": "paused",
        "currentRevision": "5d4f", "stableRevision": "7c9b", "step": {"index": 1},
        "pause": {"reason": "Step"},
    }))
}

/// The actions that are not disabled.
fn permitted(lua: &Path, obj: &Value) -> Vec<String> {
    let actions = run_lua(lua, &script("actions/discovery.lua"), obj);
    let actions = actions.as_object().unwrap();
    assert_eq!(actions.len(), ACTIONS.len());
    let permitted = actions.iter();
    let permitted = permitted.filter(|(_, action)| action["disabled"] == false);
    permitted.map(|(name, _)| name.clone()).collect()
}

async fn argo_cd_reads_the_health_of_a_rollout() {
    let lua = lua().await;
    let health = |obj: &Value| {
        let health = run_lua(&lua, &script("health.lua"), obj);
        health["status"].as_str().unwrap().to_owned()
    };
    let phase = |phase: &str, observed: i64| {
        rollout(json!({"phase": phase, "observedGeneration": observed, "message": "m"}))
    };
    let phases = [
        ("Healthy", "Healthy"),
        ("Paused", "Suspended"),
        ("Degraded", "Degraded"),
        ("Progressing", "Progressing"),
        ("OfTheFuture", "Unknown"),
    ];
    for (status, expected) in phases {
        assert_eq!(health(&phase(status, 2)), expected);
        assert_eq!(health(&phase(status, 1)), "Progressing", "of an older spec");
    }
    assert_eq!(health(&rollout(json!({}))), "Progressing");
    assert_eq!(health(&rollout(Value::Null)), "Progressing");
}

async fn argo_cd_offers_the_actions_that_the_controller_permits() {
    let lua = lua().await;
    let releasing = ["abort", "pause", "promote", "promote-full", "skip-step"];
    assert_eq!(permitted(&lua, &paused()), releasing);
    let mut by_command = paused();
    by_command["status"]["pause"]["reason"] = json!("Command");
    assert!(permitted(&lua, &by_command).contains(&"resume".to_owned()));
    assert_eq!(
        permitted(&lua, &rollout(json!({"stage": "Stable"}))),
        ["restart"]
    );
    assert_eq!(
        permitted(&lua, &rollout(json!({"stage": "Aborted"}))),
        ["retry"]
    );
    assert!(permitted(&lua, &rollout(Value::Null)).is_empty());
    let mut observing = paused();
    observing["spec"]["mode"] = json!("Observe");
    assert!(permitted(&lua, &observing).is_empty());
}

async fn each_action_of_argo_cd_creates_a_command() {
    let lua = lua().await;
    for (name, verb) in ACTIONS {
        let result = run_lua(&lua, &action(verb), &paused());
        let changes = result.as_array().unwrap();
        assert_eq!(changes.len(), 1, "{name}");
        assert_eq!(changes[0]["operation"], "create");
        let resource = &changes[0]["resource"];
        assert_eq!(resource["metadata"]["namespace"], "web");
        let command: RolloutCommand = serde_json::from_value(resource.clone()).unwrap();
        assert_eq!(command.spec.rollout_ref.name, "shop");
        assert_eq!(resource["spec"]["verb"], verb);
        assert!(command.spec.requested_by.is_some());
        let preconditions = command.spec.preconditions.unwrap();
        assert_eq!(preconditions.revision.as_deref(), Some("5d4f"));
        let is_bound = matches!(verb, "promote" | "skipStep");
        assert_eq!(preconditions.step, is_bound.then_some(1), "{name}");
    }
    // The admission policy permits neither owner references nor finalizers.
    let result = run_lua(&lua, &action("abort"), &rollout(Value::Null));
    let metadata = &result[0]["resource"]["metadata"];
    let fields: Vec<&String> = metadata.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["name", "namespace"]);
    assert!(result[0]["resource"]["spec"]["preconditions"].is_null());
}

/// The objects of an overlay by kind and name.
async fn kustomize(overlay: &str) -> Vec<Value> {
    let checkout = gitops().parent().unwrap();
    let programs = build_cluster_programs(checkout, &["kubectl"], Progress::detect()).await;
    let folder = tempfile::tempdir().unwrap();
    for (name, files) in [
        ("base", &["kustomization.yaml", "app.yaml"][..]),
        (overlay, &["kustomization.yaml"]),
    ] {
        let target = folder.path().join(name);
        std::fs::create_dir(&target).unwrap();
        for file in files {
            let source = gitops().join("tests/kustomize").join(name).join(file);
            std::fs::copy(source, target.join(file)).unwrap();
        }
    }
    for file in ["kustomizeconfig.yaml", "schema.json"] {
        let source = gitops().join("kustomize").join(file);
        std::fs::copy(source, folder.path().join(overlay).join(file)).unwrap();
    }
    let mut kubectl = Command::new(&programs.unwrap()["kubectl"]);
    kubectl.arg("kustomize").arg(folder.path().join(overlay));
    let output = kubectl.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(errors, "", "a field of the files is deprecated");
    let text = String::from_utf8(output.stdout).unwrap();
    serde_saphyr::from_multiple(&text).unwrap()
}

fn object<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut objects = objects.iter();
    let found = objects.find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn names(list: &Value) -> Vec<&str> {
    let items = list.as_array().unwrap().iter();
    items.map(|item| item["name"].as_str().unwrap()).collect()
}

async fn kustomize_renames_what_a_rollout_refers_to() {
    let objects = kustomize("overlay").await;
    let rollout = object(&objects, "Rollout", "eu-shop");
    let pod = &rollout["spec"]["template"]["spec"];
    let generated = |kind: &str| {
        let mut objects = objects.iter();
        let object = objects.find(|object| object["kind"] == kind).unwrap();
        let name = object["metadata"]["name"].as_str().unwrap();
        assert!(name.len() > "eu-shop-".len(), "{name} has no hash");
        name.to_owned()
    };
    let (config_map, secret) = (generated("ConfigMap"), generated("Secret"));
    let container = &pod["containers"][0];
    assert_eq!(container["envFrom"][0]["configMapRef"]["name"], config_map);
    assert_eq!(pod["volumes"][0]["configMap"]["name"], config_map);
    assert_eq!(
        container["env"][1]["valueFrom"]["secretKeyRef"]["name"],
        secret
    );
    assert_eq!(pod["serviceAccountName"], "eu-shop");
    let canary = &rollout["spec"]["strategy"]["canary"];
    assert_eq!(canary["stableService"], "eu-shop");
    assert_eq!(canary["canaryService"], "eu-shop-canary");
    assert_eq!(
        canary["trafficRouting"]["gatewayAPI"]["httpRoute"],
        "eu-shop"
    );
    let route = object(&objects, "HTTPRoute", "eu-shop");
    assert_eq!(
        route["spec"]["rules"][0]["backendRefs"][0]["name"],
        "eu-shop"
    );
    let scaler = object(&objects, "HorizontalPodAutoscaler", "eu-shop");
    assert_eq!(scaler["spec"]["scaleTargetRef"]["name"], "eu-shop");
}

async fn kustomize_sets_images_replicas_and_labels_of_a_rollout() {
    let objects = kustomize("overlay").await;
    let rollout = object(&objects, "Rollout", "eu-shop");
    let template = &rollout["spec"]["template"];
    assert_eq!(
        template["spec"]["containers"][0]["image"],
        "registry.example/shop:v2"
    );
    assert_eq!(
        template["spec"]["containers"][1]["image"],
        "registry.example/proxy:v1"
    );
    assert_eq!(
        template["spec"]["initContainers"][0]["image"],
        "registry.example/migrate:v2"
    );
    assert_eq!(rollout["spec"]["replicas"], 5);
    assert_eq!(
        template["metadata"]["labels"],
        json!({"app": "shop", "team": "web"})
    );
    let selector = &rollout["spec"]["selector"]["matchLabels"];
    assert_eq!(selector, &json!({"app": "shop"}), "it is immutable");
}

async fn a_strategic_merge_patch_merges_the_lists_of_a_rollout_by_name() {
    let objects = kustomize("overlay").await;
    let rollout = object(&objects, "Rollout", "eu-shop");
    let pod = &rollout["spec"]["template"]["spec"];
    assert_eq!(names(&pod["containers"]), ["app", "proxy"]);
    assert_eq!(names(&pod["containers"][0]["env"]), ["MODE", "TOKEN"]);
    assert_eq!(pod["containers"][0]["env"][0]["value"], "overlay");
    assert_eq!(
        pod["containers"][0]["resources"]["limits"]["memory"],
        "64Mi"
    );
    assert_eq!(
        names(&pod["volumes"]),
        ["settings"],
        "one was deleted by the patch"
    );
    let objectives = &rollout["spec"]["analysis"]["objectives"];
    assert_eq!(names(objectives), ["latency", "availability"]);
    // The schema replaces that of Kubernetes, so it must contain its merge keys, too.
    let deployment = object(&objects, "Deployment", "eu-worker");
    let containers = &deployment["spec"]["template"]["spec"]["containers"];
    assert_eq!(names(containers), ["app", "proxy"]);
    assert_eq!(names(&containers[0]["env"]), ["MODE"]);
}
