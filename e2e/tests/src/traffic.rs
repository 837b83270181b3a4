//! Checks of the traffic split, based on the report of the load.

use std::ops::RangeBounds;
use std::time::Duration;

use anyhow::{Result, ensure};
use serin_load::{LoadReport, OutcomeCounts};

/// The number of responses of one version in a time span, and of all versions.
fn count_responses(
    report: &LoadReport,
    span: impl RangeBounds<Duration>,
    version: &str,
) -> (u64, u64) {
    let answered = |counts: &OutcomeCounts| counts.ok + counts.service_errors;
    let by_version = report.between(span).counts_by_version();
    let of_version = by_version.get(&Some(version)).map_or(0, answered);
    let all = by_version
        .iter()
        .filter(|(version, _)| version.is_some())
        .map(|(_, counts)| answered(counts));
    (of_version, all.sum())
}

/// Checks that a version answered at most `share` of the requests in a time span. Allows for
/// sampling noise.
///
/// # Errors
/// If it answered more.
pub fn ensure_share_at_most(
    report: &LoadReport,
    span: impl RangeBounds<Duration>,
    version: &str,
    share: f64,
) -> Result<()> {
    let (of_version, all) = count_responses(report, span, version);
    let most = max_responses(all, share);
    ensure!(
        of_version <= most,
        "{version} answered {of_version} of {all} requests; with a share of {share} it is at most {most}"
    );
    Ok(())
}

/// Like [`ensure_share_at_most`] for every window in a time span, so that a long average does not
/// hide a short excess.
///
/// # Errors
/// If the version answered more in one of the windows.
pub fn ensure_share_at_most_in_windows(
    report: &LoadReport,
    span: std::ops::Range<Duration>,
    window: Duration,
    version: &str,
    share: f64,
) -> Result<()> {
    let mut start = span.start;
    while start < span.end {
        let end = (start + window).min(span.end);
        ensure_share_at_most(report, start..end, version, share).map_err(|error| {
            error.context(format!("between {start:.1?} and {end:.1?} of the load"))
        })?;
        start = end;
    }
    Ok(())
}

/// Checks that a version answered `share` of the requests in a time span, within sampling noise.
/// Returns the number of its requests and of all requests.
///
/// # Errors
/// If it answered more or fewer.
pub fn ensure_share_between(
    report: &LoadReport,
    span: impl RangeBounds<Duration>,
    version: &str,
    share: f64,
) -> Result<(u64, u64)> {
    let (of_version, all) = count_responses(report, span, version);
    let most = max_responses(all, share);
    // The rest of the requests has the rest of the share.
    let least = all.saturating_sub(max_responses(all, 1.0 - share));
    ensure!(
        (least..=most).contains(&of_version),
        "{version} answered {of_version} of {all} requests; with a share of {share} it is {least} to \
         {most}"
    );
    Ok((of_version, all))
}

/// The expected number plus five standard deviations, plus two requests for the rounding of the
/// round robin of the gateway.
fn max_responses(all: u64, share: f64) -> u64 {
    let all = f64::from(u32::try_from(all).unwrap_or(u32::MAX));
    let noise = 5.0 * (all * share * (1.0 - share)).sqrt();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 2 and 2^32"
    )]
    let most = (all * share + noise).ceil() as u64;
    most + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_allows_noise_and_not_a_larger_share() {
        assert_eq!(max_responses(0, 0.2), 2);
        assert_eq!(max_responses(100, 0.0), 2);
        let most = max_responses(1_000, 0.2);
        assert!((260..300).contains(&most), "{most}");
    }
}
