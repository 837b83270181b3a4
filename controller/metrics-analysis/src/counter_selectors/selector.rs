//! Series selectors and regular expressions, as PromQL has them.

use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::{Expr, VectorSelector};
use regex::Regex;
use serin_crds::check::{compile_regex, parse_promql};

/// Compiles a regular expression that is anchored at both ends, as in PromQL.
pub(super) fn anchored_regex(pattern: &str) -> Result<Regex, String> {
    // Compiled without the group first: an unbalanced group must not become valid.
    compile_regex(pattern)?;
    compile_regex(&format!("^(?:{pattern})$"))
}

/// Parses a plain series selector. Functions, ranges and offsets are rejected, because Serin reads
/// raw samples at times that it chooses.
pub(super) fn parse_selector(text: &str) -> Result<VectorSelector, String> {
    let selector = match parse_promql(text) {
        Ok(Expr::VectorSelector(selector)) => selector,
        Ok(Expr::MatrixSelector(_)) => {
            return Err("leave out the range in brackets: the raw counter is read".to_owned());
        }
        Ok(Expr::Call(_) | Expr::Aggregate(_)) => {
            return Err("write the counter itself, without rate(), increase() or sum()".to_owned());
        }
        Ok(_) => {
            return Err(
                "write a series selector such as http_requests_total{job=\"shop\"}".to_owned(),
            );
        }
        Err(error) => return Err(error),
    };
    if selector.offset.is_some() || selector.at.is_some() {
        return Err(
            "leave out offset and @: the counter is read at times that Serin chooses".to_owned(),
        );
    }
    if !selector.matchers.or_matchers.is_empty() {
        return Err(
            "write the alternatives as one regular expression: `or` between matchers is not \
             supported"
                .to_owned(),
        );
    }
    Ok(selector)
}

/// Restricts a selector to series whose label matches.
pub(super) fn narrow(
    selector: &VectorSelector,
    label: &str,
    pattern: &str,
) -> Result<VectorSelector, String> {
    let regex = compile_regex(pattern)?;
    let mut narrowed = selector.clone();
    narrowed
        .matchers
        .matchers
        .push(Matcher::new(MatchOp::Re(regex), label, pattern));
    Ok(narrowed)
}

/// Converts a selector to PromQL and parses it again, so that a quoting error never reaches the
/// server.
pub(super) fn to_valid_promql(selector: &VectorSelector) -> Result<String, String> {
    let text = selector.to_string();
    parse_promql(&text).map_err(|error| format!("{text:.200}: {error}"))?;
    Ok(text)
}
