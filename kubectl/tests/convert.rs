//! `convert` and `lint` as programs, and what holds for every conversion.

#![expect(clippy::unwrap_used, reason = "a test fails at the first error")]
#![expect(clippy::panic, reason = "a test fails at the first error")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use serin_convert::{Conversion, NoteLevel, Options, Outcome, convert};
use serin_kubectl::documents::{self, Documents};
use serin_kubectl::lint;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/convert")
}

fn objects(fixture: &str) -> Vec<Value> {
    let documents = documents::read(&[folder().join(fixture)]).unwrap();
    assert_eq!(documents.problems, Vec::<String>::new());
    let objects = documents.objects.into_iter();
    objects.map(|document| document.object).collect()
}

fn with_gateway() -> Options {
    Options {
        gateway: Some("infra/public".to_owned()),
        indicator: Some("traefik".to_owned()),
        ..Options::default()
    }
}

/// The conversion of the first object.
fn first(fixture: &str, options: &Options) -> Conversion {
    convert(&objects(fixture), options).remove(0)
}

/// The Rollout of the first object.
fn rollout(fixture: &str, options: &Options) -> Value {
    let conversion = first(fixture, options);
    let rollout = conversion
        .outputs
        .iter()
        .find(|output| output["kind"] == "Rollout");
    rollout.unwrap_or_else(|| panic!("{conversion:#?}")).clone()
}

fn note<'a>(conversion: &'a Conversion, field: &str) -> &'a serin_convert::Note {
    let mut notes = conversion.notes.iter();
    let found = notes.find(|note| note.field.contains(field));
    found.unwrap_or_else(|| panic!("no note of {field}: {:#?}", conversion.notes))
}

/// Exit code, standard output and standard error of the program.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-serin"));
    let ended = command
        .current_dir(folder())
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        ended.status.code().unwrap(),
        text(ended.stdout),
        text(ended.stderr),
    )
}

#[test]
fn every_result_is_accepted_by_lint() {
    let choices = [
        Options::default(),
        with_gateway(),
        Options {
            inline: true,
            ..with_gateway()
        },
    ];
    let mut rollouts = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        for options in &choices {
            for conversion in convert(&objects(&name), options) {
                assert_eq!(
                    conversion.outputs.is_empty(),
                    matches!(
                        conversion.outcome,
                        Outcome::NotConverted | Outcome::Unchanged | Outcome::Absorbed
                    ),
                    "{name}: {conversion:?}"
                );
                for output in &conversion.outputs {
                    if output["apiVersion"] == "serin.dev/v1alpha1" {
                        rollouts += 1;
                        assert_eq!(
                            lint::errors(output),
                            Vec::<String>::new(),
                            "{name}: {output:#}"
                        );
                    }
                }
            }
        }
    }
    assert!(rollouts > 15, "only {rollouts} Rollouts");
}

#[test]
fn a_result_is_not_converted_again() {
    for conversion in convert(&objects("argo-gateway-api.yaml"), &Options::default()) {
        for again in convert(&conversion.outputs, &Options::default()) {
            assert_eq!(again.outcome, Outcome::Unchanged, "{again:?}");
        }
    }
}

#[test]
fn services_without_a_router_are_kept() {
    let conversion = first("argo-services.yaml", &Options::default());
    assert_eq!(conversion.outcome, Outcome::Whole, "{:?}", conversion.notes);
    let rollout = &conversion.outputs[0];
    let canary = &rollout["spec"]["strategy"]["canary"];
    assert_eq!(canary["stableService"], "shop-stable");
    assert_eq!(canary["canaryService"], "shop-preview");
    assert_eq!(canary["steps"][1], json!({"pause": {}}));
    assert_eq!(canary["steps"][3], json!({"pause": {"duration": 10}}));
    assert_eq!(rollout["metadata"], json!({"name": "shop"}));
}

#[test]
fn a_ratio_of_the_canary_becomes_an_objective_and_the_rest_checks() {
    let conversion = first("argo-gateway-api.yaml", &Options::default());
    let spec = &conversion.outputs[0]["spec"];
    let analysis = &spec["analysis"];
    assert_eq!(
        analysis["prometheus"]["address"],
        "http://prometheus.monitoring:9090"
    );
    assert_eq!(analysis["objectives"][0]["objective"], 99.0);
    assert_eq!(
        analysis["objectives"][0]["counters"],
        json!({
            "total": "http_requests_total",
            "errors": "http_requests_total{code=~\"5..\"}",
            "variants": {"label": "service", "canary": "checkout-canary", "stable": "checkout"},
        })
    );
    assert_eq!(
        analysis["checks"][0]["query"],
        "max(container_memory_working_set_bytes{pod=~\"{{args.canaryReplicaSet}}-.*\"})"
    );
    assert_eq!(
        spec["strategy"]["canary"]["trafficRouting"]["gatewayAPI"]["httpRoute"],
        "checkout"
    );
    assert_eq!(
        note(&conversion, "progressDeadlineSeconds").level,
        NoteLevel::Changed
    );
    assert_eq!(note(&conversion, "startingStep").level, NoteLevel::Changed);
}

