//! Prometheus queries: a client with size limits and descriptive errors, and a poller that shares
//! equal queries.

mod address;
mod answer;
mod answer_guard;
mod client;
mod dns;
mod envelope;
mod error;
#[cfg(test)]
mod fuzz;
mod json;
mod limits;
mod memory;
mod meter;
mod native;
mod poller;
mod quota;
mod required_matcher;
mod result;
#[cfg(test)]
mod tests;
mod tls;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use address::host_and_port;
pub use address::{AllowedAddress, InvalidAddress, RefusedAddresses};
pub(crate) use answer::push_key_part;
pub use answer::{Answer, Labels, Series, newest_ms};
pub use answer_guard::{AnswerGuard, AnswerSource};
pub use client::{AddressTrust, ClientError, HttpClient, QueryObserver, Server};
pub use envelope::AnswerContent;
pub use error::QueryError;
pub(crate) use error::root_cause;
pub use limits::Limits;
pub use memory::Reservation;
pub use poller::{PollResult, PollSpec, PollSubscription, Poller, SingleAnswer, next_answer};
pub use required_matcher::{RequiredMatcher, is_label_name};
pub use result::MOST_VALUES;
pub use tls::{Tls, TlsError};

/// Decodes a response body that is already in memory, within the limits of one answer.
///
/// # Errors
/// [`QueryError::TooLarge`] if it exceeds a limit, or the cause why it is not a result.
pub fn decode(body: &[u8], limits: &Limits) -> Result<Answer, QueryError> {
    let memory = &mut Reservation::unlimited();
    envelope::decode(body, AnswerContent::Series, limits.of_answer(), memory)
}

/// Decodes a response body.
#[cfg(test)]
pub(crate) fn decode_body(body: &[u8]) -> Answer {
    envelope::decode_unlimited(body).unwrap()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic leaves no inconsistent data behind these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
