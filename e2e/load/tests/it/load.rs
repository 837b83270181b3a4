//! Tests of the library.

use std::time::Duration;

use serin_load::{
    EndReason, Load, LoadOptions, LoadReport, RequestOutcome, RoutingFailure, StartError,
};
use tokio::{net::TcpListener, sync::watch};

use crate::server::{Reply, Server, response, wait_until};

/// Options that send exactly `count` requests: the next one would be due when the duration is over.
fn options_for(count: u32, rate_per_second: u32, url: String) -> LoadOptions {
    let duration = Some(Duration::from_secs(1) * count / rate_per_second);
    LoadOptions {
        rate_per_second,
        duration,
        ..LoadOptions::new(url)
    }
}

async fn run(options: &LoadOptions) -> LoadReport {
    let load = Load::start(options).unwrap();
    load.wait_until_ended().await;
    load.stop().await
}

/// A server that responds once `released` is true.
async fn start_gated_server(released: &watch::Sender<bool>) -> Server {
    let gate = released.subscribe();
    Server::start(move |_, _| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|open| *open).await.unwrap();
            Reply::Write(response(200, Some("v1")))
        }
    })
    .await
}

#[tokio::test]
async fn every_request_is_sent_on_schedule_and_recorded() {
    let server = Server::always_ok().await;
    let report = run(&options_for(200, 400, server.url("/"))).await;
    assert_eq!(
        (report.sent, report.ended_by),
        (200, Some(EndReason::Duration))
    );
    assert_eq!(
        (report.all().counts().ok, report.all().counts().total()),
        (200, 200)
    );
    assert_eq!(server.requests().len(), 200);
    let due: Vec<_> = report.all().requests().map(|answer| answer.at).collect();
    let even: Vec<_> = (0..200).map(|n| Duration::from_micros(2_500) * n).collect();
    assert_eq!(due, even);
    assert!(report.has_no_losses());
}

#[tokio::test]
async fn a_stalled_server_gets_every_request_and_the_stall_counts_as_latency() {
    let released = watch::Sender::new(false);
    let server = start_gated_server(&released).await;
    let load = Load::start(&LoadOptions {
        rate_per_second: 300,
        ..LoadOptions::new(server.url("/"))
    })
    .unwrap();
    // A closed-loop client would stop at the first request without a response.
    server.wait_for_requests(150).await;
    let stalled = load.snapshot();
    assert_eq!(stalled.counts.total(), 0);
    assert!(stalled.in_flight >= 150, "{stalled:?}");
    released.send_replace(true);
    let report = load.stop().await;
    let counts = report.all().counts();
    assert_eq!((counts.ok, counts.total()), (report.sent, report.sent));
    // Request 150 was due 149 / 300 s after the first one, which was answered after it.
    let first = report.all().requests().next().unwrap();
    assert!(first.latency >= Duration::from_micros(496_666), "{first:?}");
    assert_eq!(
        report.all().latency().unwrap().max,
        report
            .all()
            .requests()
            .map(|answer| answer.latency)
            .max()
            .unwrap()
    );
}

#[tokio::test]
async fn requests_beyond_the_in_flight_limit_count_as_overruns() {
    let released = watch::Sender::new(false);
    let server = start_gated_server(&released).await;
    let timeout = Duration::from_mins(1);
    let load = Load::start(&LoadOptions {
        rate_per_second: 500,
        max_in_flight: 5,
        timeout,
        ..LoadOptions::new(server.url("/"))
    })
    .unwrap();
    wait_until("arrivals are in excess", || load.snapshot().overruns >= 50).await;
    let full = load.snapshot();
    assert_eq!((full.sent, full.in_flight), (5, 5));
    assert_eq!(server.requests().len(), 5);
    released.send_replace(true);
    wait_until("requests are sent again", || load.snapshot().sent > 50).await;
    let report = load.stop().await;
    assert_eq!(report.all().counts().ok, report.sent);
    assert!(report.overruns >= 50 && !report.has_no_losses());
}

