//! The catalog in memory keeps the contract, as those do that it stands for.

use anyhow::Result;
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use portolan_model::SourceName;
use portolan_model::catalog::Catalog;
use portolan_testkit::conformance::catalog::{CHECKS, CatalogFixture, run};
use portolan_testkit::memory::MemoryCatalog;

#[derive(Default)]
struct MemoryFixture(MemoryCatalog);

fn values(batches: &[RecordBatch]) -> Vec<i64> {
    batches.iter().flat_map(|batch| batch["n"].as_primitive::<Int64Type>().values().to_vec()).collect()
}

#[async_trait]
impl CatalogFixture for MemoryFixture {
    fn catalog(&self) -> &dyn Catalog {
        &self.0
    }

    fn values(&self, source: &str) -> Result<Vec<i64>> {
        Ok(self.values_of(&[source])?.concat())
    }

    fn values_of(&self, sources: &[&str]) -> Result<Vec<Vec<i64>>> {
        let tables = self.0.tables();
        let table = |source: &&str| tables.get(&SourceName::new(source).unwrap());
        Ok(sources.iter().map(|source| table(source).map(|batches| values(batches)).unwrap_or_default()).collect())
    }

    fn rounds(&self) -> Result<Vec<(i64, String)>> {
        let rounds = self.0.rounds().into_iter();
        Ok(rounds.map(|round| (round.id.0, round.record.verdict.as_str().to_owned())).collect())
    }

    fn quarantine(&self) -> Result<Vec<(String, String)>> {
        Ok(self.0.quarantine().into_iter().map(|(_, item)| (item.reason.to_owned(), item.content)).collect())
    }

    /// It outlives no process: a restart is another handle.
    async fn reopen(&mut self) -> Result<()> {
        self.0 = self.0.clone();
        Ok(())
    }
}

#[tokio::test]
async fn the_catalog_in_memory_conforms() {
    for check in CHECKS {
        run(*check, &mut MemoryFixture::default()).await.unwrap();
    }
}
