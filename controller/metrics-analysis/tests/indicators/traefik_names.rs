//! Series of other routes never count for a Rollout behind Traefik, whatever their names are.

use proptest::prelude::*;
use serde_json::{Value, json};
use serin_analysis::Arm;
use serin_core::plan::{ArmBinding, RouteKind, RouteRef, Routing};
use serin_metrics_analysis::counter_selectors::CounterSelectors;
use serin_metrics_analysis::routes::{RouteRules, RouteScope, backend_names, service_names};
use serin_metrics_analysis::{AnalysisRequest, RolloutName};

use crate::support::{counters_of, labels, request, rule};

const HASH: &str = "8bd93a10a1ba373c380d";

/// Names of few words, so that they collide when joined. The words are also those that Traefik puts
/// between the parts of a name.
fn name() -> impl Strategy<Value = String> {
    let words = [
        "shop",
        "a",
        "canary",
        "gw",
        "ls",
        "ep",
        "svc",
        "web",
        "0",
        "8bd93a10",
        HASH,
        "httproute",
    ];
    prop::collection::vec(prop::sample::select(words.to_vec()), 1..4)
        .prop_map(|words| words.join("-"))
}

/// One rule of an HTTPRoute with one backend, and the entry point that serves it.
#[derive(Clone, Debug)]
struct Split {
    namespace: String,
    route: String,
    rule: usize,
    gateway: (String, String),
    entry_point: &'static str,
    service: String,
}

fn split() -> impl Strategy<Value = Split> {
    let gateway = (name(), name());
    let entry_point =
        prop::sample::select(vec!["web", "websecure", "web-internal", "my-web-internal"]);
    (name(), name(), 0..3_usize, gateway, entry_point, name()).prop_map(
        |(namespace, route, rule, gateway, entry_point, service)| Split {
            namespace,
            route,
            rule,
            gateway,
            entry_point,
            service,
        },
    )
}

impl Split {
    fn object(&self) -> Value {
        let (namespace, name) = &self.gateway;
        let rule = |index: usize| {
            let service = if index == self.rule {
                self.service.as_str()
            } else {
                "unrelated"
            };
            json!({"backendRefs": [{"name": service, "port": 80}]})
        };
        json!({"metadata": {"namespace": self.namespace, "name": self.route},
            "spec": {"parentRefs": [{"namespace": namespace, "name": name}], "rules": (0..3).map(rule).collect::<Vec<_>>()}})
    }

    /// The name of the rule, without a hash.
    fn rule_name(&self) -> String {
        let Self {
            namespace,
            route,
            rule,
            gateway,
            entry_point,
            ..
        } = self;
        let (gateway_namespace, gateway) = gateway;
        format!(
            "httproute-{namespace}-{route}-gw-{gateway_namespace}-{gateway}-ep-{entry_point}-{rule}"
        )
    }

    /// The namespace and the Service.
    fn backend(&self) -> String {
        format!("{}-{}", self.namespace, self.service)
    }

    fn name_since_3_7(&self) -> String {
        let (rule, backend) = (self.rule_name(), self.backend());
        format!("{rule}-{HASH}-svc-{backend}-0@kubernetesgateway")
    }

    fn name_before_3_7(&self) -> String {
        format!("{}-80@kubernetesgateway", self.backend())
    }

    /// The names in all releases of Traefik. The first releases of 3.7 had no hash.
    fn names(&self) -> [String; 3] {
        let (rule, backend) = (self.rule_name(), self.backend());
        let without_hash = format!("{rule}-svc-{backend}-0@kubernetesgateway");
        [self.name_since_3_7(), without_hash, self.name_before_3_7()]
    }
}

/// How another tenant chooses names that look like those of the Rollout when they are joined.
#[derive(Clone, Copy, Debug)]
enum Imitation {
    /// Not at all.
    None,
    /// The same words, of which this number is the namespace.
    Divided(usize),
    /// The same words for namespace and route, divided there, and another Service whose name ends
    /// with the Rollout's.
    DividedRoute(usize),
    /// A Service whose name ends with the Rollout's namespace and Service.
    InService,
    /// A namespace that contains everything before the Service.
    InNamespace,
    /// A Service that contains the complete name, in the namespace `httproute`.
    InServiceCompletely,
    /// A route that contains everything behind the Rollout's route.
    InRoute,
    /// A gateway that contains everything behind the Rollout's gateway.
    InGateway,
}

