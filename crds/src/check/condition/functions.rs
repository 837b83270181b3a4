//! Parses loops and function calls.

use super::expression::{
    BOOL, Bounds, Expression, Function, Loop, LoopKind, Node, ScalarType, Type,
};
use super::lexer::{TokenKind, unsupported};
use super::parser::{Parser, RESERVED};
use super::types::require_bool;

impl Parser<'_> {
    /// A method or a loop after the dot.
    pub(super) fn method(&mut self, operand: Expression) -> Result<Expression, String> {
        let position = self.position();
        let Some(TokenKind::Name(name)) = self.peek() else {
            return Err(self.unexpected("the name of a function"));
        };
        self.next += 1;
        if !self.skip("(") {
            return Err(unsupported("fields", position));
        }
        let kind = match name {
            "all" => LoopKind::All,
            "exists" => LoopKind::Exists,
            "exists_one" | "existsOne" => LoopKind::ExistsOne,
            "filter" => LoopKind::Filter,
            "map" => LoopKind::Map,
            "size" => {
                self.expect(")")?;
                return self.apply(Function::Size, operand, name, position);
            }
            _ => return Err(unknown_function(name, position)),
        };
        self.loop_over(kind, operand, position)
    }

    /// The arguments of a loop: the name of its variable, and one or two expressions.
    fn loop_over(
        &mut self,
        kind: LoopKind,
        range: Expression,
        position: usize,
    ) -> Result<Expression, String> {
        let Type::List { item, max_length } = range.kind else {
            return Err(format!("the loop at character {position} needs a list"));
        };
        let variable = match self.peek() {
            Some(TokenKind::Name(name)) if !RESERVED.contains(&name) => name,
            _ => return Err(self.unexpected("the name of a variable")),
        };
        self.next += 1;
        self.expect(",")?;
        self.variables.push((variable, Type::Scalar(item)));
        let first = self.expression()?;
        let (selector, body) = if kind == LoopKind::Map && self.skip(",") {
            (Some(first), self.expression()?)
        } else {
            (None, first)
        };
        self.variables.pop();
        self.expect(")")?;
        let mut bounds = Bounds::new()
            .with(&range, 1)
            .with_values(max_length)
            .with(&body, max_length);
        if let Some(selector) = &selector {
            require_bool(selector, "map", position)?;
            bounds = bounds.with(selector, max_length);
        }
        let result = match (kind, body.kind) {
            (LoopKind::Map, Type::Scalar(item)) => Type::List { item, max_length },
            (LoopKind::Map, Type::List { .. }) => {
                return Err(unsupported("lists of lists", position));
            }
            (LoopKind::Filter, BOOL) => range.kind,
            (_, BOOL) => BOOL,
            _ => {
                return Err(format!(
                    "the loop at character {position} needs a condition, for example {variable:.40} > \
                     0.5"
                ));
            }
        };
        let node = Node::Loop(Box::new(Loop {
            kind,
            range: range.node,
            selector: selector.map(|selector| selector.node),
            body: body.node,
        }));
        self.checked(bounds, node, result)
    }

    /// A function call after the opening bracket.
    pub(super) fn call(&mut self, name: &str, position: usize) -> Result<Expression, String> {
        let function = match name {
            "size" => Function::Size,
            "double" => Function::ToDouble,
            "int" => Function::ToInteger,
            "min" => Function::Min,
            "max" => Function::Max,
            _ => return Err(unknown_function(name, position)),
        };
        let first = self.expression()?;
        if self.skip(")") {
            return self.apply(function, first, name, position);
        }
        let (Function::Min | Function::Max, Type::Scalar(item)) = (function, first.kind) else {
            return Err(self.unexpected(")"));
        };
        // Several arguments are the values of a list.
        let mut bounds = Bounds::new().with(&first, 1);
        let mut values = vec![first.node];
        while self.skip(",") {
            let next = self.expression()?;
            if next.kind != Type::Scalar(item) {
                return Err(wrong_argument(name, position));
            }
            bounds = bounds.with(&next, 1);
            values.push(next.node);
        }
        self.expect(")")?;
        let max_length = values.len();
        let kind = Type::List { item, max_length };
        let list = self.checked(bounds, Node::List(values), kind)?;
        self.apply(function, list, name, position)
    }

    fn apply(
        &self,
        function: Function,
        argument: Expression,
        name: &str,
        position: usize,
    ) -> Result<Expression, String> {
        let (kind, values) = match (function, argument.kind) {
            (Function::Size, Type::List { .. }) => (ScalarType::Integer, 0),
            (Function::ToDouble, Type::Scalar(kind)) if kind.is_number() => (ScalarType::Double, 0),
            (Function::ToInteger, Type::Scalar(kind)) if kind.is_number() => {
                (ScalarType::Integer, 0)
            }
            (Function::Min | Function::Max, Type::List { item, max_length })
                if item.is_number() =>
            {
                (item, max_length)
            }
            _ => return Err(wrong_argument(name, position)),
        };
        let bounds = Bounds::new().with(&argument, 1).with_values(values);
        let node = Node::Call(function, Box::new(argument.node));
        self.checked(bounds, node, Type::Scalar(kind))
    }
}

fn unknown_function(name: &str, position: usize) -> String {
    format!(
        "there is no function {name:.40} (at character {position}): the functions are all, exists, \
         exists_one, filter, map, size, min, max, double and int"
    )
}

fn wrong_argument(name: &str, position: usize) -> String {
    let argument = match name {
        "size" => "a list, for example size(result)",
        "min" | "max" => "a list of numbers, or numbers of the same type, for example max(result)",
        _ => "a number",
    };
    format!("{name} at character {position} needs {argument}")
}
