//! Floats as DuckDB has them. Beside a decimal stays a float what the engine would compare as a decimal with 15 digits
//! after the point, which fails for what is large or infinite and cuts off what is small. And both zeros are one value.

use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, DecimalType};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{Expr, ExprSchemable, cast};

/// Functions whose arguments are brought to one type, which is that of the result.
const ONE_TYPE: [&str; 5] = ["coalesce", "greatest", "least", "nullif", "nvl"];

#[derive(Debug)]
pub(super) struct Floats;

impl FunctionRewrite for Floats {
    fn name(&self) -> &str {
        "floats"
    }

    fn rewrite(&self, mut expression: Expr, schema: &DFSchema, _: &ConfigOptions) -> EngineResult<Transformed<Expr>> {
        let changed = match &mut expression {
            Expr::BinaryExpr(binary) if binary.op.supports_propagation() => {
                one_type(&mut [&mut *binary.left, &mut *binary.right], schema)?
            }
            Expr::Between(between) => {
                one_type(&mut [&mut *between.expr, &mut *between.low, &mut *between.high], schema)?
            }
            Expr::InList(list) => {
                let mut parts: Vec<&mut Expr> = list.list.iter_mut().chain([&mut *list.expr]).collect();
                one_type(&mut parts, schema)?
            }
            Expr::Case(case) => {
                let (whens, thens): (Vec<&mut Expr>, Vec<&mut Expr>) =
                    case.when_then_expr.iter_mut().map(|(when, then)| (&mut **when, &mut **then)).unzip();
                let mut results: Vec<&mut Expr> = thens.into_iter().chain(case.else_expr.as_deref_mut()).collect();
                let mut compared: Vec<&mut Expr> = Vec::new();
                if let Some(value) = case.expr.as_deref_mut() {
                    compared.push(value);
                    compared.extend(whens);
                }
                one_type(&mut results, schema)? | one_type(&mut compared, schema)?
            }
            Expr::ScalarFunction(function) if ONE_TYPE.contains(&function.name()) => {
                one_type(&mut function.args.iter_mut().collect::<Vec<_>>(), schema)?
            }
            // The engine's grouping takes both zeros for one, its own count of different values does not.
            Expr::AggregateFunction(count) if count.func.name() == "count" && count.params.distinct => {
                let mut changed = false;
                for value in &mut count.params.args {
                    if let Some(zero) = zero(&value.get_type(schema)?) {
                        *value = std::mem::take(value) + Expr::Literal(zero, None);
                        changed = true;
                    }
                }
                changed
            }
            _ => false,
        };
        Ok(if changed { Transformed::yes(expression) } else { Transformed::no(expression) })
    }
}

/// Where floats and decimals meet, makes floats of the decimals; whether there were any.
fn one_type(expressions: &mut [&mut Expr], schema: &DFSchema) -> EngineResult<bool> {
    let types = expressions.iter().map(|expression| expression.get_type(schema));
    let types = types.collect::<EngineResult<Vec<DataType>>>()?;
    let Some(float) = [DataType::Float64, DataType::Float32].into_iter().find(|float| types.contains(float)) else {
        return Ok(false);
    };
    let mut changed = false;
    for (expression, kind) in expressions.iter_mut().zip(types) {
        if kind.is_decimal() {
            let decimal = std::mem::take(*expression);
            **expression = literal(&decimal, &float).unwrap_or_else(|| cast(decimal, float.clone()));
            changed = true;
        }
    }
    Ok(changed)
}

/// What makes a positive zero of a negative one when added, and nothing of all else.
fn zero(kind: &DataType) -> Option<ScalarValue> {
    match kind {
        DataType::Float64 => Some(ScalarValue::Float64(Some(0.0))),
        DataType::Float32 => Some(ScalarValue::Float32(Some(0.0))),
        _ => None,
    }
}

/// A literal decimal as the nearest float.
fn literal(expression: &Expr, float: &DataType) -> Option<Expr> {
    let Expr::Literal(value, metadata) = expression else { return None };
    let digits = match value {
        ScalarValue::Decimal128(Some(value), precision, scale) => {
            Decimal128Type::format_decimal(*value, *precision, *scale)
        }
        ScalarValue::Decimal256(Some(value), precision, scale) => {
            Decimal256Type::format_decimal(*value, *precision, *scale)
        }
        _ => return None,
    };
    let value = match float {
        DataType::Float32 => ScalarValue::Float32(digits.parse().ok()),
        _ => ScalarValue::Float64(digits.parse().ok()),
    };
    Some(Expr::Literal(value, metadata.clone()))
}