fn imitation() -> impl Strategy<Value = Imitation> {
    prop_oneof![
        Just(Imitation::None),
        (0..6_usize).prop_map(Imitation::Divided),
        (0..6_usize).prop_map(Imitation::DividedRoute),
        Just(Imitation::InService),
        Just(Imitation::InNamespace),
        Just(Imitation::InServiceCompletely),
        Just(Imitation::InRoute),
        Just(Imitation::InGateway),
    ]
}

/// Divides a joined name after the given number of dashes.
fn divide(joined: &str, at: usize) -> Option<(String, String)> {
    let (at, _) = joined.match_indices('-').nth(at)?;
    Some((joined[..at].to_owned(), joined[at + 1..].to_owned()))
}

impl Imitation {
    /// The names of `other`, chosen to look like those of `own`. `None` if that is impossible.
    fn apply(self, own: &Split, other: Split) -> Option<Split> {
        let behind_service = format!("svc-{}", own.backend());
        Some(match self {
            Self::None => other,
            Self::Divided(at) => {
                let joined = format!("{}-{}", own.namespace, own.route);
                let (namespace, route) = divide(&joined, at)?;
                let backend = own.backend();
                let service = backend.strip_prefix(&namespace)?.strip_prefix('-')?;
                Split {
                    service: service.to_owned(),
                    namespace,
                    route,
                    ..own.clone()
                }
            }
            Self::DividedRoute(at) => {
                let joined = format!("{}-{}", own.namespace, own.route);
                let (namespace, route) = divide(&joined, at)?;
                Split {
                    namespace,
                    route,
                    service: behind_service,
                    ..own.clone()
                }
            }
            Self::InService => Split {
                service: format!("{}-{behind_service}", other.service),
                ..other
            },
            Self::InNamespace => Split {
                namespace: format!("{}-svc-{}", own.rule_name(), own.namespace),
                service: own.service.clone(),
                ..other
            },
            Self::InServiceCompletely => {
                let joined = format!("{}-{behind_service}", own.rule_name());
                let (namespace, service) = divide(&joined, 0)?;
                Split {
                    namespace,
                    service,
                    ..other
                }
            }
            Self::InRoute => {
                let rule = own.rule_name();
                let behind = rule.strip_prefix(&format!("httproute-{}-", own.namespace))?;
                Split {
                    namespace: own.namespace.clone(),
                    route: format!("{behind}-{behind_service}"),
                    ..other
                }
            }
            Self::InGateway => {
                let (namespace, gateway) = own.gateway.clone();
                let Split {
                    entry_point, rule, ..
                } = own;
                let gateway = format!("{gateway}-ep-{entry_point}-{rule}-{behind_service}");
                let joined = format!("{}-{}", own.namespace, own.route);
                let (own_namespace, route) = divide(&joined, 0)?;
                Split {
                    namespace: own_namespace,
                    route,
                    gateway: (namespace, gateway),
                    ..other
                }
            }
        })
    }
}

/// The rules that the controller knows: those of the routes that the cheap comparison selects.
fn rules_of(own: &Split, others: &[&Split], routing: &Routing) -> RouteRules {
    let names = service_names(&own.namespace, routing);
    let mut objects = vec![own.object()];
    objects.extend(others.iter().map(|other| other.object()));
    objects.retain(|object| {
        let backends = backend_names(RouteKind::HttpRoute, object);
        backends.iter().any(|backend| names.contains(backend))
    });
    let routes = objects.iter().map(|object| (RouteKind::HttpRoute, object));
    RouteRules::from_routes(routes, &own.namespace, routing)
}

