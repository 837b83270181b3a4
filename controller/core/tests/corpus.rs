//! Recorded decisions over random histories. A refactoring must reproduce them. A change of
//! behavior must explain every difference.
//!
//! `corpus/histories.txt` holds a few histories in full, `corpus/digests.txt` a digest of every
//! history. `SERIN_RECORD=1 cargo test --workspace --test corpus` records both again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::fmt::Write as _;
use std::path::Path;

use serin_core::command::Verb;
use serin_core::effect::{Decision, Effect};
use serin_core::hold::HoldCode;
use serin_core::plan::{Analysis, BakePlan, CanaryScale, EvidencePace, Pace, Plan, Step};
use serin_core::state::{PauseReason, Stage, State};
use serin_core::units::Weight;
use world::{
    Pods, World, analysed, edit, frozen, hold, lower, plan, rev, roll_back, secs, sound, undecided,
    unrouted, wait, weight,
};

const SEEDS: u64 = 600;
const SEEDS_IN_FULL: u64 = 40;

/// `SplitMix64` (Steele, Lea, Flood 2014). Not from a library, so that the histories never change.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from 0 to `end`, excluding `end`.
    fn below(&mut self, end: u32) -> u32 {
        u32::try_from(self.next() % u64::from(end)).unwrap()
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.below(one_in) == 0
    }

    fn version(&mut self) -> &'static str {
        ["v1", "v2", "v3"][self.below(3) as usize]
    }
}

fn random_steps(random: &mut Random) -> Vec<Step> {
    let mut steps = Vec::new();
    for _ in 0..=random.below(3) {
        if random.chance(4) {
            steps.push(Step::SetCanaryScale(match random.below(3) {
                0 => CanaryScale::MatchTrafficWeight,
                1 => CanaryScale::Replicas(1 + random.below(4)),
                _ => CanaryScale::Weight(Weight::percent(random.below(101))),
            }));
        }
        steps.push(weight(1 + random.below(100)));
        steps.push(match random.below(6) {
            0 => Step::Pause(None),
            1 => Step::Analysis(Some(secs(20))),
            2 => Step::Analysis(None),
            3 => Step::Require(world::requirements(&["errors"], &["smoke"])),
            _ => wait(u64::from(1 + random.below(30))),
        });
    }
    steps
}

fn random_plan(random: &mut Random) -> Plan {
    let steps = random_steps(random);
    let replicas = 1 + random.below(8);
    let routed = !random.chance(4);
    let mut chosen = if routed {
        let dynamic = random.chance(2);
        edit(plan(replicas, steps), |canary| {
            canary.dynamic_stable_scale = dynamic;
        })
    } else {
        let surge = random.below(3);
        unrouted(replicas, steps, surge, random.below(3))
    };
    if random.chance(4) {
        chosen = edit(chosen, |canary| {
            canary.pace = Pace::Evidence(EvidencePace {
                first_weight: Weight::percent(5),
                max_weight: Weight::percent(50),
            });
        });
    }
    chosen.rollback_window = random.below(3) as usize;
    chosen.progress_deadline = secs(u64::from(60 + random.below(600)));
    if !random.chance(5) {
        chosen = analysed(chosen);
        if random.chance(2) {
            let checks = world::requirements(&[], &["bake"]).checks;
            chosen = edit(chosen, |canary| {
                let bake = Some(BakePlan {
                    duration: secs(40),
                    checks,
                });
                let before = canary.analysis.take();
                canary.analysis = before.map(|analysis| Analysis {
                    bake,
                    max_duration: secs(300),
                    ..analysis
                });
            });
        }
    }
    chosen
}

