use super::*;

fn subject(name: &str, generation: i64) -> Subject {
    Subject {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-of-{name}"),
        generation,
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn start(journal: &Journal, name: &str, now: Timestamp) -> Attempt {
    match journal.begin(&subject(name, 1), now) {
        Admission::Start(attempt) => attempt,
        other => panic!("{name} is not tried: {other:?}"),
    }
}

/// The process dies: no attempt ends any more.
fn die(attempts: impl IntoIterator<Item = Attempt>) {
    attempts.into_iter().for_each(std::mem::forget);
}

fn quarantine_of(journal: &Journal, name: &str, now: Timestamp) -> Option<(u32, u64)> {
    match journal.begin(&subject(name, 1), now) {
        Admission::Quarantined { deaths, left } => Some((deaths, left.as_secs())),
        Admission::Start(_) | Admission::Wait => None,
    }
}

#[test]
fn a_completed_attempt_is_not_quarantined_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path(), at(0)).unwrap();
    let attempt = start(&journal, "good", at(0));
    let clone = attempt.clone();
    drop(attempt);
    drop(clone);
    let journal = Journal::open(directory.path(), at(1)).unwrap();
    assert_eq!(quarantine_of(&journal, "good", at(1)), None);
}

#[test]
fn invariant_11_a_rollout_that_ends_the_process_is_quarantined_for_longer_each_time() {
    let directory = tempfile::tempdir().unwrap();
    let mut now = 0;
    for (death, expected) in [5, 60, 300, 1_800, 3_600, 3_600].into_iter().enumerate() {
        let journal = Journal::open(directory.path(), at(now)).unwrap();
        now += 10;
        die([start(&journal, "poison", at(now))]);
        let journal = Journal::open(directory.path(), at(now)).unwrap();
        let deaths = u32::try_from(death + 1).unwrap();
        assert_eq!(
            quarantine_of(&journal, "poison", at(now)),
            Some((deaths, expected))
        );
        drop(start(&journal, "innocent", at(now)));
        // A restart for another reason does not shorten the quarantine.
        let journal = Journal::open(directory.path(), at(now + 1)).unwrap();
        assert_eq!(
            quarantine_of(&journal, "poison", at(now + 1)),
            Some((deaths, (expected - 1).max(5)))
        );
        now += 4_000;
    }
}

#[test]
fn a_changed_spec_is_tried_at_once_and_remembers_the_deaths() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path(), at(0)).unwrap();
    die([start(&journal, "poison", at(0))]);
    let journal = Journal::open(directory.path(), at(0)).unwrap();
    let Admission::Start(attempt) = journal.begin(&subject("poison", 2), at(0)) else {
        panic!("a changed spec is quarantined");
    };
    die([attempt]);
    let journal = Journal::open(directory.path(), at(0)).unwrap();
    assert!(matches!(
        journal.begin(&subject("poison", 2), at(0)),
        Admission::Quarantined { deaths: 2, .. }
    ));
    let Admission::Start(attempt) = journal.begin(&subject("poison", 3), at(0)) else {
        panic!("a changed spec is quarantined");
    };
    drop(attempt);
    // A completed attempt ends the history.
    die([start(&journal, "poison", at(0))]);
    let journal = Journal::open(directory.path(), at(0)).unwrap();
    assert_eq!(quarantine_of(&journal, "poison", at(0)), Some((1, 5)));
}

#[test]
fn suspects_are_retried_one_at_a_time_and_the_innocent_are_released() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path(), at(0)).unwrap();
    let names = ["one", "poison", "two", "three"];
    die(names.map(|name| start(&journal, name, at(0))));

    let journal = Journal::open(directory.path(), at(0)).unwrap();
    for name in names {
        assert_eq!(quarantine_of(&journal, name, at(0)), Some((1, 5)), "{name}");
    }
    let one = start(&journal, "one", at(6));
    assert!(matches!(
        journal.begin(&subject("poison", 1), at(6)),
        Admission::Wait
    ));
    // A Rollout that is no suspect never waits.
    drop(start(&journal, "other", at(6)));
    drop(one);
    die([start(&journal, "poison", at(7))]);

    // It ended the process alone, so all others are released.
    let journal = Journal::open(directory.path(), at(8)).unwrap();
    assert_eq!(quarantine_of(&journal, "poison", at(8)), Some((2, 60)));
    for name in ["one", "two", "three"] {
        assert_eq!(quarantine_of(&journal, name, at(8)), None, "{name}");
    }
}