/// The selectors of a Rollout whose stable Service is behind a split, in a cluster with another
/// route.
fn traefik(own: &Split, other: &Split) -> CounterSelectors {
    let routing = Routing {
        binding: ArmBinding::services(&own.service, format!("{}-z", own.service)),
        routes: vec![RouteRef {
            kind: RouteKind::HttpRoute,
            name: own.route.clone(),
            rule: None,
        }],
        settle: std::time::Duration::ZERO,
        unverified_after: std::time::Duration::ZERO,
    };
    let request = AnalysisRequest {
        rollout: RolloutName {
            namespace: own.namespace.clone(),
            name: "x".to_owned(),
        },
        rules: rules_of(own, &[other], &routing),
        stable_service: Some(routing.stable_service().clone()),
        canary_service: Some(routing.canary_service().clone()),
        ..request()
    };
    counters_of(&request, json!({"indicator": "traefik"})).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn no_other_route_counts_in_traefik(own in split(), other in split(), imitation in imitation()) {
        let other = imitation.apply(&own, other.clone()).unwrap_or(other);
        prop_assume!((&own.namespace, &own.route) != (&other.namespace, &other.route));
        let counters = traefik(&own, &other);
        for name in other.names() {
            prop_assert_eq!(counters.arm(&labels(&[("service", &name)])), None, "{} of {:?}", name, other);
        }
        for name in own.names() {
            let series = labels(&[("service", &name)]);
            if counters.ambiguity(&series).is_none() {
                prop_assert_eq!(counters.arm(&series), Some(Arm::Stable), "{}", name);
            }
        }
    }

    #[test]
    fn no_other_rule_counts_in_traefik(own in split(), distance in 1..3_usize) {
        let other = Split { route: format!("{}-y", own.route), ..own.clone() };
        let counters = traefik(&own, &other);
        let of_rule = Split { rule: (own.rule + distance) % 3, ..own.clone() };
        let arm = |name: &str| counters.arm(&labels(&[("service", name)]));
        prop_assert_eq!(arm(&of_rule.name_since_3_7()), None);
        let own_name = own.name_since_3_7();
        let own_series = labels(&[("service", &own_name)]);
        prop_assert!(arm(&own_name) == Some(Arm::Stable) || counters.ambiguity(&own_series).is_some());
        // Traefik before 3.7 only names the Service, which both routes reach.
        prop_assert!(counters.ambiguity(&labels(&[("service", &own.name_before_3_7())])).is_some());
    }
}

/// A split with names as people choose them.
fn checkout() -> Split {
    Split {
        namespace: "shop".to_owned(),
        route: "checkout".to_owned(),
        rule: 0,
        gateway: ("gateway-system".to_owned(), "local".to_owned()),
        entry_point: "web",
        service: "checkout-svc".to_owned(),
    }
}

#[test]
fn names_that_only_end_alike_are_not_ambiguous() {
    let other = Split {
        namespace: "team-a".to_owned(),
        route: "cart".to_owned(),
        service: "cart-svc".to_owned(),
        ..checkout()
    };
    let counters = traefik(&checkout(), &other);
    for name in checkout().names() {
        let series = labels(&[("service", &name)]);
        assert_eq!(counters.arm(&series), Some(Arm::Stable), "{name}");
    }
}

#[test]
fn a_namespace_that_is_a_number_is_not_mistaken_for_a_rule() {
    // Without hashes, the words "web-0-svc", 0 and 8bd93a10 could be an entry point, a rule and a
    // hash.
    let own = Split {
        namespace: "0".to_owned(),
        route: "8bd93a10-x".to_owned(),
        service: "s".to_owned(),
        ..checkout()
    };
    let other = Split {
        namespace: "0-8bd93a10".to_owned(),
        route: "x".to_owned(),
        service: "svc-0-s".to_owned(),
        ..checkout()
    };
    let counters = traefik(&own, &other);
    for name in other.names() {
        assert_eq!(counters.arm(&labels(&[("service", &name)])), None, "{name}");
    }
}

/// The side of `shop/checkout` that a name of Traefik's counts for, and why it is unknown.
fn side(rules: RouteRules, name: &str) -> (Option<Arm>, Option<String>) {
    let counters = counters_of(
        &AnalysisRequest { rules, ..request() },
        json!({"indicator": "traefik"}),
    )
    .unwrap();
    let labels = labels(&[("service", name)]);
    (
        counters.arm(&labels),
        counters.ambiguity(&labels).map(ToOwned::to_owned),
    )
}

