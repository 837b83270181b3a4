//! Placebo releases on made-up histories.

use super::*;
use crate::EvidenceConfig;

/// Hours of scrapes of 15 s with these errors of each of four pods.
fn history(hours: i64, errors: impl Fn(i64, i64) -> f64) -> Vec<Tick> {
    (0..hours * 240)
        .map(|index| Tick {
            started_ms: index * 15_000,
            at_ms: (index + 1) * 15_000,
            stable_pods: (0..4)
                .map(|pod| PodCounts {
                    requests: 500.0,
                    errors: errors(index, pod),
                    ..PodCounts::default()
                })
                .collect(),
            ..Tick::default()
        })
        .collect()
}

fn rule(bets: &Bets) -> PlaceboRule<'_> {
    PlaceboRule {
        bets,
        alpha: 0.01,
        canary_share: 0.0,
    }
}

fn placebo_of(history: &[Tick]) -> Placebo {
    let bets = Bets::new(EvidenceConfig::default()).unwrap();
    placebo(history, HOUR_MS, &rule(&bets))
}

fn rotating(index: i64, pod: i64) -> f64 {
    f64::from(u8::from(index % 4 == pod))
}

#[test]
fn pods_that_are_alike_are_not_rolled_back() {
    let result = placebo_of(&history(3, rotating));
    assert_eq!((result.hours.len(), result.releases()), (2, 8));
    assert_eq!((result.rolled_back(), result.refutes_bound()), (0, false));
    assert_eq!(
        result.sentence(),
        "None of your own pods would have been rolled back in the last 2 hours (8 placebo \
         releases)."
    );
    assert_eq!(result.hours[0].began_ms, HOUR_MS);
    assert_eq!(result.hours[1].ended_ms, 3 * HOUR_MS);
}

#[test]
fn a_pod_that_begins_to_fail_is_rolled_back_in_its_hour() {
    let result = placebo_of(&history(4, |index, pod| {
        if (500..600).contains(&index) && pod == 2 {
            20.0
        } else {
            rotating(index, pod)
        }
    }));
    let rolled_back: Vec<_> = result.hours.iter().map(|hour| hour.rolled_back).collect();
    assert_eq!(rolled_back, [0, 1, 0]);
    assert_eq!(result.hours[1].pod, 3, "the third position");
    let sentence = result.sentence();
    assert!(
        sentence.starts_with(
            "Your own pods would have been rolled back in 1 of the last 3 hours (1 of 12"
        ),
        "{sentence}"
    );
    assert!(sentence.contains("compatible"), "{sentence}");
}

#[test]
fn a_short_history_is_halved() {
    let ticks = &history(1, rotating)[..120];
    let result = placebo_of(ticks);
    assert_eq!((result.hours.len(), result.releases()), (1, 4));
    assert_eq!(result.hours[0].began_ms, 900_000);
}

#[test]
fn the_number_of_hours_is_bounded() {
    let ticks = history(2, rotating);
    let bets = Bets::new(EvidenceConfig::default()).unwrap();
    let result = placebo(&ticks, 15_000, &rule(&bets));
    assert_eq!(result.hours.len(), MAX_HOURS);
}

#[test]
fn the_significance_is_that_of_the_binomial_distribution() {
    let hour = |rolled_back| PlaceboHour {
        pods: 4,
        rolled_back,
        ..PlaceboHour::default()
    };
    let placebo = |alarms: usize| Placebo {
        alpha: 0.01,
        hours: (0..24)
            .map(|index| hour(u32::from(index < alarms)))
            .collect(),
    };
    // 1 - .96^24, and the same for three and more.
    assert!((placebo(0).refutation() - 1.0).abs() < 1e-12);
    assert!((placebo(1).refutation() - 0.624_587).abs() < 1e-5);
    assert!((placebo(3).refutation() - 0.069_288).abs() < 1e-5);
    assert!(!placebo(3).refutes_bound() && placebo(5).refutes_bound());
    let sentence = placebo(6).sentence();
    assert!(sentence.contains("6 of the last 24 hours"), "{sentence}");
    assert!(sentence.ends_with("The bound does not hold for this service."));
}

#[test]
fn too_few_or_new_pods_give_no_placebo() {
    let mut ticks = history(2, |_, _| 1.0);
    for tick in &mut ticks {
        tick.stable_pods.truncate(2);
    }
    let result = placebo_of(&ticks);
    assert_eq!(result.releases(), 0);
    assert!(result.sentence().contains("at least 3 stable pods"));
    assert!(placebo_of(&[]).hours.is_empty());
    // All pods but two begin in the second hour.
    let mut ticks = history(2, |_, _| 1.0);
    for tick in &mut ticks[..240] {
        for pod in &mut tick.stable_pods[2..] {
            pod.requests = 0.0;
        }
    }
    assert_eq!(placebo_of(&ticks).releases(), 0);
}

#[test]
fn a_group_of_pods_can_be_the_canary() {
    assert_eq!(group_size(10, 0.0), 1);
    assert_eq!(group_size(10, 0.2), 2);
    assert_eq!(group_size(5, 0.5), 3);
    assert_eq!(group_size(4, 0.9), 2, "two others remain");
    assert_eq!(group_size(3, 0.9), 1);
    let ticks = history(3, rotating);
    let bets = Bets::new(EvidenceConfig::default()).unwrap();
    let rule = PlaceboRule {
        canary_share: 0.5,
        ..rule(&bets)
    };
    let result = placebo(&ticks, HOUR_MS, &rule);
    assert_eq!((result.releases(), result.rolled_back()), (8, 0));
}
