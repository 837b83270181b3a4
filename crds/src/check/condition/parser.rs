//! Parses and checks a condition in one pass.
//!
//! The grammar is that of CEL without text, maps, messages, optional values and unsigned integers.
//! Every expression gets its type, the cost of its evaluation and its height when it is built, so
//! that nothing is evaluated before its cost is known. The parser recurses once for each level of
//! nesting, and the evaluation once for each level of height.

use super::expression::{Arithmetic, BOOL, Bounds, Comparison, Expression, Node, ScalarType, Type};
use super::lexer::{Token, TokenKind, tokenize, unsupported};
use super::types::{require_arithmetic, require_bool, require_comparable, require_same_class};
use super::{MAX_DEPTH, MAX_HEIGHT, MAX_VALUES};

/// Words of CEL that cannot be the name of a variable.
pub(super) const RESERVED: [&str; 20] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "while",
];

const ADDITIVE: [(&str, Arithmetic); 2] = [("+", Arithmetic::Add), ("-", Arithmetic::Subtract)];
const MULTIPLICATIVE: [(&str, Arithmetic); 3] = [
    ("*", Arithmetic::Multiply),
    ("/", Arithmetic::Divide),
    ("%", Arithmetic::Remainder),
];
const COMPARISONS: [(&str, Comparison); 6] = [
    ("<", Comparison::Less),
    ("<=", Comparison::LessOrEqual),
    (">", Comparison::Greater),
    (">=", Comparison::GreaterOrEqual),
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
];

/// Parses an expression over `result`, a list of at most [`MAX_VALUES`] doubles.
///
/// # Errors
///
/// A message if the text is not CEL, is nested too deep, has a type mismatch, or uses something
/// that conditions do not support.
pub(super) fn parse_expression(text: &str) -> Result<Expression, String> {
    let mut parser = Parser {
        tokens: tokenize(text)?,
        next: 0,
        variables: vec![("result", RESULT)],
        depth: 0,
    };
    let expression = parser.expression()?;
    match parser.peek() {
        None => Ok(expression),
        Some(_) => Err(parser.unexpected("an operator or the end")),
    }
}

const RESULT: Type = Type::List {
    item: ScalarType::Double,
    max_length: MAX_VALUES,
};

