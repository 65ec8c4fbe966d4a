//! Functions of ours beside DataFusion's: what DuckDB has under the same names, and what must not wrap.

mod floats;
mod json;
mod json_path;
mod sum;

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::error::Result as EngineResult;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::sqlparser::ast::BinaryOperator;
use datafusion::logical_expr::{AggregateUDF, Expr, ScalarUDF};

use json::JsonExtract;

/// Registers them.
pub(crate) fn register(context: &mut SessionContext) -> EngineResult<()> {
    context.register_udaf(Arc::new(AggregateUDF::from(sum::ExactSum::new())))?;
    context.register_udf(Arc::new(ScalarUDF::from(JsonExtract::json())))?;
    context.register_udf(Arc::new(ScalarUDF::from(JsonExtract::text())))?;
    context.register_udf(Arc::new(crate::asof::marker()))?;
    context.register_function_rewrite(Arc::new(floats::Floats))?;
    context.register_expr_planner(Arc::new(JsonOperators))
}

/// `->` and `->>` as `json_extract` and `json_extract_string`.
#[derive(Debug)]
struct JsonOperators;

impl ExprPlanner for JsonOperators {
    fn plan_binary_op(&self, expression: RawBinaryExpr, _: &DFSchema) -> EngineResult<PlannerResult<RawBinaryExpr>> {
        let function = match expression.op {
            BinaryOperator::Arrow => JsonExtract::json(),
            BinaryOperator::LongArrow => JsonExtract::text(),
            _ => return Ok(PlannerResult::Original(expression)),
        };
        let arguments = vec![expression.left, expression.right];
        let function = Arc::new(ScalarUDF::from(function));
        Ok(PlannerResult::Planned(Expr::ScalarFunction(ScalarFunction::new_udf(function, arguments))))
    }
}
