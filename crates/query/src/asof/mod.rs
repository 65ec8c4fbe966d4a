//! As-of joins, as DuckDB writes them: `a ASOF [LEFT] JOIN b ON a.k = b.k AND a.t >= b.t` gives each row of `a` the one row
//! of `b` with the same keys whose time is the nearest: the latest at or before (`>=`), before (`>`), or the earliest at or
//! after (`<=`), after (`<`).
//!
//! Neither the parser nor the engine knows them. The word is taken out of the tokens and leaves a mark in the condition;
//! the engine plans an ordinary join, of which [`plan`] makes a node of its own; its operator merges both sides in the
//! order of keys and time: n log n, with sorts that spill.

mod exec;
mod merge;
mod node;
mod rewrite;

pub(crate) use exec::Planner;
pub(crate) use rewrite::{Place, mark};

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DataFusionError};
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::expr::{BinaryExpr, ScalarFunction};
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, Extension, Join, JoinType, LogicalPlan, Operator, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::scalar::ScalarValue;
use portolan_model::{Error, ErrorKind};

use arrow::datatypes::DataType;
use datafusion::logical_expr::binary::comparison_coercion;

use node::{AsOf, Direction};
use rewrite::MARK;

/// The column by which of several rows of one time that of the latest round is chosen.
const ROUND: &str = "_round";

/// The mark: a function that is in no plan which is run.
pub(crate) fn marker() -> ScalarUDF {
    ScalarUDF::from(Marker { signature: Signature::any(1, Volatility::Volatile) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Marker {
    signature: Signature,
}

impl ScalarUDFImpl for Marker {
    fn name(&self) -> &str {
        MARK
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> EngineResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        Err(DataFusionError::Plan("an as-of join stands where no join can be".to_owned()))
    }
}

/// Makes nodes of the joins that were marked at `places`.
///
/// # Errors
/// Where a condition is not that of an as-of join, with its place.
pub(crate) fn plan(plan: LogicalPlan, places: &[Place]) -> EngineResult<LogicalPlan> {
    if places.is_empty() {
        return Ok(plan);
    }
    let made = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Join(join) => match join.filter.as_ref().and_then(marked) {
            Some(number) => as_of(join, places.get(number).copied()).map(Transformed::yes),
            None => Ok(Transformed::no(LogicalPlan::Join(join))),
        },
        other => Ok(Transformed::no(other)),
    })?;
    Ok(made.data)
}

/// The number of the mark in an expression.
fn marked(expression: &Expr) -> Option<usize> {
    let mut found = None;
    // The closure never fails.
    let _ = expression.apply(|part| {
        found = found.or_else(|| number(part));
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    });
    found
}

/// The number of a mark.
fn number(expression: &Expr) -> Option<usize> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expression else { return None };
    match (func.name(), args.as_slice()) {
        (MARK, [Expr::Literal(ScalarValue::Int64(Some(number)), _)]) => usize::try_from(*number).ok(),
        _ => None,
    }
}

/// Which of two tables an expression is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

fn side(expression: &Expr, left: &DFSchema, right: &DFSchema) -> Option<Side> {
    let columns = expression.column_refs();
    let all_in = |schema: &DFSchema| !columns.is_empty() && columns.iter().all(|column| schema.has_column(column));
    match (all_in(left), all_in(right)) {
        (true, false) => Some(Side::Left),
        (false, true) => Some(Side::Right),
        _ => None,
    }
}

fn as_of(join: Join, place: Option<Place>) -> EngineResult<LogicalPlan> {
    let refused = |message: String, hint: &str| {
        let place = place.map(|place| format!("line {}, column {}: ", place.line, place.column)).unwrap_or_default();
        let error = Error::new(ErrorKind::Configuration, "plan query", format!("{place}{message}")).with_hint(hint);
        Err(DataFusionError::External(Box::new(error)))
    };
    const SHAPE: &str = "write: a ASOF JOIN b ON a.key = b.key AND a.time >= b.time";
    let (left, right) = (join.left.schema().as_ref(), join.right.schema().as_ref());
    let conditions: Vec<Expr> = join.filter.map(split_conjunction_owned).unwrap_or_default();
    let (marks, conditions): (Vec<_>, Vec<_>) = conditions.into_iter().partition(|one| number(one).is_some());
    if marks.len() != 1 || conditions.iter().any(|one| marked(one).is_some()) {
        return refused("the conditions of an as-of join are joined by AND alone".to_owned(), SHAPE);
    }
    let (mut keys, mut times) = (Vec::new(), Vec::new());
    for condition in conditions {
        let Expr::BinaryExpr(BinaryExpr { left: one, op, right: other }) = condition else {
            return refused(format!("`{condition}` is neither an equality nor an inequality of two columns"), SHAPE);
        };
        let (one, op, other) = match (side(&one, left, right), side(&other, left, right)) {
            (Some(Side::Left), Some(Side::Right)) => (*one, op, *other),
            (Some(Side::Right), Some(Side::Left)) => (*other, op.swap().unwrap_or(op), *one),
            _ => {
                return refused(
                    format!("`{one} {op} {other}` does not compare one table of the as-of join with the other"),
                    "filter rows of one table in WHERE, or before the join: ASOF JOIN (select … where …) b ON …",
                );
            }
        };
        let kinds = (one.get_type(left)?, other.get_type(right)?);
        let Some(kind) = comparison_coercion(&kinds.0, &kinds.1) else {
            return refused(
                format!("`{one}` ({}) and `{other}` ({}) cannot be compared", kinds.0, kinds.1),
                "cast one",
            );
        };
        let pair = (one.cast_to(&kind, left)?, other.cast_to(&kind, right)?);
        match op {
            Operator::Eq => keys.push(pair),
            Operator::GtEq => times.push((pair, Direction { is_backward: true, is_strict: false })),
            Operator::Gt => times.push((pair, Direction { is_backward: true, is_strict: true })),
            Operator::LtEq => times.push((pair, Direction { is_backward: false, is_strict: false })),
            Operator::Lt => times.push((pair, Direction { is_backward: false, is_strict: true })),
            _ => return refused(format!("an as-of join has no `{op}`"), "=, and one of >=, >, <=, <"),
        }
    }
    let mut times = times.into_iter();
    let (Some((time, direction)), None) = (times.next(), times.next()) else {
        return refused("an as-of join has exactly one inequality: that of the times".to_owned(), SHAPE);
    };
    if !matches!(join.join_type, JoinType::Inner | JoinType::Left) {
        return refused(format!("an as-of join is INNER or LEFT, not {}", join.join_type), SHAPE);
    }
    let mut rounds = right.iter().filter(|(_, field)| field.name() == ROUND);
    let round = match (rounds.next(), rounds.next()) {
        (Some((qualifier, field)), None) => Some(Expr::Column(Column::new(qualifier.cloned(), field.name()))),
        _ => None,
    };
    let (left_keys, right_keys): (Vec<Expr>, Vec<Expr>) = keys.into_iter().unzip();
    let key_count = left_keys.len();
    let expressions = left_keys.into_iter().chain([time.0]).chain(right_keys).chain([time.1]).chain(round).collect();
    let node = AsOf {
        left: Arc::clone(&join.left),
        right: Arc::clone(&join.right),
        join_type: join.join_type,
        direction,
        key_count,
        expressions,
        schema: join.schema,
    };
    Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
}
