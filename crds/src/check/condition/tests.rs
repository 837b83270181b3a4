use super::*;

fn parse(condition: &str) -> Condition {
    Condition::parse(condition).unwrap_or_else(|why| panic!("{condition}: {why}"))
}

fn holds(condition: &str, result: &[f64]) -> Result<bool, String> {
    parse(condition).evaluate(result)
}

fn refusal(condition: &str) -> String {
    Condition::parse(condition).map(drop).expect_err(condition)
}

#[test]
fn the_result_is_a_list_of_doubles() {
    assert_eq!(holds("result[0] < 0.05", &[0.04]), Ok(true));
    assert_eq!(holds("result[0] < 0.05", &[0.06]), Ok(false));
    assert_eq!(
        holds("result[0] >= 1 && result[0] <= 2", &[1.5]),
        Ok(true),
        "integers can be compared with doubles"
    );
    assert_eq!(
        holds(
            "size(result) == 2 && result.all(value, value < 0.5)",
            &[0.1, 0.2]
        ),
        Ok(true)
    );
    assert_eq!(
        holds("result.exists(value, value > 0.15)", &[0.1, 0.2]),
        Ok(true)
    );
    assert!(
        holds("result[1] < 0.05", &[0.04])
            .unwrap_err()
            .contains("index 1 does not exist"),
        "a missing value is not a success"
    );
    assert!(holds("result[0] < 0.05", &[0.04; 101]).is_err());
}

#[test]
fn operators_have_the_precedence_and_meaning_of_cel() {
    for (condition, expected) in [
        ("1 + 2 * 3 == 7", true),
        ("(1 + 2) * 3 == 9", true),
        ("10 - 3 - 2 == 5", true),
        ("100 / 10 / 2 == 5", true),
        ("7 % 4 == 3 && -7 % 4 == -3", true),
        ("true || false && false", true),
        ("!true || true", true),
        ("!!true", true),
        ("!!!true", false),
        ("--1 == 1 && ---1 == -1", true),
        ("1 - -1 == 2", true),
        ("false ? false : true ? true : false", true),
        ("1 < 2 == true", true),
        ("0x10 == 16 && 1e3 == 1000.0 && .5 == 0.5", true),
        ("-9223372036854775808 < 0", true),
        ("9007199254740993 > 9007199254740992.0", true),
        ("result[0] in [1.0, 2.0] && !(3 in [1, 2])", true),
        ("2.0 in [1, 2]", true),
        (
            "double(3) / 2.0 == 1.5 && int(2.9) == 2 && int(-2.9) == -2",
            true,
        ),
        (
            "max(result) == 1.0 && min(3, 1, 2) == 1 && max(1.5, 2.5) == 2.5",
            true,
        ),
        ("result.filter(v, v > 5.0).size() == 0", true),
        ("result.map(v, v * 2.0)[0] == 2.0", true),
        ("result.map(v, v > 0.5, int(v)).exists(i, i == 1)", true),
        (
            "result.exists_one(v, v == 1.0) && result.existsOne(v, v == 1.0)",
            true,
        ),
        (
            "result.all(result, result == 1.0) && result[0] == 1.0",
            true,
        ),
        ("[1, 2, 3,].all(i, i > 0)", true),
        ("result[0] < 2.0 // a comment", true),
    ] {
        assert_eq!(holds(condition, &[1.0]), Ok(expected), "{condition}");
    }
}

#[test]
fn a_decided_and_or_or_hides_errors_on_both_sides_like_in_cel() {
    for (condition, expected) in [
        ("result[9] > 0.0 || true", true),
        ("true || result[9] > 0.0", true),
        ("result[9] > 0.0 && false", false),
        ("[9, 0].exists(i, result[i] == 1.0)", true),
        ("[9, 0].all(i, result[i] == 2.0)", false),
    ] {
        assert_eq!(holds(condition, &[1.0]), Ok(expected), "{condition}");
    }
    for condition in [
        "result[9] > 0.0 || false",
        "result[9] > 0.0 && true",
        "[9, 0].exists_one(i, result[i] == 1.0)",
        "9223372036854775807 + size(result) == 0 || size(result) > 1 && true",
        "1 / (size(result) - 1) == 0 || size(result) == 100",
        "max(result.filter(v, v > 5.0)) < 1.0 || size(result) == 100",
    ] {
        assert!(holds(condition, &[1.0]).is_err(), "{condition}");
    }
}

