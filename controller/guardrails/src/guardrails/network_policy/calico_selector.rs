//! Selectors of Calico: text such as `app == 'shop' && has(tier)`.

/// Maximum length of a selector in bytes. A longer one selects nothing.
const MAX_LENGTH: usize = 4_096;
/// Maximum nesting. It bounds the stack.
const MAX_DEPTH: usize = 32;

/// Whether a selector selects an object. `label` looks up one of its labels. A selector that cannot
/// be read selects no object, because a policy whose effect is not known does not count as protection.
pub(super) fn selects<'a>(text: &str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    if text.len() > MAX_LENGTH {
        return false;
    }
    let mut parser = Parser {
        rest: text,
        label: &label,
    };
    let value = parser.any(0);
    parser.skip_space();
    parser.rest.is_empty() && value == Some(true)
}

struct Parser<'t, L> {
    rest: &'t str,
    label: &'t L,
}

impl<'t, 'a, L: Fn(&str) -> Option<&'a str>> Parser<'t, L> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn skip(&mut self, symbol: &str) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(symbol) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Operands of `||`.
    fn any(&mut self, depth: usize) -> Option<bool> {
        let mut value = self.all(depth)?;
        while self.skip("||") {
            value |= self.all(depth)?;
        }
        Some(value)
    }

    /// Operands of `&&`.
    fn all(&mut self, depth: usize) -> Option<bool> {
        let mut value = self.term(depth)?;
        while self.skip("&&") {
            value &= self.term(depth)?;
        }
        Some(value)
    }

    fn term(&mut self, depth: usize) -> Option<bool> {
        if depth > MAX_DEPTH {
            return None;
        }
        if self.skip("!") {
            return self.term(depth + 1).map(|value| !value);
        }
        if self.skip("(") {
            let value = self.any(depth + 1)?;
            return self.skip(")").then_some(value);
        }
        if self.skip("all()") || self.skip("global()") {
            return Some(true);
        }
        if self.skip("has(") {
            let key = self.key()?;
            return self.skip(")").then(|| (self.label)(key).is_some());
        }
        let key = self.key()?;
        self.comparison(key)
    }

    fn comparison(&mut self, key: &str) -> Option<bool> {
        let found = (self.label)(key);
        if self.skip("==") {
            return Some(found == Some(self.text()?));
        }
        if self.skip("!=") {
            return Some(found != Some(self.text()?));
        }
        if self.skip("not in") {
            let values = self.set()?;
            return Some(found.is_none_or(|found| !values.contains(&found)));
        }
        if self.skip("in") {
            let values = self.set()?;
            return Some(found.is_some_and(|found| values.contains(&found)));
        }
        if self.skip("contains") {
            let part = self.text()?;
            return Some(found.is_some_and(|found| found.contains(part)));
        }
        if self.skip("starts with") {
            let part = self.text()?;
            return Some(found.is_some_and(|found| found.starts_with(part)));
        }
        if self.skip("ends with") {
            let part = self.text()?;
            return Some(found.is_some_and(|found| found.ends_with(part)));
        }
        None
    }

    fn key(&mut self) -> Option<&'t str> {
        self.skip_space();
        let is_key = |c: char| c.is_ascii_alphanumeric() || "_.-/".contains(c);
        let end = self.rest.find(|c| !is_key(c)).unwrap_or(self.rest.len());
        let (key, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!key.is_empty()).then_some(key)
    }

    fn text(&mut self) -> Option<&'t str> {
        self.skip_space();
        let quote = self
            .rest
            .chars()
            .next()
            .filter(|c| *c == '\'' || *c == '"')?;
        let (text, rest) = self.rest[1..].split_once(quote)?;
        self.rest = rest;
        Some(text)
    }

    fn set(&mut self) -> Option<Vec<&'t str>> {
        if !self.skip("{") {
            return None;
        }
        let mut values = Vec::new();
        while !self.skip("}") {
            values.push(self.text()?);
            if !self.skip(",") {
                return self.skip("}").then_some(values);
            }
        }
        Some(values)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn label(key: &str) -> Option<&'static str> {
        match key {
            "app" => Some("shop"),
            "tier" => Some("web"),
            _ => None,
        }
    }

    #[test]
    fn selectors_select_as_in_calico() {
        for (text, expected) in [
            ("all()", true),
            ("app == 'shop'", true),
            ("app == \"shop\" && tier != 'web'", false),
            ("app == 'other' || has(tier)", true),
            ("!has(team)", true),
            ("!(app == 'shop')", false),
            ("app in {'a', 'shop'}", true),
            ("app not in {'shop'}", false),
            ("team not in {'x'}", true),
            (
                "app starts with 'sh' && app ends with 'op' && app contains 'ho'",
                true,
            ),
            ("app == 'shop' nonsense", false),
            ("app", false),
            ("", false),
        ] {
            assert_eq!(selects(text, label), expected, "{text}");
        }
    }

    #[test]
    fn a_deep_or_long_selector_selects_nothing() {
        let deep = format!("{}all(){}", "(".repeat(1_000), ")".repeat(1_000));
        assert!(!selects(&deep, label));
        assert!(!selects(&"!".repeat(3_000), label));
        assert!(!selects(&format!("{} || all()", "x".repeat(5_000)), label));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-z !&|(){}'\",=]{0,60}|\\PC{0,40}") {
            let _ = selects(&text, label);
        }
    }
}
