//! What a query can name: `main.<source>` and the other schemas of a lake, and rows attached beside it.

use std::collections::{BTreeMap, BTreeSet};
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
    /// Attaches rows to the main schema; they shadow a table of the lake.
    pub(crate) fn attach_rows(&self, name: &str, table: Arc<dyn TableProvider>) {
        self.schema(MAIN).rows.write().unwrap_or_else(PoisonError::into_inner).insert(name.into(), table);
    }

    /// Attaches a table of a lake.
    pub(crate) fn attach_lake(&self, schema: &str, name: &str, table: Arc<dyn TableProvider>) {
        self.schema(schema).lake.write().unwrap_or_else(PoisonError::into_inner).insert(name.into(), table);
    }

    fn schema(&self, name: &str) -> Arc<Schema> {
        let mut schemas = self.schemas.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(schemas.entry(name.into()).or_default())
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
    pub(crate) fn table(&self, schema: &str, table: &str) -> Option<Arc<dyn TableProvider>> {
        self.schemas.read().unwrap_or_else(PoisonError::into_inner).get(schema)?.find(table)
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

type Tables = RwLock<BTreeMap<String, Arc<dyn TableProvider>>>;

#[derive(Debug, Default)]
struct Schema {
    rows: Tables,
    lake: Tables,
}

impl Schema {
    fn find(&self, name: &str) -> Option<Arc<dyn TableProvider>> {
        [&self.rows, &self.lake]
            .into_iter()
            .find_map(|tables| tables.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned())
    }
}

#[async_trait]
impl SchemaProvider for Schema {
    fn table_names(&self) -> Vec<String> {
        let names = |tables: &Tables| tables.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        let (rows, lake): (BTreeSet<String>, BTreeSet<String>) = (names(&self.rows), names(&self.lake));
        rows.union(&lake).cloned().collect()
    }

    async fn table(&self, name: &str) -> EngineResult<Option<Arc<dyn TableProvider>>> {
        Ok(self.find(name))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}
