//! A checked expression: every type and the cost of its evaluation are known.

/// Type of a single value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScalarType {
    Integer,
    Double,
    Bool,
}

impl ScalarType {
    pub(super) fn is_number(self) -> bool {
        self != Self::Bool
    }

    /// The name with an article, for messages.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Integer => "an integer",
            Self::Double => "a double",
            Self::Bool => "a boolean",
        }
    }
}

/// Type of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Scalar(ScalarType),
    List {
        item: ScalarType,
        /// Maximum number of values.
        max_length: usize,
    },
}

pub(super) const BOOL: Type = Type::Scalar(ScalarType::Bool);

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
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    ToDouble,
    ToInteger,
    /// Smallest value of a list.
    Min,
    /// Largest value of a list.
    Max,
}

/// A node of an expression. Chains of operators are one node, so that a long condition is not a
/// deep one.
#[derive(Debug)]
pub(super) enum Node {
    Integer(i64),
    Double(f64),
    Bool(bool),
    /// The value of a variable, counted from the outermost one. `result` is variable 0.
    Variable(usize),
    Not(Box<Self>),
    Negate(Box<Self>),
    /// Operands of `&&`.
    And(Vec<Self>),
    /// Operands of `||`.
    Or(Vec<Self>),
    /// The first operand, and each operator with its right operand. All have the same type.
    Arithmetic(Box<Self>, Vec<(Arithmetic, Self)>),
    Compare(Comparison, Box<(Self, Self)>),
    /// Whether the list on the right contains the value on the left.
    In(Box<(Self, Self)>),
    /// Condition, value if true, value if false.
    Conditional(Box<(Self, Self, Self)>),
    List(Vec<Self>),
    /// A list and an index.
    Index(Box<(Self, Self)>),
    Call(Function, Box<Self>),
    Loop(Box<Loop>),
}

/// A loop over the values of a list.
#[derive(Debug)]
pub(super) struct Loop {
    pub kind: LoopKind,
    pub range: Node,
    /// Condition that selects the values, if it is not the body.
    pub selector: Option<Node>,
    pub body: Node,
}

/// A node with what is known about it before it is evaluated.
#[derive(Debug)]
pub(super) struct Expression {
    pub node: Node,
    pub kind: Type,
    /// Maximum number of steps of the evaluation: one for each node and for each value that is
    /// read from a list.
    pub cost: u64,
    /// Number of nodes on the longest path to a leaf.
    pub height: usize,
}

impl Expression {
    /// A leaf.
    pub(super) fn leaf(node: Node, kind: Type) -> Self {
        Self {
            node,
            kind,
            cost: 1,
            height: 1,
        }
    }

    /// The number of values that a loop over this expression reads, at most.
    pub(super) fn max_length(&self) -> usize {
        match self.kind {
            Type::Scalar(_) => 1,
            Type::List { max_length, .. } => max_length,
        }
    }
}

/// Cost and height of a node, from those of its children.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    cost: u64,
    height: usize,
}

impl Bounds {
    /// The bounds of a node without children.
    pub(super) fn new() -> Self {
        Self { cost: 1, height: 1 }
    }

    /// Adds a child that is evaluated this number of times.
    pub(super) fn with(self, child: &Expression, times: usize) -> Self {
        let times = u64::try_from(times).unwrap_or(u64::MAX);
        Self {
            cost: self.cost.saturating_add(child.cost.saturating_mul(times)),
            height: self.height.max(child.height.saturating_add(1)),
        }
    }

    /// Adds one step for each value of a list.
    pub(super) fn with_values(self, count: usize) -> Self {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        Self {
            cost: self.cost.saturating_add(count),
            ..self
        }
    }

    pub(super) fn expression(self, node: Node, kind: Type) -> Expression {
        Expression {
            node,
            kind,
            cost: self.cost,
            height: self.height,
        }
    }
}