#[test]
fn a_delay_of_0_after_an_abort_still_means_never() {
    let conversion = first("argo-gateway-api.yaml", &Options::default());
    let canary = &conversion.outputs[0]["spec"]["strategy"]["canary"];
    assert_eq!(canary["abortScaleDownDelaySeconds"], i32::MAX);
    assert_eq!(
        note(&conversion, "abortScaleDownDelaySeconds").level,
        NoteLevel::Kept
    );
}

#[test]
fn a_step_that_cannot_be_decided_waits_for_a_person() {
    let conversion = first("argo-inline-analysis.yaml", &Options::default());
    let rollout = &conversion.outputs[0];
    let steps = &rollout["spec"]["strategy"]["canary"]["steps"];
    assert_eq!(
        *steps,
        json!([
            {"setWeight": 20},
            {"analysis": {"duration": "120s"}},
            {"setWeight": 40},
            {"analysis": {"checks": ["smoke"]}},
            {"pause": {}},
        ])
    );
    assert_eq!(
        rollout["spec"]["analysis"]["checks"][0]["condition"],
        "!(result[0] > 0.5)"
    );
    assert_eq!(
        note(&conversion, "steps[4].experiment").level,
        NoteLevel::NotYet
    );
    let smoke = &rollout["spec"]["analysis"]["checks"][1];
    assert_eq!(
        (&smoke["phase"], &smoke["http"]["url"]),
        (&json!("step"), &json!("http://search/health"))
    );
    assert_eq!(
        smoke["condition"],
        "status >= 200 && status < 300 && (body.status == \"ok\")"
    );
    assert_eq!(note(&conversion, "web.url").level, NoteLevel::Changed);
}

#[test]
fn a_release_is_not_promoted_without_a_metric_that_is_lost() {
    let mut objects = objects("argo-gateway-api.yaml");
    objects[1]["spec"]["metrics"][1]["provider"] = json!({"datadog": {"query": "avg:x{*}"}});
    let conversion = convert(&objects, &Options::default()).remove(0);
    let steps = &conversion.outputs[0]["spec"]["strategy"]["canary"]["steps"];
    assert_eq!(
        steps.as_array().unwrap().last(),
        Some(&json!({"pause": {}}))
    );
    let without_indicator = rollout("flagger-gateway-api.yaml", &Options::default());
    let steps = &without_indicator["spec"]["strategy"]["canary"]["steps"];
    assert_eq!(
        steps.as_array().unwrap().last(),
        Some(&json!({"pause": {}}))
    );
}

#[test]
fn a_threshold_from_an_argument_is_inserted() {
    let mut objects = objects("argo-gateway-api.yaml");
    objects[1]["spec"]["metrics"][1]["successCondition"] = json!("result[0] < {{args.limit}}");
    let args = objects[1]["spec"]["args"].as_array_mut().unwrap();
    args.push(json!({"name": "limit", "value": "5"}));
    let conversion = convert(&objects, &Options::default()).remove(0);
    let check = &conversion.outputs[0]["spec"]["analysis"]["checks"][0];
    assert_eq!(check["condition"], "result[0] < 5");
}

#[test]
fn a_router_that_serin_does_not_write_is_refused_without_a_gateway() {
    for fixture in ["argo-istio-subsets.yaml", "flagger-istio.yaml"] {
        let refused = first(fixture, &Options::default());
        assert_eq!(refused.outcome, Outcome::NotConverted, "{fixture}");
        assert!(
            refused
                .notes
                .iter()
                .any(|note| note.fix.contains("--gateway")),
            "{fixture}"
        );
        let converted = first(fixture, &with_gateway());
        assert_eq!(
            converted.outcome,
            Outcome::WithNotes,
            "{fixture}: {:?}",
            converted.notes
        );
    }
}

#[test]
fn a_stable_ingress_keeps_its_traffic_with_a_canary_ingress() {
    let converted = first("argo-nginx.yaml", &Options::default());
    assert_eq!(converted.outcome, Outcome::Whole, "{:?}", converted.notes);
    let routing = &converted.outputs[0]["spec"]["strategy"]["canary"]["trafficRouting"];
    assert_eq!(*routing, json!({"nginx": {"canaryIngress": "cart-canary"}}));
    let service = json!({"name": "cart-canary", "port": {"name": "http"}});
    let path = json!({"path": "/", "pathType": "Prefix", "backend": {"service": service}});
    assert_eq!(
        converted.outputs[1],
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {
                "name": "cart-canary", "annotations": {"nginx.ingress.kubernetes.io/canary": "true"},
            },
            "spec": {
                "ingressClassName": "nginx",
                "tls": [{"hosts": ["cart.example"], "secretName": "cart-tls"}],
                "rules": [{"host": "cart.example", "http": {"paths": [path]}}],
            },
        })
    );
}

