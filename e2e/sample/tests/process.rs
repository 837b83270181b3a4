//! Tests of the sample as a process: signals, exit codes, and counters compared with a client.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{net::SocketAddr, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use serin_load::{Load, LoadOptions};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::{sleep, timeout},
};

/// Longer than any condition of these tests takes, and shorter than the grace period of the sample
/// after a drain.
const TIMEOUT: Duration = Duration::from_secs(15);

/// A running sample. It is killed on drop.
struct Sample {
    child: Child,
    address: SocketAddr,
}

fn command(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_serin-sample"));
    command
        .env_clear()
        .env("VERSION", "v1")
        .env("BIND_ADDRESS", "127.0.0.1")
        .env("PORT", "0");
    command.envs(variables.iter().copied());
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

impl Sample {
    async fn start(variables: &[(&str, &str)]) -> Self {
        let mut child = command(variables).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        timeout(TIMEOUT, stdout.read_line(&mut line))
            .await
            .unwrap()
            .unwrap();
        let address = line
            .trim()
            .strip_prefix("serin-sample v1 listens on ")
            .unwrap()
            .parse()
            .unwrap();
        Self { child, address }
    }

    fn terminate(&self) {
        let id = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), Signal::TERM).unwrap();
    }

    async fn exit_code(&mut self) -> Option<i32> {
        timeout(TIMEOUT, self.child.wait())
            .await
            .expect("it exits")
            .unwrap()
            .code()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends one request on a new connection. Returns the whole response, or an empty string if
    /// there is none.
    async fn get(&self, path: &str) -> String {
        let mut stream = self.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: sample\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = timeout(TIMEOUT, stream.read_to_string(&mut answer))
            .await
            .expect("it answers or closes");
        answer
    }

    async fn metric(&self, series: &str) -> u64 {
        let text = self.get("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}"))
            .trim()
            .parse()
            .unwrap()
    }
}

