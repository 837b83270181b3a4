//! Reads past samples in slices.

use crate::coarse_history::CoarseHistory;
use crate::counter_selectors::CounterSelectors;
use crate::prometheus::{Answer, Poller, QueryError, Reservation, Server, SingleAnswer};
use crate::release_analysis::ReleaseAnalysis;
use crate::sample_reader::ObjectiveAnswers;

/// Length of one slice, and the maximum age of samples that are backfilled, in milliseconds.
const SLICE_MS: i64 = 600_000;
const MAX_BACKLOG_MS: i64 = 6 * 3_600_000;

/// Length of the history that is read before a release to estimate the dispersion of stable's
/// errors, and the minimum length that is still useful, in milliseconds.
const DISPERSION_SPAN_MS: i64 = 3_600_000;
const MIN_DISPERSION_SPAN_MS: i64 = 300_000;

/// Length of the history before that hour, which is read in steps of some minutes, in milliseconds.
const COARSE_SPAN_MS: i64 = 23 * 3_600_000;

/// Estimates the dispersion of stable's errors from the hour before a release, and where the series
/// distinguish pods also from the day before. Runs at most once per objective. Without this
/// estimate, the first cluster of errors in a release would count as evidence. With server-side
/// aggregation only one slice of the hour is read.
///
/// # Errors
/// Returns an error only if the server is unavailable, so that the caller retries. A range that is
/// too large, or a query that the server rejects, is skipped.
pub async fn estimate_dispersion(
    poller: &Poller,
    release: &mut ReleaseAnalysis,
    index: usize,
) -> Result<(), QueryError> {
    let to_ms = release.began_ms;
    estimate_coarse_dispersion(poller, release, index).await?;
    let mut span_ms = if release.is_aggregated(index) {
        SLICE_MS
    } else {
        DISPERSION_SPAN_MS
    };
    while release.needs_dispersion(index) {
        let from_ms = to_ms.saturating_sub(span_ms);
        match read_slice(poller, release, index, from_ms, to_ms).await {
            Ok(slice) => release.estimate_dispersion(index, &slice.answers, from_ms),
            Err(QueryError::TooLarge(_)) if span_ms / 2 >= MIN_DISPERSION_SPAN_MS => span_ms /= 2,
            Err(error) if error.is_server_wide() => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "cannot estimate the dispersion of stable's errors from before the release");
                release.estimate_dispersion(index, &[], to_ms);
            }
        }
    }
    Ok(())
}