#[test]
fn a_stable_ingress_that_is_not_in_the_input_or_not_the_only_one_is_refused() {
    let mut without = objects("argo-nginx.yaml");
    without.pop();
    let mut several = objects("argo-nginx.yaml");
    let routing = &mut several[0]["spec"]["strategy"]["canary"]["trafficRouting"];
    *routing = json!({"nginx": {"stableIngresses": ["cart", "other"]}});
    for objects in [without, several] {
        let refused = convert(&objects, &Options::default()).remove(0);
        assert_eq!(refused.outcome, Outcome::NotConverted);
        assert!(
            note(&refused, "nginx")
                .message
                .contains("the only stable Ingress")
        );
    }
}

#[test]
fn the_parts_of_a_large_total_stay_exact_in_a_canary_ingress() {
    let mut objects = objects("argo-nginx.yaml");
    let canary = &mut objects[0]["spec"]["strategy"]["canary"];
    canary["trafficRouting"]["maxTrafficWeight"] = json!(1000);
    canary["trafficRouting"]["nginx"]["additionalIngressAnnotations"] =
        json!({"canary-by-header": "X-Beta", "limit-rps": "5"});
    canary["steps"] = json!([{"setWeight": 125}]);
    let converted = convert(&objects, &Options::default()).remove(0);
    assert_eq!(
        converted.outputs[0]["spec"]["strategy"]["canary"]["steps"],
        json!([{"setWeight": 12.5}])
    );
    assert_eq!(
        converted.outputs[1]["metadata"]["annotations"],
        json!({
            "nginx.ingress.kubernetes.io/canary": "true",
            "nginx.ingress.kubernetes.io/canary-weight-total": "1000",
            "nginx.ingress.kubernetes.io/limit-rps": "5",
        })
    );
    let header = note(&converted, "additionalIngressAnnotations");
    assert!(header.message.contains("canary-by-header"), "{header:?}");
}

#[test]
fn a_traefik_service_and_an_apisix_route_of_argo_are_kept() {
    for (router, expected) in [
        (
            json!({"traefik": {"weightedTraefikServiceName": "cart"}}),
            json!({"traefik": {"traefikServices": [{"name": "cart"}]}}),
        ),
        (
            json!({"apisix": {"route": {"name": "cart", "rules": ["api"]}}}),
            json!({"apisix": {"apisixRoutes": [{"name": "cart", "rules": ["api"]}]}}),
        ),
    ] {
        let mut objects = objects("argo-nginx.yaml");
        objects[0]["spec"]["strategy"]["canary"]["trafficRouting"] = router;
        let converted = convert(&objects, &Options::default()).remove(0);
        assert_eq!(converted.outcome, Outcome::Whole, "{:?}", converted.notes);
        let routing = &converted.outputs[0]["spec"]["strategy"]["canary"]["trafficRouting"];
        assert_eq!(*routing, expected);
    }
}

#[test]
fn a_canary_ingress_without_a_gateway_is_kept_for_a_rollout_to_name() {
    let results = convert(&objects("nginx-canary.yaml"), &Options::default());
    assert_eq!(
        results[1].outputs,
        [objects("nginx-canary.yaml")[1].clone()]
    );
    let fix = &note(&results[1], "canary").fix;
    assert!(fix.contains("canaryIngress: blog-canary"), "{fix}");
}

#[test]
fn virtual_services_that_split_between_hosts_are_kept() {
    let routing = |options: &Options| {
        rollout("argo-istio.yaml", options)["spec"]["strategy"]["canary"]["trafficRouting"].clone()
    };
    assert_eq!(
        routing(&Options::default()),
        json!({"istio": {"virtualServices": [{"name": "prices", "routes": ["primary"]}]}})
    );
    assert_eq!(
        routing(&with_gateway()),
        json!({"gatewayAPI": {"httpRoute": "prices"}})
    );
}

