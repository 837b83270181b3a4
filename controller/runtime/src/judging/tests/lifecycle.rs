//! When a task judges, and whom it tells.

use super::*;

#[tokio::test]
async fn without_traffic_nothing_is_read_and_forgetting_stops_everything() {
    let script = script(&Story::default()).await;
    let life = live(&script, start());
    life.judges.watch(JudgeRequest {
        weight: Weight::ZERO,
        ..request()
    });
    life.until(
        "waiting",
        |look| matches!(&look.judgement, AnalysisReport::Undecided { message, .. } if message.contains("No traffic")),
    )
    .await;
    assert_eq!((script.asked().len(), life.poller.polls()), (0, 0));
    life.judges.watch(request());
    life.until("evidence", |look| look.checkpoint.is_some())
        .await;
    assert_eq!((life.judges.len(), life.poller.polls()), (1, 1));
    life.judges.forget("1");
    timeout(Duration::from_secs(30), async {
        while life.poller.polls() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert!(life.judges.is_empty());
}

#[tokio::test]
async fn a_standby_judges_nothing_and_a_leader_that_loses_forgets() {
    let script = script(&Story::default()).await;
    let mut life = live(&script, start());
    let (leads, leadership) = Leadership::scripted(false);
    life.judges = Judges::new(life.judges.inner.bench.clone(), leadership).0;
    life.judges.watch(request());
    assert!(life.judges.is_empty());
    leads.send(true).unwrap();
    life.judges.watch(request());
    life.until("evidence", |look| look.checkpoint.is_some())
        .await;
    leads.send(false).unwrap();
    timeout(Duration::from_secs(30), async {
        while !life.judges.is_empty() || life.poller.polls() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    life.leads = Some(leads);
}

#[tokio::test]
async fn triggers_come_with_changes_and_not_with_every_answer() {
    let script = script(&Story::default()).await;
    let life = gone_on(&script, &request(), 100).await;
    life.judged_until(99).await;
    let mut triggers = life.triggers;
    sleep(Duration::from_millis(100)).await;
    while timeout(Duration::from_millis(10), triggers.next())
        .await
        .is_ok()
    {}
    assert!(
        timeout(Duration::from_secs(2), triggers.next())
            .await
            .is_err(),
        "nothing has changed"
    );
    script.set_mode(Mode::Refuses);
    let named = timeout(Duration::from_secs(30), triggers.next())
        .await
        .unwrap();
    assert_eq!(named, Some(request().rollout));
}