#[tokio::test]
async fn every_failure_gets_its_outcome() {
    let server = Server::start(|_, head| async move {
        let version = head.contains("own").then_some("v2");
        let path = head.split(' ').nth(1).unwrap();
        match path.trim_start_matches("/own/").trim_start_matches('/') {
            "never" => Reply::Never,
            "close" => Reply::WriteAndClose(String::new()),
            "half-head" => Reply::WriteAndClose("HTTP/1.1 200 OK\r\nx-ver".to_owned()),
            "half-body" => Reply::WriteAndClose(
                "HTTP/1.1 200 OK\r\nx-version: v2\r\ncontent-length: 9\r\n\r\nhalf".to_owned(),
            ),
            "garbage" => Reply::WriteAndClose("garbage\r\n\r\n".to_owned()),
            status => Reply::Write(response(status.parse().unwrap(), version)),
        }
    })
    .await;
    let routing = RequestOutcome::Routing;
    for (path, outcome, version) in [
        ("/own/200", RequestOutcome::Ok, Some("v2")),
        ("/200", RequestOutcome::Ok, None),
        ("/own/500", RequestOutcome::ServiceError, Some("v2")),
        ("/own/503", RequestOutcome::ServiceError, Some("v2")),
        ("/404", routing(RoutingFailure::NotFound404), None),
        ("/500", routing(RoutingFailure::InternalError500), None),
        ("/502", routing(RoutingFailure::BadGateway502), None),
        ("/503", routing(RoutingFailure::Unavailable503), None),
        ("/504", routing(RoutingFailure::GatewayTimeout504), None),
        ("/302", routing(RoutingFailure::Other), None),
        ("/close", routing(RoutingFailure::Reset), None),
        ("/half-head", routing(RoutingFailure::Reset), None),
        ("/half-body", routing(RoutingFailure::Reset), Some("v2")),
        ("/garbage", routing(RoutingFailure::Other), None),
        ("/never", routing(RoutingFailure::Timeout), None),
    ] {
        let timeout = Duration::from_millis(if path == "/never" { 50 } else { 10_000 });
        let report = run(&LoadOptions {
            timeout,
            ..options_for(1, 100, server.url(path))
        })
        .await;
        let results: Vec<_> = report
            .all()
            .requests()
            .map(|answer| (answer.outcome, answer.version))
            .collect();
        assert_eq!(
            results,
            [(outcome, version)],
            "{path}: {:?}",
            report.details
        );
        let detail_count = usize::from(matches!(outcome, RequestOutcome::Routing(_)));
        assert_eq!(report.details.len(), detail_count, "{path}");
        if path == "/never" {
            assert!(report.all().last().unwrap().latency >= timeout);
        }
    }
}

#[tokio::test]
async fn a_closed_port_counts_as_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let report = run(&options_for(20, 200, format!("http://{address}/"))).await;
    assert_eq!(
        report
            .all()
            .counts()
            .failures_of_kind(RoutingFailure::Refused),
        20,
        "{:?}",
        report.details
    );
    assert_eq!(report.details.len(), 20);
    assert!(
        report.details[0].detail.contains("Connection refused"),
        "{:?}",
        report.details[0]
    );
}

#[tokio::test]
async fn a_broken_connection_loses_one_request_only() {
    let server = Server::start(|number, _| async move {
        if number % 2 == 0 {
            Reply::Write(response(200, Some("v1")))
        } else {
            Reply::WriteAndClose(String::new())
        }
    })
    .await;
    let report = run(&options_for(20, 100, server.url("/"))).await;
    assert_eq!(server.requests().len(), 20);
    let counts = report.all().counts();
    assert_eq!(
        (counts.ok, counts.failures_of_kind(RoutingFailure::Reset)),
        (10, 10),
        "{:?}",
        report.details
    );
}

#[tokio::test]
async fn a_connection_closed_after_the_response_loses_no_request() {
    let server = Server::start(|_, _| async {
        Reply::WriteAndClose(
            response(200, Some("v1")).replace("content", "connection: close\r\ncontent"),
        )
    })
    .await;
    let report = run(&options_for(100, 400, server.url("/"))).await;
    assert_eq!(report.all().counts().ok, 100, "{:?}", report.details);
    assert_eq!(server.accepted_connections(), 100);
}

#[tokio::test]
async fn counts_are_exact_per_version_and_outcome() {
    let server = Server::start(|number, _| async move {
        Reply::Write(match number % 10 {
            0 => response(500, Some("v2")),
            1 | 2 => response(200, Some("v2")),
            3 => response(502, None),
            _ => response(200, Some("v1")),
        })
    })
    .await;
    let load = Load::start(&options_for(500, 1_000, server.url("/"))).unwrap();
    wait_until("all are answered", || load.snapshot().counts.total() == 500).await;
    let live = load.snapshot();
    let report = load.stop().await;
    let by_version = report.all().counts_by_version();
    let v2 = by_version[&Some("v2")];
    assert_eq!(
        (v2.ok, v2.service_errors, v2.routing_failures()),
        (100, 50, 0)
    );
    assert_eq!(by_version[&Some("v1")].ok, 300);
    assert_eq!(
        by_version[&None].failures_of_kind(RoutingFailure::BadGateway502),
        50
    );
    assert_eq!(live.counts, report.all().counts());
    let live_v2 = live.version("v2").unwrap();
    assert_eq!(live_v2.counts, v2);
    assert_eq!(
        live_v2.last_at.as_micros(),
        report.all().of_version("v2").last().unwrap().at.as_micros()
    );
    assert_eq!(live.version("v3"), None);
}

