//! What a Prometheus is asked with: missing, wrong, replaced, forbidden; and never told.

use std::io::Write;
use std::sync::Mutex;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serin_fake_cluster::tls::Authority;
use serin_fake_cluster::{Fault, World};
use tracing_subscriber::fmt::MakeWriter;

use super::*;

const ONE: &str = "Bearer s3cret-one";
const TWO: &str = "Bearer s3cret-two";

/// Every line that anybody logs, whatever the level.
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

/// A Prometheus behind TLS and a token, and the cluster that holds what opens it.
struct Closed {
    script: Script,
    authority: Authority,
    world: World,
}

impl Closed {
    async fn new(seed: u64) -> Self {
        install_tls();
        let authority = Authority::new().unwrap();
        let script = Script::start_by(
            authority.listen(false).await.unwrap(),
            Clock::tokio_from(start()),
        );
        script.set_series(Story::default().series());
        script.set_token(ONE);
        Self {
            script,
            authority,
            world: World::new(seed),
        }
    }

    fn put_token(&self, token: &str) {
        self.put(
            "Secret",
            "prometheus-headers",
            &json!({"Authorization": encoded(token)}),
        );
    }

    fn put_authority(&self, authority: &Authority) {
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

    fn request(&self) -> JudgeRequest {
        let mut request = request();
        request.analysis.prometheus = serde_json::from_value(json!({
            "address": self.script.url, "scrapeInterval": "1s",
            "headersFrom": {"secretRef": {"name": "prometheus-headers"}},
            "tls": {"caFrom": {"configMapKeyRef": {"name": "monitoring-ca", "key": "ca.crt"}}},
        }))
        .unwrap();
        request
    }

    /// A controller that reads again many times a second.
    fn live(&self, default: Option<DefaultServer>) -> Life {
        let often = Duration::from_millis(50);
        let rereading = Rereading {
            release: often,
            idle: often,
        };
        live_by(
            &self.script,
            start(),
            Limits::default(),
            Servers::new(self.world.client(), default, rereading),
        )
    }
}

/// A token as a Secret holds it, with the newline that files end in.
fn encoded(token: &str) -> Value {
    serde_json::to_value(ByteString(format!("{token}\n").into())).unwrap()
}

async fn evidence(life: &Life) -> Look {
    life.until("evidence", |look| {
        matches!(look.judgement, AnalysisReport::Undecided { .. }) && look.checkpoint.is_some()
    })
    .await
}

#[tokio::test]
async fn a_secret_that_comes_late_is_found_and_one_that_is_replaced_is_taken_up_and_nobody_tells_it()
 {
    let log = Log::default();
    let subscriber = || {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(log.clone())
            .finish()
    };
    // A lone subscriber of one thread is not asked about lines that another test has come to first.
    let _second = tracing::Dispatch::new(subscriber());
    let _logging = tracing::subscriber::set_default(subscriber());
    let closed = Closed::new(1).await;
    let life = closed.live(None);
    life.judges.watch(closed.request());
    let mut shown = life.held_for("SecretNotFound").await;
    assert!(
        shown.contains("Secret shop/prometheus-headers (spec.analysis.prometheus.headersFrom)"),
        "{shown}"
    );
    closed.put_token(ONE);
    shown += &life.held_for("ConfigMapNotFound").await;
    closed.put_authority(&closed.authority);
    closed
        .script
        .set_service(&[("total", 1e9), ("errors", 2e5), ("age0", 2.6e6)]);
    let budget = |look: &Look| {
        look.evidence
            .first()
            .and_then(|evidence| evidence.budget_allotment)
    };
    let began = life.until("a budget", |look| budget(look).is_some()).await;

    // From now on the old token opens nothing.
    closed.script.set_service(&[]);
    closed.script.set_token(TWO);
    closed.put_token(TWO);
    let seconds = round_at(began.checkpoint.as_ref()) / 1_000 - start().as_second();
    let later = life.judged_until(seconds.max(0) + 3).await;
    assert!(
        budget(&life.look()).is_some(),
        "what was known of the service still is"
    );
    assert_eq!(
        Some(later.started_at),
        began
            .checkpoint
            .as_ref()
            .map(|checkpoint| checkpoint.started_at)
    );

    closed
        .world
        .delete::<Secret>("shop", "prometheus-headers")
        .unwrap();
    shown += &life.held_for("SecretNotFound").await;
    assert_eq!(
        life.look().checkpoint.map(|own| own.started_at),
        Some(later.started_at),
        "what was counted is not lost"
    );
    closed.put_token(TWO);
    evidence(&life).await;
    shown += &format!("{:?} {:?} {life:?}", life.look(), life.judges.inner);
    let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(logged.contains("the judgement has changed"), "{logged}");
    for secret in ["s3cret", encoded(TWO).as_str().unwrap()] {
        assert!(
            !shown.contains(secret) && !logged.contains(secret),
            "{shown}\n{logged}"
        );
    }
}

#[tokio::test]
async fn a_wrong_authority_and_a_wrong_token_are_told_by_name_until_they_are_put_right() {
    let closed = Closed::new(2).await;
    let life = closed.live(None);
    closed.put_token(TWO);
    closed.put_authority(&Authority::new().unwrap());
    life.judges.watch(closed.request());
    let message = life.held_for("UntrustedCertificate").await;
    assert!(
        message.contains("spec.analysis.prometheus.tls.caFrom"),
        "{message}"
    );
    closed.put_authority(&closed.authority);
    let message = life.held_for("Unauthorized").await;
    assert!(
        message.contains("401") && message.contains("spec.analysis.prometheus.headersFrom"),
        "{message}"
    );
    closed.put(
        "Secret",
        "prometheus-headers",
        &json!({"Authorization": ""}),
    );
    life.held_for("InvalidSecret").await;
    closed.put_token(ONE);
    evidence(&life).await;
}

#[tokio::test]
async fn a_canary_whose_prometheus_cannot_be_asked_loses_its_traffic_after_a_while() {
    let closed = Closed::new(6).await;
    closed.put_token(ONE);
    closed.put_authority(&closed.authority);
    let life = closed.live(None);
    let mut request = closed.request();
    request.analysis.on_no_data = serde_json::from_value(json!({"stepDownAfter": "1s"})).unwrap();
    life.judges.watch(JudgeRequest {
        weight: Weight::ZERO,
        ..request.clone()
    });
    life.until("waiting", |look| {
        matches!(&look.judgement, AnalysisReport::Undecided { .. })
    })
    .await;
    closed
        .world
        .delete::<Secret>("shop", "prometheus-headers")
        .unwrap();
    life.held_for("SecretNotFound").await;
    life.judges.watch(request.clone());
    let lowered = |look: &Look| matches!(&look.judgement, AnalysisReport::Hold { cause, lower_to: Some(_), .. } if cause == "SecretNotFound");
    life.until("a step down", lowered).await;
    closed.put_token(ONE);
    evidence(&life).await;
}

#[tokio::test]
async fn who_may_not_read_a_secret_is_told_what_to_add_and_others_are_judged() {
    let closed = Closed::new(3).await;
    closed
        .world
        .inject(Fault::on("get", "secrets").always().status(403));
    let open = script(&Story::default()).await;
    let life = closed.live(Some(DefaultServer {
        address: open.url.clone(),
        headers_dir: None,
    }));
    life.judges.watch(closed.request());
    life.judges.watch(JudgeRequest {
        uid: "2".into(),
        ..request()
    });
    let message = life.held_for("SecretForbidden").await;
    let role = "kubectl -n shop create role serin-secret-prometheus-headers --verb=get --resource=secrets --resource-name=prometheus-headers";
    assert!(
        message.contains(role) && message.ends_with("--user=serin"),
        "{message}"
    );
    let other = || life.judges.look("2", &Revision::new("bbb"));
    life.until("the other's evidence", |_| other().checkpoint.is_some())
        .await;
    assert!(
        matches!(other().judgement, AnalysisReport::Undecided { .. }),
        "{:?}",
        other().judgement
    );
    life.held_for("SecretForbidden").await;
}

#[tokio::test]
async fn what_was_read_is_used_on_while_the_api_server_is_away() {
    let closed = Closed::new(4).await;
    closed.put_token(ONE);
    closed.put_authority(&closed.authority);
    closed
        .world
        .inject(Fault::on("get", "secrets").times(2).status(500));
    let life = closed.live(None);
    life.judges.watch(closed.request());
    life.held_for("SecretUnavailable").await;
    let began = evidence(&life).await;
    closed
        .world
        .inject(Fault::on("get", "secrets").always().status(500));
    let seconds = round_at(began.checkpoint.as_ref()) / 1_000 - start().as_second();
    life.judged_until(seconds.max(0) + 3).await;
    assert!(
        matches!(life.look().judgement, AnalysisReport::Undecided { .. }),
        "{:?}",
        life.look().judgement
    );
}

#[tokio::test]
async fn the_controllers_own_headers_are_files_and_go_to_its_own_prometheus_only() {
    let closed = Closed::new(5).await;
    let open = script(&Story::default()).await;
    open.set_token(ONE);
    let directory = tempfile::tempdir().unwrap();
    let put =
        |name: &str, content: &str| std::fs::write(directory.path().join(name), content).unwrap();
    std::fs::create_dir(directory.path().join("..data")).unwrap();
    let life = closed.live(Some(DefaultServer {
        address: open.url.clone(),
        headers_dir: Some(directory.path().into()),
    }));
    life.judges.watch(request());
    life.held_for("InvalidDirectory").await;
    put("Authorization", &format!("{TWO}\n"));
    life.held_for("Unauthorized").await;
    put("Authorization", &format!("{ONE}\n"));
    evidence(&life).await;
    // One that names an address gets nothing of the controller's.
    let mut own = request();
    own.analysis.prometheus.as_mut().unwrap().address = Some(open.url.clone());
    life.judges.watch(own);
    life.held_for("Unauthorized").await;
}
