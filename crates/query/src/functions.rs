//! Functions of ours beside DataFusion's.

use datafusion::execution::context::SessionContext;

/// Registers them.
pub(crate) fn register(_context: &SessionContext) {}