#[test]
fn routes_of_all_kinds_of_the_gateway_api_plugin_are_kept() {
    let mut objects = objects("argo-gateway-api.yaml");
    let canary = &mut objects[0]["spec"]["strategy"]["canary"];
    canary["trafficRouting"]["plugins"]["argoproj-labs/gatewayAPI"] =
        json!({"httpRoute": "web", "grpcRoutes": [{"name": "api"}], "tcpRoute": "raw"});
    let converted = convert(&objects, &Options::default()).remove(0);
    let mut outputs = converted.outputs.iter();
    let rollout = outputs.find(|output| output["kind"] == "Rollout").unwrap();
    assert_eq!(
        rollout["spec"]["strategy"]["canary"]["trafficRouting"],
        json!({"gatewayAPI": {
            "httpRoutes": [{"name": "web"}], "grpcRoutes": [{"name": "api"}], "tcpRoutes": [{"name": "raw"}],
        }})
    );
}

#[test]
fn an_ingress_becomes_a_route_of_the_gateway() {
    let results = convert(&objects("argo-nginx.yaml"), &with_gateway());
    let route = &results[0].outputs[1];
    assert_eq!(
        route["spec"],
        json!({
            "parentRefs": [{"name": "public", "namespace": "infra"}],
            "hostnames": ["cart.example"],
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [{"name": "cart", "port": 80}],
            }],
        })
    );
    assert_eq!(note(&results[0], "proxy-body-size").level, NoteLevel::Lost);
    assert_eq!(note(&results[0], "spec.tls").level, NoteLevel::Changed);
    assert_eq!(results[2].outcome, Outcome::Absorbed);
}

#[test]
fn what_serin_cannot_do_is_not_converted() {
    let refused = first("flagger-ab-testing.yaml", &with_gateway());
    assert_eq!(refused.outcome, Outcome::NotConverted);
    let note = note(&refused, "spec.analysis.iterations");
    assert_eq!(note.level, NoteLevel::NotYet);
}

#[test]
fn blue_green_of_argo_keeps_its_services_and_its_analysis_in_both_phases() {
    let conversion = first("argo-blue-green.yaml", &Options::default());
    let spec = &conversion.outputs[0]["spec"];
    assert_eq!(
        spec["strategy"],
        json!({"blueGreen": {
            "activeService": "billing", "previewService": "billing-preview",
            "previewReplicaCount": 1, "autoPromotionEnabled": false, "scaleDownDelaySeconds": 60,
            "previewMetadata": {"labels": {"role": "preview"}},
            "activeMetadata": {"labels": {"role": "active"}, "annotations": {"team": "payments"}},
        }})
    );
    assert_eq!(spec["restartAt"], "2026-11-30T12:00:00Z");
    let replaced = note(&conversion, "previewMetadata.labels[app]");
    assert_eq!(replaced.level, NoteLevel::Lost);
    let checks = spec["analysis"]["checks"].as_array().unwrap();
    let phases: Vec<_> = checks.iter().map(|check| &check["phase"]).collect();
    assert_eq!(phases, ["beforePromotion", "bake"]);
    assert!(spec["analysis"]["bakeTime"].is_string(), "{spec:#}");
    let limit = note(&conversion, "scaleDownDelayRevisionLimit");
    assert_eq!(limit.level, NoteLevel::NotYet);
}

#[test]
fn a_canary_of_flagger_keeps_its_deployment_weights_and_thresholds() {
    let conversion = first("flagger-gateway-api.yaml", &with_gateway());
    let spec = &conversion.outputs[0]["spec"];
    assert_eq!(
        spec["workloadRef"],
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "podium"})
    );
    let steps = spec["strategy"]["canary"]["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 10);
    assert_eq!(steps[0], json!({"setWeight": 10}));
    assert_eq!(steps[1], json!({"analysis": {"duration": "1m"}}));
    let analysis = &spec["analysis"];
    assert_eq!(
        analysis["objectives"][0],
        json!({"name": "request-success-rate", "objective": 99.0, "indicator": "traefik"})
    );
    assert_eq!(
        analysis["objectives"][1],
        json!({"name": "request-duration", "objective": 99, "indicator": "traefik", "latency": {"threshold": "500ms"}})
    );
    let hooks = [&analysis["checks"][1], &analysis["checks"][2]];
    assert_eq!(
        hooks.map(|hook| (&hook["name"], &hook["phase"], &hook["failureLimit"])),
        [
            (&json!("load-test"), &json!(null), &json!(4)),
            (
                &json!("approve"),
                &json!("beforePromotion"),
                &json!(1_000_000)
            ),
        ]
    );
    assert_eq!(
        hooks[0]["http"]["body"],
        "{\"metadata\":{},\"name\":\"podium\",\"namespace\":\"{{args.namespace}}\",\"phase\":\"Progressing\"}"
    );
    let check = &analysis["checks"][0];
    assert_eq!(
        (&check["failureLimit"], &check["condition"]),
        (&json!(4), &json!("result[0] <= 5.0"))
    );
    assert!(
        check["query"]
            .as_str()
            .unwrap()
            .contains("pod=~\"{{args.canaryReplicaSet}}-[0-9a-zA-Z]+\""),
        "{check}"
    );
    let route = &conversion.outputs[1];
    assert_eq!(
        route["spec"]["parentRefs"],
        json!([{"name": "gateway", "namespace": "infra"}])
    );
    assert_eq!(
        note(&conversion, "webhooks[0].url").level,
        NoteLevel::Changed
    );
}

