use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Everything over a template.
const DIALECT: Dialect = Dialect {
    variables: &["template"],
    functions: JSON_FUNCTIONS,
    max_length: 1_024,
    max_depth: 40,
    max_height: 40,
};

fn template() -> Json {
    json!({
        "metadata": {"labels": {"app": "shop", "team": "checkout"}, "annotations": null},
        "spec": {
            "containers": [
                {"name": "app", "image": "registry.example.com/shop:v1", "ports": [{"containerPort": 8080}]},
                {"name": "proxy", "image": "docker.io/envoy:v1"},
            ],
            "hostNetwork": false, "terminationGracePeriodSeconds": 30, "ratio": 0.5,
        },
    })
}

fn evaluate(text: &str) -> Result<bool, String> {
    let template = template();
    Expression::parse(text, &DIALECT)?.evaluate(&[&template])
}

const TRUE: [&str; 24] = [
    "template.metadata.labels.team == 'checkout'",
    "'team' in template.metadata.labels",
    "!('owner' in template.metadata.labels)",
    "has(template.spec.hostNetwork) && !template.spec.hostNetwork",
    "!has(template.spec.hostPID) || !template.spec.hostPID",
    "template.spec.containers.all(c, c.image.contains(':v'))",
    "template.spec.containers.exists(c, c.name == 'proxy')",
    "template.spec.containers.exists_one(c, has(c.ports))",
    "template.spec.containers.filter(c, has(c.ports)).size() == 1",
    "size(template.spec.containers.map(c, c.name)) == 2",
    "template.spec.containers.map(c, c.name) == ['app', 'proxy']",
    "template.spec.containers[0].image.startsWith('registry.example.com/')",
    "template.spec.containers[0].image.endsWith(\"v1\")",
    "template.spec.containers[1].image.matches('^docker[.]io/')",
    "template.metadata['labels']['app'] == 'shop'",
    "template.metadata.labels.all(key, size(key) < 64)",
    "template.spec.terminationGracePeriodSeconds >= 30",
    "template.spec.terminationGracePeriodSeconds * 2 - 10 == 50",
    "template.spec.ratio < 1 && 1 > template.spec.ratio",
    "template.metadata.annotations == null",
    "'8080' != template.spec.containers[0].ports[0].containerPort",
    "int('8080') == template.spec.containers[0].ports[0].containerPort",
    "(template.spec.hostNetwork ? 1 : 2) == 2",
    "template.spec.containers[0].name in ['app', 'web'] && r'\\d' == '\\\\d'",
];

#[test]
fn expressions_read_json_as_in_cel() {
    for text in TRUE {
        assert_eq!(evaluate(text), Ok(true), "{text}");
        assert_eq!(evaluate(&format!("!({text})")), Ok(false), "{text}");
    }
}

/// The reference implementation, for what both support.
#[test]
fn the_results_are_those_of_the_cel_library() {
    let template = template();
    // The library reads positive integers of JSON as unsigned, and has no regular expressions here.
    let is_supported = |text: &&&str| {
        let unsupported = ["matches", "r'", " * ", "int("];
        unsupported.iter().all(|part| !text.contains(part))
    };
    for text in TRUE.iter().filter(is_supported) {
        let program = cel::Program::compile(text).unwrap();
        let mut context = cel::Context::default();
        context.add_variable("template", &template).unwrap();
        let value = program.execute(&context);
        assert_eq!(value, Ok(cel::Value::Bool(true)), "{text}");
    }
}

#[test]
fn a_decided_and_or_or_hides_errors_like_in_cel() {
    assert_eq!(evaluate("template.missing == 1 || true"), Ok(true));
    assert_eq!(evaluate("template.missing == 1 && false"), Ok(false));
    assert!(evaluate("template.missing == 1 && true").is_err());
    assert_eq!(
        evaluate("template.spec.containers.exists(c, c.ports[0].containerPort == 8080)"),
        Ok(true)
    );
}

#[test]
fn mistakes_are_named() {
    for (text, expected) in [
        ("", "it ends where a value is expected"),
        (
            "spec.x",
            "there is no variable spec (at character 1): the only variable is template",
        ),
        ("template.spec.x == 1", "there is no field \"x\""),
        (
            "template.spec.containers[5].name == ''",
            "the index 5 does not exist in a list of 2",
        ),
        ("template.spec.containers", "the result of the expression"),
        ("'a' < 1", "a comparison is not possible with these types"),
        ("'a' + 'b' == 'ab'", "arithmetic is not possible"),
        ("1 / 0 == 1", "divided by zero"),
        (
            "{'a': 1} == template",
            "maps and messages are not supported",
        ),
        ("template.spec.foo()", "there is no function foo"),
        ("has(template)", "has needs a field"),
        ("'a", "a text has no end"),
        (
            "template.spec.containers[0].name.matches(template)",
            "a regular expression in quotes",
        ),
        ("'a'.matches('(')", "("),
        ("1 2", "expected an operator or the end at character 3"),
        ("99999999999999999999 == 1", "is too large"),
    ] {
        let error = evaluate(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn the_cost_of_an_expression_is_bounded() {
    let items: Vec<u32> = (0..1_000).collect();
    let template = json!({"items": items, "text": "a".repeat(60_000)});
    let run = |text: &str| {
        Expression::parse(text, &DIALECT)
            .unwrap()
            .evaluate(&[&template])
    };
    for text in [
        "template.items.all(a, template.items.all(b, template.items.all(c, c >= 0)))",
        "template.items.map(a, template.items.map(b, b)).size() == 1",
        "template.items.all(a, template.items == template.items)",
        "template.items.exists(a, template.text.contains('b'))",
        "template.items.exists(a, template.text.matches('b'))",
    ] {
        let error = run(text).unwrap_err();
        assert!(error.contains("too many steps"), "{text}: {error}");
    }
    let deep = [
        format!("{}true{}", "(".repeat(500), ")".repeat(500)),
        format!("true{}", "==true".repeat(100)),
        format!("template{}", ".a".repeat(500)),
        format!("template{}", "[0]".repeat(300)),
        format!("{}1{}", "[".repeat(400), "]".repeat(400)),
    ];
    for text in deep {
        assert!(Expression::parse(&text, &DIALECT).is_err(), "{text}");
    }
    let long = [
        "true && ".repeat(100) + "true",
        format!("1{} == 501", "+1".repeat(500)),
        format!("{}true", "!".repeat(1_000)),
    ];
    for text in long {
        let value = evaluate(&text);
        assert_eq!(value, Ok(true), "a long expression is not a deep one");
    }
    let many = ["'a'.matches('a')"; 5].join(" && ");
    assert!(evaluate(&many).unwrap_err().contains("regular expressions"));
}

proptest! {
    #[test]
    fn no_text_panics(text in "[a-z0-9 .,()\\[\\]!&|<>=+'\"?:*/%-]{0,80}|\\PC{0,40}") {
        let _ = evaluate(&text);
    }

    #[test]
    fn no_combination_of_tokens_panics(tokens in prop::collection::vec(prop::sample::select(vec![
        "template", ".", "spec", "containers", "all", "exists", "(", ")", "c", ",", "==", "'a'", "1",
        "[", "]", "!", "-", "&&", "||", "in", "has", "size", "0.5", "?", ":", "map", "true", "null",
    ]), 0..30)) {
        let _ = evaluate(&tokens.join(" "));
        let _ = evaluate(&tokens.concat());
    }
}
