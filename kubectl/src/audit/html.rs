//! The audit as a page of its own, without scripts and without other files.

use super::report::{AuditReport, Outcome, Row};
use super::table::{passed, percent};

const STYLE: &str = "body{font:14px/1.4 system-ui,sans-serif;margin:2rem;color:#222}\
table{border-collapse:collapse;margin:1rem 0}th,td{padding:.3rem .7rem;border-bottom:1px solid #ddd;\
text-align:left;vertical-align:top}td.n{text-align:right}.pass{background:#d9f2dc}\
.fail{background:#f8d3d0}.warn,.excepted{background:#fcefc7}.unknown{background:#e6e6e6}\
.off{color:#999}ul{margin:0;padding-left:1.1rem}";

/// The page.
pub fn render(report: &AuditReport) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <title>Guardrails</title><style>{STYLE}</style></head><body>\n<h1>Guardrails</h1>\n\
         <p>{} workloads, {}</p>\n",
        report.workloads.len(),
        report.at.strftime("%Y-%m-%d %H:%M UTC")
    );
    page.push_str(&shares(report));
    page.push_str(&workloads(report));
    for problem in &report.problems {
        page.push_str(&format!("<p class=\"fail\">{}</p>\n", escape(problem)));
    }
    page.push_str("</body></html>\n");
    page
}

fn shares(report: &AuditReport) -> String {
    let mut html =
        "<h2>Share that passes</h2>\n<table><tr><th>Guardrail<th>Meaning<th>Pass<th>Warn\
                    <th>Fail<th>Unknown<th>Share</tr>\n"
            .to_owned();
    for share in &report.shares {
        let numbers = [share.pass, share.warn, share.fail, share.unknown];
        let cells = numbers.map(|number| format!("<td class=\"n\">{number}"));
        html.push_str(&format!(
            "<tr><td>{}<td>{}{}<td class=\"n\">{}</tr>\n",
            share.guardrail,
            escape(share.guardrail.meaning()),
            cells.concat(),
            percent(share)
        ));
    }
    html + "</table>\n"
}

fn workloads(report: &AuditReport) -> String {
    let head = report
        .shares
        .iter()
        .map(|share| format!("<th>{}", share.guardrail));
    let mut html = format!(
        "<h2>Workloads</h2>\n<table><tr><th>Namespace<th>Kind<th>Name<th>Pass{}<th>Findings</tr>\n",
        head.collect::<String>()
    );
    for row in &report.workloads {
        html.push_str(&workload(report, row));
    }
    html + "</table>\n"
}

fn workload(report: &AuditReport, row: &Row) -> String {
    let (passed, on) = passed(row);
    let outcomes = report.shares.iter().map(|share| {
        let found = row
            .outcomes
            .iter()
            .find(|one| one.guardrail == share.guardrail);
        let name = found.map_or(Outcome::Off, |one| one.outcome).as_str();
        format!("<td class=\"{name}\">{name}")
    });
    let findings = row.findings.iter().map(|finding| {
        let text = format!("{}: {finding}", finding.guardrail_name());
        format!("<li>{}</li>", escape(&text))
    });
    let problem = row
        .problem
        .iter()
        .map(|problem| format!("<li>{}</li>", escape(problem)));
    let list: String = problem.chain(findings).collect();
    format!(
        "<tr><td>{}<td>{}<td>{}<td class=\"n\">{passed}/{on}{}<td><ul>{list}</ul></tr>\n",
        escape(&row.namespace),
        row.kind,
        escape(&row.name),
        outcomes.collect::<String>(),
    )
}

/// Text in HTML and XML.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML has no other control characters.
            '\t' | '\n' => escaped.push(character),
            control if control.is_control() => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}
