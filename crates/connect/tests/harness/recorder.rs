//! An output that records what a source says, and holds it to what its connector promises of payload.

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use portolan_model::source::{Output, Phase, QuarantineItem};
use portolan_model::{Error, Result};

use super::Protocol;
use crate::engine::Engine;

/// Records what a source says.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) quarantined: Vec<QuarantineItem>,
    pub(crate) phases: Vec<Phase>,
    pub(crate) payload: Vec<u8>,
    pub(crate) bytes: u64,
    /// Asks the read to end.
    pub(crate) has_enough: bool,
    /// Called with each batch, to interfere.
    pub(crate) interference: Option<Box<dyn FnMut(usize) -> Option<Error> + Send>>,
}

impl Recorder {
    /// With each batch `interfere` is called with the number of batches so far; the error it gives is what the read is
    /// told.
    pub(crate) fn with_interference(interfere: impl FnMut(usize) -> Option<Error> + Send + 'static) -> Self {
        Self { interference: Some(Box::new(interfere)), ..Self::default() }
    }

    pub(crate) fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

#[async_trait]
impl Output for Recorder {
    fn mark(&mut self, phase: Phase) {
        if phase != Phase::LastByte || self.phases.last() != Some(&Phase::LastByte) {
            self.phases.push(phase);
        }
    }

    fn payload(&mut self, bytes: &[u8]) {
        assert!(Engine::CONNECTOR.capabilities().payload, "the protocol shows no payload");
        self.payload.extend_from_slice(bytes);
    }

    fn count_bytes(&mut self, bytes: u64) {
        assert!(!Engine::CONNECTOR.capabilities().payload, "the protocol shows its payload");
        self.bytes += bytes;
    }

    fn is_enough(&self) -> bool {
        self.has_enough
    }

    async fn batch(&mut self, batch: RecordBatch) -> Result<()> {
        self.batches.push(batch);
        let count = self.batches.len();
        match self.interference.as_mut().and_then(|interfere| interfere(count)) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    async fn quarantine(&mut self, item: QuarantineItem) -> Result<()> {
        self.quarantined.push(item);
        Ok(())
    }
}
