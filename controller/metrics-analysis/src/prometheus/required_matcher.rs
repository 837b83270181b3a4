//! Limits expressions to the series with one label, for example to the namespace of a Rollout.
//!
//! The expression is parsed, every selector gets the matcher, and the expression is printed again.
//! What is sent is the printed form, which is parsed once more: if it does not mean the same, or if
//! a selector lacks the matcher, nothing is sent.

use std::fmt;

use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::{BinModifier, Expr, LabelModifier, VectorSelector};
use serin_core::text::excerpt;
use serin_crds::check::parse_composed_promql;

use super::error::QueryError;

/// A label that every selected series must have, with its value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequiredMatcher {
    /// Name of the label.
    pub label: String,
    /// Value of the label.
    pub value: String,
}

impl fmt::Display for RequiredMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.matcher())
    }
}

/// Whether the text is a valid name of a label.
pub fn is_label_name(text: &str) -> bool {
    let is_head = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    text.as_bytes().first().is_some_and(is_head)
        && text
            .bytes()
            .all(|byte| is_head(&byte) || byte.is_ascii_digit())
}

impl RequiredMatcher {
    fn matcher(&self) -> Matcher {
        Matcher::new(MatchOp::Equal, &self.label, &self.value)
    }

    /// Returns the expression with the matcher in every selector. Other matchers of the same label
    /// stay, so that both must match.
    ///
    /// # Errors
    /// [`QueryError::BadQuery`] if the expression cannot be limited: it is not PromQL, or it uses a
    /// function that selects further series.
    pub(super) fn apply(&self, query: &str) -> Result<String, QueryError> {
        let refuse = |why: &str| {
            QueryError::BadQuery(excerpt(&format!(
                "the query cannot be limited to {self}: {why}"
            )))
        };
        let mut expression = parse_composed_promql(query).map_err(|error| refuse(&error))?;
        self.limit(&mut expression).map_err(refuse)?;
        let text = expression.to_string();
        let printed = parse_composed_promql(&text);
        let is_same = printed.is_ok_and(|mut printed| {
            self.is_limited(&printed) && {
                normalize(&mut printed);
                printed == expression
            }
        });
        if is_same {
            Ok(text)
        } else {
            Err(refuse("write it in a simpler form"))
        }
    }

    /// Adds the matcher to each selector.
    fn limit(&self, expression: &mut Expr) -> Result<(), &'static str> {
        normalize_node(expression);
        match expression {
            Expr::VectorSelector(selector) => self.limit_selector(selector),
            Expr::MatrixSelector(selector) => self.limit_selector(&mut selector.vs),
            Expr::Call(call) if call.func.name == "info" => {
                Err("the function info reads series that no selector names")
            }
            Expr::Extension(_) => Err("it has an unknown part"),
            _ => children(expression)
                .into_iter()
                .try_for_each(|child| self.limit(child)),
        }
    }

    fn limit_selector(&self, selector: &mut VectorSelector) -> Result<(), &'static str> {
        let matchers = &mut selector.matchers;
        if !matchers.or_matchers.is_empty() {
            return Err("use two selectors instead of or between matchers");
        }
        let required = self.matcher();
        if !matchers.matchers.contains(&required) {
            matchers.matchers.push(required);
        }
        sort_matchers(selector);
        Ok(())
    }

    /// Whether each selector has the matcher.
    fn is_limited(&self, expression: &Expr) -> bool {
        let mut expression = expression.clone();
        self.all_limited(&mut expression)
    }

    fn all_limited(&self, expression: &mut Expr) -> bool {
        match expression {
            Expr::VectorSelector(selector) => self.is_selector_limited(selector),
            Expr::MatrixSelector(selector) => self.is_selector_limited(&selector.vs),
            Expr::Call(call) if call.func.name == "info" => false,
            Expr::Extension(_) => false,
            _ => children(expression)
                .into_iter()
                .all(|child| self.all_limited(child)),
        }
    }

    fn is_selector_limited(&self, selector: &VectorSelector) -> bool {
        selector.matchers.or_matchers.is_empty()
            && selector.matchers.matchers.contains(&self.matcher())
    }
}

/// The parts of an expression. A selector has none.
fn children(expression: &mut Expr) -> Vec<&mut Expr> {
    match expression {
        Expr::Aggregate(aggregate) => {
            let parameter = aggregate.param.as_deref_mut();
            parameter
                .into_iter()
                .chain([&mut *aggregate.expr])
                .collect()
        }
        Expr::Unary(unary) => vec![&mut unary.expr],
        Expr::Binary(binary) => vec![&mut binary.lhs, &mut binary.rhs],
        Expr::Paren(paren) => vec![&mut paren.expr],
        Expr::Subquery(subquery) => vec![&mut subquery.expr],
        Expr::Call(call) => call.args.args.iter_mut().map(AsMut::as_mut).collect(),
        Expr::VectorSelector(_)
        | Expr::MatrixSelector(_)
        | Expr::NumberLiteral(_)
        | Expr::StringLiteral(_)
        | Expr::Extension(_) => Vec::new(),
    }
}