/// Estimates the dispersion over hours from the day before a release, which Prometheus adds up in
/// steps of some minutes. Clients that fail all day and pods on a slow node show only there. What
/// cannot be read is skipped: the day, or half of it, and so on, is not required.
async fn estimate_coarse_dispersion(
    poller: &Poller,
    release: &mut ReleaseAnalysis,
    index: usize,
) -> Result<(), QueryError> {
    let Some(history) = release.coarse_history(index) else {
        return Ok(());
    };
    let to_ms = release.began_ms.saturating_sub(DISPERSION_SPAN_MS);
    let mut span_ms = COARSE_SPAN_MS;
    while span_ms >= DISPERSION_SPAN_MS {
        match read_coarse_history(poller, release, index, &history, span_ms, to_ms).await {
            Ok(slice) => {
                release.estimate_coarse_dispersion(index, &history, &slice.answers);
                return Ok(());
            }
            Err(QueryError::TooLarge(_)) => span_ms /= 2,
            Err(error) if error.is_server_wide() => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "cannot read stable's errors of the day before the release");
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn read_coarse_history(
    poller: &Poller,
    release: &ReleaseAnalysis,
    index: usize,
    history: &CoarseHistory,
    span_ms: i64,
    to_ms: i64,
) -> Result<Slice, QueryError> {
    let mut slice = Slice::default();
    let Some(objective_analysis) = release.objectives.get(index) else {
        return Ok(slice);
    };
    for query in history.queries(&objective_analysis.counters, span_ms) {
        let server = &release.settings.server;
        slice.push(poller.query_once(server, &query, Some(to_ms)).await?);
    }
    Ok(slice)
}

/// Reads the samples that polling has missed: at the start of a release, after a restart, and after
/// a Prometheus outage.
///
/// Samples older than the maximum backlog are skipped. Skipped evidence is lost, but the remaining
/// evidence stays valid.
///
/// # Errors
/// The first query that fails. Samples that were read before the failure are kept.
pub async fn backfill(
    poller: &Poller,
    release: &mut ReleaseAnalysis,
    index: usize,
    now_ms: i64,
) -> Result<(), QueryError> {
    let mut end_ms = release
        .read_from_ms(index)
        .max(now_ms.saturating_sub(MAX_BACKLOG_MS));
    let mut slice_ms = SLICE_MS;
    while end_ms < now_ms {
        let next_ms = end_ms.saturating_add(slice_ms).min(now_ms);
        // Open rounds and the baseline of the first round are read again.
        let from_ms = release
            .read_from_ms(index)
            .max(next_ms.saturating_sub(2 * slice_ms));
        match read_slice(poller, release, index, from_ms, next_ms).await {
            Ok(Slice { answers, .. }) => {
                if release.is_aggregated(index) {
                    release.observe_aggregates(index, &answers, now_ms);
                } else if let Some(samples) = ObjectiveAnswers::from_answers(&answers) {
                    let settled_ms = release.settled_ms(index, &Answer::new(), next_ms);
                    release.observe(index, samples, settled_ms, now_ms);
                }
                end_ms = next_ms;
            }
            Err(QueryError::TooLarge(_)) if slice_ms > 4 * release.scrape_interval_ms() => {
                slice_ms /= 2;
            }
            Err(QueryError::TooLarge(_)) if release.switch_to_server_side_aggregation(index) => {
                slice_ms = SLICE_MS;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The answers to the queries of one slice. Their memory counts until the slice is dropped.
#[derive(Debug, Default)]
pub struct Slice {
    /// The answers, in the order of the queries.
    pub answers: Vec<Answer>,
    memory: Vec<Reservation>,
}

impl Slice {
    pub(crate) fn push(&mut self, answer: SingleAnswer) {
        let (answer, memory) = answer.into_parts();
        self.answers.push(answer);
        self.memory.push(memory);
    }
}

/// The samples of each series, or the results of the aggregation queries if server-side aggregation
/// is enabled.
async fn read_slice(
    poller: &Poller,
    release: &ReleaseAnalysis,
    index: usize,
    from_ms: i64,
    to_ms: i64,
) -> Result<Slice, QueryError> {
    let Some(objective_analysis) = release.objectives.get(index) else {
        return Ok(Slice::default());
    };
    let server = &release.settings.server;
    let Some(sums) = objective_analysis.aggregation() else {
        return read_samples(poller, server, &objective_analysis.counters, from_ms, to_ms).await;
    };
    let mut slice = Slice::default();
    for query in sums.queries(
        &objective_analysis.counters,
        to_ms.saturating_sub(from_ms).max(1),
    ) {
        slice.push(poller.query_once(server, &query, Some(to_ms)).await?);
    }
    Ok(slice)
}

/// Reads the raw samples of both sides between two times: all requests, the bad (or good) requests,
/// and all buckets if a latency guard compares them.
///
/// # Errors
/// The first query that fails.
pub async fn read_samples(
    poller: &Poller,
    server: &Server,
    counters: &CounterSelectors,
    from_ms: i64,
    to_ms: i64,
) -> Result<Slice, QueryError> {
    // Rounded up to whole seconds. One additional sample does no harm.
    let range_seconds = (to_ms.saturating_sub(from_ms).max(0) + 999) / 1_000 + 1;
    let mut slice = Slice::default();
    for selector in counters.selectors() {
        let query = format!("{selector}[{range_seconds}s]");
        slice.push(poller.query_once(server, &query, Some(to_ms)).await?);
    }
    Ok(slice)
}
