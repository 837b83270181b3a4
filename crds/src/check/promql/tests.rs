use promql_parser::label::{MatchOp, Matcher, Matchers};
use promql_parser::parser::token::T_EQL_REGEX;

use super::patterns::anchored;
use super::*;

fn refusal(text: &str) -> String {
    parse_promql(text).map(drop).expect_err(text)
}

/// All matchers of an expression, and its number of levels.
pub(super) fn matchers_and_depth(expression: &Expr) -> (Vec<Matcher>, usize) {
    fn add(found: &mut Vec<Matcher>, matchers: &Matchers) {
        found.extend(matchers.matchers.iter().cloned());
        found.extend(matchers.or_matchers.iter().flatten().cloned());
    }
    fn walk(expression: &Expr, found: &mut Vec<Matcher>) -> usize {
        let children: Vec<&Expr> = match expression {
            Expr::Aggregate(aggregate) => {
                let parameter = aggregate.param.as_deref();
                parameter.into_iter().chain([&*aggregate.expr]).collect()
            }
            Expr::Unary(unary) => vec![&unary.expr],
            Expr::Binary(binary) => vec![&binary.lhs, &binary.rhs],
            Expr::Paren(paren) => vec![&paren.expr],
            Expr::Subquery(subquery) => vec![&subquery.expr],
            Expr::Call(call) => call.args.args.iter().map(|arg| &**arg).collect(),
            Expr::VectorSelector(selector) => {
                add(found, &selector.matchers);
                vec![]
            }
            // A range is a level of its own.
            Expr::MatrixSelector(range) => {
                add(found, &range.vs.matchers);
                return 2;
            }
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => vec![],
        };
        let deepest = children.into_iter().map(|child| walk(child, found)).max();
        1 + deepest.unwrap_or(0)
    }
    let mut found = Vec::new();
    let depth = walk(expression, &mut found);
    (found, depth)
}

#[test]
fn ordinary_queries_are_parsed() {
    for text in [
        "vector(1)",
        "sum(rate(http_requests_total{code=~\"5..\",job=\"shop\"}[5m])) / sum(rate(http_requests_total[5m]))",
        "histogram_quantile(0.99, sum by (le) (rate(d_seconds_bucket{pod=~\"shop-\\\\w+-\\\\w+\"}[5m])))",
        "max_over_time(queue_length[1h:1m] offset 5m) > 3 or on (job) up @ 1600000000",
        "{\"http.requests\", route=~\"/users/{id}\"}",
        "rate(a[300]) # a comment with ( and =~\"[\"",
    ] {
        parse_promql(text).unwrap_or_else(|why| panic!("{text}: {why}"));
    }
    let many = vec!["up"; WRITTEN.depth / 2].join(" or ");
    parse_promql(&many).unwrap();
    let pods: Vec<String> = (0..60)
        .map(|n| format!("checkout-7d9f8b6c5-{n:05}"))
        .collect();
    parse_promql(&format!("up{{pod=~\"{}\"}}", pods.join("|"))).unwrap();
}

#[test]
fn regular_expressions_that_exhaust_memory_are_refused_before_the_parser_compiles_them() {
    let matchers = vec!["a=~\"\\\\w{100}\""; 90].join(",");
    assert_eq!(
        refusal(&format!("up{{{matchers}}}")),
        "its regular expressions have 90 classes such as \\w, and the limit is 64: use classes \
         such as [a-z0-9]"
    );
    assert_eq!(
        refusal("up{a=~\"\\\\w{100}\"}"),
        "the regular expression \\w{100} needs more than 256 KiB of memory: use fewer or simpler \
         ones, for example [a-z0-9]+ instead of \\w+"
    );
    // Each is small, but not all together.
    let matchers = vec!["a=~\"\\\\w+\""; 20].join(",");
    assert!(
        refusal(&format!("up{{{matchers}}}")).starts_with("the sum of its regular expressions")
    );
    for pattern in [
        "((a{50}){50}){50}",
        &r"\w".repeat(60),
        &r"[^\d\s]".repeat(30),
        &format!("(?i){}", r"\pL".repeat(50)),
        &"(".repeat(60),
        "a{1000}{1000}",
    ] {
        // Strings with the other quotes, and the negated operator.
        for query in [
            format!("up{{a=~\"{}\"}}", pattern.replace('\\', "\\\\")),
            format!("sum(up{{a!~'{}'}})", pattern.replace('\\', "\\\\")),
        ] {
            let why = refusal(&query);
            assert!(
                why.contains("256 KiB") || why.contains("is invalid"),
                "{query}: {why}"
            );
        }
        assert!(compile_regex(pattern).is_err(), "{pattern}");
    }
}