/// Applies a random event. Likely events have several numbers.
fn apply_random_event(world: &mut World, random: &mut Random, number: usize) {
    match random.below(32) {
        0..=4 => {
            world.release(random.version());
            world.report = undecided(world);
        }
        5..=8 => {
            let verbs = [
                Verb::Promote,
                Verb::PromoteFull,
                Verb::Abort,
                Verb::Retry,
                Verb::Pause,
                Verb::Resume,
                Verb::SkipStep,
                Verb::Override,
            ];
            let verb = verbs[random.below(8) as usize];
            let expected = random.chance(4).then(|| random.version());
            world.command_for(&number.to_string(), verb, expected, None);
        }
        9 => world.plan.replicas = random.below(10),
        10 => world.plan.paused = !world.plan.paused,
        11 => {
            let steps = random_steps(random);
            world.plan = edit(world.plan.clone(), |canary| {
                canary.pace = Pace::Steps(steps);
            });
        }
        12 => {
            let pods = [Pods::CrashLoop, Pods::NeverReady, Pods::Good][random.below(3) as usize];
            world.pods.insert(rev(random.version()), pods);
        }
        13 => world.pods.clear(),
        14 => world.route = Ok(Weight::percent(random.below(101))),
        15 => world.route = Err("it does not exist".into()),
        16 => {
            world.reports = !random.chance(3);
            world.unconfirmed = random.chance(3);
        }
        17 => world.report = roll_back("breach"),
        18 => world.report = hold(HoldCode::Stale),
        19 => world.report = lower(Weight::percent(random.below(40))),
        20 => world.report = frozen("no errors left to spend"),
        21 => {
            world.report = sound(
                world,
                50,
                world::requirements(&["errors"], &["smoke", "bake"]),
            );
        }
        22 | 23 => world.report = undecided(world),
        24 => world.spec_problem = random.chance(2).then(|| "spec: broken".to_owned()),
        25 => {
            world.reconcile_cut_after(random.below(6) as usize);
            world.restart();
        }
        26 => {
            world
                .restarts
                .insert(rev(random.version()), random.below(4));
        }
        _ => {}
    }
    if world.route.is_err() && random.chance(2) {
        world.route = Ok(Weight::ZERO);
    }
    world.run_for(secs(u64::from(1 + random.below(40))));
}

fn history(seed: u64) -> String {
    let mut random = Random(seed);
    let mut world = World::new(random_plan(&mut random));
    let began_at = world.now;
    world.recording = Some(Vec::new());
    world.run_for(secs(60));
    for number in 0..24 {
        apply_random_event(&mut world, &mut random, number);
    }
    let mut text = String::new();
    let mut last = String::new();
    for (at, decision) in world.recording.take().unwrap_or_default() {
        let line = describe(&decision);
        if line != last {
            let seconds = at.duration_since(began_at).as_millis_f64() / 1_000.0;
            writeln!(text, "{seconds:.3} {line}").unwrap();
            last = line;
        }
    }
    text
}

/// Describes a decision with names that are independent of the code, so that it can be compared
/// across renames. The wake-up time is left out: the times of the lines show a late decision.
fn describe(decision: &Decision) -> String {
    let state = &decision.state;
    let mut words = vec![
        stage_name(state.stage).to_owned(),
        format!("{:?}", state.phase),
    ];
    words.extend(
        state
            .step
            .map(|step| format!("step={}@{}", step.index, step.started_at)),
    );
    words.push(format!("weight={}", state.weights.desired));
    words.extend(
        state
            .weights
            .verified
            .map(|verified| format!("verified={verified}")),
    );
    words.extend(state.weights.cap.map(|cap| format!("cap={cap}")));
    words.extend(
        state
            .stable_revision
            .as_ref()
            .map(|revision| format!("stable={revision}")),
    );
    words.extend(
        state
            .current_revision
            .as_ref()
            .map(|revision| format!("current={revision}")),
    );
    words.extend(position_details(state));
    words.extend(decision.effects.iter().map(describe_effect));
    words.extend(
        decision
            .reasons
            .iter()
            .map(|reason| format!("reason={}", reason.code)),
    );
    words.join(" ")
}

