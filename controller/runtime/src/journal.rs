//! Remembers which Rollouts were tried for the first time when the process died.
//!
//! A panic is caught, but nothing catches an exhausted memory or stack. After a restart, the same
//! object would end the process again, and no Rollout of the cluster would be rolled back. So the
//! first attempt of every (UID, generation) is recorded in a file before it begins and removed when
//! it has ended. What the file contains at a start was in progress when the process died. These
//! generations are quarantined, for longer each time. A changed spec ends the quarantine. The abort
//! of a quarantined Rollout is recorded as well, whenever it is tried, and so is each large answer of
//! a Prometheus server that a Rollout chose, while it is decoded.
//!
//! Many attempts run at the same time, so most of the recorded Rollouts are innocent. They are
//! retried soon and one after the other, so that the next death has a single suspect.
//!
//! The file has slots of a fixed size with one line of JSON each. It survives the death of the
//! process without `fsync`, because the kernel has the data; a restart of the node also ends the
//! directory. A line that cannot be read is ignored.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// Prefix of [`Subject::uid`] if the subject is a Prometheus server.
pub const SERVER_PREFIX: &str = "server/";
/// The file in the state directory.
const FILE_NAME: &str = "attempts";
/// The file that replaces it at a start.
const NEW_FILE_NAME: &str = "attempts.new";
/// Size of one record in bytes. The names in it have at most 63, 253 and 36 bytes.
const SLOT_BYTES: usize = 1024;
/// Number of records, and so of recorded attempts at the same time. Further attempts are not
/// recorded.
const SLOTS: usize = 256;
/// Maximum size of the file in bytes.
const FILE_BYTES: u64 = (SLOT_BYTES * SLOTS) as u64;
/// Maximum number of quarantined Rollouts that are kept at a start, those with the most deaths
/// first. The other slots are for new attempts.
const MAX_QUARANTINED: usize = SLOTS / 2;
/// Duration of the quarantine after the first, second, ... death. The first one lets all other
/// Rollouts go first.
const QUARANTINES: [Duration; 5] = [
    Duration::from_secs(5),
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(60 * 60),
];
/// Maximum time after the quarantine during which a retry waits for other first attempts to end.
const MAX_WAIT_FOR_OTHERS: SignedDuration = SignedDuration::from_secs(30);
/// Number of tries, 10 ms apart, to get the lock while the process is stalled.
const LOCK_TRIES: u32 = 100;

/// One generation of a Rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
}

impl Subject {
    fn describe_death(&self) -> &'static str {
        if self.is_server() {
            "the controller died while it decoded an answer of this Prometheus server"
        } else {
            "the controller died during the first attempt of this Rollout"
        }
    }

    fn is_server(&self) -> bool {
        self.uid.starts_with(SERVER_PREFIX)
    }
}

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    #[serde(flatten)]
    subject: Subject,
    /// Whether it is about the abort of a Rollout that is quarantined itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_abort: bool,
    /// Number of times that the process died during an attempt of this Rollout.
    #[serde(default)]
    deaths: u32,
    /// End of the quarantine. `None` if an attempt is in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quarantined_until: Option<Timestamp>,
}

/// Whether a generation may be tried.
#[derive(Debug)]
pub enum Admission {
    /// It may be tried now.
    Start(Attempt),
    /// It may be tried as soon as other first attempts have ended.
    Wait,
    /// It is quarantined.
    Quarantined {
        /// Number of times that the process died during an attempt.
        deaths: u32,
        /// Remaining time of the quarantine.
        left: Duration,
    },
}

/// A recorded attempt. The record is removed when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Attempt {
    _recorded: Option<Arc<Recorded>>,
}

#[derive(Debug)]
struct Recorded {
    file: Arc<Slots>,
    slot: usize,
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let mut records = self.file.lock();
        self.file.write(&mut records, self.slot, None);
    }
}

impl Attempt {
    /// An attempt without a record.
    const UNRECORDED: Self = Self { _recorded: None };
}

/// The journal of first attempts. Without a state directory, it records nothing.
#[derive(Clone, Debug, Default)]
pub struct Journal(Option<Arc<Slots>>);

#[derive(Debug)]
struct Slots {
    file: File,
    records: Mutex<Vec<Option<Record>>>,
}