#[test]
fn a_pattern_is_only_found_where_the_parser_sees_a_matcher() {
    let huge = "\\\\w{200}";
    for text in [
        format!("up{{a=\"=~\\\"{huge}\"}}"),
        format!("label_replace(up, \"a\", \"$1\", \"b\", \"{huge}\")"),
        format!("up # {{a=~\"{huge}\"}}"),
        format!("\"{{a=~'{huge}'}}\""),
    ] {
        parse_promql(&text).unwrap_or_else(|why| panic!("{text}: {why}"));
    }
    for text in [
        format!("up{{ a =~ # \"\n\"{huge}\" }}"),
        format!("up{{a=\"\\\"\",b=~'{huge}'}}"),
        format!("up{{a='#',b=~\"{huge}\" or c=\"\"}}"),
        format!("{{\"quoted.name\", \"b.c\"!~\"{huge}\"}}"),
        format!("up{{a=\"`\"}} + up{{b=~\"{huge}\"}}"),
    ] {
        assert!(refusal(&text).contains("256 KiB"), "{text}");
    }
}

#[test]
fn deep_and_long_queries_are_refused() {
    for text in [
        "(".repeat(2_047) + "1" + &")".repeat(2_047),
        "-".repeat(4_095) + "1",
        "1".to_owned() + &"+1".repeat(2_000),
        "1".to_owned() + &"^1".repeat(2_000),
        "abs(".repeat(1_000) + "up" + &")".repeat(1_000),
        "up".to_owned() + &"[1m:]".repeat(800),
        "sum(-".repeat(40) + "up" + &")".repeat(40),
    ] {
        assert!(refusal(&text).contains("levels deep"), "{text:.20}");
    }
    assert!(refusal(&format!("up{{{}}}", vec!["a=\"b\""; 101].join(","))).contains("101 label"));
    assert!(refusal(&format!("{{{}}}", vec!["\"b\""; 101].join(","))).contains("101 label"));
    assert!(refusal(&" ".repeat(MAX_LENGTH + 1)).contains("longer than 16384"));
}

#[test]
fn a_number_that_is_no_duration_is_refused_instead_of_a_panic_in_the_parser() {
    for text in [
        "up[1e300]",
        "up[5m:1e300]",
        "up offset 1e300",
        "up offset -1e300",
        "up offset inf",
        "up offset nan",
        "up offset + 1e20",
    ] {
        let why = refusal(text);
        assert!(why.contains("not PromQL"), "{text}: {why}");
    }
}

#[test]
fn the_checked_pattern_is_the_one_that_the_parser_compiles() {
    for pattern in [
        "5..",
        "a|b",
        "aaa{bbb}ccc",
        "a{,5}b{}c{1,2}d{1,2,3}",
        "\\{x\\}{2}",
        "(?i)get",
        "",
    ] {
        let matcher = Matcher::new_matcher(T_EQL_REGEX, "a".to_owned(), pattern.to_owned());
        let MatchOp::Re(regex) = matcher.unwrap().op else {
            panic!("{pattern}");
        };
        assert_eq!(regex.as_str(), anchored(pattern).unwrap(), "{pattern}");
    }
    assert_eq!(
        anchored("a(").unwrap_err(),
        "the regular expression a( is invalid: unclosed group"
    );
}

#[test]
fn the_largest_accepted_query_needs_little_stack() {
    let run = || {
        let depth = WRITTEN.depth - 1;
        for text in [
            "(".repeat(depth) + "1" + &")".repeat(depth),
            "-".repeat(depth) + "1",
            "1".to_owned() + &"+1".repeat(depth),
            "1".to_owned() + &"^1".repeat(depth),
            "abs(".repeat(depth) + "up" + &")".repeat(depth),
        ] {
            let expression = parse_promql(&text).unwrap();
            let _ = (expression.value_type(), expression.clone().to_string());
        }
    };
    let thread = std::thread::Builder::new().stack_size(512 * 1024);
    thread.spawn(run).unwrap().join().unwrap();
}

#[test]
fn a_composed_query_may_contain_an_accepted_selector_many_times() {
    let selector = format!(
        "requests_total{{route=~\"\\\\w+-\\\\w+\",{}}}",
        vec!["a=\"b\""; 30].join(",")
    );
    parse_promql(&selector).unwrap();
    let composed = vec![format!("sum(increase({selector}[5m]))"); 24].join(" or ");
    assert!(parse_promql(&composed).is_err());
    parse_composed_promql(&composed).unwrap();
    let hostile = vec!["a=~\"\\\\w{20}\""; 30].join(",");
    assert!(parse_composed_promql(&format!("up{{{hostile}}}")).is_err());
}
