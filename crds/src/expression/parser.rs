//! Parses an expression.
//!
//! The grammar is that of CEL without maps, messages, optional values and unsigned integers. Every
//! node gets its height when it is built. The parser recurses once for each level of nesting, and
//! the evaluation once for each level of height, so that the limits of the dialect bound both.

use super::Dialect;
use super::ast::{Arithmetic, Comparison, Node, NodeKind};
use super::lexer::{Token, TokenKind, tokenize};

/// Words of CEL that cannot be the name of a variable.
const RESERVED: [&str; 20] = [
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

/// Parses a whole expression.
///
/// # Errors
///
/// A message if the text is not CEL, is nested too deep, or uses something that the dialect does
/// not support.
pub(super) fn parse_expression(text: &str, dialect: &Dialect) -> Result<Node, String> {
    let mut parser = Parser {
        tokens: tokenize(text)?,
        next: 0,
        dialect,
        variables: dialect.variables.to_vec(),
        patterns: 0,
        depth: 0,
    };
    let node = parser.expression()?;
    match parser.peek() {
        None => Ok(node),
        Some(_) => Err(parser.unexpected("an operator or the end")),
    }
}

pub(super) struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    /// Index of the next token.
    pub(super) next: usize,
    pub(super) dialect: &'a Dialect,
    /// Names of the variables in scope, the innermost last.
    pub(super) variables: Vec<&'a str>,
    /// Number of regular expressions so far.
    pub(super) patterns: usize,
    /// Number of expressions that contain the current one.
    depth: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn peek(&self) -> Option<&TokenKind<'a>> {
        self.tokens.get(self.next).map(|token| &token.kind)
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

    /// Whether the next token is this symbol.
    fn is_next(&self, symbol: &str) -> bool {
        matches!(self.peek(), Some(TokenKind::Symbol(next)) if *next == symbol)
    }

    /// Skips the next token if it is this symbol.
    pub(super) fn skip(&mut self, symbol: &str) -> bool {
        let found = self.is_next(symbol);
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

    /// Skips the next token, which must be a name that is not reserved.
    pub(super) fn variable_name(&mut self) -> Result<&'a str, String> {
        match self.peek() {
            Some(TokenKind::Name(name)) if !RESERVED.contains(name) => {
                let name = *name;
                self.next += 1;
                Ok(name)
            }
            _ => Err(self.unexpected("the name of a variable")),
        }
    }

    /// Skips the next token if it is one of these operators.
    fn operator<T: Copy>(&mut self, operators: &[(&str, T)]) -> Option<T> {
        let Some(TokenKind::Symbol(next)) = self.peek() else {
            return None;
        };
        let (_, operator) = operators.iter().find(|(symbol, _)| symbol == next)?;
        self.next += 1;
        Some(*operator)
    }

    /// Builds a node above others, of which the highest has this height, unless it is too high.
    pub(super) fn node(
        &self,
        position: usize,
        height_below: usize,
        kind: NodeKind,
    ) -> Result<Node, String> {
        let height = height_below + 1;
        if height > self.dialect.max_height {
            return Err(self.too_deep(self.dialect.max_height));
        }
        Ok(Node {
            kind,
            position,
            height,
        })
    }

    fn too_deep(&self, limit: usize) -> String {
        format!(
            "it is nested deeper than {limit} levels at character {}: use fewer nested \
             brackets, loops and conditionals",
            self.position()
        )
    }

    /// `or ('?' or ':' expression)?`. The only function that the grammar calls recursively.
    pub(super) fn expression(&mut self) -> Result<Node, String> {
        if self.depth == self.dialect.max_depth {
            return Err(self.too_deep(self.dialect.max_depth));
        }
        self.depth += 1;
        let expression = self.conditional();
        self.depth -= 1;
        expression
    }

    fn conditional(&mut self) -> Result<Node, String> {
        let condition = self.or()?;
        let position = self.position();
        if !self.skip("?") {
            return Ok(condition);
        }
        let if_true = self.or()?;
        self.expect(":")?;
        let if_false = self.expression()?;
        let below = condition.height.max(if_true.height).max(if_false.height);
        let parts = Box::new((condition, if_true, if_false));
        self.node(position, below, NodeKind::Conditional(parts))
    }

    fn or(&mut self) -> Result<Node, String> {
        self.logical("||", Self::and, NodeKind::Or)
    }

    fn and(&mut self) -> Result<Node, String> {
        self.logical("&&", Self::relation, NodeKind::And)
    }

    fn logical(
        &mut self,
        symbol: &str,
        operand: fn(&mut Self) -> Result<Node, String>,
        kind: fn(Vec<Node>) -> NodeKind,
    ) -> Result<Node, String> {
        let first = operand(self)?;
        if !self.is_next(symbol) {
            return Ok(first);
        }
        let position = self.position();
        let mut operands = vec![first];
        while self.skip(symbol) {
            operands.push(operand(self)?);
        }
        self.node(position, highest(&operands), kind(operands))
    }

    fn relation(&mut self) -> Result<Node, String> {
        let mut left = self.additive()?;
        loop {
            let position = self.position();
            let comparison = self.operator(&COMPARISONS);
            if comparison.is_none() {
                if self.peek() != Some(&TokenKind::Name("in")) {
                    return Ok(left);
                }
                self.next += 1;
            }
            let right = self.additive()?;
            let below = left.height.max(right.height);
            let operands = Box::new((left, right));
            let kind = match comparison {
                Some(comparison) => NodeKind::Compare(comparison, operands),
                None => NodeKind::In(operands),
            };
            left = self.node(position, below, kind)?;
        }
    }

    fn additive(&mut self) -> Result<Node, String> {
        self.arithmetic(&ADDITIVE, Self::multiplicative)
    }

    fn multiplicative(&mut self) -> Result<Node, String> {
        self.arithmetic(&MULTIPLICATIVE, Self::unary)
    }

    fn arithmetic(
        &mut self,
        operators: &[(&str, Arithmetic)],
        operand: fn(&mut Self) -> Result<Node, String>,
    ) -> Result<Node, String> {
        let first = operand(self)?;
        let position = self.position();
        let mut below = first.height;
        let mut rest = Vec::new();
        while let Some(operator) = self.operator(operators) {
            let next = operand(self)?;
            below = below.max(next.height);
            rest.push((operator, next));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        self.node(position, below, NodeKind::Arithmetic(Box::new(first), rest))
    }

    /// `member | '!'+ member | '-'+ member`. An even number of signs has no effect, as in the
    /// reference implementation of CEL.
    fn unary(&mut self) -> Result<Node, String> {
        let position = self.position();
        let negations = self.skip_all("!");
        if negations > 0 {
            let operand = self.member()?;
            if negations.is_multiple_of(2) {
                return Ok(operand);
            }
            return self.node(position, operand.height, NodeKind::Not(Box::new(operand)));
        }
        let is_negative = !self.skip_all("-").is_multiple_of(2);
        if is_negative && self.peek() == Some(&TokenKind::Integer(i64::MIN.unsigned_abs())) {
            self.next += 1;
            return self.node(position, 0, NodeKind::Integer(i64::MIN));
        }
        let operand = self.member()?;
        if !is_negative {
            return Ok(operand);
        }
        self.node(
            position,
            operand.height,
            NodeKind::Negate(Box::new(operand)),
        )
    }

    /// Skips all signs of a kind. Returns their number.
    fn skip_all(&mut self, symbol: &str) -> usize {
        let start = self.next;
        while self.skip(symbol) {}
        self.next - start
    }

    /// A value, followed by any number of fields, indexes and method calls.
    fn member(&mut self) -> Result<Node, String> {
        let mut operand = self.primary()?;
        loop {
            let position = self.position();
            if self.skip("[") {
                let index = self.expression()?;
                self.expect("]")?;
                let below = operand.height.max(index.height);
                let parts = Box::new((operand, index));
                operand = self.node(position, below, NodeKind::Index(parts))?;
            } else if self.skip(".") {
                operand = self.field_or_method(operand)?;
            } else {
                return Ok(operand);
            }
        }
    }

    /// A field or a method after the dot.
    fn field_or_method(&mut self, operand: Node) -> Result<Node, String> {
        let position = self.position();
        let Some(TokenKind::Name(name)) = self.peek() else {
            return Err(self.unexpected("the name of a function or a field"));
        };
        let name = *name;
        self.next += 1;
        if self.skip("(") {
            return self.method(operand, name, position);
        }
        let below = operand.height;
        let kind = NodeKind::Field(Box::new(operand), name.to_owned());
        self.node(position, below, kind)
    }

    fn primary(&mut self) -> Result<Node, String> {
        let position = self.position();
        let Some(token) = self.tokens.get(self.next).cloned() else {
            return Err(self.unexpected("a value"));
        };
        let kind = match token.kind {
            TokenKind::Integer(number) => i64::try_from(number)
                .map(NodeKind::Integer)
                .map_err(|_| format!("the number at character {position} is too large"))?,
            TokenKind::Double(number) => NodeKind::Double(number),
            TokenKind::Text(text) => NodeKind::Text(text),
            TokenKind::Name(value @ ("true" | "false")) => NodeKind::Bool(value == "true"),
            TokenKind::Name("null") => NodeKind::Null,
            TokenKind::Name(name) if RESERVED.contains(&name) => {
                return Err(self.unexpected("a value"));
            }
            TokenKind::Name(name) => {
                self.next += 1;
                if self.skip("(") {
                    return self.call(name, position);
                }
                return self.variable(name, position);
            }
            TokenKind::Symbol("(") => {
                self.next += 1;
                let inner = self.expression()?;
                self.expect(")")?;
                return Ok(inner);
            }
            TokenKind::Symbol("[") => {
                self.next += 1;
                return self.list(position);
            }
            TokenKind::Symbol(_) => return Err(self.unexpected("a value")),
        };
        self.next += 1;
        self.node(position, 0, kind)
    }

    fn variable(&self, name: &str, position: usize) -> Result<Node, String> {
        let found = self.variables.iter().rposition(|known| *known == name);
        if let Some(index) = found {
            return self.node(position, 0, NodeKind::Variable(index));
        }
        let known = match self.dialect.variables {
            [only] => format!("the only variable is {only}"),
            all => format!("the variables are {}", all.join(", ")),
        };
        Err(format!(
            "there is no variable {name:.40} (at character {position}): {known}"
        ))
    }

    /// The values of a list, up to the closing bracket.
    fn list(&mut self, position: usize) -> Result<Node, String> {
        let mut values = Vec::new();
        while !self.skip("]") {
            values.push(self.expression()?);
            if !self.skip(",") {
                self.expect("]")?;
                break;
            }
        }
        self.node(position, highest(&values), NodeKind::List(values))
    }
}

/// Height of the highest of these nodes.
pub(super) fn highest(nodes: &[Node]) -> usize {
    nodes.iter().map(|node| node.height).max().unwrap_or(0)
}
