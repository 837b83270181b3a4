//! How much stable's errors differ by themselves, from the time before the release.

use serin_analysis::placebo::{HOUR_MS, PlaceboRule, placebo};
use serin_analysis::{Objective, SampleBatch};

use super::ReleaseAnalysis;
use crate::coarse_history::CoarseHistory;
use crate::prometheus::Answer;
use crate::sample_reader::{ObjectiveAnswers, SampleReader};
use crate::target_deduplicator::TargetDeduplicator;

impl ReleaseAnalysis {
    /// Whether an objective has no evidence yet and can estimate the dispersion of stable's errors
    /// from the time before the release.
    pub(crate) fn needs_dispersion(&self, index: usize) -> bool {
        self.objectives
            .get(index)
            .is_some_and(|objective_analysis| objective_analysis.needs_dispersion)
    }

    /// The queries for stable's errors of the day before the release in steps of some minutes, and
    /// the time range of that day: start and end in milliseconds since the epoch. `None` if the
    /// objective learns nothing from it.
    pub(crate) fn coarse_history(&self, index: usize) -> Option<CoarseHistory> {
        let objective_analysis = self.objectives.get(index)?;
        objective_analysis
            .learns_from_pods()
            .then(|| CoarseHistory::new(objective_analysis.scrape_interval_ms()))
    }

    /// Estimates the dispersion of stable's errors over longer times, from the answers to the queries
    /// of [`Self::coarse_history`].
    pub(crate) fn estimate_coarse_dispersion(
        &mut self,
        index: usize,
        history: &CoarseHistory,
        answers: &[Answer],
    ) {
        let (Some(objective_analysis), [total, second, scraped, ..]) =
            (self.objectives.get_mut(index), answers)
        else {
            return;
        };
        let sums = history.aggregation();
        let rounds = sums.rounds(&objective_analysis.counters, [total, second, scraped]);
        // The day is known in these steps only, so the placebo releases have steps of some minutes.
        let rule = PlaceboRule {
            bets: objective_analysis.objective.bets(),
            alpha: self.settings.analysis.alpha,
            canary_share: 0.0,
        };
        let placebo = placebo(&rounds.ticks, HOUR_MS, &rule);
        let evidence = &mut objective_analysis.state.evidence;
        evidence.learn_coarse_dispersion(&rounds.ticks, history.level());
        if placebo.releases() > 0 {
            evidence.record_placebo(placebo.summary());
        }
    }

    /// Estimates the dispersion of stable's errors from the samples between `from_ms` and the start
    /// of the release.
    pub(crate) fn estimate_dispersion(&mut self, index: usize, answers: &[Answer], from_ms: i64) {
        let Some(objective_analysis) = self.objectives.get_mut(index) else {
            return;
        };
        objective_analysis.needs_dispersion = false;
        objective_analysis.learn_guard_history(answers, (from_ms, self.began_ms));
        if let Some(sums) = objective_analysis.aggregation() {
            if let [total, second, scraped, ..] = answers {
                let mut rounds =
                    sums.rounds(&objective_analysis.counters, [total, second, scraped]);
                Objective::learn_dispersion(
                    objective_analysis.objective.config(),
                    &mut objective_analysis.state,
                    &mut rounds.ticks,
                );
            }
            return;
        }
        let Some(ObjectiveAnswers {
            total,
            bad_or_good: second,
            ..
        }) = ObjectiveAnswers::from_answers(answers)
        else {
            return;
        };
        // Series that cannot be assigned before the release cannot be assigned during it either,
        // and are reported then.
        let Ok([total, second]) = TargetDeduplicator::default()
            .deduplicate(&objective_analysis.counters, [total, second])
        else {
            return;
        };
        let reading = SampleReader::new(
            &objective_analysis.counters,
            &total,
            &second,
            &self.pods_created_at,
            self.began_ms,
        );
        let samples = reading.samples();
        let history = SampleBatch {
            samples: &samples,
            source_created_ms: &reading.source_created_ms,
            settled_ms: self.began_ms,
            now_ms: self.began_ms,
        };
        let config = objective_analysis.objective.config();
        Objective::estimate_dispersion(config, &mut objective_analysis.state, &history, from_ms);
    }
}
