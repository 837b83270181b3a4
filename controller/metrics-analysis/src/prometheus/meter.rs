//! Counts what an answer takes in memory while it is decoded.

use serde::de::Error;

use super::answer::{Labels, Series};
use super::error::QueryError;
use super::memory::Reservation;

/// Size limits of one answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerLimits {
    /// Maximum size of the body in bytes.
    pub bytes: usize,
    /// Maximum number of series. The bounds of a native histogram count as series.
    pub series: usize,
    /// Maximum size in memory in bytes, without the body.
    pub memory: usize,
}

impl AnswerLimits {
    /// Limits for a body of at most this size. Decoded, an answer may take three times as much.
    pub(super) const fn new(bytes: usize, series: usize) -> Self {
        Self {
            bytes,
            series,
            memory: bytes.saturating_mul(3),
        }
    }
}

/// What an element of a growing vector takes: while it is reallocated, the old and the new buffer
/// exist, and the new one may be half empty.
pub(super) const GROWTH: usize = 3;
/// Overhead of an allocation, at most.
pub(super) const ALLOCATION: usize = 24;
/// Size of a series without labels and samples.
const SERIES: usize = GROWTH * size_of::<Series>();
/// The first allocation of a vector of series, which has room for four.
const FIRST_SERIES: usize = 4 * size_of::<Series>() + ALLOCATION;
/// Size of a sample in a series that is complete, and in one that grows.
pub(super) const SAMPLE: usize = size_of::<(i64, f64)>();
pub(super) const GROWING_SAMPLE: usize = GROWTH * SAMPLE;
/// The first allocation of a vector of samples, which has room for four.
pub(super) const FIRST_SAMPLES: usize = 4 * SAMPLE + ALLOCATION;

/// Size of a node of a `BTreeMap<String, String>` with eleven entries, and the number of entries
/// after which further nodes are allocated.
const MAP_NODE: usize = 11 * 2 * size_of::<String>() + 16 + ALLOCATION;
const MAP_NODE_ENTRIES: usize = 11;
/// Size of an entry of a map with several nodes. A node is at least five elevenths full.
const MAP_ENTRY: usize = MAP_NODE / 5 + 32;

/// What a map that already has this number of labels takes for another one, without its text.
pub(super) const fn label_size(existing: usize) -> usize {
    match existing {
        0 => MAP_NODE,
        _ if existing < MAP_NODE_ENTRIES => 0,
        _ => MAP_ENTRY,
    }
}

/// Size of a copy of these labels, with one more.
pub(super) fn copy_size(labels: &Labels) -> usize {
    let text = |(name, value): (&String, &String)| name.len() + value.len() + 2 * ALLOCATION;
    let texts: usize = labels.iter().map(text).sum();
    let nodes: usize = (0..=labels.len()).map(label_size).sum();
    texts + nodes + 3 * ALLOCATION
}

/// Counts series and bytes, and stops the decoder at a limit.
#[derive(Debug)]
pub(super) struct Meter<'m> {
    limits: AnswerLimits,
    memory: &'m mut Reservation,
    /// Size of the body, which stays in memory while it is decoded.
    body_bytes: usize,
    series: usize,
    bytes: usize,
    failure: Option<QueryError>,
    /// What the decoder expects next, for the error.
    pub expected: &'static str,
    /// If true, the labels are skipped.
    pub values_only: bool,
}

impl<'m> Meter<'m> {
    pub(super) fn new(
        limits: AnswerLimits,
        memory: &'m mut Reservation,
        body_bytes: usize,
    ) -> Self {
        Self {
            limits,
            memory,
            body_bytes,
            series: 0,
            bytes: 0,
            failure: None,
            expected: "an object with status",
            values_only: false,
        }
    }

    /// Counts a series.
    pub(super) fn count_series(&mut self) -> Result<(), QueryError> {
        self.series += 1;
        if self.series > self.limits.series {
            let limit = self.limits.series;
            return Err(QueryError::TooLarge(format!("more than {limit} series")));
        }
        self.charge(if self.series == 1 {
            FIRST_SERIES
        } else {
            SERIES
        })
    }

    /// Counts bytes of memory.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), QueryError> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.limits.memory {
            let limit = self.limits.memory;
            return Err(QueryError::TooLarge(format!(
                "more than {limit} bytes in memory"
            )));
        }
        self.memory
            .grow_to(self.body_bytes.saturating_add(self.bytes))
    }

    /// Counts bytes of memory, and stops the decoder at the limit.
    pub(super) fn charge_or_stop<E: Error>(&mut self, bytes: usize) -> Result<(), E> {
        self.charge(bytes).map_err(|error| self.stop(error))
    }

    /// Counts freed bytes of memory.
    pub(super) fn release(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// What the answer takes at the moment, without the body.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Stops the decoder with this error.
    pub(super) fn stop<E: Error>(&mut self, error: QueryError) -> E {
        self.failure.get_or_insert(error);
        E::custom("stopped")
    }

    /// The error that stopped the decoder. Nothing of an answer that is not one of the Prometheus
    /// API is quoted: it may be the answer of another service.
    pub(super) fn into_error(self, error: &serde_json::Error) -> QueryError {
        self.failure.unwrap_or_else(|| {
            QueryError::Malformed(match error.classify() {
                serde_json::error::Category::Eof => "the JSON ends early".to_owned(),
                serde_json::error::Category::Data => format!("expected {}", self.expected),
                _ => "expected the JSON of the Prometheus API".to_owned(),
            })
        })
    }
}
