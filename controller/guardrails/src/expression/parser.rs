//! Parses an expression. The height of the tree is bounded while it is built.

use serin_crds::check::compile_regex;

use super::ast::{Arithmetic, Comparison, LoopKind, Node, TextTest};
use super::lexer::{Token, TokenKind, tokenize};
use super::{MAX_HEIGHT, MAX_PATTERNS};

const COMPARISONS: [(&str, Comparison); 6] = [
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];
const ADDITIVE: [(&str, Arithmetic); 2] = [("+", Arithmetic::Add), ("-", Arithmetic::Subtract)];
const MULTIPLICATIVE: [(&str, Arithmetic); 3] = [
    ("*", Arithmetic::Multiply),
    ("/", Arithmetic::Divide),
    ("%", Arithmetic::Remainder),
];

/// A node with the number of nodes on its longest path.
struct Tree {
    node: Node,
    height: usize,
}

impl Tree {
    fn leaf(node: Node) -> Self {
        Self { node, height: 1 }
    }
}

/// Parses a whole expression over these variables.
pub(super) fn parse_expression(text: &str, variables: &[&str]) -> Result<Node, String> {
    let mut parser = Parser {
        tokens: tokenize(text)?,
        next: 0,
        variables: variables.iter().map(|name| (*name).to_owned()).collect(),
        patterns: 0,
        depth: 0,
    };
    let tree = parser.expression()?;
    if parser.peek().is_some() {
        return Err(parser.unexpected("the end"));
    }
    Ok(tree.node)
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    next: usize,
    variables: Vec<String>,
    patterns: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&TokenKind<'a>> {
        self.tokens.get(self.next).map(|token| &token.kind)
    }

    fn is_next(&self, symbol: &str) -> bool {
        matches!(self.peek(), Some(TokenKind::Symbol(found)) if *found == symbol)
    }

    fn skip(&mut self, symbol: &str) -> bool {
        let is_next = self.is_next(symbol);
        self.next += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, symbol: &str) -> Result<(), String> {
        if self.skip(symbol) {
            Ok(())
        } else {
            Err(self.unexpected(symbol))
        }
    }

    fn unexpected(&self, wanted: &str) -> String {
        match self.tokens.get(self.next) {
            Some(token) => format!("expected {wanted} at character {}", token.position),
            None => format!("expected {wanted} at its end"),
        }
    }

    fn name(&mut self) -> Result<&'a str, String> {
        match self.peek() {
            Some(TokenKind::Name(name)) => {
                let name = *name;
                self.next += 1;
                Ok(name)
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    /// A node above `trees`.
    fn above(heights: &[usize], node: Node) -> Result<Tree, String> {
        let height = heights.iter().max().copied().unwrap_or(0) + 1;
        if height > MAX_HEIGHT {
            return Err(format!(
                "it has more than {MAX_HEIGHT} operators on one path"
            ));
        }
        Ok(Tree { node, height })
    }

    fn expression(&mut self) -> Result<Tree, String> {
        self.depth += 1;
        if self.depth > MAX_HEIGHT {
            return Err(format!("it is nested more than {MAX_HEIGHT} levels deep"));
        }
        let condition = self.chain("||", Self::conjunction, Node::Or)?;
        let tree = if self.skip("?") {
            let yes = self.expression()?;
            self.expect(":")?;
            let no = self.expression()?;
            let heights = [condition.height, yes.height, no.height];
            let parts = (condition.node, yes.node, no.node);
            Self::above(&heights, Node::Conditional(Box::new(parts)))?
        } else {
            condition
        };
        self.depth -= 1;
        Ok(tree)
    }

    fn conjunction(&mut self) -> Result<Tree, String> {
        self.chain("&&", Self::relation, Node::And)
    }

    /// Operands of `&&` or `||`, which are one node.
    fn chain(
        &mut self,
        symbol: &str,
        operand: impl Fn(&mut Self) -> Result<Tree, String>,
        node: impl Fn(Vec<Node>) -> Node,
    ) -> Result<Tree, String> {
        let first = operand(self)?;
        if !self.is_next(symbol) {
            return Ok(first);
        }
        let mut heights = vec![first.height];
        let mut nodes = vec![first.node];
        while self.skip(symbol) {
            let next = operand(self)?;
            heights.push(next.height);
            nodes.push(next.node);
        }
        Self::above(&heights, node(nodes))
    }

    fn relation(&mut self) -> Result<Tree, String> {
        let left = self.binary(&ADDITIVE, Self::product)?;
        if matches!(self.peek(), Some(TokenKind::Name("in"))) {
            self.next += 1;
            let right = self.binary(&ADDITIVE, Self::product)?;
            let heights = [left.height, right.height];
            return Self::above(&heights, Node::In(Box::new((left.node, right.node))));
        }
        let found = COMPARISONS.iter().find(|(symbol, _)| self.is_next(symbol));
        let Some((_, comparison)) = found else {
            return Ok(left);
        };
        self.next += 1;
        let right = self.binary(&ADDITIVE, Self::product)?;
        let heights = [left.height, right.height];
        Self::above(
            &heights,
            Node::Compare(*comparison, Box::new((left.node, right.node))),
        )
    }

    fn product(&mut self) -> Result<Tree, String> {
        self.binary(&MULTIPLICATIVE, Self::unary)
    }

    fn binary(
        &mut self,
        operators: &[(&str, Arithmetic)],
        operand: impl Fn(&mut Self) -> Result<Tree, String>,
    ) -> Result<Tree, String> {
        let mut left = operand(self)?;
        while let Some((_, operator)) = operators.iter().find(|(symbol, _)| self.is_next(symbol)) {
            self.next += 1;
            let right = operand(self)?;
            let heights = [left.height, right.height];
            let node = Node::Arithmetic(*operator, Box::new((left.node, right.node)));
            left = Self::above(&heights, node)?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Tree, String> {
        for (symbol, node) in [
            ("!", Node::Not as fn(Box<Node>) -> Node),
            ("-", Node::Negate as fn(Box<Node>) -> Node),
        ] {
            if self.skip(symbol) {
                self.depth += 1;
                if self.depth > MAX_HEIGHT {
                    return Err(format!("it is nested more than {MAX_HEIGHT} levels deep"));
                }
                let operand = self.unary()?;
                self.depth -= 1;
                return Self::above(&[operand.height], node(Box::new(operand.node)));
            }
        }
        let mut tree = self.primary()?;
        loop {
            if self.skip(".") {
                let name = self.name()?;
                tree = if self.skip("(") {
                    self.method(tree, name)?
                } else {
                    Self::above(
                        &[tree.height],
                        Node::Field(Box::new(tree.node), name.to_owned()),
                    )?
                };
            } else if self.skip("[") {
                let index = self.expression()?;
                self.expect("]")?;
                let heights = [tree.height, index.height];
                tree = Self::above(&heights, Node::Index(Box::new((tree.node, index.node))))?;
            } else {
                return Ok(tree);
            }
        }
    }

    fn primary(&mut self) -> Result<Tree, String> {
        let Some(token) = self.tokens.get(self.next).cloned() else {
            return Err(self.unexpected("a value"));
        };
        self.next += 1;
        match token.kind {
            TokenKind::Integer(number) => Ok(Tree::leaf(Node::Integer(number))),
            TokenKind::Double(number) => Ok(Tree::leaf(Node::Double(number))),
            TokenKind::Text(text) => Ok(Tree::leaf(Node::Text(text))),
            TokenKind::Name("true") => Ok(Tree::leaf(Node::Bool(true))),
            TokenKind::Name("false") => Ok(Tree::leaf(Node::Bool(false))),
            TokenKind::Name("null") => Ok(Tree::leaf(Node::Null)),
            TokenKind::Name(name) if self.skip("(") => self.call(name),
            TokenKind::Name(name) => {
                let found = self.variables.iter().rposition(|variable| variable == name);
                let Some(index) = found else {
                    return Err(format!(
                        "there is no variable {name:.40}: the variables are {}",
                        self.variables.join(", ")
                    ));
                };
                Ok(Tree::leaf(Node::Variable(index)))
            }
            TokenKind::Symbol("(") => {
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            TokenKind::Symbol("[") => self.list(),
            TokenKind::Symbol(_) => {
                self.next -= 1;
                Err(self.unexpected("a value"))
            }
        }
    }

    fn list(&mut self) -> Result<Tree, String> {
        let (mut heights, mut nodes) = (Vec::new(), Vec::new());
        while !self.skip("]") {
            let item = self.expression()?;
            heights.push(item.height);
            nodes.push(item.node);
            if !self.skip(",") {
                self.expect("]")?;
                break;
            }
        }
        Self::above(&heights, Node::List(nodes))
    }

    /// A function after its opening bracket.
    fn call(&mut self, name: &str) -> Result<Tree, String> {
        let argument = self.expression()?;
        self.expect(")")?;
        let Tree { node, height } = argument;
        let node = match name {
            "size" => Node::Size(Box::new(node)),
            "int" => Node::ToInteger(Box::new(node)),
            "double" => Node::ToDouble(Box::new(node)),
            "has" => match node {
                Node::Field(object, field) => Node::Has(object, field),
                _ => return Err("has needs a field, for example has(template.spec)".to_owned()),
            },
            _ => return Err(unknown_function(name)),
        };
        Self::above(&[height], node)
    }

    /// A method after its opening bracket.
    fn method(&mut self, operand: Tree, name: &str) -> Result<Tree, String> {
        let kind = match name {
            "size" => {
                self.expect(")")?;
                return Self::above(&[operand.height], Node::Size(Box::new(operand.node)));
            }
            "startsWith" => return self.text_test(TextTest::StartsWith, operand),
            "endsWith" => return self.text_test(TextTest::EndsWith, operand),
            "contains" => return self.text_test(TextTest::Contains, operand),
            "matches" => return self.pattern(operand),
            "all" => LoopKind::All,
            "exists" => LoopKind::Exists,
            "exists_one" | "existsOne" => LoopKind::ExistsOne,
            "filter" => LoopKind::Filter,
            "map" => LoopKind::Map,
            _ => return Err(unknown_function(name)),
        };
        let variable = self.name()?.to_owned();
        self.expect(",")?;
        self.variables.push(variable);
        let body = self.expression()?;
        self.variables.pop();
        self.expect(")")?;
        let heights = [operand.height, body.height];
        Self::above(
            &heights,
            Node::Loop(kind, Box::new((operand.node, body.node))),
        )
    }

    fn text_test(&mut self, test: TextTest, operand: Tree) -> Result<Tree, String> {
        let argument = self.expression()?;
        self.expect(")")?;
        let heights = [operand.height, argument.height];
        Self::above(
            &heights,
            Node::TestText(test, Box::new((operand.node, argument.node))),
        )
    }

    /// A regular expression must be written out, so that it is compiled once and measured.
    fn pattern(&mut self, operand: Tree) -> Result<Tree, String> {
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
        Self::above(
            &[operand.height],
            Node::Matches(Box::new(operand.node), regex),
        )
    }
}

fn unknown_function(name: &str) -> String {
    format!(
        "there is no function {name:.40}: the functions are all, exists, exists_one, filter, map, \
         size, has, startsWith, endsWith, contains, matches, int and double"
    )
}