impl Slots {
    fn lock(&self) -> MutexGuard<'_, Vec<Option<Record>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock, or `None` if another thread keeps it.
    fn lock_within_a_second(&self) -> Option<MutexGuard<'_, Vec<Option<Record>>>> {
        for _ in 0..LOCK_TRIES {
            match self.records.try_lock() {
                Ok(records) => return Some(records),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(10)),
            }
        }
        None
    }

    /// Replaces the record in a slot. A failure is only logged: without a record, a death cannot be
    /// attributed, but the Rollout is reconciled.
    fn write(&self, records: &mut [Option<Record>], slot: usize, record: Option<Record>) {
        let (Some(place), Some(line)) = (records.get_mut(slot), encode(record.as_ref())) else {
            return;
        };
        *place = record;
        let offset = u64::try_from(slot.saturating_mul(SLOT_BYTES)).unwrap_or(FILE_BYTES);
        if let Err(error) = self.file.write_all_at(&line, offset) {
            tracing::warn!(%error, "failed to write the journal of first attempts");
        }
    }

    /// Records an attempt in `slot`, or in a free one. `None` if there is no place for it.
    fn record(
        &self,
        records: &mut [Option<Record>],
        slot: Option<usize>,
        record: Record,
    ) -> Option<usize> {
        let slot = slot.or_else(|| records.iter().position(Option::is_none))?;
        self.write(records, slot, Some(record));
        // A record that is too long was not written.
        let is_written = records.get(slot)?.as_ref()?.quarantined_until.is_none();
        is_written.then_some(slot)
    }
}

impl Journal {
    /// Opens the journal in a directory. The attempts that the last process did not complete are
    /// quarantined.
    ///
    /// # Errors
    /// The directory cannot be read or written.
    pub fn open(directory: &Path, now: Timestamp) -> io::Result<Self> {
        let path = directory.join(FILE_NAME);
        let found = read(&path)?;
        for record in found
            .iter()
            .filter(|found| found.quarantined_until.is_none())
        {
            tracing::error!(
                namespace = %record.subject.namespace, rollout = %record.subject.name,
                generation = record.subject.generation, earlier_deaths = record.deaths,
                "{}", record.subject.describe_death()
            );
        }
        let mut records: Vec<_> = quarantine(found, now).into_iter().map(Some).collect();
        records.resize(SLOTS, None);
        let encoded: Vec<u8> = records
            .iter()
            .filter_map(|record| encode(record.as_ref()))
            .flatten()
            .collect();
        let new_path = directory.join(NEW_FILE_NAME);
        fs::write(&new_path, encoded)?;
        fs::rename(&new_path, &path)?;
        Ok(Self(Some(Arc::new(Slots {
            file: OpenOptions::new().write(true).open(&path)?,
            records: Mutex::new(records),
        }))))
    }

    /// Records the first attempt of a generation, unless it is quarantined.
    pub fn begin(&self, subject: &Subject, now: Timestamp) -> Admission {
        self.begin_recorded(subject, false, now)
    }

    /// Records the abort of a quarantined Rollout, unless the abort has ended the process and is
    /// quarantined itself.
    pub fn begin_abort(&self, subject: &Subject, now: Timestamp) -> Admission {
        self.begin_recorded(subject, true, now)
    }

    fn begin_recorded(&self, subject: &Subject, is_abort: bool, now: Timestamp) -> Admission {
        let Some(file) = &self.0 else {
            return Admission::Start(Attempt::UNRECORDED);
        };
        let mut records = file.lock();
        let known = records.iter().enumerate().find_map(|(slot, record)| {
            let record = record.as_ref()?;
            let until = record.quarantined_until?;
            let is_same = record.subject.uid == subject.uid && record.is_abort == is_abort;
            is_same.then(|| (slot, record.clone(), until))
        });
        if let Some((_, record, until)) = &known
            && record.subject.generation == subject.generation
        {
            let left = Duration::try_from(until.duration_since(now)).unwrap_or(Duration::ZERO);
            if !left.is_zero() {
                let deaths = record.deaths;
                return Admission::Quarantined { deaths, left };
            }
            let is_in_progress = |record: &Record| record.quarantined_until.is_none();
            let others = records.iter().flatten().any(is_in_progress);
            if others && now.duration_since(*until) < MAX_WAIT_FOR_OTHERS {
                return Admission::Wait;
            }
        }
        let record = Record {
            subject: subject.clone(),
            is_abort,
            deaths: known.as_ref().map_or(0, |(_, record, _)| record.deaths),
            quarantined_until: None,
        };
        let slot = file.record(&mut records, known.map(|(slot, ..)| slot), record);
        let recorded = slot.map(|slot| Recorded {
            file: Arc::clone(file),
            slot,
        });
        Admission::Start(Attempt {
            _recorded: recorded.map(Arc::new),
        })
    }

