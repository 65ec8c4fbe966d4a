//! Any text read as a configuration: either a configuration, or diagnostics whose places lie in the text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portolan_connect::Registry;
use portolan_model::config::{line_and_column, read};

fuzz_target!(|text: &str| {
    match read(text, &Registry) {
        Ok(configuration) => {
            assert!(!configuration.sources.is_empty() || configuration.rounds.is_empty());
            for round in &configuration.rounds {
                for name in &round.sources {
                    assert!(configuration.sources.iter().any(|source| source.name == *name));
                }
            }
        }
        Err(diagnostics) => {
            assert!(!diagnostics.is_empty(), "refused without a reason");
            for diagnostic in diagnostics {
                let related = diagnostic.related.iter().map(|related| &related.0);
                for span in diagnostic.span.iter().chain(related) {
                    assert!(span.start <= span.end && span.end <= text.len(), "{span:?} outside the text");
                    line_and_column(text, span.start);
                }
            }
        }
    }
});
