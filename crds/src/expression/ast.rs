//! The syntax tree of an expression.

use regex::Regex;

/// A binary operator on numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

/// What a loop does with its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopKind {
    /// Whether the body is true for all values.
    All,
    /// Whether the body is true for a value.
    Exists,
    /// Whether the body is true for exactly one value.
    ExistsOne,
    /// The values for which the body is true.
    Filter,
    /// The values of the body.
    Map,
}

/// A test of a text against another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextTest {
    /// Whether it starts with the other.
    StartsWith,
    /// Whether it ends with the other.
    EndsWith,
    /// Whether it contains the other.
    Contains,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub kind: NodeKind,
    /// Character at which a message points, counted from 1: the operator, the name of the function,
    /// or the value itself.
    pub position: usize,
    /// Number of nodes on the longest path to a leaf.
    pub height: usize,
}

/// What a node calculates. Chains of operators are one node, so that a long expression is not a
/// deep one.
#[derive(Debug)]
pub(crate) enum NodeKind {
    Null,
    Bool(bool),
    Integer(i64),
    Double(f64),
    Text(String),
    List(Vec<Node>),
    /// The value of a variable, counted from the outermost one.
    Variable(usize),
    /// The value of a field of an object.
    Field(Box<Node>, String),
    /// Whether the field of an object exists.
    Has(Box<Node>, String),
    /// A list or an object, and an index or a key.
    Index(Box<(Node, Node)>),
    Not(Box<Node>),
    Negate(Box<Node>),
    /// Operands of `&&`.
    And(Vec<Node>),
    /// Operands of `||`.
    Or(Vec<Node>),
    /// The first operand, and each operator with its right operand.
    Arithmetic(Box<Node>, Vec<(Arithmetic, Node)>),
    Compare(Comparison, Box<(Node, Node)>),
    /// Whether the list or the object on the right contains the value or the key on the left.
    In(Box<(Node, Node)>),
    /// Condition, value if true, value if false.
    Conditional(Box<(Node, Node, Node)>),
    Size(Box<Node>),
    ToInteger(Box<Node>),
    ToDouble(Box<Node>),
    /// Smallest value of a list.
    Min(Box<Node>),
    /// Largest value of a list.
    Max(Box<Node>),
    TestText(TextTest, Box<(Node, Node)>),
    Matches(Box<Node>, Regex),
    Loop(Box<Loop>),
}

/// A loop over the values of a list, or over the keys of an object.
#[derive(Debug)]
pub(crate) struct Loop {
    pub kind: LoopKind,
    pub range: Node,
    /// Condition that selects the values, if it is not the body.
    pub selector: Option<Node>,
    pub body: Node,
}
