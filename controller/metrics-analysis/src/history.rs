//! Reading samples of the past, a slice at a time.

use crate::prometheus::{Answer, Poller, QueryError, Server};
use crate::reading::Samples;
use crate::release::Release;
use crate::selector::Counters;

/// How much is read at once when catching up, and how far back at most.
const SLICE_MS: i64 = 600_000;
const BACKLOG_MS: i64 = 6 * 3_600_000;

/// How much of the time before a release is read to learn how stable's errors cluster, and how
/// little is still worth it.
const LEARNT_MS: i64 = 3_600_000;
const LEAST_LEARNT_MS: i64 = 300_000;

/// Learns from the hour before a release how stable's errors cluster, once, where pods are told
/// apart: without it the first clusters of a release are taken for evidence. Where Prometheus adds
/// the series up, a slice must do.
///
/// # Errors
/// That the server is in trouble, so that it is tried again. What is too much to read, or refused,
/// is left out.
pub async fn learn(poller: &Poller, release: &mut Release, index: usize) -> Result<(), QueryError> {
    let to_ms = release.began_ms;
    let mut span_ms = if release.is_summed(index) {
        SLICE_MS
    } else {
        LEARNT_MS
    };
    while release.may_learn(index) {
        let from_ms = to_ms.saturating_sub(span_ms);
        match read_slice(poller, release, index, from_ms, to_ms).await {
            Ok(answers) => release.learn(index, &answers, from_ms),
            Err(QueryError::TooLarge(_)) if span_ms / 2 >= LEAST_LEARNT_MS => span_ms /= 2,
            Err(error) if error.concerns_server() => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "how stable's errors cluster cannot be learnt from before the release");
                release.learn(index, &[], to_ms);
            }
        }
    }
    Ok(())
}

/// Reads what the polls have not: at the start, after a restart of this process, after an outage of
/// Prometheus.
///
/// What is older than the backlog's bound is left out: evidence that is not read is lost, and stays
/// valid without it.
///
/// # Errors
/// The first query that has no usable answer; what was read before it is kept.
pub async fn catch_up(
    poller: &Poller,
    release: &mut Release,
    index: usize,
    now_ms: i64,
) -> Result<(), QueryError> {
    let mut end_ms = release
        .read_from_ms(index)
        .max(now_ms.saturating_sub(BACKLOG_MS));
    let mut slice_ms = SLICE_MS;
    while end_ms < now_ms {
        let next_ms = end_ms.saturating_add(slice_ms).min(now_ms);
        // Rounds that are still open, and the baseline of the first one, are read again.
        let from_ms = release
            .read_from_ms(index)
            .max(next_ms.saturating_sub(2 * slice_ms));
        match read_slice(poller, release, index, from_ms, next_ms).await {
            Ok(answers) => {
                if release.is_summed(index) {
                    release.observe_sums(index, &answers, now_ms);
                } else if let Some(samples) = Samples::of(&answers) {
                    let settled_ms = release.settled_ms(index, &Answer::new(), next_ms);
                    release.observe(index, samples, settled_ms, now_ms);
                }
                end_ms = next_ms;
            }
            Err(QueryError::TooLarge(_)) if slice_ms > 4 * release.scrape_interval_ms() => {
                slice_ms /= 2
            }
            Err(QueryError::TooLarge(_)) if release.sum_up(index) => slice_ms = SLICE_MS,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The samples of single series, or where Prometheus adds them up the answers to its queries of
/// sums.
async fn read_slice(
    poller: &Poller,
    release: &Release,
    index: usize,
    from_ms: i64,
    to_ms: i64,
) -> Result<Vec<Answer>, QueryError> {
    let Some(judged) = release.objectives.get(index) else {
        return Ok(Vec::new());
    };
    let server = &release.settings.server;
    let Some(sums) = judged.sums() else {
        return read(poller, server, &judged.counters, from_ms, to_ms).await;
    };
    let mut answers = Vec::new();
    for query in sums.queries(&judged.counters, to_ms.saturating_sub(from_ms).max(1)) {
        answers.push(poller.ask_once(server, &query, Some(to_ms)).await?);
    }
    Ok(answers)
}

/// Reads the raw samples of both sides between two moments: of all requests, of the bad (or the
/// good) ones among them, and where a guard needs them of all buckets.
///
/// # Errors
/// What went wrong, named.
pub async fn read(
    poller: &Poller,
    server: &Server,
    counters: &Counters,
    from_ms: i64,
    to_ms: i64,
) -> Result<Vec<Answer>, QueryError> {
    // Rounded up to whole seconds; a sample too many does no harm.
    let range_seconds = (to_ms.saturating_sub(from_ms).max(0) + 999) / 1_000 + 1;
    let mut answers = Vec::new();
    for selector in counters.selectors() {
        answers.push(
            poller
                .ask_once(
                    server,
                    &format!("{selector}[{range_seconds}s]"),
                    Some(to_ms),
                )
                .await?,
        );
    }
    Ok(answers)
}
