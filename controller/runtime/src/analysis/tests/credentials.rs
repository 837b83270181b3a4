//! Prometheus credentials: missing, wrong, replaced, forbidden, and never logged.

use serin_core::hold::HoldCode;
use serin_core::observed::ReportKind;
use std::io::Write;
use std::sync::Mutex;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serin_fake_cluster::certificates::CertificateAuthority;
use serin_fake_cluster::{FakeCluster, Fault};
use tracing_subscriber::fmt::MakeWriter;

use super::*;

const ONE: &str = "Bearer s3cret-one";
const TWO: &str = "Bearer s3cret-two";

/// Captures all log lines of all levels.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for &Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

/// A Prometheus with TLS and a token, and the cluster with its credentials.
struct SecuredPrometheus {
    prometheus: ScriptedPrometheus,
    authority: CertificateAuthority,
    world: FakeCluster,
}

impl SecuredPrometheus {
    async fn new(seed: u64) -> Self {
        install_tls();
        let authority = CertificateAuthority::new().unwrap();
        let prometheus = ScriptedPrometheus::start_with_tls(
            authority.listen(false).await.unwrap(),
            Clock::tokio_from(start()),
        );
        prometheus.set_series(TrafficScenario::default().series());
        prometheus.set_token(ONE);
        Self {
            prometheus,
            authority,
            world: FakeCluster::new(seed),
        }
    }

    fn put_token(&self, token: &str) {
        self.put(
            "Secret",
            "prometheus-headers",
            &json!({"Authorization": encoded(token)}),
        );
    }

    fn put_authority(&self, authority: &CertificateAuthority) {
        self.put(
            "ConfigMap",
            "monitoring-ca",
            &json!({"ca.crt": authority.pem()}),
        );
    }

    fn put(&self, kind: &str, name: &str, data: &Value) {
        let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "shop"}, "data": data});
        self.world.apply_object(object).unwrap();
    }

    fn request(&self) -> AnalysisRequest {
        let mut request = request();
        request.analysis.prometheus = serde_json::from_value(json!({
            "address": self.prometheus.url, "scrapeInterval": "1s",
            "headersFrom": {"secretRef": {"name": "prometheus-headers"}},
            "tls": {"caFrom": {"configMapKeyRef": {"name": "monitoring-ca", "key": "ca.crt"}}},
        }))
        .unwrap();
        request
    }

    /// A manager that refreshes credentials many times per second.
    fn start_manager(&self, default: Option<DefaultServer>) -> RunningManager {
        let often = Duration::from_millis(50);
        let refresh_intervals = RefreshIntervals {
            release: often,
            idle: often,
        };
        start_with_servers(
            &self.prometheus,
            start(),
            Limits::default(),
            ServerResolver::new(self.world.client(), default, refresh_intervals)
                .with_allowed_addresses(loopback()),
        )
    }
}

/// The token as a Secret contains it, with the trailing newline of a file.
fn encoded(token: &str) -> Value {
    serde_json::to_value(ByteString(format!("{token}\n").into())).unwrap()
}

async fn evidence(running: &RunningManager) -> AnalysisSnapshot {
    running
        .wait_until("evidence", |snapshot| {
            snapshot.report.kind() == ReportKind::Undecided && snapshot.checkpoint.is_some()
        })
        .await
}