fn position_details(state: &State) -> Vec<String> {
    let mut words = Vec::new();
    words.extend(state.pause.as_ref().map(|pause| {
        let reason = match pause.reason {
            PauseReason::Step => "step",
            PauseReason::Command => "command",
            PauseReason::Inconclusive => "inconclusive",
        };
        format!("pause={reason}/{:?}", pause.until)
    }));
    words.extend(
        state
            .abort
            .as_ref()
            .map(|abort| format!("abort={}/{}", abort.revision, abort.cause)),
    );
    words.extend(
        state
            .bake
            .map(|bake| format!("bake={}/{:?}", bake.since, bake.ended_at)),
    );
    words.extend(state.progress.map(|progress| {
        format!(
            "progress={}/{:?}/{:?}",
            progress.at, progress.reached, progress.complete_since
        )
    }));
    words.extend(
        state
            .draining
            .iter()
            .map(|drain| format!("drain={}@{}", drain.revision, drain.until)),
    );
    if state.restarting {
        words.push("restarting".to_owned());
    }
    if state.freeze_override.is_some() {
        words.push("overridden".to_owned());
    }
    words.push(format!("history={}", state.history.len()));
    words
}

fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::FirstDeploy => "first-deploy",
        Stage::Progressing => "progressing",
        Stage::Promoting => "promoting",
        Stage::Aborted => "aborted",
        Stage::Stable => "stable",
    }
}

fn describe_effect(effect: &Effect) -> String {
    match effect {
        Effect::SetWeight { canary, .. } => format!("set-weight({canary})"),
        Effect::BindService { side, revision, .. } => format!("bind({side:?}, {revision})"),
        Effect::CreateReplicaSet { revision, replicas } => {
            format!("create({revision}, {replicas})")
        }
        Effect::Scale {
            revision, replicas, ..
        } => format!("scale({revision}, {replicas})"),
        Effect::DeleteReplicaSet { revision, .. } => format!("delete({revision})"),
        Effect::PauseDeployment { .. }
        | Effect::TakeReplicaSet { .. }
        | Effect::LabelPods { .. }
        | Effect::CreateDeployment { .. }
        | Effect::RestoreObjects
        | Effect::ReturnReplicaSet { .. }
        | Effect::ResumeDeployment { .. }
        | Effect::EvictPod { .. }
        | Effect::ScaleDeployment { .. } => format!("{effect:?}"),
        Effect::FinishCommand { uid, outcome, .. } => {
            format!("finish({uid}, {:?})", outcome.result)
        }
    }
}

/// FNV-1a, 64 bits.
fn digest(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

#[test]
fn decisions_over_recorded_histories_are_reproduced() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut full = String::new();
    let mut digests = String::new();
    for seed in 0..SEEDS {
        let text = history(seed);
        if seed < SEEDS_IN_FULL {
            write!(full, "# history {seed}\n{text}").unwrap();
        }
        writeln!(digests, "{seed} {:016x}", digest(&text)).unwrap();
    }
    if std::env::var_os("SERIN_RECORD").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("histories.txt"), &full).unwrap();
        std::fs::write(folder.join("digests.txt"), &digests).unwrap();
    }
    let recorded = std::fs::read_to_string(folder.join("histories.txt")).unwrap();
    for (number, (recorded, now)) in recorded.lines().zip(full.lines()).enumerate() {
        assert_eq!(recorded, now, "line {} of histories.txt", number + 1);
    }
    assert_eq!(recorded.lines().count(), full.lines().count());
    let recorded = std::fs::read_to_string(folder.join("digests.txt")).unwrap();
    let differing: Vec<_> = recorded
        .lines()
        .zip(digests.lines())
        .filter(|(before, now)| before != now)
        .collect();
    assert!(
        differing.is_empty(),
        "{} of {SEEDS} histories differ, the first: {:?}",
        differing.len(),
        differing[0]
    );
    assert_eq!(recorded.lines().count(), digests.lines().count());
}