#[test]
fn what_flagger_generated_in_a_cluster_is_no_release_of_its_own() {
    let results = convert(&objects("flagger-live.yaml"), &with_gateway());
    let outputs: Vec<&Value> = results.iter().flat_map(|result| &result.outputs).collect();
    let names: Vec<String> = outputs
        .iter()
        .map(|output| format!("{}/{}", output["kind"], output["metadata"]["name"]).replace('"', ""))
        .collect();
    assert_eq!(
        names,
        [
            "Rollout/store",
            "HTTPRoute/store",
            "Deployment/store",
            "Service/store",
            "Service/store-canary",
            "HorizontalPodAutoscaler/store",
        ]
    );
    assert_eq!(
        outputs[1]["spec"]["rules"][0]["backendRefs"],
        json!([{"name": "store", "port": 8080}])
    );
    assert_eq!(outputs[2]["spec"]["replicas"], 3);
    assert_eq!(
        outputs[2]["metadata"],
        json!({"name": "store", "namespace": "web"})
    );
    assert_eq!(outputs[3]["spec"]["selector"], json!({"app": "store"}));
    assert_eq!(
        outputs[3]["metadata"],
        json!({"name": "store", "namespace": "web", "labels": {"app": "store"}})
    );
    for output in outputs {
        assert!(
            output["metadata"].get("ownerReferences").is_none(),
            "{output:#}"
        );
    }
    let (code, out, err) = run(&[
        "convert",
        "-f",
        "flagger-live.yaml",
        "--indicator",
        "traefik",
    ]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("# Deployment.apps web/store-primary was left out:\n# changed:"),
        "{out}"
    );
    let mut lines = out.lines().map(str::trim_start);
    let is_of_the_server = |line: &str| {
        let fields = ["resourceVersion:", "ownerReferences:", "uid:", "status:"];
        fields.iter().any(|field| line.starts_with(field))
    };
    assert_eq!(lines.find(|line| is_of_the_server(line)), None, "{out}");
}

#[test]
fn a_release_in_progress_of_flagger_is_reported() {
    let mut objects = objects("flagger-live.yaml");
    let idle = convert(&objects, &with_gateway()).remove(0);
    assert!(
        idle.notes.iter().all(|note| note.field != "spec.targetRef"),
        "{:?}",
        idle.notes
    );
    objects[1]["spec"]["template"]["spec"]["containers"][0]["image"] = json!("store:2.0");
    let busy = convert(&objects, &with_gateway()).remove(0);
    assert_eq!(note(&busy, "spec.targetRef").level, NoteLevel::Changed);
}

#[test]
fn an_autoscaler_scales_the_rollout() {
    for fixture in [
        "flagger-gateway-api.yaml",
        "flagger-live.yaml",
        "deployment.yaml",
    ] {
        let results = convert(&objects(fixture), &with_gateway());
        let autoscaler = results.last().unwrap();
        assert_eq!(
            autoscaler.outputs[0]["spec"]["scaleTargetRef"]["kind"], "Rollout",
            "{fixture}"
        );
    }
}

#[test]
fn a_deployment_stays_as_the_template_unless_inline() {
    let results = convert(&objects("deployment.yaml"), &with_gateway());
    let kinds: Vec<&Value> = results[0]
        .outputs
        .iter()
        .map(|output| &output["kind"])
        .collect();
    assert_eq!(kinds, ["Deployment", "Rollout"]);
    let rollout = &results[0].outputs[1];
    assert_eq!(
        rollout["spec"]["strategy"]["canary"]["trafficRouting"]["gatewayAPI"]["httpRoute"],
        "frontend"
    );
    let inline = rollout_inline();
    assert_eq!(inline["spec"]["adopt"], json!({"deployment": "frontend"}));
    assert_eq!(inline["spec"]["replicas"], 3);
}

fn rollout_inline() -> Value {
    rollout(
        "deployment.yaml",
        &Options {
            inline: true,
            ..Options::default()
        },
    )
}

#[test]
fn steps_of_openkruise_have_pods_traffic_and_a_pause() {
    let rollout = rollout("kruise.yaml", &Options::default());
    assert_eq!(
        rollout["spec"]["strategy"]["canary"]["steps"],
        json!([
            {"setCanaryScale": {"replicas": 1}},
            {"setWeight": 5.0},
            {"pause": {}},
            {"setCanaryScale": {"weight": 50.0}},
            {"setWeight": 50.0},
            {"pause": {"duration": 60}},
        ])
    );
    assert_eq!(
        rollout["spec"]["strategy"]["canary"]["canaryMetadata"],
        json!({"labels": {"role": "canary"}})
    );
}

