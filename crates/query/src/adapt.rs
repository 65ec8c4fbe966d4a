//! Columns of a file found by field id, whatever their names: a column may have been renamed, added, widened or
//! dropped since the file was written, and other programs keep old names when they rewrite files.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result as EngineResult;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr_adapter::{
    DefaultPhysicalExprAdapterFactory, PhysicalExprAdapter, PhysicalExprAdapterFactory,
};

/// The key under which Parquet's field id travels in an Arrow field.
const FIELD_ID_KEY: &str = "PARQUET:field_id";

/// Makes an adapter for each file.
#[derive(Debug)]
pub(crate) struct ByFieldId;

impl PhysicalExprAdapterFactory for ByFieldId {
    fn create(&self, table: SchemaRef, file: SchemaRef) -> EngineResult<Arc<dyn PhysicalExprAdapter>> {
        let names: HashMap<&str, &str> =
            table.fields().iter().filter_map(|field| Some((field_id(field)?, field.name().as_str()))).collect();
        // The engine's own adapter goes by name, fills what is missing with nulls and widens types: it is shown the
        // file with the table's names. A column that the table does not have gets a name that no column has.
        let renamed: Vec<Field> = file
            .fields()
            .iter()
            .enumerate()
            .map(|(place, field)| match field_id(field).and_then(|id| names.get(id)) {
                Some(name) => field.as_ref().clone().with_name(*name),
                None => field.as_ref().clone().with_name(format!("\0{place}")),
            })
            .collect();
        let by_name = DefaultPhysicalExprAdapterFactory.create(table, Arc::new(Schema::new(renamed)))?;
        Ok(Arc::new(Adapter { by_name, file }))
    }
}

#[derive(Debug)]
struct Adapter {
    by_name: Arc<dyn PhysicalExprAdapter>,
    file: SchemaRef,
}

impl PhysicalExprAdapter for Adapter {
    fn rewrite(&self, expression: Arc<dyn PhysicalExpr>) -> EngineResult<Arc<dyn PhysicalExpr>> {
        // Back to the names that the file has, at the places that were found.
        self.by_name
            .rewrite(expression)?
            .transform_down(|expression| match expression.downcast_ref::<Column>() {
                Some(column) => {
                    let name = self.file.field(column.index()).name();
                    Ok(Transformed::yes(Arc::new(Column::new(name, column.index())) as Arc<dyn PhysicalExpr>))
                }
                None => Ok(Transformed::no(expression)),
            })
            .data()
    }
}

fn field_id(field: &Field) -> Option<&str> {
    field.metadata().get(FIELD_ID_KEY).map(String::as_str)
}