#[test]
fn a_value_that_is_not_a_number_meets_no_comparison() {
    for condition in [
        "result[0] < 1.0",
        "result[0] >= 1.0",
        "result[0] == result[0]",
        "max(result) < 5.0",
        "result[0] < 1",
    ] {
        assert_eq!(holds(condition, &[f64::NAN, 1.0]), Ok(false), "{condition}");
    }
    assert_eq!(holds("max(result) < 5.0", &[1.0, f64::NAN]), Ok(false));
    assert_eq!(
        holds("result[0] > 9223372036854775807", &[f64::INFINITY]),
        Ok(true)
    );
    assert!(holds("int(result[0]) == 1", &[f64::INFINITY]).is_err());
    assert!(holds("int(result[0] / result[1]) == 0", &[0.0, 0.0]).is_err());
}

#[test]
fn invalid_conditions_are_rejected() {
    for (text, why) in [
        ("result[0] <", "not CEL"),
        ("", "not CEL"),
        ("result[0] < 1.0)", "not CEL"),
        ("result[0] < 1.0 1", "not CEL"),
        ("-!true", "not CEL"),
        ("a..b", "variable"),
        ("result.", "not CEL"),
        ("import == 1", "not CEL"),
        ("value < 0.05", "there is no variable value"),
        ("result.all(a, true) && a > 1.0", "there is no variable a"),
        ("result[0]", "neither true nor false"),
        ("result", "neither true nor false"),
        ("result < 0.05", "instead of lists"),
        ("result == result", "instead of lists"),
        ("result[0] * 100 < 5", "a double with an integer"),
        ("result[0] + true < 5.0", "a double with a boolean"),
        ("result[0] == true", "a double with a boolean"),
        ("true < false", "needs numbers"),
        ("result[0] % 2.0 == 0.0", "needs integers"),
        ("result[1.0] > 0.0", "must be an integer"),
        ("result[0][0] > 0.0", "needs a list"),
        ("result[0] ? true : false", "true or false"),
        ("(true ? 1 : 1.0) == 1.0", "different types"),
        ("[1, 1.0].all(a, a > 0)", "different types"),
        ("result.all(a, a)", "needs a condition"),
        ("result.all(1, true)", "the name of a variable"),
        ("result.all(in, true)", "the name of a variable"),
        ("result[100] > 1.0", "index 100 does not exist"),
        ("1 / 0 == 1", "divided by zero"),
        ("9223372036854775808 > 1", "too large"),
        ("1e999 > 1.0", "too large"),
        ("max([1]) == max(true, false)", "numbers of the same type"),
        (&"1".repeat(600), "longer"),
    ] {
        let error = refusal(text);
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn unsupported_parts_of_cel_are_refused_and_named() {
    for (text, why) in [
        ("T{a: 1} == T{a: 1}", "maps and messages"),
        ("{1: 2}[1] == 2", "maps and messages"),
        ("'a' == \"a\"", "text"),
        (
            "string(result[0]) == string(1.0)",
            "there is no function string",
        ),
        ("'a' * 1000 == ''", "text"),
        ("b'a' == b'a'", "text"),
        ("result[0] == null", "null"),
        ("1u == 1u", "unsigned integers"),
        ("[] == []", "empty lists"),
        ("[[1]][0] == [1]", "lists of lists"),
        ("result.map(a, result) == result", "lists of lists"),
        ("(result + result).all(a, true)", "cannot combine lists"),
        ("result.a == 1.0", "fields"),
        ("has(result.a)", "there is no function has"),
        ("result.?a == 1.0", "the name of a function"),
        ("result[?0] == 1.0", "a value"),
        ("duration(1) > duration(0)", "there is no function duration"),
        (
            "timestamp(1) == timestamp(1)",
            "there is no function timestamp",
        ),
        ("result.matches(1)", "there is no function matches"),
        (
            "result.reduce(a, b, a + b) > 0.0",
            "there is no function reduce",
        ),
    ] {
        let error = refusal(text);
        assert!(error.contains(why), "{text}: {error}");
    }
}

/// Conditions that made a general CEL library allocate 8 million values, or evaluate 4 million
/// expressions that each copied 20 lists.
#[test]
fn conditions_that_multiply_lists_are_refused_before_they_are_evaluated() {
    let memory = "result[99] > -1.0 && size((result+result).map(a, (result+result).map(b, result+result))) > 0";
    assert!(refusal(memory).contains("cannot combine lists"));
    let lists = vec!["result"; 20].join("+");
    let time = format!("result[99]>-1.0&&({lists}).all(a,({lists}).all(b,!(-2.0 in ({lists}))))");
    assert!(time.len() <= MAX_LENGTH, "{}", time.len());
    assert!(refusal(&time).contains("cannot combine lists"));
}

#[test]
fn a_condition_above_the_cost_limit_is_refused_with_cost_limit_and_fix() {
    let two = "result.all(a, result.all(b, a - b < 0.1))";
    let cost = parse(two).cost;
    assert!((60_000..=MAX_COST).contains(&cost), "{cost}");
    assert_eq!(
        refusal("result.all(a, result.all(b, result.all(c, a + b + c > 0.0)))"),
        "it takes up to 7030302 steps for a result of 100 values, and the limit is 100000: use \
         fewer nested loops"
    );
    // The membership test is a loop as well.
    assert!(refusal("result.all(a, result.all(b, a in result))").contains("steps"));
    let list = vec!["1"; 90].join(",");
    let lists = format!("[{list}].all(a, [{list}].all(b, a + b + a + b + a + b > 0 || a > b))");
    assert!(refusal(&lists).contains("steps"), "{lists}");
}

#[test]
fn the_cost_is_exact_for_a_condition_that_evaluates_everything() {
    for condition in [
        "result.all(a, result.all(b, a - b < 0.1))",
        "result.map(a, a > 5.0, a).size() == 0 && !(3.0 in result) && max(result) == 1.0",
        "result.filter(a, a > 5.0).size() == 0",
    ] {
        let condition = parse(condition);
        let (value, steps) = condition.evaluate_counted(&[1.0; MAX_VALUES]);
        assert_eq!(value, Ok(true));
        // A filter that selects nothing skips the body of its loop.
        assert!(steps <= condition.cost, "{steps} of {}", condition.cost);
        assert!(2 * steps > condition.cost, "{steps} of {}", condition.cost);
    }
}

/// Runs on a thread with a stack of this size.
fn on_stack(kibibytes: usize, run: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(kibibytes * 1024);
    thread.spawn(run).unwrap().join().unwrap();
}

#[test]
fn no_chain_and_no_nesting_overflows_a_small_stack() {
    on_stack(256, || {
        let chain = |first: &str, link: &str, count| first.to_owned() + &link.repeat(count);
        let nest = |open: &str, inner: &str, close: &str| {
            [MAX_DEPTH - 2, MAX_DEPTH, 60].map(|n| open.repeat(n) + inner + &close.repeat(n))
        };
        let chains = [
            chain("1.0", "+1.0", 126),
            chain("a", ".a", 255),
            chain("result", "[0]", 168),
            "-".repeat(511) + "1",
            "!".repeat(507) + "true",
            chain("true", "&&true", 84),
            chain("true", "==true", 84),
            chain("result", ".map(a,a)", 56),
            chain("true", "?true:true", 50),
            "?".repeat(512),
            "(".repeat(512),
            "[".repeat(512),
            "result[".repeat(73),
            "result.all(a,".repeat(39),
            "max(".repeat(128),
        ];
        let nested = nest("(", "true", ")")
            .into_iter()
            .chain(nest("[0 in [", "0", "]][0]"))
            .chain(nest("!(", "true", ")"))
            .chain(nest("-(", "1", ")"))
            .chain(nest("true?(", "true", "):true"))
            .chain(nest("double(", "1.0", ")"))
            .chain(nest("result[int(", "1.0", ")]"));
        let mut accepted = 0;
        for text in chains.into_iter().chain(nested) {
            if let Ok(condition) = Condition::parse(&text) {
                let _ = condition.evaluate(&[1.0; MAX_VALUES]);
                accepted += 1;
            }
        }
        assert!(accepted > 3, "{accepted}");
    });
}

#[test]
fn the_same_nesting_is_accepted_up_to_the_limit() {
    let nested = |depth: usize| "(".repeat(depth) + "true" + &")".repeat(depth);
    parse(&nested(MAX_DEPTH - 1));
    assert!(refusal(&nested(MAX_DEPTH)).contains("nested deeper than 12 levels"));
    parse(&("1.0".to_owned() + &"+1.0".repeat(100) + "> 0.0"));
    let chain = |length: usize| "true".to_owned() + &"==true".repeat(length);
    parse(&chain(MAX_HEIGHT - 1));
    assert!(refusal(&chain(MAX_HEIGHT)).contains("nested deeper than 32 levels"));
}