#[tokio::test]
async fn late_and_replaced_secrets_are_used_and_never_logged() {
    let log = Log::default();
    let subscriber = || {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(log.clone())
            .finish()
    };
    // With a single subscriber, a thread does not receive log lines from call sites that another
    // test has already registered.
    let _second = tracing::Dispatch::new(subscriber());
    let _logging = tracing::subscriber::set_default(subscriber());
    let secured = SecuredPrometheus::new(1).await;
    let running = secured.start_manager(None);
    running.manager.start_or_update(secured.request());
    let mut shown = running.wait_for_hold(HoldCode::SecretNotFound).await;
    assert!(
        shown.contains("Secret shop/prometheus-headers (spec.analysis.prometheus.headersFrom)"),
        "{shown}"
    );
    secured.put_token(ONE);
    shown += &running.wait_for_hold(HoldCode::ConfigMapNotFound).await;
    secured.put_authority(&secured.authority);
    secured
        .prometheus
        .set_service(&[("total", 1e9), ("errors", 2e5), ("age0", 2.6e6)]);
    let budget = |snapshot: &AnalysisSnapshot| {
        snapshot
            .evidence
            .first()
            .and_then(|evidence| evidence.budget_allotment)
    };
    let began = running
        .wait_until("a budget", |snapshot| budget(snapshot).is_some())
        .await;

    // From now on, the old token is rejected.
    secured.prometheus.set_service(&[]);
    secured.prometheus.set_token(TWO);
    secured.put_token(TWO);
    let seconds = round_at(began.checkpoint.as_ref()) / 1_000 - start().as_second();
    let later = running.wait_for_evidence_until(seconds.max(0) + 3).await;
    assert!(
        budget(&running.snapshot()).is_some(),
        "what was known of the service still is"
    );
    assert_eq!(
        Some(later.started_at),
        began
            .checkpoint
            .as_ref()
            .map(|checkpoint| checkpoint.started_at)
    );

    secured
        .world
        .delete::<Secret>("shop", "prometheus-headers")
        .unwrap();
    shown += &running.wait_for_hold(HoldCode::SecretNotFound).await;
    assert_eq!(
        running.snapshot().checkpoint.map(|own| own.started_at),
        Some(later.started_at),
        "what was counted is not lost"
    );
    secured.put_token(TWO);
    evidence(&running).await;
    shown += &format!(
        "{:?} {:?} {running:?}",
        running.snapshot(),
        running.manager.inner
    );
    let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(logged.contains("analysis report changed"), "{logged}");
    for secret in ["s3cret", encoded(TWO).as_str().unwrap()] {
        assert!(
            !shown.contains(secret) && !logged.contains(secret),
            "{shown}\n{logged}"
        );
    }
}

#[tokio::test]
async fn a_wrong_ca_and_a_wrong_token_are_reported_until_they_are_fixed() {
    let secured = SecuredPrometheus::new(2).await;
    let running = secured.start_manager(None);
    secured.put_token(TWO);
    secured.put_authority(&CertificateAuthority::new().unwrap());
    running.manager.start_or_update(secured.request());
    let message = running.wait_for_hold(HoldCode::UntrustedCertificate).await;
    assert!(
        message.contains("spec.analysis.prometheus.tls.caFrom"),
        "{message}"
    );
    secured.put_authority(&secured.authority);
    let message = running.wait_for_hold(HoldCode::Unauthorized).await;
    assert!(
        message.contains("401") && message.contains("spec.analysis.prometheus.headersFrom"),
        "{message}"
    );
    secured.put(
        "Secret",
        "prometheus-headers",
        &json!({"Authorization": ""}),
    );
    running.wait_for_hold(HoldCode::InvalidSecret).await;
    secured.put_token(ONE);
    evidence(&running).await;
}

#[tokio::test]
async fn a_canary_without_prometheus_credentials_is_stepped_down() {
    let secured = SecuredPrometheus::new(6).await;
    secured.put_token(ONE);
    secured.put_authority(&secured.authority);
    let running = secured.start_manager(None);
    let mut request = secured.request();
    request.analysis.on_no_data = serde_json::from_value(json!({"stepDownAfter": "1s"})).unwrap();
    running.manager.start_or_update(AnalysisRequest {
        weight: Weight::ZERO,
        ..request.clone()
    });
    running
        .wait_until("waiting", |snapshot| {
            snapshot.report.kind() == ReportKind::Undecided
        })
        .await;
    secured
        .world
        .delete::<Secret>("shop", "prometheus-headers")
        .unwrap();
    running.wait_for_hold(HoldCode::SecretNotFound).await;
    running.manager.start_or_update(request.clone());
    let lowered = |snapshot: &AnalysisSnapshot| {
        let mut holds = snapshot.report.holds.iter();
        holds.any(|hold| hold.code == HoldCode::SecretNotFound && hold.lower_to.is_some())
    };
    running.wait_until("a step down", lowered).await;
    secured.put_token(ONE);
    evidence(&running).await;
}

