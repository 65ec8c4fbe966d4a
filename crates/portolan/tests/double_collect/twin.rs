//! Double collects of our own, on the reads that rounds are made of: one that is right, and two that make the mistakes
//! which the campaign must find. They are here so that no such thing is in the product.

use std::time::Duration;

use anyhow::Result;
use futures_util::future::join_all;
use portolan_model::config::Configuration;
use portolan_rounds::output::{MemoryRows, Receiver};
use portolan_rounds::reading::{Patience, read_all};
use portolan_rounds::slot::Slot;

use crate::world::{self, versions};

/// The most memory for the rows of a source.
const ROWS_BYTES_MAX: usize = 1 << 20;

/// How two collects are made and compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The second begins after all of the first has ended, and every source is compared.
    Right,
    /// Each source is read for the second time as soon as it has been read for the first.
    Overlapping,
    /// One source is compared, for all.
    OneCompared,
}

/// The versions that each source shows.
type Collect = Vec<Vec<i64>>;

/// Sources that are collected twice.
pub(crate) struct Twin {
    slots: Vec<Slot>,
    way: Way,
    clock: std::sync::Arc<dyn portolan_model::clock::Clock>,
}

impl Twin {
    pub(crate) fn new(configuration: &Configuration, way: Way) -> Result<Self> {
        let (slots, _, environment) = world::opened(configuration)?;
        Ok(Self { slots, way, clock: environment.clock })
    }

    /// Two collects: what the first one held, if the two agree.
    pub(crate) async fn round(&mut self) -> Result<Option<Collect>> {
        let clock = &*self.clock;
        let (first, second): (Collect, Collect) = if self.way == Way::Overlapping {
            let each = self.slots.iter_mut().map(async |slot| {
                let first = read(&mut [&mut *slot], clock).await?;
                anyhow::Ok((first, read(&mut [slot], clock).await?))
            });
            let each = join_all(each).await.into_iter().collect::<Result<Vec<_>>>()?;
            each.into_iter().map(|(first, second)| (first.concat(), second.concat())).unzip()
        } else {
            let mut all: Vec<&mut Slot> = self.slots.iter_mut().collect();
            let first = read(&mut all, clock).await?;
            (first, read(&mut all, clock).await?)
        };
        let agrees = if self.way == Way::OneCompared { first[0] == second[0] } else { first == second };
        Ok(agrees.then_some(first))
    }
}

async fn read(slots: &mut [&mut Slot], clock: &dyn portolan_model::clock::Clock) -> Result<Collect> {
    let receivers = slots
        .iter()
        .map(|_| Receiver { memory: Some(MemoryRows::new(ROWS_BYTES_MAX)), ..Receiver::default() })
        .collect();
    let readings = read_all(slots, receivers, clock, Patience::for_round(Duration::from_secs(10))).await;
    readings
        .into_iter()
        .map(|reading| {
            reading.outcome?;
            let batches = reading.receiver.memory.map(|memory| memory.batches).unwrap_or_default();
            Ok(batches.iter().flat_map(versions).collect())
        })
        .collect()
}