#[test]
fn an_attempt_that_never_ends_delays_a_retry_for_a_limited_time() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path(), at(0)).unwrap();
    die([start(&journal, "suspect", at(0))]);
    let journal = Journal::open(directory.path(), at(0)).unwrap();
    let _endless = start(&journal, "endless", at(0));
    assert!(matches!(
        journal.begin(&subject("suspect", 1), at(34)),
        Admission::Wait
    ));
    drop(start(&journal, "suspect", at(35)));
}

#[test]
fn a_damaged_file_is_read_as_far_as_possible() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path(), at(0)).unwrap();
    die(["one", "two"].map(|name| start(&journal, name, at(0))));
    let path = directory.path().join(FILE_NAME);
    let mut bytes = fs::read(&path).unwrap();
    bytes[3..40].fill(0xff);
    bytes.extend_from_slice(b"\0\0{\"uid\":3}\n{");
    fs::write(&path, bytes).unwrap();
    let journal = Journal::open(directory.path(), at(0)).unwrap();
    assert_eq!(quarantine_of(&journal, "one", at(0)), None);
    assert_eq!(quarantine_of(&journal, "two", at(0)), Some((1, 5)));
}

#[test]
fn the_file_is_bounded_and_a_full_one_refuses_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path(), at(0)).unwrap();
    let long = "n".repeat(253);
    let attempts: Vec<Attempt> = (0..2 * SLOTS)
        .map(|number| start(&journal, &format!("{number:0>4}{}", &long[4..]), at(0)))
        .collect();
    let path = directory.path().join(FILE_NAME);
    assert_eq!(fs::metadata(&path).unwrap().len(), FILE_BYTES);
    die(attempts);
    let journal = Journal::open(directory.path(), at(0)).unwrap();
    drop(start(&journal, "new", at(0)));
    assert_eq!(fs::metadata(&path).unwrap().len(), FILE_BYTES);
}

#[test]
fn a_rollout_that_stalls_the_process_is_quarantined() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path(), at(0)).unwrap();
    journal.record_stalled(&subject("slow", 1));
    let journal = Journal::open(directory.path(), at(0)).unwrap();
    assert_eq!(quarantine_of(&journal, "slow", at(0)), Some((1, 5)));
    journal.forget(&subject("slow", 1).uid);
    let journal = Journal::open(directory.path(), at(0)).unwrap();
    assert_eq!(quarantine_of(&journal, "slow", at(0)), None);
}

#[test]
fn invariant_11_an_abort_that_ends_the_process_is_quarantined_itself() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path(), at(0)).unwrap();
    die([start(&journal, "poison", at(0))]);
    let journal = Journal::open(directory.path(), at(0)).unwrap();
    assert_eq!(quarantine_of(&journal, "poison", at(0)), Some((1, 5)));
    for (death, expected) in [5, 60, 300].into_iter().enumerate() {
        let restarted = i64::try_from(1_000 * death).unwrap();
        let journal = Journal::open(directory.path(), at(restarted)).unwrap();
        // The first abort does not wait, and the later ones only for their own quarantine.
        let now = at(restarted + if death == 0 { 0 } else { 10 });
        let Admission::Start(attempt) = journal.begin_abort(&subject("poison", 1), now) else {
            panic!("the abort waits after death {death}");
        };
        die([attempt]);
        let journal = Journal::open(directory.path(), now).unwrap();
        let admission = journal.begin_abort(&subject("poison", 1), now);
        let Admission::Quarantined { deaths, left } = admission else {
            panic!("the abort would end the process again: {admission:?}");
        };
        assert_eq!(deaths, u32::try_from(death + 1).unwrap());
        assert_eq!(left.as_secs(), expected);
        let is_quarantined = quarantine_of(&journal, "poison", now).is_some();
        assert!(
            is_quarantined,
            "the Rollout itself is tried after death {death}"
        );
    }
}
