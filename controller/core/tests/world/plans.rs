//! Plans for the tests.

use std::collections::BTreeSet;
use std::time::Duration;

use serin_core::plan::{
    Amount, Analysis, ArmBinding, BakePlan, Canary, CanaryScale, Exposure, Pace, Plan, RouteKind,
    RouteRef, Routing, Step, Strategy, Workload,
};
use serin_core::units::{Revision, Weight};

pub fn rev(name: &str) -> Revision {
    Revision::new(name)
}

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn weight(percent: u32) -> Step {
    Step::SetWeight(Weight::percent(percent))
}

pub fn wait(seconds: u64) -> Step {
    Step::Pause(Some(secs(seconds)))
}

pub fn plan(replicas: u32, steps: Vec<Step>) -> Plan {
    let route = RouteRef {
        kind: RouteKind::HttpRoute,
        name: "shop".into(),
        rule: None,
    };
    Plan {
        replicas,
        progress_deadline: secs(600),
        progress_deadline_abort: true,
        revision_history_limit: 3,
        rollback_window: 0,
        paused: false,
        restart_at: None,
        workload: Workload::Owned,
        exposure: Exposure::Weighted(Routing {
            binding: ArmBinding::services("shop", "shop-canary"),
            routes: vec![route],
            settle: secs(2),
            unverified_after: secs(10),
        }),
        strategy: Strategy::Canary(Canary {
            max_surge: Amount::Percent(25),
            max_unavailable: Amount::Percent(25),
            scale_down_delay: secs(30),
            abort_scale_down_delay: secs(30),
            dynamic_stable_scale: false,
            min_pods_per_replica_set: 0,
            replica_progress_threshold: None,
            pace: Pace::Steps(steps),
            analysis: None,
            pod_restart_limit: 2,
        }),
    }
}

pub fn unrouted(replicas: u32, steps: Vec<Step>, surge: u32, unavailable: u32) -> Plan {
    let mut plan = plan(replicas, steps);
    plan.exposure = Exposure::ReplicaRatio;
    edit(plan, |canary| {
        canary.max_surge = Amount::Pods(surge);
        canary.max_unavailable = Amount::Pods(unavailable);
    })
}

/// A blue/green plan without a router: the stable Service is switched.
pub fn blue_green(replicas: u32, steps: Vec<Step>) -> Plan {
    let mut plan = routed_blue_green(replicas, steps);
    if let Exposure::Weighted(routing) = plan.exposure {
        plan.exposure = Exposure::Switch(Routing {
            routes: Vec::new(),
            ..routing
        });
    }
    plan
}

/// A blue/green plan whose route is switched.
pub fn routed_blue_green(replicas: u32, steps: Vec<Step>) -> Plan {
    let mut plan = plan(replicas, steps);
    if let Strategy::Canary(settings) = plan.strategy {
        plan.strategy = Strategy::BlueGreen(settings);
    }
    plan
}

pub fn preview(pods: u32) -> Step {
    Step::SetCanaryScale(CanaryScale::Replicas(pods))
}

pub fn all_pods() -> Step {
    Step::SetCanaryScale(CanaryScale::Weight(Weight::FULL))
}

/// The plan with an analysis and a bake of this length.
pub fn baked(plan: Plan, seconds: u64) -> Plan {
    edit(analysed(plan), |settings| {
        let analysis = settings.analysis.take();
        settings.analysis = analysis.map(|analysis| Analysis {
            bake: Some(BakePlan {
                duration: secs(seconds),
                checks: BTreeSet::new(),
            }),
            ..analysis
        });
    })
}

pub fn edit(mut plan: Plan, change: impl FnOnce(&mut Canary)) -> Plan {
    let (Strategy::Canary(canary) | Strategy::BlueGreen(canary)) = &mut plan.strategy;
    change(canary);
    plan
}

pub fn analysed(plan: Plan) -> Plan {
    edit(plan, |canary| {
        canary.analysis = Some(Analysis {
            max_duration: secs(3600),
            warm_up: secs(10),
            checks: BTreeSet::new(),
            checks_before_traffic: BTreeSet::new(),
            bake: None,
            baseline_pods: None,
        });
    })
}

/// Both kinds of switch: of the Service, and of the route.
pub fn blue_green_kinds(replicas: u32, steps: &[Step]) -> [Plan; 2] {
    [
        blue_green(replicas, steps.to_vec()),
        routed_blue_green(replicas, steps.to_vec()),
    ]
}

/// The plans between which a live Rollout changes, with the same Services.
pub fn strategies(replicas: u32) -> Vec<Plan> {
    let canary = plan(replicas, vec![weight(50), wait(20)]);
    let services = blue_green(replicas, Vec::new()).exposure;
    let Exposure::Switch(services) = services else {
        panic!("a switch");
    };
    let by_pods = Plan {
        exposure: Exposure::ReplicaRatioServices(services),
        ..unrouted(replicas, vec![weight(50), wait(20)], 2, 0)
    };
    let [switched, routed] = blue_green_kinds(replicas, &[all_pods(), wait(20)]);
    vec![canary, by_pods, switched, routed]
}