#[test]
fn a_canary_ingress_becomes_two_weighted_backends() {
    let results = convert(&objects("nginx-canary.yaml"), &with_gateway());
    let backends = &results[1].outputs[0]["spec"]["rules"][0]["backendRefs"];
    assert_eq!(
        *backends,
        json!([
            {"name": "blog", "port": 80, "weight": 80},
            {"name": "blog-canary", "port": 80, "weight": 20},
        ])
    );
}

#[test]
fn an_unknown_field_of_a_source_is_never_dropped_silently() {
    let mut objects = objects("argo-services.yaml");
    objects[0]["spec"]["strategy"]["canary"]["shiny"] = json!({"new": 1});
    let conversion = convert(&objects, &Options::default()).remove(0);
    assert_eq!(
        note(&conversion, "spec.strategy.canary.shiny").level,
        NoteLevel::Lost
    );
}

#[test]
fn the_program_prints_yaml_with_notes_and_keeps_comments() {
    let (code, out, err) = run(&["convert", "-f", "argo-services.yaml"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("# The canary of the shop.\n"), "{out}");
    assert!(out.contains("name: shop-stable # the stable pods"), "{out}");
    assert!(err.contains("1 converted whole"), "{err}");
    let mut again = Documents::default();
    again.parse(&out, "out");
    assert_eq!((again.objects.len(), again.problems.len()), (2, 0), "{out}");
    let (code, out, _) = run(&["convert", "-f", "flagger-ab-testing.yaml"]);
    assert_eq!(code, 1);
    assert!(
        out.contains("was not converted") && out.contains("not yet: spec.analysis.iterations"),
        "{out}"
    );
    let (code, ..) = run(&["convert", "-f", "does-not-exist.yaml"]);
    assert_eq!(code, 2);
}

#[test]
fn the_report_counts_a_folder_and_names_objectives_that_are_too_strict() {
    let (code, out, err) = run(&[
        "convert",
        "-f",
        ".",
        "--report",
        "--gateway",
        "infra/public",
        "--indicator",
        "traefik",
        "--rps",
        "orders=0.01",
        "--error-rate",
        "0.01%",
    ]);
    assert_eq!(code, 1, "{err}");
    assert!(
        out.contains("Canary.flagger.app test/orders: with notes"),
        "{out}"
    );
    assert!(
        out.contains("traffic: objective request-success-rate:"),
        "{out}"
    );
    assert!(
        out.contains("Rollout.argoproj.io billing: with notes"),
        "{out}"
    );
}

#[test]
fn lint_names_the_field_and_the_nearest_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rollout.yaml");
    let text = "apiVersion: serin.dev/v1alpha1
kind: Rollout
metadata: {name: shop}
spec:
  selector: {matchLabels: {app: shop}}
  strategy: {canary: {stableServce: shop, steps: [{setWeight: 120}]}}
  template: {metadata: {labels: {app: shop}}, spec: {containers: [{name: c, image: 'i:1'}]}}
---
kind: [
";
    std::fs::write(&file, text).unwrap();
    let (code, out, _) = run(&["lint", "-f", file.to_str().unwrap()]);
    assert_eq!(code, 1);
    for expected in [
        "spec.strategy.canary.stableServce: unknown field; did you mean stableService?",
        "spec.strategy.canary.steps[0].setWeight: 120 must be at most 100",
        "invalid YAML",
    ] {
        assert!(out.contains(expected), "{expected}: {out}");
    }
    let (_, json, _) = run(&["lint", "-f", file.to_str().unwrap(), "-o", "json"]);
    let findings: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(findings[0]["severity"], "error", "{findings}");
}

/// The findings of lint on a file.
fn findings(file: &Path) -> Vec<Value> {
    let (_, json, _) = run(&["lint", "-f", file.to_str().unwrap(), "-o", "json"]);
    serde_json::from_str(&json).unwrap()
}

#[test]
fn every_router_example_is_clean_and_a_wrong_backend_or_name_in_it_is_found() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let folder = tempfile::tempdir().unwrap();
    for (name, kind) in [
        ("catalog", "GRPCRoute"),
        ("vault", "TLSRoute"),
        ("broker", "TCPRoute"),
        ("checkout", "VirtualService"),
        ("blog", "TraefikService"),
        ("forum", "IngressRoute"),
    ] {
        let file = match kind {
            "VirtualService" => examples.join("router-istio.yaml"),
            "TraefikService" => examples.join("router-traefik.yaml"),
            _ => examples.join(format!("router-{}.yaml", kind.to_lowercase())),
        };
        assert_eq!(findings(&file), Vec::<Value>::new(), "{}", file.display());
        let text = std::fs::read_to_string(&file).unwrap();
        let edited = folder.path().join("edited.yaml");
        let message_after = |from: String, to: &str| {
            assert!(text.contains(&from), "{from} is not in {}", file.display());
            std::fs::write(&edited, text.replace(&from, to)).unwrap();
            let found = findings(&edited);
            assert_eq!(found.len(), 1, "{found:?}");
            found[0].to_string()
        };
        let backend = match kind {
            "VirtualService" => format!("host: {name},"),
            "TraefikService" | "IngressRoute" => format!("services: [{{name: {name},"),
            _ => format!("backendRefs: [{{name: {name},"),
        };
        let other_backend = backend.replace(name, "other");
        let message = message_after(backend, &other_backend);
        let expected = format!("Service `{name}` is not a backend");
        assert!(
            message.contains(&expected) && message.contains(kind),
            "{message}"
        );
        let route = format!("kind: {kind}\nmetadata:\n  name: {name}\n");
        let message = message_after(route.clone(), &route.replace(name, "other"));
        let expected = format!("{kind} {name} is not in these files");
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn the_example_of_a_canary_ingress_is_clean_and_a_main_ingress_in_its_place_is_found() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let file = examples.join("router-nginx.yaml");
    assert_eq!(findings(&file), Vec::<Value>::new());
    let text = std::fs::read_to_string(&file).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let edited = folder.path().join("edited.yaml");
    let name = "canaryIngress: shop-canary";
    assert!(text.contains(name));
    std::fs::write(&edited, text.replace(name, "canaryIngress: shop")).unwrap();
    let found = findings(&edited);
    assert_eq!(found.len(), 1, "{found:?}");
    let message = found[0].to_string();
    assert!(
        message.contains("has no annotation nginx.ingress.kubernetes.io/canary"),
        "{message}"
    );
}

#[test]
fn lint_evaluates_the_validation_rules_and_the_plan() {
    let invalid = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/invalid");
    let documents = documents::read(std::slice::from_ref(&invalid)).unwrap();
    assert!(documents.objects.len() > 50);
    for document in &documents.objects {
        let file = document.source.rsplit_once(':').unwrap().0;
        let text = std::fs::read_to_string(file).unwrap();
        // The API server alone finds these when it creates a ReplicaSet.
        if text.contains("# reported by:") {
            continue;
        }
        assert_ne!(
            lint::errors(&document.object),
            Vec::<String>::new(),
            "{}",
            document.source
        );
    }
    let (code, out, _) = run(&[
        "lint",
        "-f",
        invalid.join("../quickstart.yaml").to_str().unwrap(),
    ]);
    assert_eq!(code, 0, "{out}");
}

#[test]
fn a_name_that_no_object_in_the_files_has_is_a_warning() {
    let (code, out, _) = run(&["convert", "-f", "deployment.yaml"]);
    assert_eq!(code, 0);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.yaml");
    let wrong = out.replace("httpRoute: frontend", "httpRoute: frontned");
    assert_ne!(wrong, out, "{out}");
    std::fs::write(&file, wrong).unwrap();
    let file = file.to_str().unwrap();
    let (code, out, _) = run(&["lint", "-f", file]);
    assert_eq!(code, 0, "{out}");
    assert!(
        out.contains("HTTPRoute frontned is not in these files, which have frontend"),
        "{out}"
    );
    assert_eq!(run(&["lint", "-f", file, "--strict"]).0, 1);
}

/// The commands of a page that need no cluster.
fn offline_commands(page: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs/how-to")
        .join(page);
    let text = std::fs::read_to_string(path).unwrap();
    let blocks = text.split("```sh\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap_or_default());
    blocks.flat_map(str::lines).map(ToOwned::to_owned).collect()
}

#[test]
fn the_commands_of_the_migration_pages_run() {
    for page in ["from-argo-rollouts.md", "from-flagger.md"] {
        let folder = tempfile::tempdir().unwrap();
        let manifests = folder.path().join("manifests");
        std::fs::create_dir(&manifests).unwrap();
        for fixture in [
            "argo-gateway-api.yaml",
            "argo-nginx.yaml",
            "flagger-gateway-api.yaml",
        ] {
            std::fs::copy(self::folder().join(fixture), manifests.join(fixture)).unwrap();
        }
        let commands = offline_commands(page);
        assert!(commands.len() >= 4, "{page}: {commands:?}");
        for line in commands {
            let (command, file) = match line.split_once(" > ") {
                Some((command, file)) => (command, Some(file)),
                None => (line.as_str(), None),
            };
            let arguments = command.strip_prefix("kubectl serin ").unwrap().split(' ');
            let mut program = Command::new(env!("CARGO_BIN_EXE_kubectl-serin"));
            let ended = program
                .current_dir(folder.path())
                .args(arguments)
                .output()
                .unwrap();
            let err = String::from_utf8_lossy(&ended.stderr);
            let out = String::from_utf8_lossy(&ended.stdout);
            // Without --gateway one Rollout is not converted.
            let is_refusal = ended.status.code() == Some(1)
                && !line.contains("--gateway")
                && !line.contains("lint");
            assert!(
                ended.status.success() || is_refusal,
                "{page}: {line}: {out}{err}"
            );
            if let Some(file) = file {
                std::fs::write(folder.path().join(file), &ended.stdout).unwrap();
            }
        }
    }
}

/// Clears the screen and shows a line of its own, in an error, a comment, a name and a label.
#[test]
fn no_file_makes_convert_or_lint_print_a_control_character() {
    const HOSTILE: &str = "x\u{1b}[2J\u{9b}31m\u{202e}\n---\nkind: Secret\r\u{7}";
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hostile.yaml");
    let metadata = json!({"name": HOSTILE, "namespace": HOSTILE, "labels": {"a": HOSTILE}});
    let of_argo = json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": metadata,
        "spec": {"strategy": {"canary": {"steps": [{HOSTILE: 1}], "stableService": HOSTILE}}},
    });
    let own = json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout", "metadata": metadata,
        "spec": {"strategy": {"canary": {"stableService": HOSTILE, (HOSTILE): HOSTILE}}},
    });
    let mut text = format!("{of_argo}\n---\n{own}\n---\nbroken: [\"\\e[2J\n");
    for control in ['\u{9b}', '\u{202e}', '\u{7f}'] {
        text = text.replace(control, &format!("\\u{:04x}", u32::from(control)));
    }
    std::fs::write(&path, text).unwrap();
    let file = path.to_str().unwrap();
    for arguments in [
        &["lint", "-f", file][..],
        &["lint", "-f", file, "-o", "json"],
        &["convert", "-f", file, "--report"],
        &["convert", "-f", file, "-o", "json"],
    ] {
        let (_, out, error) = run(arguments);
        assert!(!out.is_empty(), "{arguments:?}: {error:?}");
        for shown in [out, error] {
            let is_foreign = |character: char| {
                (character.is_control() && character != '\n') || character == '\u{202e}'
            };
            assert!(!shown.contains(is_foreign), "{arguments:?}: {shown:?}");
            assert!(
                !shown.contains("\nkind: Secret"),
                "{arguments:?}: {shown:?}"
            );
        }
    }
    // A line break in a name does not end the comment that contains it.
    let (_, yaml, _) = run(&["convert", "-f", file]);
    let secret = yaml.lines().find(|line| line.starts_with("kind: Secret"));
    assert_eq!(secret, None, "{yaml:?}");
}

