//! Parses loops and function calls.

use super::MAX_PATTERNS;
use super::ast::{Loop, LoopKind, Node, NodeKind, TextTest};
use super::lexer::TokenKind;
use super::parser::{Parser, highest};
use crate::check::compile_regex;

/// A function of expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// A loop over the values of a list or the keys of an object.
    Loop(LoopKind),
    /// Number of characters of a text, of values of a list or of fields of an object.
    Size,
    /// Whether a field exists.
    Has,
    /// Tests a text against another.
    TestText(TextTest),
    /// Whether a text matches a regular expression.
    Matches,
    /// Smallest of some numbers.
    Min,
    /// Largest of some numbers.
    Max,
    /// Converts a number or a text to a double.
    Double,
    /// Converts a number or a text to an integer.
    Int,
}

impl Function {
    const fn name(self) -> &'static str {
        match self {
            Self::Loop(LoopKind::All) => "all",
            Self::Loop(LoopKind::Exists) => "exists",
            Self::Loop(LoopKind::ExistsOne) => "exists_one",
            Self::Loop(LoopKind::Filter) => "filter",
            Self::Loop(LoopKind::Map) => "map",
            Self::Size => "size",
            Self::Has => "has",
            Self::TestText(TextTest::StartsWith) => "startsWith",
            Self::TestText(TextTest::EndsWith) => "endsWith",
            Self::TestText(TextTest::Contains) => "contains",
            Self::Matches => "matches",
            Self::Min => "min",
            Self::Max => "max",
            Self::Double => "double",
            Self::Int => "int",
        }
    }
}

impl Parser<'_> {
    /// The function with this name, if the dialect has it.
    fn function(&self, name: &str) -> Option<Function> {
        let name = if name == "existsOne" {
            "exists_one"
        } else {
            name
        };
        let mut functions = self.dialect.functions.iter().copied();
        functions.find(|known| known.name() == name)
    }

    fn unknown_function(&self, name: &str, position: usize) -> String {
        let names: Vec<&str> = self.dialect.functions.iter().map(|f| f.name()).collect();
        format!(
            "there is no function {name:.40} (at character {position}): the functions are {}",
            names.join(", ")
        )
    }

    /// A function call after the opening bracket.
    pub(super) fn call(&mut self, name: &str, position: usize) -> Result<Node, String> {
        let kind = match self.function(name) {
            Some(Function::Size) => NodeKind::Size,
            Some(Function::Double) => NodeKind::ToDouble,
            Some(Function::Int) => NodeKind::ToInteger,
            Some(Function::Has) => return self.has(),
            Some(Function::Min) => return self.extreme(NodeKind::Min, position),
            Some(Function::Max) => return self.extreme(NodeKind::Max, position),
            _ => return Err(self.unknown_function(name, position)),
        };
        let argument = self.expression()?;
        self.expect(")")?;
        self.node(position, argument.height, kind(Box::new(argument)))
    }

    fn has(&mut self) -> Result<Node, String> {
        let argument = self.expression()?;
        self.expect(")")?;
        let (position, height) = (argument.position, argument.height);
        match argument.kind {
            NodeKind::Field(object, field) => Ok(Node {
                kind: NodeKind::Has(object, field),
                position,
                height,
            }),
            _ => Err(format!(
                "has needs a field (at character {position}), for example has({}.spec)",
                self.dialect.variables.first().copied().unwrap_or("object")
            )),
        }
    }

    /// The arguments of `min` or `max`: a list, or several values.
    fn extreme(
        &mut self,
        kind: fn(Box<Node>) -> NodeKind,
        position: usize,
    ) -> Result<Node, String> {
        let mut values = vec![self.expression()?];
        while self.skip(",") {
            values.push(self.expression()?);
        }
        self.expect(")")?;
        let list = match (values.pop(), values.is_empty()) {
            (Some(only), true) => only,
            (last, _) => {
                values.extend(last);
                self.node(position, highest(&values), NodeKind::List(values))?
            }
        };
        self.node(position, list.height, kind(Box::new(list)))
    }

    /// A method or a loop after its opening bracket.
    pub(super) fn method(
        &mut self,
        operand: Node,
        name: &str,
        position: usize,
    ) -> Result<Node, String> {
        match self.function(name) {
            Some(Function::Loop(kind)) => self.loop_over(kind, operand, position),
            Some(Function::TestText(test)) => {
                let argument = self.expression()?;
                self.expect(")")?;
                let below = operand.height.max(argument.height);
                let parts = Box::new((operand, argument));
                self.node(position, below, NodeKind::TestText(test, parts))
            }
            Some(Function::Matches) => self.pattern(operand, position),
            Some(Function::Size) => {
                self.expect(")")?;
                self.node(position, operand.height, NodeKind::Size(Box::new(operand)))
            }
            _ => Err(self.unknown_function(name, position)),
        }
    }

    /// The arguments of a loop: the name of its variable, and one or two expressions.
    fn loop_over(&mut self, kind: LoopKind, range: Node, position: usize) -> Result<Node, String> {
        let variable = self.variable_name()?;
        self.expect(",")?;
        self.variables.push(variable);
        let first = self.expression()?;
        let (selector, body) = if kind == LoopKind::Map && self.skip(",") {
            (Some(first), self.expression()?)
        } else {
            (None, first)
        };
        self.variables.pop();
        self.expect(")")?;
        let selector_height = selector.as_ref().map_or(0, |node| node.height);
        let below = range.height.max(body.height).max(selector_height);
        let parts = Loop {
            kind,
            range,
            selector,
            body,
        };
        self.node(position, below, NodeKind::Loop(Box::new(parts)))
    }

    /// A regular expression must be written out, so that it is compiled once and measured.
    fn pattern(&mut self, operand: Node, position: usize) -> Result<Node, String> {
        let Some(TokenKind::Text(pattern)) = self.peek().cloned() else {
            return Err(self.unexpected("a regular expression in quotes"));
        };
        self.next += 1;
        self.expect(")")?;
        self.patterns += 1;
        if self.patterns > MAX_PATTERNS {
            return Err(format!(
                "it has more than {MAX_PATTERNS} regular expressions"
            ));
        }
        let regex = compile_regex(&pattern)?;
        let below = operand.height;
        self.node(position, below, NodeKind::Matches(Box::new(operand), regex))
    }
}