/// Sorts the matchers as they are printed.
fn sort_matchers(selector: &mut VectorSelector) {
    selector
        .matchers
        .matchers
        .sort_by_cached_key(ToString::to_string);
}

/// Sorts matchers, and removes modifiers that mean nothing and that are not printed.
fn normalize(expression: &mut Expr) {
    normalize_node(expression);
    children(expression).into_iter().for_each(normalize);
}

fn normalize_node(expression: &mut Expr) {
    match expression {
        Expr::Aggregate(aggregate) => {
            let is_empty = |modifier: &LabelModifier| matches!(modifier, LabelModifier::Include(labels) if labels.is_empty());
            aggregate.modifier = aggregate.modifier.take().filter(|by| !is_empty(by));
        }
        Expr::Binary(binary) => {
            if let Some(modifier) = &mut binary.modifier
                && let Some(LabelModifier::Exclude(labels)) = &modifier.matching
                && labels.is_empty()
            {
                modifier.matching = None;
            }
            let modifier = binary.modifier.take();
            binary.modifier = modifier.filter(|modifier| *modifier != BinModifier::default());
        }
        Expr::VectorSelector(selector) => sort_matchers(selector),
        Expr::MatrixSelector(selector) => sort_matchers(&mut selector.vs),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::json;
    use serin_analysis::counters::CounterConfig;

    use super::*;
    use crate::counter_selectors::CounterSelectors;
    use crate::fixtures::request;
    use crate::server_side_aggregation::ServerSideAggregation;
    use crate::service_slo::SloQueries;

    fn required() -> RequiredMatcher {
        RequiredMatcher {
            label: "namespace".to_owned(),
            value: "shop".to_owned(),
        }
    }

    fn limited(query: &str) -> Result<String, String> {
        required().apply(query).map_err(|error| error.to_string())
    }

    #[test]
    fn every_selector_is_limited() {
        for (query, expected) in [
            ("up", r#"up{namespace="shop"}"#),
            (
                r#"{__name__=~"a.*"}"#,
                r#"{__name__=~"a.*",namespace="shop"}"#,
            ),
            (
                "sum by (pod) (rate(a[5m] offset 1h)) / on () group_left () b @ 5",
                r#"sum by (pod) (rate(a{namespace="shop"}[5m] offset 1h)) / on () group_left () b{namespace="shop"} @ 5.000"#,
            ),
            (
                "max_over_time(a[1h:1m] @ end()) or -vector(1)",
                r#"max_over_time(a{namespace="shop"}[1h:1m] @ end()) or -vector(1)"#,
            ),
            (
                "topk(scalar(a), b unless c) # and d",
                r#"topk(scalar(a{namespace="shop"}), b{namespace="shop"} unless c{namespace="shop"})"#,
            ),
            ("sum by () (a)", r#"sum(a{namespace="shop"})"#),
            ("a > bool ignoring () 1", r#"a{namespace="shop"} > bool 1"#),
            (r#"up{namespace="shop"}"#, r#"up{namespace="shop"}"#),
            ("vector(1)", "vector(1)"),
        ] {
            let text = limited(query).unwrap();
            assert_eq!(
                text.replace(", namespace", ",namespace"),
                expected,
                "{query}"
            );
        }
    }

    #[test]
    fn another_matcher_of_the_label_cannot_widen_the_selection() {
        for matcher in [r#"="payroll""#, r#"=~".*""#, r#"!="shop""#, r#"!~"x""#] {
            let text = limited(&format!("up{{namespace{matcher}}}")).unwrap();
            assert!(
                text.contains(&format!("namespace{matcher}"))
                    && text.contains(r#"namespace="shop""#),
                "{text}"
            );
        }
    }

    #[test]
    fn a_query_that_cannot_be_limited_is_refused() {
        for query in [
            "info(up)",
            r#"info(up, {__name__="other_info"})"#,
            r#"{a="b" or namespace="payroll"}"#,
            "up{",
            "",
        ] {
            let refused = limited(query).unwrap_err();
            assert!(
                refused.contains("cannot be limited to namespace"),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_value_cannot_end_its_string() {
        let required = RequiredMatcher {
            label: "namespace".to_owned(),
            value: "\"} or up{\"\\".to_owned(),
        };
        let text = required.apply("up").unwrap();
        assert_eq!(text, r#"up{namespace="\"} or up{\"\\"}"#);
        assert!(is_label_name("exported_namespace") && !is_label_name("a-b"));
        assert!(!is_label_name("") && !is_label_name("1a"));
    }

    /// The queries that Serin composes itself, for all kinds of counters.
    fn composed_queries() -> Vec<String> {
        let objectives = [
            json!({"name": "a", "objective": 99.9, "indicator": "traefik"}),
            json!({"name": "a", "objective": 99.9, "indicator": "istio"}),
            json!({"name": "a", "objective": 99.9, "indicator": "linkerd"}),
            json!({"name": "a", "objective": 99.9, "indicator": "nginx"}),
            json!({"name": "a", "objective": 99.9, "indicator": "pod"}),
            json!({"name": "a", "objective": 99, "indicator": "pod",
                "latency": {"threshold": "250ms", "guard": "Hold"}}),
            json!({"name": "a", "objective": 99, "latency": {"threshold": "300ms"},
                "counters": {"total": "request_duration_seconds_count"}}),
            json!({"name": "a", "objective": 99.9, "counters":
                {"total": "requests_total", "errors": "requests_total{code=~\"5..\"}"}}),
        ];
        let aggregation = ServerSideAggregation::new(CounterConfig::default());
        let queries = objectives.into_iter().flat_map(|objective| {
            let objective = serde_json::from_value(objective).unwrap();
            let counters = CounterSelectors::new(&objective, &request()).unwrap();
            let slo = SloQueries::new(&counters, Duration::from_secs(2_592_000));
            let mut queries = vec![slo.budget, slo.guard];
            queries.extend(aggregation.queries(&counters, 60_000));
            queries.extend(
                counters
                    .selectors()
                    .map(|selector| format!("{selector}[60s]")),
            );
            queries
        });
        queries.collect()
    }

    #[test]
    fn every_query_that_serin_composes_can_be_limited() {
        for query in composed_queries() {
            let text = limited(&query).unwrap_or_else(|error| panic!("{query}: {error}"));
            assert!(text.contains(r#"namespace="shop""#), "{text}");
        }
    }

    fn matchers() -> impl Strategy<Value = String> {
        let value = prop::sample::select(vec!["", "shop", "payroll", "a.*", ".+", "a|b", "é"]);
        let matcher = ("(a|namespace|le|__tenant__)", "(=|!=|=~|!~)", value)
            .prop_map(|(name, operator, value)| format!("{name}{operator}\"{value}\""));
        prop::collection::vec(matcher, 0..3).prop_map(|matchers| matchers.join(","))
    }

    fn selector() -> impl Strategy<Value = String> {
        let modifier = prop::sample::select(vec![
            "",
            " offset 5m",
            " offset -1h30m",
            " @ 1600000000",
            " @ end()",
            " @ start() offset 10s",
        ]);
        let name = prop::sample::select(vec!["up", "sum", "a:b", "by", "offset"]);
        prop_oneof![
            (name, matchers(), modifier.clone())
                .prop_map(|(name, matchers, modifier)| format!("{name}{{{matchers}}}{modifier}")),
            (matchers(), modifier).prop_map(|(matchers, modifier)| format!(
                "{{__name__=~\"a.+\",{matchers}}}{modifier}"
            )),
            Just("up".to_owned()),
        ]
    }

    /// An expression that selects an instant vector.
    fn expression() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![4 => selector(), 1 => Just("vector(1)".to_owned())];
        leaf.prop_recursive(4, 24, 2, |inner| {
            let operator = prop::sample::select(vec![
                "+",
                "/ on (pod)",
                "and",
                "or",
                "unless ignoring (a)",
                "> bool",
                "== on () group_left (b)",
            ]);
            let aggregation = prop::sample::select(vec![
                "sum",
                "count by (pod)",
                "avg without (pod)",
                "sum by ()",
                "topk",
                "count_values",
            ]);
            let function = prop::sample::select(vec![
                "abs",
                "rate",
                "max_over_time",
                "absent",
                "label_replace",
                "quantile_over_time",
            ]);
            prop_oneof![
                (inner.clone(), operator, inner.clone())
                    .prop_map(|(left, operator, right)| format!("({left}) {operator} ({right})")),
                (aggregation, inner.clone()).prop_map(|(aggregation, inner)| match aggregation {
                    "topk" => format!("topk(scalar({inner}), {inner})"),
                    "count_values" => format!("count_values(\"namespace\", {inner})"),
                    _ => format!("{aggregation} ({inner})"),
                }),
                (function, inner.clone()).prop_map(|(function, inner)| match function {
                    "abs" | "absent" => format!("{function}({inner})"),
                    "label_replace" =>
                        format!("label_replace({inner}, \"namespace\", \"$1\", \"a\", \"(.*)\")"),
                    "quantile_over_time" => format!("quantile_over_time(0.9, ({inner})[1h:5m])"),
                    _ => format!("{function}(({inner})[5m:])"),
                }),
                inner.prop_map(|inner| format!("-({inner})")),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_expression_leaves_without_the_matcher_in_each_selector(query in expression()) {
            let text = limited(&query);
            prop_assert!(text.is_ok(), "{query}: {text:?}");
            let text = text.unwrap();
            let selectors = query.matches('{').count().max(1);
            let printed = parse_composed_promql(&text).unwrap();
            prop_assert!(required().is_limited(&printed), "{text}");
            prop_assert!(text.matches("namespace=\"shop\"").count() >= selectors || !query.contains('{'), "{text}");
            // What is sent is stable.
            prop_assert_eq!(limited(&text), Ok(text));
        }

        #[test]
        fn no_text_leaves_without_the_matcher(query in ".{0,60}") {
            if let Ok(text) = limited(&query) {
                prop_assert!(required().is_limited(&parse_composed_promql(&text).unwrap()), "{text}");
            }
        }
    }
}
