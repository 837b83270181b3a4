//! The whole benchmark with a few rollouts. It needs Go and a built controller:
//!
//! ```sh
//! cargo build --package serin-controller
//! cargo test --package serin-scale --test smoke -- --ignored --nocapture
//! ```
//!
//! `SMOKE_PRODUCTS` and `SMOKE_PHASES` name other products and phases, `SMOKE_ROLLOUTS` other
//! numbers, and `SMOKE_CONTROLLER` another program. `SMOKE_KEEP` keeps the logs in `.local/scale`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::env::var;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serin_scale::{Phase, Product, ScaleOptions, markdown, run};

/// Comma-separated values of an environment variable.
fn list<T: FromStr>(name: &str, default: &str) -> Vec<T>
where
    T::Err: std::fmt::Debug,
{
    let text = var(name).unwrap_or_else(|_| default.to_owned());
    text.split(',').map(|item| item.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts a control plane, and builds its programs if they are not in the cache"]
async fn smoke() {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap();
    let controller = checkout.join("target/debug/serin-controller");
    let phases = Phase::ALL.map(Phase::name).join(",");
    let options = ScaleOptions {
        controller: var("SMOKE_CONTROLLER").map_or(controller, Into::into),
        checkout,
        products: list::<Product>("SMOKE_PRODUCTS", "serin"),
        rollouts: list("SMOKE_ROLLOUTS", "5"),
        phases: list::<Phase>("SMOKE_PHASES", &phases),
        aborts: 5,
        takeovers: 1,
        settle: Duration::from_secs(2),
        churn_per_second: 1,
        quiet_time: Duration::from_secs(10),
        max_duration: Duration::from_secs(900),
        keep: var("SMOKE_KEEP").is_ok(),
        environment: "a smoke test".to_owned(),
    };
    let results = run(&options).await.unwrap();
    println!("{}", markdown(&results));
    for product in &results.products {
        assert_eq!(product.stopped, None);
        for result in &product.phases {
            assert_eq!(result.unfinished, 0, "{}", result.phase);
            let is_serin = product.product == Product::Serin;
            assert!(
                !is_serin || result.requests.failed.is_empty(),
                "{:?}",
                result.requests
            );
        }
        let create = product.largest(Phase::Create).unwrap();
        assert!(create.requests.write_count() > 0 && create.usage.peak_rss_mib > 0.0);
        let update = product.largest(Phase::Update);
        assert!(update.is_none_or(|update| update.done.unwrap().count == update.changed));
    }
}
