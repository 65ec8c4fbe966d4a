//! The as-of join in a logical plan.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use datafusion::common::DFSchemaRef;
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan, UserDefinedLogicalNodeCore, build_join_schema};

/// Where the nearest row is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Direction {
    /// At earlier times, not at later ones.
    pub(super) is_backward: bool,
    /// Not at the same time.
    pub(super) is_strict: bool,
}

impl Direction {
    pub(super) fn operator(self) -> &'static str {
        match (self.is_backward, self.is_strict) {
            (true, false) => ">=",
            (true, true) => ">",
            (false, false) => "<=",
            (false, true) => "<",
        }
    }
}

/// An as-of join. Both sides of each comparison have one type.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct AsOf {
    pub(super) left: Arc<LogicalPlan>,
    pub(super) right: Arc<LogicalPlan>,
    /// Inner or left.
    pub(super) join_type: JoinType,
    pub(super) direction: Direction,
    /// Equalities.
    pub(super) key_count: usize,
    /// Keys and time of the left, keys and time of the right, and what decides between rows of one time on the right.
    pub(super) expressions: Vec<Expr>,
    pub(super) schema: DFSchemaRef,
}

impl AsOf {
    /// The expressions about the left, and those about the right.
    pub(super) fn sides(&self) -> (&[Expr], &[Expr]) {
        self.expressions.split_at(self.key_count + 1)
    }
}

impl PartialOrd for AsOf {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let own = self.expressions.partial_cmp(&other.expressions)?;
        let (left, right) = (self.left.partial_cmp(&other.left)?, self.right.partial_cmp(&other.right)?);
        let order = own.then(left).then(right);
        (order != Ordering::Equal || self == other).then_some(order)
    }
}

impl UserDefinedLogicalNodeCore for AsOf {
    fn name(&self) -> &str {
        "AsOfJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.expressions.clone()
    }

    fn fmt_for_explain(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (left, right) = self.sides();
        write!(formatter, "AsOfJoin: {}", self.join_type)?;
        for (place, (one, other)) in left.iter().zip(right).enumerate() {
            let operator = if place == self.key_count { self.direction.operator() } else { "=" };
            write!(formatter, ", {one} {operator} {other}")?;
        }
        Ok(())
    }

    fn with_exprs_and_inputs(&self, expressions: Vec<Expr>, inputs: Vec<LogicalPlan>) -> EngineResult<Self> {
        let [left, right]: [LogicalPlan; 2] = inputs
            .try_into()
            .map_err(|_| datafusion::common::DataFusionError::Internal("an as-of join has two inputs".to_owned()))?;
        let schema = Arc::new(build_join_schema(left.schema(), right.schema(), &self.join_type)?);
        Ok(Self {
            left: Arc::new(left),
            right: Arc::new(right),
            join_type: self.join_type,
            direction: self.direction,
            key_count: self.key_count,
            expressions,
            schema,
        })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let left_count = self.left.schema().fields().len();
        let (left, right): (Vec<usize>, Vec<usize>) = output_columns.iter().partition(|column| **column < left_count);
        Some(vec![left, right.into_iter().map(|column| column - left_count).collect()])
    }
}