#[tokio::test]
async fn counters_match_the_client() {
    let sample = Sample::start(&[
        ("ERROR_RATE", "20"),
        ("SEED", "7"),
        ("LATENCY_JITTER_MS", "5"),
    ])
    .await;
    let options = LoadOptions {
        rate_per_second: 500,
        duration: Some(Duration::from_secs(1)),
        fresh_connection_fraction: 0.1,
        ..LoadOptions::new(format!("http://{}/", sample.address))
    };
    let load = Load::start(&options).unwrap();
    // Probes and scrapes are not counted as requests of the service.
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert!(sample.get(path).await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
    load.wait_until_ended().await;
    let report = load.stop().await;
    let seen = report.all().of_version("v1").counts();
    assert_eq!(
        (seen.total(), seen.routing_failures()),
        (500, 0),
        "{:?}",
        report.details
    );
    assert!(seen.service_errors > 0);
    assert_eq!(
        sample
            .metric("http_requests_total{code=\"200\",version=\"v1\"}")
            .await,
        seen.ok
    );
    assert_eq!(
        sample
            .metric("http_requests_total{code=\"500\",version=\"v1\"}")
            .await,
        seen.service_errors
    );
    assert_eq!(
        sample
            .metric("http_request_duration_seconds_count{version=\"v1\"}")
            .await,
        500
    );
}

#[tokio::test]
async fn draining_under_load_loses_no_request() {
    let mut sample = Sample::start(&[("DRAIN_MS", "4000"), ("LATENCY_MS", "2")]).await;
    let options = LoadOptions {
        rate_per_second: 300,
        fresh_connection_fraction: 0.1,
        ..LoadOptions::new(format!("http://{}/", sample.address))
    };
    let load = Load::start(&options).unwrap();
    let wait_for_request_due_at = async |time: Duration| {
        let polling = async {
            while load
                .snapshot()
                .version("v1")
                .is_none_or(|answered| answered.last_at < time)
            {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(TIMEOUT, polling)
            .await
            .expect("requests are answered");
    };
    wait_for_request_due_at(Duration::from_millis(300)).await;
    sample.terminate();
    let unready = async { while !sample.get("/readyz").await.starts_with("HTTP/1.1 503 ") {} };
    timeout(TIMEOUT, unready).await.expect("it turns unready");
    let drains_since = load.elapsed();
    assert!(sample.get("/").await.contains("\r\nconnection: close\r\n"));
    // Traffic continues until the routers have removed the endpoint.
    let more_traffic = Duration::from_secs(1);
    wait_for_request_due_at(drains_since + more_traffic).await;
    let report = load.stop().await;
    assert_eq!(
        report.all().counts().routing_failures(),
        0,
        "{:?}",
        report.details
    );
    assert_eq!(report.all().counts().ok, report.sent);
    let drained = report
        .between(drains_since..drains_since + more_traffic)
        .of_version("v1")
        .counts();
    assert!((299..=301).contains(&drained.ok), "{drained:?}");
    assert_eq!(sample.exit_code().await, Some(0));
}

#[tokio::test]
async fn requests_in_flight_finish_after_the_drain() {
    let mut sample = Sample::start(&[("DRAIN_MS", "1000"), ("LATENCY_MS", "2000")]).await;
    let mut stream = sample.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: sample\r\n\r\n")
        .await
        .unwrap();
    sample.terminate();
    let mut answer = String::new();
    timeout(TIMEOUT, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("serin-sample v1\n"), "{answer}");
    assert_eq!(sample.exit_code().await, Some(0));
    assert!(TcpStream::connect(sample.address).await.is_err());
}

#[tokio::test]
async fn an_idle_connection_does_not_delay_the_exit() {
    let mut sample = Sample::start(&[("DRAIN_MS", "0")]).await;
    let mut stream = sample.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: sample\r\n\r\n")
        .await
        .unwrap();
    let mut status = [0; 15];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 200 OK");
    sample.terminate();
    assert_eq!(sample.exit_code().await, Some(0));
}

#[tokio::test]
async fn it_crashes_on_the_request_after_the_limit_without_a_response() {
    let mut sample = Sample::start(&[("CRASH_AFTER_REQUESTS", "3")]).await;
    for _ in 0..3 {
        assert!(sample.get("/").await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
    assert!(
        sample
            .get("/readyz")
            .await
            .starts_with("HTTP/1.1 200 OK\r\n")
    );
    assert_eq!(sample.get("/").await, "");
    assert_eq!(sample.exit_code().await, Some(1));
}

#[tokio::test]
async fn it_crashes_after_the_configured_time() {
    let mut sample = Sample::start(&[("CRASH_AFTER_MS", "1")]).await;
    assert_eq!(sample.exit_code().await, Some(1));
}

#[tokio::test]
async fn a_service_that_is_never_ready_is_alive_and_responds() {
    let sample = Sample::start(&[("NEVER_READY", "true")]).await;
    assert!(sample.get("/readyz").await.starts_with("HTTP/1.1 503 "));
    assert!(sample.get("/healthz").await.starts_with("HTTP/1.1 200 "));
    assert!(sample.get("/").await.contains("\r\nx-version: v1\r\n"));
}

/// Runs the sample until it exits. Returns the exit code, standard output and standard error.
async fn run_to_exit(variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let output = timeout(TIMEOUT, command(variables).output())
        .await
        .expect("it ends")
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[tokio::test]
async fn it_crashes_on_start_before_it_listens() {
    let (code, stdout, stderr) = run_to_exit(&[("CRASH_ON_START", "true")]).await;
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert_eq!(stderr, "serin-sample: crashing: CRASH_ON_START\n");
}

#[tokio::test]
async fn every_configuration_problem_is_reported() {
    let (code, stdout, stderr) = run_to_exit(&[("ERROR_RATE", "3%"), ("DRAIN_MS", "2s")]).await;
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(
        stderr.contains("ERROR_RATE=\"3%\": set a percentage"),
        "{stderr}"
    );
    assert!(
        stderr.contains("DRAIN_MS=\"2s\": set a whole number of milliseconds"),
        "{stderr}"
    );
}

#[tokio::test]
async fn a_port_in_use_is_reported() {
    let sample = Sample::start(&[]).await;
    let (code, _, stderr) = run_to_exit(&[("PORT", &sample.address.port().to_string())]).await;
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains(&format!("cannot serve on {}: ", sample.address)),
        "{stderr}"
    );
}
