//! The syntax tree of an expression.

use regex::Regex;

/// A binary operator on numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What a loop does with its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoopKind {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
}

/// A test of a text against another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextTest {
    StartsWith,
    EndsWith,
    Contains,
}

#[derive(Debug)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Integer(i64),
    Double(f64),
    Text(String),
    List(Vec<Self>),
    /// A variable, counted from the outermost one.
    Variable(usize),
    Field(Box<Self>, String),
    /// Whether the field of an object exists.
    Has(Box<Self>, String),
    /// A list or an object, and an index or a key.
    Index(Box<(Self, Self)>),
    Not(Box<Self>),
    Negate(Box<Self>),
    And(Vec<Self>),
    Or(Vec<Self>),
    Compare(Comparison, Box<(Self, Self)>),
    In(Box<(Self, Self)>),
    Arithmetic(Arithmetic, Box<(Self, Self)>),
    /// Condition, value if true, value if false.
    Conditional(Box<(Self, Self, Self)>),
    Size(Box<Self>),
    ToInteger(Box<Self>),
    ToDouble(Box<Self>),
    TestText(TextTest, Box<(Self, Self)>),
    Matches(Box<Self>, Regex),
    Loop(LoopKind, Box<(Self, Self)>),
}
