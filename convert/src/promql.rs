//! Recognizes queries that divide two request counters, because such a ratio is an objective.

use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::{Expr, VectorSelector};
use serde_json::{Value, json};
use serin_crds::check::parse_promql;

/// The names of the two Services, by which a query may distinguish the sides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sides<'a> {
    pub stable: Option<&'a str>,
    pub canary: Option<&'a str>,
}

/// The objective that a query and its condition stand for: a percentage and counters.
///
/// `None` unless the query divides the rates of two request counters, both select the canary only,
/// and the condition bounds the ratio from the side of the bad requests. The canary's own matcher is
/// removed from the counters, because an objective compares both sides.
pub(crate) fn objective(query: &str, condition: &str, sides: Sides<'_>) -> Option<(f64, Value)> {
    // A placeholder is not a valid regular expression.
    let query = query.replace("{{args.canaryReplicaSet}}", CANARY_PODS);
    let query = query.replace("{{args.canaryService}}", sides.canary.unwrap_or_default());
    if query.contains("{{") {
        return None;
    }
    let (is_inverted, numerator, denominator) = ratio(&parse_promql(&query).ok()?)?;
    let (is_lower_bound, bound) = bound(condition)?;
    let counts_good = is_lower_bound != is_inverted;
    let bound = if is_lower_bound { bound } else { 1.0 - bound };
    let percent = (bound * 1e8).round() / 1e6;
    if percent <= 0.0 || percent >= 100.0 {
        return None;
    }
    let errors = if counts_good {
        complement(&numerator, &denominator)?
    } else {
        numerator
    };
    let side = side_matcher(&denominator, sides)?;
    if !errors.matchers.matchers.contains(&side.matcher) {
        return None;
    }
    let mut counters = json!({
        "total": selector(&denominator, &side.matcher)?,
        "errors": selector(&errors, &side.matcher)?,
    });
    if counters["total"] == counters["errors"] {
        return None;
    }
    if let Some(variants) = side.variants {
        counters["variants"] = variants;
    }
    Some((percent, counters))
}

/// Stands for the name of the canary's ReplicaSet while a query is parsed.
const CANARY_PODS: &str = "SERIN-CANARY-PODS";

/// Numerator and denominator, and whether the ratio is subtracted from 1.
fn ratio(expression: &Expr) -> Option<(bool, VectorSelector, VectorSelector)> {
    match expression {
        Expr::Paren(paren) => ratio(&paren.expr),
        Expr::Binary(binary) if binary.op.to_string() == "-" => {
            let Expr::NumberLiteral(number) = unwrap(&binary.lhs) else {
                return None;
            };
            let (is_inverted, numerator, denominator) = ratio(&binary.rhs)?;
            let is_one = (number.val - 1.0).abs() < f64::EPSILON;
            (is_one && !is_inverted).then_some((true, numerator, denominator))
        }
        Expr::Binary(binary) if binary.op.to_string() == "/" && binary.modifier.is_none() => {
            let numerator = summed_rate(&binary.lhs)?;
            let denominator = summed_rate(&binary.rhs)?;
            Some((false, numerator, denominator))
        }
        _ => None,
    }
}

fn unwrap(expression: &Expr) -> &Expr {
    match expression {
        Expr::Paren(paren) => unwrap(&paren.expr),
        other => other,
    }
}

/// The selector of `sum(rate(selector[5m]))`.
fn summed_rate(expression: &Expr) -> Option<VectorSelector> {
    let Expr::Aggregate(aggregate) = unwrap(expression) else {
        return None;
    };
    if aggregate.op.to_string() != "sum" || aggregate.modifier.is_some() {
        return None;
    }
    let Expr::Call(call) = unwrap(&aggregate.expr) else {
        return None;
    };
    if !["rate", "irate", "increase"].contains(&call.func.name) {
        return None;
    }
    let Expr::MatrixSelector(matrix) = unwrap(call.args.args.first()?) else {
        return None;
    };
    let selector = &matrix.vs;
    let is_plain = selector.offset.is_none()
        && selector.at.is_none()
        && selector.matchers.or_matchers.is_empty();
    is_plain.then(|| selector.clone())
}

/// The bound of `result[0] >= 0.95` and whether it is a lower one.
fn bound(condition: &str) -> Option<(bool, f64)> {
    let rest = condition.trim().strip_prefix("result[0]")?.trim();
    let (is_lower, number) = if let Some(number) = rest.strip_prefix('>') {
        (true, number)
    } else {
        (false, rest.strip_prefix('<')?)
    };
    let number: f64 = number.trim_start_matches('=').trim().parse().ok()?;
    (0.0..=1.0).contains(&number).then_some((is_lower, number))
}