pub(super) struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    /// Index of the next token.
    pub(super) next: usize,
    /// Names and types of the variables in scope, the innermost last.
    pub(super) variables: Vec<(&'a str, Type)>,
    /// Number of expressions that contain the current one.
    depth: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn peek(&self) -> Option<TokenKind<'a>> {
        self.tokens.get(self.next).map(|token| token.kind)
    }

    pub(super) fn position(&self) -> usize {
        match (self.tokens.get(self.next), self.tokens.last()) {
            (Some(token), _) => token.position,
            (None, Some(last)) => last.position + 1,
            (None, None) => 1,
        }
    }

    pub(super) fn unexpected(&self, expected: &str) -> String {
        let position = self.position();
        match self.peek() {
            Some(found) => {
                format!("it is not CEL: expected {expected} at character {position}, found {found}")
            }
            None => format!("it is not CEL: it ends where {expected} is expected"),
        }
    }

    /// Skips the next token if it is this symbol.
    pub(super) fn skip(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Some(TokenKind::Symbol(next)) if next == symbol);
        self.next += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, symbol: &str) -> Result<(), String> {
        if self.skip(symbol) {
            Ok(())
        } else {
            Err(self.unexpected(symbol))
        }
    }

    /// Skips the next token if it is one of these operators.
    fn operator<T: Copy>(&mut self, operators: &[(&str, T)]) -> Option<T> {
        let Some(TokenKind::Symbol(next)) = self.peek() else {
            return None;
        };
        let (_, operator) = operators.iter().find(|(symbol, _)| *symbol == next)?;
        self.next += 1;
        Some(*operator)
    }

    /// Builds an expression, unless it is too high.
    pub(super) fn checked(
        &self,
        bounds: Bounds,
        node: Node,
        kind: Type,
    ) -> Result<Expression, String> {
        let expression = bounds.expression(node, kind);
        if expression.height > MAX_HEIGHT {
            Err(self.too_deep(MAX_HEIGHT))
        } else {
            Ok(expression)
        }
    }

    fn too_deep(&self, limit: usize) -> String {
        format!(
            "it is nested deeper than {limit} levels at character {}: use fewer nested \
             brackets, loops and conditionals",
            self.position()
        )
    }

    /// `or ('?' or ':' expression)?`. The only function that the grammar calls recursively.
    pub(super) fn expression(&mut self) -> Result<Expression, String> {
        if self.depth == MAX_DEPTH {
            return Err(self.too_deep(MAX_DEPTH));
        }
        self.depth += 1;
        let expression = self.conditional();
        self.depth -= 1;
        expression
    }

    fn conditional(&mut self) -> Result<Expression, String> {
        let position = self.position();
        let condition = self.or()?;
        if !self.skip("?") {
            return Ok(condition);
        }
        require_bool(&condition, "?", position)?;
        let if_true = self.or()?;
        self.expect(":")?;
        let if_false = self.expression()?;
        let kind = match (if_true.kind, if_false.kind) {
            (Type::Scalar(left), Type::Scalar(right)) if left == right => if_true.kind,
            (Type::List { item, .. }, Type::List { item: other, .. }) if item == other => {
                let max_length = if_true.max_length().max(if_false.max_length());
                Type::List { item, max_length }
            }
            _ => {
                return Err(format!(
                    "the two values of the conditional at character {position} have different \
                     types: write for example 1.0 instead of 1"
                ));
            }
        };
        let bounds = Bounds::new()
            .with(&condition, 1)
            .with(&if_true, 1)
            .with(&if_false, 1);
        let node = Node::Conditional(Box::new((condition.node, if_true.node, if_false.node)));
        self.checked(bounds, node, kind)
    }

    fn or(&mut self) -> Result<Expression, String> {
        self.logical("||", Self::and, Node::Or)
    }

    fn and(&mut self) -> Result<Expression, String> {
        self.logical("&&", Self::relation, Node::And)
    }

    fn logical(
        &mut self,
        symbol: &str,
        operand: fn(&mut Self) -> Result<Expression, String>,
        node: fn(Vec<Node>) -> Node,
    ) -> Result<Expression, String> {
        let position = self.position();
        let first = operand(self)?;
        if !self.skip(symbol) {
            return Ok(first);
        }
        require_bool(&first, symbol, position)?;
        let mut bounds = Bounds::new().with(&first, 1);
        let mut operands = vec![first.node];
        loop {
            let position = self.position();
            let next = operand(self)?;
            require_bool(&next, symbol, position)?;
            bounds = bounds.with(&next, 1);
            operands.push(next.node);
            if !self.skip(symbol) {
                return self.checked(bounds, node(operands), BOOL);
            }
        }
    }

    fn relation(&mut self) -> Result<Expression, String> {
        let mut left = self.additive()?;
        loop {
            let position = self.position();
            if let Some(comparison) = self.operator(&COMPARISONS) {
                let right = self.additive()?;
                require_comparable(comparison, left.kind, right.kind, position)?;
                let bounds = Bounds::new().with(&left, 1).with(&right, 1);
                let node = Node::Compare(comparison, Box::new((left.node, right.node)));
                left = self.checked(bounds, node, BOOL)?;
            } else if self.peek() == Some(TokenKind::Name("in")) {
                self.next += 1;
                let right = self.additive()?;
                let (Type::Scalar(value), Type::List { item, .. }) = (left.kind, right.kind) else {
                    return Err(format!(
                        "`in` at character {position} needs a value and a list, for example \
                         result[0] in [1.0, 2.0]"
                    ));
                };
                require_same_class(value, item, "in", position)?;
                let bounds = Bounds::new()
                    .with(&left, 1)
                    .with(&right, 1)
                    .with_values(right.max_length());
                let node = Node::In(Box::new((left.node, right.node)));
                left = self.checked(bounds, node, BOOL)?;
            } else {
                return Ok(left);
            }
        }
    }

    fn additive(&mut self) -> Result<Expression, String> {
        self.arithmetic(&ADDITIVE, Self::multiplicative)
    }

    fn multiplicative(&mut self) -> Result<Expression, String> {
        self.arithmetic(&MULTIPLICATIVE, Self::unary)
    }

    fn arithmetic(
        &mut self,
        operators: &[(&str, Arithmetic)],
        operand: fn(&mut Self) -> Result<Expression, String>,
    ) -> Result<Expression, String> {
        let first = operand(self)?;
        let kind = first.kind;
        let mut bounds = Bounds::new().with(&first, 1);
        let mut rest = Vec::new();
        loop {
            let position = self.position();
            let Some(operator) = self.operator(operators) else {
                break;
            };
            let next = operand(self)?;
            require_arithmetic(operator, kind, next.kind, position)?;
            bounds = bounds.with(&next, 1);
            rest.push((operator, next.node));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        let node = Node::Arithmetic(Box::new(first.node), rest);
        self.checked(bounds, node, kind)
    }

    /// `member | '!'+ member | '-'+ member`. An even number of signs has no effect.
    fn unary(&mut self) -> Result<Expression, String> {
        let position = self.position();
        let count = |parser: &mut Self, symbol: &str| {
            let start = parser.next;
            while parser.skip(symbol) {}
            parser.next - start
        };
        let negations = count(self, "!");
        if negations > 0 {
            let operand = self.member()?;
            require_bool(&operand, "!", position)?;
            if negations.is_multiple_of(2) {
                return Ok(operand);
            }
            let bounds = Bounds::new().with(&operand, 1);
            return self.checked(bounds, Node::Not(Box::new(operand.node)), BOOL);
        }
        let signs = count(self, "-");
        if signs == 0 {
            return self.member();
        }
        let is_negative = !signs.is_multiple_of(2);
        if is_negative && self.peek() == Some(TokenKind::Integer(i64::MIN.unsigned_abs())) {
            self.next += 1;
            let kind = Type::Scalar(ScalarType::Integer);
            return Ok(Expression::leaf(Node::Integer(i64::MIN), kind));
        }
        let operand = self.member()?;
        if !matches!(operand.kind, Type::Scalar(kind) if kind.is_number()) {
            return Err(format!("- at character {position} needs a number"));
        }
        if !is_negative {
            return Ok(operand);
        }
        let (bounds, kind) = (Bounds::new().with(&operand, 1), operand.kind);
        self.checked(bounds, Node::Negate(Box::new(operand.node)), kind)
    }

    /// A value, followed by any number of indexes and method calls.
    fn member(&mut self) -> Result<Expression, String> {
        let mut operand = self.primary()?;
        loop {
            let position = self.position();
            if self.skip("[") {
                let index = self.expression()?;
                self.expect("]")?;
                operand = self.index(operand, index, position)?;
            } else if self.skip(".") {
                operand = self.method(operand)?;
            } else {
                return Ok(operand);
            }
        }
    }

    fn index(
        &self,
        list: Expression,
        index: Expression,
        position: usize,
    ) -> Result<Expression, String> {
        let Type::List { item, .. } = list.kind else {
            return Err(format!(
                "[ at character {position} needs a list, for example result[0]"
            ));
        };
        if index.kind != Type::Scalar(ScalarType::Integer) {
            return Err(format!(
                "the index at character {position} must be an integer, for example result[0]"
            ));
        }
        let bounds = Bounds::new().with(&list, 1).with(&index, 1);
        let node = Node::Index(Box::new((list.node, index.node)));
        self.checked(bounds, node, Type::Scalar(item))
    }

    fn primary(&mut self) -> Result<Expression, String> {
        let position = self.position();
        let Some(token) = self.peek() else {
            return Err(self.unexpected("a value"));
        };
        let scalar = |node, kind| Ok(Expression::leaf(node, Type::Scalar(kind)));
        match token {
            TokenKind::Integer(number) => {
                self.next += 1;
                let number = i64::try_from(number)
                    .map_err(|_| format!("the number at character {position} is too large"))?;
                scalar(Node::Integer(number), ScalarType::Integer)
            }
            TokenKind::Double(number) => {
                self.next += 1;
                scalar(Node::Double(number), ScalarType::Double)
            }
            TokenKind::Name(value @ ("true" | "false")) => {
                self.next += 1;
                scalar(Node::Bool(value == "true"), ScalarType::Bool)
            }
            TokenKind::Name("null") => Err(unsupported("null", position)),
            TokenKind::Name(name) if RESERVED.contains(&name) => Err(self.unexpected("a value")),
            TokenKind::Name(name) => {
                self.next += 1;
                if self.skip("(") {
                    self.call(name, position)
                } else {
                    self.variable(name, position)
                }
            }
            TokenKind::Symbol("(") => {
                self.next += 1;
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            TokenKind::Symbol("[") => {
                self.next += 1;
                self.list(position)
            }
            TokenKind::Symbol(_) => Err(self.unexpected("a value")),
        }
    }

    fn variable(&self, name: &str, position: usize) -> Result<Expression, String> {
        let index = self.variables.iter().rposition(|(known, _)| *known == name);
        match index.and_then(|index| Some((index, self.variables.get(index)?.1))) {
            Some((index, kind)) => Ok(Expression::leaf(Node::Variable(index), kind)),
            None => Err(format!(
                "there is no variable {name:.40} (at character {position}): the only variable is result"
            )),
        }
    }

    /// The values of a list, up to the closing bracket.
    fn list(&mut self, position: usize) -> Result<Expression, String> {
        let mut bounds = Bounds::new();
        let mut values = Vec::new();
        let mut item = None;
        while !self.skip("]") {
            let value = self.expression()?;
            let Type::Scalar(kind) = value.kind else {
                return Err(unsupported("lists of lists", position));
            };
            if *item.get_or_insert(kind) != kind {
                return Err(format!(
                    "the values of the list at character {position} have different types: write \
                     for example 1.0 instead of 1"
                ));
            }
            bounds = bounds.with(&value, 1);
            values.push(value.node);
            if !self.skip(",") {
                self.expect("]")?;
                break;
            }
        }
        let Some(item) = item else {
            return Err(unsupported("empty lists", position));
        };
        let max_length = values.len();
        let kind = Type::List { item, max_length };
        self.checked(bounds, Node::List(values), kind)
    }
}