    /// Records that this Rollout stalls the process, which is about to exit.
    pub fn record_stalled(&self, subject: &Subject) {
        let Some(file) = &self.0 else { return };
        let Some(mut records) = file.lock_within_a_second() else {
            return;
        };
        let same = |record: &Option<Record>| {
            record.as_ref().is_some_and(|record| {
                record.subject == *subject && record.quarantined_until.is_none()
            })
        };
        if !records.iter().any(same) {
            let record = Record {
                subject: subject.clone(),
                is_abort: false,
                deaths: 0,
                quarantined_until: None,
            };
            file.record(&mut records, None, record);
        }
    }

    /// Number of recorded attempts and quarantined Rollouts.
    pub fn record_count(&self) -> usize {
        let records = self.0.as_ref().map(|file| file.lock());
        records.map_or(0, |records| records.iter().flatten().count())
    }

    /// Ends the quarantine of a deleted Rollout.
    pub fn forget(&self, uid: &str) {
        let Some(file) = &self.0 else { return };
        let mut records = file.lock();
        for slot in 0..records.len() {
            let quarantined = records
                .get(slot)
                .and_then(Option::as_ref)
                .is_some_and(|record| {
                    record.subject.uid == uid && record.quarantined_until.is_some()
                });
            if quarantined {
                file.write(&mut records, slot, None);
            }
        }
    }
}

/// One slot of the file: the record as JSON, padded with spaces. `None` if it is too long.
fn encode(record: Option<&Record>) -> Option<Vec<u8>> {
    let mut line = match record {
        None => Vec::new(),
        Some(record) => serde_json::to_vec(record).ok()?,
    };
    if line.len() >= SLOT_BYTES {
        return None;
    }
    line.resize(SLOT_BYTES - 1, b' ');
    line.push(b'\n');
    Some(line)
}

/// The records of the file, at most one for each Rollout and one for its abort.
fn read(path: &Path) -> io::Result<Vec<Record>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(FILE_BYTES).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let mut records: Vec<Record> = Vec::new();
    for line in String::from_utf8_lossy(&bytes).lines() {
        let Ok(record) = serde_json::from_str::<Record>(line.trim()) else {
            continue;
        };
        let is_same = |other: &&mut Record| {
            other.subject.uid == record.subject.uid && other.is_abort == record.is_abort
        };
        match records.iter_mut().find(is_same) {
            // Of several generations, the newest one is current.
            Some(other) => {
                let generation = other.subject.generation.max(record.subject.generation);
                other.subject.generation = generation;
                other.deaths = other.deaths.max(record.deaths);
                if record.quarantined_until.is_none() {
                    other.quarantined_until = None;
                }
            }
            None => records.push(record),
        }
    }
    Ok(records)
}

/// Quarantines the attempts that were in progress.
fn quarantine(mut records: Vec<Record>, now: Timestamp) -> Vec<Record> {
    let in_progress = |record: &&Record| record.quarantined_until.is_none();
    let suspects: Vec<&Record> = records.iter().filter(in_progress).collect();
    // A Rollout that was retried alone ended the process again, so the others did not.
    let culprit = match suspects.as_slice() {
        [suspect] if suspect.deaths > 0 => Some(suspect.subject.uid.clone()),
        _ => None,
    };
    if let Some(uid) = culprit {
        records.retain(|record| {
            record.quarantined_until.is_none() || record.deaths > 1 || record.subject.uid == uid
        });
    }
    for record in &mut records {
        let until = record.quarantined_until;
        if until.is_none() {
            record.deaths = record.deaths.saturating_add(1);
        }
        // The clock may have been set back since the end was recorded.
        let latest = after(now, duration(record.deaths));
        let earliest = after(now, duration(1));
        record.quarantined_until =
            Some(until.map_or(latest, |until| until.clamp(earliest, latest)));
    }
    records.sort_by_key(|record| std::cmp::Reverse(record.deaths));
    records.truncate(MAX_QUARANTINED);
    records
}

/// Duration of the quarantine after this number of deaths.
fn duration(deaths: u32) -> Duration {
    let index = usize::try_from(deaths.saturating_sub(1)).unwrap_or(usize::MAX);
    QUARANTINES[index.min(QUARANTINES.len() - 1)]
}

fn after(now: Timestamp, wait: Duration) -> Timestamp {
    now.checked_add(wait).unwrap_or(now)
}
