//! The library.

use std::time::Duration;

use serin_load::{EndedBy, Load, Options, Outcome, Report, RoutingFailure, StartError};
use tokio::{net::TcpListener, sync::watch};

use crate::server::{Reply, Server, answer, until};

/// Exactly `count` requests: the one after them would be due when the duration is over.
fn exactly(count: u32, rate_per_second: u32, url: String) -> Options {
    let duration = Some(Duration::from_secs(1) * count / rate_per_second);
    Options {
        rate_per_second,
        duration,
        ..Options::new(url)
    }
}

async fn run(options: &Options) -> Report {
    let load = Load::start(options).unwrap();
    load.ended().await;
    load.stop().await
}

/// A good server that answers once the gate is open.
async fn behind_a_gate(released: &watch::Sender<bool>) -> Server {
    let gate = released.subscribe();
    Server::start(move |_, _| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|open| *open).await.unwrap();
            Reply::Whole(answer(200, Some("v1")))
        }
    })
    .await
}

#[tokio::test]
async fn every_arrival_is_sent_when_it_is_due_and_recorded() {
    let server = Server::good().await;
    let report = run(&exactly(200, 400, server.url("/"))).await;
    assert_eq!(
        (report.sent, report.ended_by),
        (200, Some(EndedBy::Duration))
    );
    assert_eq!(
        (report.all().counts().ok, report.all().counts().total()),
        (200, 200)
    );
    assert_eq!(server.requests().len(), 200);
    let due: Vec<_> = report.all().answers().map(|answer| answer.at).collect();
    let even: Vec<_> = (0..200).map(|n| Duration::from_micros(2_500) * n).collect();
    assert_eq!(due, even);
    assert!(report.lost_nothing());
}

#[tokio::test]
async fn a_stalled_server_gets_every_arrival_and_its_stall_is_in_the_latencies() {
    let released = watch::Sender::new(false);
    let server = behind_a_gate(&released).await;
    let load = Load::start(&Options {
        rate_per_second: 300,
        ..Options::new(server.url("/"))
    })
    .unwrap();
    // A closed loop would stop at the first request that is not answered.
    server.arrived(150).await;
    let stalled = load.snapshot();
    assert_eq!(stalled.counts.total(), 0);
    assert!(stalled.in_flight >= 150, "{stalled:?}");
    released.send_replace(true);
    let report = load.stop().await;
    let counts = report.all().counts();
    assert_eq!((counts.ok, counts.total()), (report.sent, report.sent));
    // The 150th was due 149 / 300 s after the first, which was answered after it.
    let first = report.all().answers().next().unwrap();
    assert!(first.latency >= Duration::from_micros(496_666), "{first:?}");
    assert_eq!(
        report.all().latency().unwrap().max,
        report
            .all()
            .answers()
            .map(|answer| answer.latency)
            .max()
            .unwrap()
    );
}

#[tokio::test]
async fn what_is_in_flight_is_bounded_and_the_rest_counted_as_overrun() {
    let released = watch::Sender::new(false);
    let server = behind_a_gate(&released).await;
    let timeout = Duration::from_mins(1);
    let load = Load::start(&Options {
        rate_per_second: 500,
        max_in_flight: 5,
        timeout,
        ..Options::new(server.url("/"))
    })
    .unwrap();
    until("arrivals are in excess", || load.snapshot().overruns >= 50).await;
    let full = load.snapshot();
    assert_eq!((full.sent, full.in_flight), (5, 5));
    assert_eq!(server.requests().len(), 5);
    released.send_replace(true);
    until("it goes on", || load.snapshot().sent > 50).await;
    let report = load.stop().await;
    assert_eq!(report.all().counts().ok, report.sent);
    assert!(report.overruns >= 50 && !report.lost_nothing());
}

#[tokio::test]
async fn every_way_to_fail_is_told_apart() {
    let server = Server::start(|_, head| async move {
        let version = head.contains("own").then_some("v2");
        let path = head.split(' ').nth(1).unwrap();
        match path.trim_start_matches("/own/").trim_start_matches('/') {
            "never" => Reply::Never,
            "close" => Reply::ThenClose(String::new()),
            "half-head" => Reply::ThenClose("HTTP/1.1 200 OK\r\nx-ver".to_owned()),
            "half-body" => Reply::ThenClose(
                "HTTP/1.1 200 OK\r\nx-version: v2\r\ncontent-length: 9\r\n\r\nhalf".to_owned(),
            ),
            "garbage" => Reply::ThenClose("garbage\r\n\r\n".to_owned()),
            status => Reply::Whole(answer(status.parse().unwrap(), version)),
        }
    })
    .await;
    let routing = Outcome::Routing;
    for (path, outcome, version) in [
        ("/own/200", Outcome::Ok, Some("v2")),
        ("/200", Outcome::Ok, None),
        ("/own/500", Outcome::ServiceError, Some("v2")),
        ("/own/503", Outcome::ServiceError, Some("v2")),
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
        let report = run(&Options {
            timeout,
            ..exactly(1, 100, server.url(path))
        })
        .await;
        let seen: Vec<_> = report
            .all()
            .answers()
            .map(|answer| (answer.outcome, answer.version))
            .collect();
        assert_eq!(seen, [(outcome, version)], "{path}: {:?}", report.details);
        let stories = usize::from(matches!(outcome, Outcome::Routing(_)));
        assert_eq!(report.details.len(), stories, "{path}");
        if path == "/never" {
            assert!(report.all().last().unwrap().latency >= timeout);
        }
    }
}