#[test]
fn a_service_named_like_the_rest_of_a_name_does_not_count() {
    // A tenant behind the same gateway who names a Service x-svc-shop-checkout-canary.
    for gateway in ["gateway-system-local", "g-g"] {
        let name = format!(
            "httproute-evil-r-gw-{gateway}-ep-web-0-{HASH}-svc-evil-x-svc-shop-checkout-canary-1@kubernetesgateway"
        );
        assert_eq!(side(request().rules, &name), (None, None));
    }
}

#[test]
fn names_that_are_equal_when_joined_are_ambiguous() {
    // traefik #10139, #10105: shop + checkout-canary and shop-checkout + canary are one name.
    let others = vec![rule("shop-checkout", "r", 0, &["canary"])];
    let rules = RouteRules {
        others,
        ..request().rules
    };
    let (arm, reason) = side(rules.clone(), "shop-checkout-canary-80@kubernetesgateway");
    assert_eq!(arm, None);
    let reason = reason.unwrap();
    assert!(
        reason.contains("HTTPRoute shop-checkout/r") && reason.contains("upgrade Traefik to 3.7"),
        "{reason}"
    );
    let own = format!(
        "httproute-shop-checkout-gw-gateway-system-local-ep-web-0-{HASH}-svc-shop-checkout-canary-1@kubernetesgateway"
    );
    assert_eq!(
        side(rules, &own),
        (Some(Arm::Canary), None),
        "the name contains the route and is unambiguous"
    );
    // Since 3.7 as well, if the route also has the same joined name.
    let others = vec![rule("shop-checkout", "canary", 0, &["canary"])];
    let services = ["checkout", "checkout-canary"];
    let split = vec![rule("shop", "checkout-canary", 0, &services)];
    let own = own.replace("shop-checkout-gw", "shop-checkout-canary-gw");
    let rules = RouteRules {
        split,
        others,
        ..request().rules
    };
    let (arm, reason) = side(rules, &own);
    let reason = reason.unwrap();
    assert!(
        arm.is_none()
            && reason.contains("HTTPRoute shop/checkout-canary")
            && reason.contains("rename"),
        "{reason}"
    );
}

/// The rules of `shop/checkout`, as a controller or the plugin knows them.
fn rules_in(scope: RouteScope) -> RouteRules {
    RouteRules {
        scope,
        ..request().rules
    }
}

#[test]
fn if_other_namespaces_are_unknown_a_name_that_they_can_have_is_ambiguous() {
    let rules = || rules_in(RouteScope::OwnNamespace);
    let (arm, reason) = side(rules(), "shop-checkout-canary-80@kubernetesgateway");
    let reason = reason.unwrap();
    assert!(
        arm.is_none()
            && reason.contains("upgrade Traefik to 3.7")
            && reason.contains("watch all namespaces"),
        "{reason}"
    );
    // Two words are a namespace and a Service in one way only.
    let stable = "shop-checkout-80@kubernetesgateway";
    assert_eq!(side(rules(), stable), (Some(Arm::Stable), None));
    let since_3_7 = format!(
        "httproute-shop-checkout-gw-gateway-system-local-ep-web-0-{HASH}-svc-shop-checkout-canary-1@kubernetesgateway"
    );
    assert_eq!(side(rules(), &since_3_7), (Some(Arm::Canary), None));
}

#[test]
fn a_plan_matches_any_gateway_but_no_other_service() {
    let mut rules = rules_in(RouteScope::Plan);
    for rule in &mut rules.split {
        rule.parents.clear();
        rule.index = None;
    }
    let own = "httproute-shop-checkout-gw-any-gate-way-ep-web";
    let service = "svc-shop-checkout-canary-1@kubernetesgateway";
    let name = format!("{own}-2-{HASH}-{service}");
    assert_eq!(side(rules.clone(), &name), (Some(Arm::Canary), None));
    let name = format!("{own}-0-{HASH}-svc-shop-x-ep-web-0-{service}");
    assert_eq!(side(rules, &name), (None, None));
}

#[test]
fn a_route_without_a_gateway_counts_nothing_since_3_7() {
    let mut rules = request().rules;
    rules.split.iter_mut().for_each(|rule| rule.parents.clear());
    let name = format!(
        "httproute-shop-checkout-gw-gateway-system-local-ep-web-0-{HASH}-svc-shop-checkout-canary-1@kubernetesgateway"
    );
    assert_eq!(side(rules, &name), (None, None));
}
