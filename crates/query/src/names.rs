//! What a query can name: `main.<source>` and the other schemas of a lake, and rows attached beside it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::error::Result as EngineResult;

/// The name of the one catalog; outside readers attach the lake under the same name in the documentation.
pub(crate) const CATALOG: &str = "lake";

/// The schema whose tables need no prefix.
pub(crate) const MAIN: &str = "main";

/// The tables of an engine.
#[derive(Debug, Default)]
pub(crate) struct Names {
    schemas: RwLock<BTreeMap<String, Arc<Schema>>>,
}

impl Names {
    /// Attaches a table to the main schema.
    pub(crate) fn attach(&self, name: &str, table: Arc<dyn TableProvider>) {
        let mut schemas = self.schemas.write().unwrap_or_else(PoisonError::into_inner);
        let schema = schemas.entry(MAIN.into()).or_default();
        schema.tables.write().unwrap_or_else(PoisonError::into_inner).insert(name.into(), table);
    }

    /// The same tables as DataFusion's catalog.
    pub(crate) fn catalog(self: &Arc<Self>) -> Arc<dyn CatalogProvider> {
        Arc::new(Catalog(Arc::clone(self)))
    }

    /// Every `schema.table`, main's without prefix too.
    pub(crate) fn tables(&self) -> Vec<(String, String)> {
        let schemas = self.schemas.read().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::new();
        for (name, schema) in schemas.iter() {
            all.extend(schema.table_names().into_iter().map(|table| (name.clone(), table)));
        }
        all
    }

    /// The table, where there is one.
    pub(crate) async fn table(&self, schema: &str, table: &str) -> EngineResult<Option<Arc<dyn TableProvider>>> {
        let schema = self.schemas.read().unwrap_or_else(PoisonError::into_inner).get(schema).cloned();
        match schema {
            Some(schema) => schema.table(table).await,
            None => Ok(None),
        }
    }
}

#[derive(Debug)]
struct Catalog(Arc<Names>);

impl CatalogProvider for Catalog {
    fn schema_names(&self) -> Vec<String> {
        self.0.schemas.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let schemas = self.0.schemas.read().unwrap_or_else(PoisonError::into_inner);
        schemas.get(name).map(|schema| Arc::clone(schema) as _)
    }
}

#[derive(Debug, Default)]
struct Schema {
    tables: RwLock<BTreeMap<String, Arc<dyn TableProvider>>>,
}

#[async_trait]
impl SchemaProvider for Schema {
    fn table_names(&self) -> Vec<String> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    async fn table(&self, name: &str) -> EngineResult<Option<Arc<dyn TableProvider>>> {
        Ok(self.tables.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned())
    }

    fn table_exist(&self, name: &str) -> bool {
        self.tables.read().unwrap_or_else(PoisonError::into_inner).contains_key(name)
    }
}