#[test]
fn rules_for_requests_stay_where_a_route_can_hold_them() {
    let header = json!({"setHeaderRoute": {
        "name": "staff", "match": [{"headerName": "x-user", "headerValue": {"exact": "staff"}}],
    }});
    let mirror = json!({"setMirrorRoute": {
        "name": "copies", "percentage": 35, "match": [{"path": {"prefix": "/"}}],
    }});
    let with_rules = |fixture: &str| {
        let mut objects = objects(fixture);
        let canary = &mut objects[0]["spec"]["strategy"]["canary"];
        canary["trafficRouting"]["managedRoutes"] = json!([{"name": "copies"}, {"name": "staff"}]);
        canary["steps"] = json!([header, mirror, {"setWeight": 20}, {"pause": {}}]);
        convert(&objects, &Options::default()).remove(0)
    };
    for fixture in ["argo-gateway-api.yaml", "argo-istio.yaml"] {
        let conversion = with_rules(fixture);
        let mut outputs = conversion.outputs.iter();
        let rollout = outputs.find(|output| output["kind"] == "Rollout").unwrap();
        let canary = &rollout["spec"]["strategy"]["canary"];
        assert_eq!(canary["steps"][0], header, "{fixture}");
        assert_eq!(canary["steps"][1], mirror, "{fixture}");
        assert_eq!(
            canary["trafficRouting"]["managedRoutes"],
            json!([{"name": "copies"}, {"name": "staff"}]),
            "{fixture}"
        );
        assert_eq!(
            note(&conversion, "setMirrorRoute").level,
            NoteLevel::Changed
        );
    }
    let conversion = with_rules("argo-nginx.yaml");
    assert_eq!(note(&conversion, "setHeaderRoute").level, NoteLevel::NotYet);
}
