//! When a task analyzes, and when it triggers a reconcile.

use super::*;

#[tokio::test]
async fn nothing_is_polled_without_traffic_or_after_a_stop() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    let running = start_manager(&prometheus, start());
    running.manager.start_or_update(AnalysisRequest {
        weight: Weight::ZERO,
        ..request()
    });
    running
        .wait_until("waiting", |snapshot| {
            snapshot.report.message.contains("No traffic")
        })
        .await;
    assert_eq!(
        (
            prometheus.queried_at_ms().len(),
            running.poller.poll_count()
        ),
        (0, 0)
    );
    running.manager.start_or_update(request());
    running
        .wait_until("evidence", |snapshot| snapshot.checkpoint.is_some())
        .await;
    assert_eq!((running.manager.len(), running.poller.poll_count()), (1, 1));
    running.manager.stop("1");
    timeout(Duration::from_secs(30), async {
        while running.poller.poll_count() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert!(running.manager.is_empty());
}

#[tokio::test]
async fn a_standby_does_not_analyze_and_a_former_leader_stops() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    let mut running = start_manager(&prometheus, start());
    let (leads, leadership) = Leadership::scripted(false);
    let deps = running.manager.inner.deps.clone();
    running.manager =
        AnalysisManager::new(deps, Arc::new(leadership), Arc::clone(&running.dispatcher));
    running.manager.start_or_update(request());
    assert!(running.manager.is_empty());
    leads.send(true).unwrap();
    running.manager.start_or_update(request());
    running
        .wait_until("evidence", |snapshot| snapshot.checkpoint.is_some())
        .await;
    leads.send(false).unwrap();
    timeout(Duration::from_secs(30), async {
        while !running.manager.is_empty() || running.poller.poll_count() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    running.leads = Some(leads);
}

#[tokio::test]
async fn triggers_are_sent_for_changes_and_not_for_every_answer() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    let running = resume_at(&prometheus, &request(), 100).await;
    running.wait_for_evidence_until(99).await;
    let triggers = running.dispatcher;
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
    prometheus.set_mode(Mode::Refuses);
    let named = timeout(Duration::from_secs(30), triggers.next())
        .await
        .unwrap();
    let rollout = request().rollout;
    let key = Key::new(&rollout.namespace, &rollout.name);
    assert_eq!(named, (key, Lane::Ongoing));
}