#[tokio::test]
async fn a_forbidden_secret_is_reported_with_the_fix_and_other_rollouts_continue() {
    let secured = SecuredPrometheus::new(3).await;
    secured
        .world
        .inject(Fault::on("get", "secrets").always().status(403));
    let open = start_prometheus(&TrafficScenario::default()).await;
    let running = secured.start_manager(Some(DefaultServer {
        address: open.url.clone(),
        headers_dir: None,
    }));
    running.manager.start_or_update(secured.request());
    running.manager.start_or_update(AnalysisRequest {
        uid: "2".into(),
        ..request()
    });
    let message = running.wait_for_hold(HoldCode::SecretForbidden).await;
    let role = "kubectl -n shop create role serin-secret-prometheus-headers --verb=get --resource=secrets --resource-name=prometheus-headers";
    assert!(
        message.contains(role) && message.ends_with("--user=serin"),
        "{message}"
    );
    let other = || running.manager.snapshot("2", &Revision::new("bbb"));
    running
        .wait_until("the other's evidence", |_| {
            let other = other();
            other.checkpoint.is_some() && other.report.kind() == ReportKind::Undecided
        })
        .await;
    running.wait_for_hold(HoldCode::SecretForbidden).await;
}

#[tokio::test]
async fn known_credentials_are_used_while_the_api_server_is_unavailable() {
    let secured = SecuredPrometheus::new(4).await;
    secured.put_token(ONE);
    secured.put_authority(&secured.authority);
    secured
        .world
        .inject(Fault::on("get", "secrets").times(2).status(500));
    let running = secured.start_manager(None);
    running.manager.start_or_update(secured.request());
    running.wait_for_hold(HoldCode::SecretUnavailable).await;
    let began = evidence(&running).await;
    secured
        .world
        .inject(Fault::on("get", "secrets").always().status(500));
    let seconds = round_at(began.checkpoint.as_ref()) / 1_000 - start().as_second();
    running.wait_for_evidence_until(seconds.max(0) + 3).await;
    assert!(
        running.snapshot().report.kind() == ReportKind::Undecided,
        "{:?}",
        running.snapshot().report
    );
}

#[tokio::test]
async fn controller_headers_are_sent_only_to_the_default_prometheus() {
    let secured = SecuredPrometheus::new(5).await;
    let open = start_prometheus(&TrafficScenario::default()).await;
    open.set_token(ONE);
    let directory = tempfile::tempdir().unwrap();
    let put =
        |name: &str, content: &str| std::fs::write(directory.path().join(name), content).unwrap();
    std::fs::create_dir(directory.path().join("..data")).unwrap();
    let running = secured.start_manager(Some(DefaultServer {
        address: open.url.clone(),
        headers_dir: Some(directory.path().into()),
    }));
    running.manager.start_or_update(request());
    running.wait_for_hold(HoldCode::InvalidDirectory).await;
    put("Authorization", &format!("{TWO}\n"));
    running.wait_for_hold(HoldCode::Unauthorized).await;
    put("Authorization", &format!("{ONE}\n"));
    evidence(&running).await;
    // A Rollout with its own address does not get the headers of the controller.
    let mut own = request();
    own.analysis.prometheus.as_mut().unwrap().address = Some(open.url.clone());
    running.manager.start_or_update(own);
    running.wait_for_hold(HoldCode::Unauthorized).await;
}