#[tokio::test]
async fn a_port_where_nobody_listens_refuses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let report = run(&exactly(20, 200, format!("http://{address}/"))).await;
    assert_eq!(
        report.all().counts().of(RoutingFailure::Refused),
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
async fn a_connection_that_breaks_under_a_request_loses_that_request_only() {
    let server = Server::start(|number, _| async move {
        if number % 2 == 0 {
            Reply::Whole(answer(200, Some("v1")))
        } else {
            Reply::ThenClose(String::new())
        }
    })
    .await;
    let report = run(&exactly(20, 100, server.url("/"))).await;
    assert_eq!(server.requests().len(), 20);
    let counts = report.all().counts();
    assert_eq!(
        (counts.ok, counts.of(RoutingFailure::Reset)),
        (10, 10),
        "{:?}",
        report.details
    );
}

#[tokio::test]
async fn connections_that_the_server_closes_after_an_answer_cost_nothing() {
    let server = Server::start(|_, _| async {
        Reply::ThenClose(answer(200, Some("v1")).replace("content", "connection: close\r\ncontent"))
    })
    .await;
    let report = run(&exactly(100, 400, server.url("/"))).await;
    assert_eq!(report.all().counts().ok, 100, "{:?}", report.details);
    assert_eq!(server.accepted(), 100);
}

#[tokio::test]
async fn counts_are_exact_by_version_and_outcome() {
    let server = Server::start(|number, _| async move {
        Reply::Whole(match number % 10 {
            0 => answer(500, Some("v2")),
            1 | 2 => answer(200, Some("v2")),
            3 => answer(502, None),
            _ => answer(200, Some("v1")),
        })
    })
    .await;
    let load = Load::start(&exactly(500, 1_000, server.url("/"))).unwrap();
    until("all are answered", || load.snapshot().counts.total() == 500).await;
    let live = load.snapshot();
    let report = load.stop().await;
    let by_version = report.all().counts_by_version();
    let v2 = by_version[&Some("v2")];
    assert_eq!(
        (v2.ok, v2.service_errors, v2.routing_failures()),
        (100, 50, 0)
    );
    assert_eq!(by_version[&Some("v1")].ok, 300);
    assert_eq!(by_version[&None].of(RoutingFailure::BadGateway502), 50);
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
async fn a_share_of_the_requests_gets_connections_of_its_own() {
    let server = Server::good().await;
    let options = Options {
        fresh_connection_fraction: 0.25,
        ..exactly(200, 400, server.url("/"))
    };
    let report = run(&options).await;
    assert_eq!(report.all().counts().ok, 200);
    let fresh = server
        .requests()
        .iter()
        .filter(|head| head.contains("connection: close"))
        .count();
    assert_eq!(fresh, 50);
    // One each for those, and a few that are kept alive for all others.
    assert!(
        (51..150).contains(&server.accepted()),
        "{}",
        server.accepted()
    );
}

#[tokio::test]
async fn the_host_header_names_the_route_and_the_url_the_address() {
    let server = Server::good().await;
    let options = Options {
        host: Some("shop.example".into()),
        ..exactly(1, 100, server.url("/cart?id=1"))
    };
    run(&options).await;
    let head = server.requests().remove(0).to_lowercase();
    assert!(head.starts_with("get /cart?id=1 http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nhost: shop.example\r\n"), "{head}");
    assert_eq!(head.matches("host:").count(), 1);
}

#[tokio::test]
async fn the_rate_changes_at_once() {
    let server = Server::good().await;
    let load = Load::start(&Options {
        rate_per_second: 1,
        ..Options::new(server.url("/"))
    })
    .unwrap();
    server.arrived(1).await;
    let changed = load.elapsed();
    load.set_rate(1_000).unwrap();
    server.arrived(101).await;
    assert_eq!(load.snapshot().rate_per_second, 1_000);
    assert!(matches!(load.set_rate(0), Err(StartError::Range { .. })));
    let report = load.stop().await;
    let due: Vec<_> = report
        .between(changed..)
        .answers()
        .map(|answer| answer.at)
        .collect();
    assert!(due.len() >= 100);
    for pair in due.windows(2) {
        let off = pair[1].abs_diff(pair[0] + Duration::from_millis(1));
        assert!(off <= Duration::from_micros(1), "{pair:?}");
    }
}

#[tokio::test]
async fn a_report_can_be_had_while_it_runs() {
    let server = Server::good().await;
    let load = Load::start(&Options::new(server.url("/"))).unwrap();
    until("some are answered", || load.snapshot().counts.ok >= 5).await;
    let so_far = load.report_so_far();
    assert_eq!(so_far.ended_by, None);
    assert!(so_far.all().counts().ok >= 5);
    let report = load.stop().await;
    assert_eq!(report.ended_by, Some(EndedBy::Stopped));
    assert_eq!(report.all().counts().total(), report.sent);
    assert!(report.started_at == so_far.started_at && report.sent >= so_far.sent);
}

#[tokio::test]
async fn a_dropped_handle_ends_the_load() {
    let server = Server::good().await;
    let load = Load::start(&Options::new(server.url("/"))).unwrap();
    server.arrived(3).await;
    drop(load);
    until("its connections are closed", || server.open() == 0).await;
}

#[tokio::test]
async fn a_busy_caller_holds_nothing_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let options = exactly(
        50,
        500,
        format!("http://{}/", listener.local_addr().unwrap()),
    );
    let load = Load::start(&Options {
        timeout: Duration::from_secs(30),
        ..options
    })
    .unwrap();
    // This blocks the caller's only thread until 50 connections have come: no task of its runtime
    // can help.
    let held: Vec<_> = (0..50).map(|_| listener.accept().unwrap()).collect();
    assert_eq!(load.snapshot().in_flight, 50);
    drop(held);
    assert_eq!(
        load.stop().await.all().counts().of(RoutingFailure::Reset),
        50
    );
}