#[tokio::test]
async fn a_fraction_of_the_requests_uses_fresh_connections() {
    let server = Server::always_ok().await;
    let options = LoadOptions {
        fresh_connection_fraction: 0.25,
        ..options_for(200, 400, server.url("/"))
    };
    let report = run(&options).await;
    assert_eq!(report.all().counts().ok, 200);
    let fresh = server
        .requests()
        .iter()
        .filter(|head| head.contains("connection: close"))
        .count();
    assert_eq!(fresh, 50);
    // One connection for each of them, and a few keep-alive connections for all others.
    assert!(
        (51..150).contains(&server.accepted_connections()),
        "{}",
        server.accepted_connections()
    );
}

#[tokio::test]
async fn the_host_header_is_independent_of_the_url() {
    let server = Server::always_ok().await;
    let options = LoadOptions {
        host: Some("shop.example".into()),
        ..options_for(1, 100, server.url("/cart?id=1"))
    };
    run(&options).await;
    let head = server.requests().remove(0).to_lowercase();
    assert!(head.starts_with("get /cart?id=1 http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nhost: shop.example\r\n"), "{head}");
    assert_eq!(head.matches("host:").count(), 1);
}

#[tokio::test]
async fn a_rate_change_takes_effect_immediately() {
    let server = Server::always_ok().await;
    let load = Load::start(&LoadOptions {
        rate_per_second: 1,
        ..LoadOptions::new(server.url("/"))
    })
    .unwrap();
    server.wait_for_requests(1).await;
    let changed = load.elapsed();
    load.set_rate(1_000).unwrap();
    server.wait_for_requests(101).await;
    assert_eq!(load.snapshot().rate_per_second, 1_000);
    assert!(matches!(load.set_rate(0), Err(StartError::Range { .. })));
    let report = load.stop().await;
    let due: Vec<_> = report
        .between(changed..)
        .requests()
        .map(|answer| answer.at)
        .collect();
    assert!(due.len() >= 100);
    for pair in due.windows(2) {
        let off = pair[1].abs_diff(pair[0] + Duration::from_millis(1));
        assert!(off <= Duration::from_micros(1), "{pair:?}");
    }
}

#[tokio::test]
async fn a_running_load_can_be_reported() {
    let server = Server::always_ok().await;
    let load = Load::start(&LoadOptions::new(server.url("/"))).unwrap();
    wait_until("some are answered", || load.snapshot().counts.ok >= 5).await;
    let so_far = load.report_so_far();
    assert_eq!(so_far.ended_by, None);
    assert!(so_far.all().counts().ok >= 5);
    let report = load.stop().await;
    assert_eq!(report.ended_by, Some(EndReason::Stopped));
    assert_eq!(report.all().counts().total(), report.sent);
    assert!(report.started_at == so_far.started_at && report.sent >= so_far.sent);
}

#[tokio::test]
async fn dropping_the_handle_stops_the_load() {
    let server = Server::always_ok().await;
    let load = Load::start(&LoadOptions::new(server.url("/"))).unwrap();
    server.wait_for_requests(3).await;
    drop(load);
    wait_until("its connections are closed", || {
        server.open_connections() == 0
    })
    .await;
}

#[tokio::test]
async fn a_blocked_caller_does_not_delay_requests() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let options = options_for(
        50,
        500,
        format!("http://{}/", listener.local_addr().unwrap()),
    );
    let load = Load::start(&LoadOptions {
        timeout: Duration::from_secs(30),
        ..options
    })
    .unwrap();
    // This blocks the only thread of the caller until 50 connections have arrived.
    let held: Vec<_> = (0..50).map(|_| listener.accept().unwrap()).collect();
    assert_eq!(load.snapshot().in_flight, 50);
    drop(held);
    assert_eq!(
        load.stop()
            .await
            .all()
            .counts()
            .failures_of_kind(RoutingFailure::Reset),
        50
    );
}