/// The requests of `total` that are not `good`, if the two differ in one matcher.
fn complement(good: &VectorSelector, total: &VectorSelector) -> Option<VectorSelector> {
    let is_in_total = |matcher: &&Matcher| !total.matchers.matchers.contains(matcher);
    let extra: Vec<&Matcher> = good.matchers.matchers.iter().filter(is_in_total).collect();
    let [class] = extra.as_slice() else {
        return None;
    };
    if good.name != total.name || good.matchers.matchers.len() != total.matchers.matchers.len() + 1
    {
        return None;
    }
    let op = match &class.op {
        MatchOp::Equal => MatchOp::NotEqual,
        MatchOp::NotEqual => MatchOp::Equal,
        MatchOp::Re(regex) => MatchOp::NotRe(regex.clone()),
        MatchOp::NotRe(regex) => MatchOp::Re(regex.clone()),
    };
    let mut bad = total.clone();
    bad.matchers.matchers.push(Matcher {
        op,
        ..(*class).clone()
    });
    Some(bad)
}

/// The matcher that selects the canary, and the variants that take its place.
struct SideMatcher {
    matcher: Matcher,
    variants: Option<Value>,
}

fn side_matcher(selector: &VectorSelector, sides: Sides<'_>) -> Option<SideMatcher> {
    let matchers = &selector.matchers.matchers;
    let by_pod = matchers
        .iter()
        .find(|matcher| matcher.value.contains(CANARY_PODS));
    if let Some(matcher) = by_pod {
        let variants = (matcher.name != "pod").then(|| json!({"podLabel": matcher.name}));
        return Some(SideMatcher {
            matcher: matcher.clone(),
            variants,
        });
    }
    let (stable, canary) = (sides.stable?, sides.canary?);
    let matcher = matchers.iter().find(|matcher| {
        let is_positive = matches!(matcher.op, MatchOp::Equal | MatchOp::Re(_));
        is_positive && matcher.value.contains(canary)
    })?;
    let pattern = match &matcher.op {
        MatchOp::Equal => matcher.value.replace('.', "\\."),
        _ => matcher.value.clone(),
    };
    let of_stable = pattern.replace(canary, stable);
    Some(SideMatcher {
        matcher: matcher.clone(),
        variants: Some(json!({"label": matcher.name, "canary": pattern, "stable": of_stable})),
    })
}

/// A selector as text, without one of its matchers.
fn selector(selector: &VectorSelector, without: &Matcher) -> Option<String> {
    let name = selector.name.as_ref()?;
    let matchers = selector.matchers.matchers.iter();
    let matchers: Vec<String> = matchers
        .filter(|matcher| *matcher != without)
        .map(ToString::to_string)
        .collect();
    if matchers.is_empty() {
        return Some(name.clone());
    }
    Some(format!("{name}{{{}}}", matchers.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDES: Sides<'static> = Sides {
        stable: Some("shop"),
        canary: Some("shop-canary"),
    };

    #[test]
    fn a_success_ratio_of_the_canary_is_an_objective() {
        let query = "sum(rate(http_requests_total{service=\"shop-canary\",code!~\"5..\"}[5m])) / \
                     sum(rate(http_requests_total{service=\"shop-canary\"}[5m]))";
        let (percent, counters) = objective(query, "result[0] >= 0.995", SIDES).unwrap();
        assert!((percent - 99.5).abs() < 1e-9, "{percent}");
        assert_eq!(counters["total"], "http_requests_total");
        assert_eq!(counters["errors"], "http_requests_total{code=~\"5..\"}");
        assert_eq!(
            counters["variants"],
            json!({"label": "service", "canary": "shop-canary", "stable": "shop"})
        );
    }

    #[test]
    fn an_error_ratio_by_pod_is_an_objective() {
        let query = "sum(rate(errors_total{pod=~\"{{args.canaryReplicaSet}}-.*\"}[1m])) / \
                     sum(rate(requests_total{pod=~\"{{args.canaryReplicaSet}}-.*\"}[1m]))";
        let (percent, counters) = objective(query, "result[0] < 0.01", SIDES).unwrap();
        assert!((percent - 99.0).abs() < 1e-9, "{percent}");
        assert_eq!(
            counters,
            json!({"total": "requests_total", "errors": "errors_total"})
        );
    }

    #[test]
    fn what_is_not_surely_a_ratio_of_the_canary_stays_a_check() {
        let one_side = "sum(rate(a{code=~\"5..\"}[5m])) / sum(rate(a[5m]))";
        let grouped = "sum by (x) (rate(a{s=\"shop-canary\",code=~\"5..\"}[5m])) / sum(rate(a{s=\"shop-canary\"}[5m]))";
        let latency =
            "histogram_quantile(0.99, sum(rate(a_bucket{s=\"shop-canary\"}[5m])) by (le))";
        for query in [one_side, grouped, latency, "up", "not promql("] {
            assert_eq!(objective(query, "result[0] < 0.01", SIDES), None, "{query}");
        }
        let ratio = "sum(rate(a{s=\"shop-canary\",code=~\"5..\"}[5m])) / sum(rate(a{s=\"shop-canary\"}[5m]))";
        assert!(objective(ratio, "result[0] < 0.01", SIDES).is_some());
        assert_eq!(objective(ratio, "result[0] < 5", SIDES), None);
        assert_eq!(
            objective(ratio, "size(result) == 0 || result[0] < 0.01", SIDES),
            None
        );
    }
}
