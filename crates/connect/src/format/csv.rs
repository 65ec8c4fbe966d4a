//! CSV bodies (RFC 4180) to record batches.
pub use super::*;
/// x
pub fn decode(_body: &[u8], _settings: &Settings, _sink: &mut Sink<'_>) -> Result<Summary> {
    Ok(Summary::default())
}
