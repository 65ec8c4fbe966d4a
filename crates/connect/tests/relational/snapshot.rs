//! The output of a read whose round has snapshots: whom it meets is played by the tests of an engine, whose snapshots
//! they are.

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use portolan_model::Result;
use portolan_model::source::{Meeting, Output, Phase, QuarantineItem, ReadEnd, Source};

use crate::harness::Recorder;

/// The others of a round, as a read meets them.
#[async_trait]
pub(crate) trait Others: Send {
    async fn meet(&mut self, word: String) -> Meeting;

    /// The read waits until the others have ended.
    async fn ended(&mut self) {}
}

/// Records what a read says, and has it meet `others`.
pub(crate) struct Met<O> {
    pub(crate) recorder: Recorder,
    pub(crate) others: O,
}

impl<O> Met<O> {
    pub(crate) fn with(others: O) -> Self {
        Self { recorder: Recorder::default(), others }
    }
}

#[async_trait]
impl<O: Others> Output for Met<O> {
    fn mark(&mut self, phase: Phase) {
        self.recorder.mark(phase);
    }
    fn payload(&mut self, bytes: &[u8]) {
        self.recorder.payload(bytes);
    }
    fn count_bytes(&mut self, bytes: u64) {
        self.recorder.count_bytes(bytes);
    }
    fn is_enough(&self) -> bool {
        self.recorder.is_enough()
    }
    fn is_snapshot(&self) -> bool {
        true
    }
    async fn meet(&mut self, word: String) -> Meeting {
        self.others.meet(word).await
    }
    async fn others_ended(&mut self) {
        self.others.ended().await;
    }
    async fn batch(&mut self, batch: RecordBatch) -> Result<()> {
        self.recorder.batch(batch).await
    }
    async fn quarantine(&mut self, item: QuarantineItem) -> Result<()> {
        self.recorder.quarantine(item).await
    }
}

/// Prepares and reads a snapshot.
pub(crate) async fn snapshot<O: Others>(source: &mut Box<dyn Source>, output: &mut Met<O>) -> Result<ReadEnd> {
    source.prepare().await?;
    source.read(None, output).await
}
